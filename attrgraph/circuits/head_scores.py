"""What attention heads attend to on average: the previous token, earlier same tokens, and what came after those."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from attrgraph.errors import PromptError, checked
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.recording import observed_patterns
from attrgraph.progress import Progress, shown
from attrgraph.prompts.prompts_of import prompts_of

SCORES = ("induction", "previous_token", "duplicate_token")
# numbers in one layer's patterns of a batch: 64 MiB in float32
_MOST_AT_ONCE = 2**24
_N_LISTS = 100


@checked
def head_scores(
    model: LanguageModel, texts: Iterable[Prompt] | None = None, *, progress: Progress | None = None
) -> pd.DataFrame:
    """Induction, previous-token and duplicate-token scores of all heads: 0 to 1, the attention that goes there.

    - induction: to the tokens after earlier occurrences of the token that attends;
    - previous_token: to the token before;
    - duplicate_token: to earlier occurrences of the token that attends.

    Each is a mean over the positions of all texts from which there is such a token. Special tokens, such as BOS, are
    left out on both sides. Without a repeated token, two of the scores are NaN.

    Args:
        model: a language model; transcoders are not needed.
        texts: what `trace` takes, many of them. Without any, 100 lists of random tokens of which a part is repeated, on
            which meaning does not matter: `prompts_of("induction", ...)`.
        progress: is told of batches.

    Returns:
        A row a head: layer, head, and the scores.

    Raises:
        PromptError: no texts, or one that the model cannot read.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads",
    transformer-circuits.pub/2022/in-context-learning-and-induction-heads; the same pairs of tokens as the patterns of
    TransformerLens' `head_detector`, whose mean is over all positions.

    Example:
        >>> import attrgraph as ag
        >>> scores = ag.head_scores(ag.load_model("demo"))
        >>> scores.nlargest(1, "previous_token")[["layer", "head"]].values.tolist()
        [[2, 1]]
        >>> scores[scores["induction"] > 0.9]["layer"].unique().tolist()
        [3]
    """
    tell = shown(progress)
    if texts is None:
        texts = [pair.clean for pair in prompts_of("induction", model, _N_LISTS)]
    rows = [model.tokenize(text) for text in texts]
    if not rows:
        raise PromptError("no text is given; expected at least one.")
    n_heads = int(model.config.num_attention_heads)
    sums, counts = np.zeros((model.n_layers, n_heads, len(SCORES))), np.zeros(len(SCORES))
    batches = list(_batches(rows, n_heads))
    for done, batch in enumerate(batches):
        tell("heads", done, len(batches))
        masks = _attended(batch, _is_text(model, batch))  # [n_scores, n_rows, n_pos, n_pos]
        counts += masks.any(-1).sum((1, 2)).cpu().numpy()

        def add(layer: int, pattern: Tensor, masks: Tensor = masks) -> None:
            sums[layer] += torch.einsum("rhqk,srqk->hs", pattern.double(), masks.double()).cpu().numpy()

        with torch.no_grad(), observed_patterns(model, add):
            model.run_body(batch)
    tell("heads", len(batches), len(batches))
    with np.errstate(invalid="ignore"):
        means = (sums / counts).reshape(-1, len(SCORES))
    at = pd.MultiIndex.from_product([range(model.n_layers), range(n_heads)], names=["layer", "head"])
    return pd.DataFrame(means, index=at, columns=list(SCORES)).reset_index()


def _batches(rows: Sequence[Int[Tensor, " _n_pos"]], n_heads: int) -> Iterator[Int[Tensor, "n_rows n_pos"]]:
    """Texts of one length together, as many as memory allows."""
    by_length = dict[int, list[Tensor]]()
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    for length, same in sorted(by_length.items()):
        n_at_once = max(1, _MOST_AT_ONCE // (n_heads * length**2))
        for start in range(0, len(same), n_at_once):
            yield torch.stack(same[start : start + n_at_once])


def _is_text(model: LanguageModel, token_ids: Int[Tensor, "n_rows n_pos"]) -> Bool[Tensor, "n_rows n_pos"]:
    special = [i for i in token_ids.unique().tolist() if model.is_special(i)]
    return ~torch.isin(token_ids, torch.tensor(special, device=token_ids.device, dtype=token_ids.dtype))


def _attended(
    token_ids: Int[Tensor, "n_rows n_pos"], is_text: Bool[Tensor, "n_rows n_pos"]
) -> Bool[Tensor, "3 n_rows n_pos n_pos"]:
    """For each score, from which position [.., query, ..] to which one [.., .., key] it counts."""
    both = is_text[:, :, None] & is_text[:, None, :]
    before = (token_ids[:, :, None] == token_ids[:, None, :]).tril(-1)
    after = torch.zeros_like(before)
    after[..., 1:] = before[..., :-1]  # of a token that is there twice in a row, the one after the first is itself
    previous = torch.ones_like(before).tril(-1).triu(-1)
    return torch.stack([after & (before & both).any(-1, keepdim=True), previous, before]) & both
