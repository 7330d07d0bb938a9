"""How much of a model's answers the attribution graphs of a text's prompts explain."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attrgraph.attribution.trace import trace
from attrgraph.data.corpus import TokenRows
from attrgraph.evaluation.measure import count_measured
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions, plain_positions
from attrgraph.progress import Progress
from attrgraph.transcoders import Transcoders

# of each prompt: long enough for an answer to depend on several words, short enough to be traced in seconds
N_PROMPT_TOKENS = 32


def graph_scores(
    model: LanguageModel,
    transcoders: Transcoders,
    rows: TokenRows,
    *,
    n_graphs: int,
    skip_positions: SkipPositions,
    progress: Progress,
) -> Float[np.ndarray, "n_graphs 2"]:
    """Replacement and completeness score of unpruned graphs, one for each prompt.

    The prompts are the beginnings of documents that are evenly spaced in the text, `n_graphs` of them or as many as
    there are.
    """
    prompts = _prompts(model, rows, n_graphs, skip_positions)
    traced = LanguageModel(model.hf_model, model.tokenizer, transcoders=transcoders, source=model.source)
    scores = np.zeros((len(prompts), 2))
    for done, prompt in enumerate(prompts):
        progress("trace", done, len(prompts))
        skipped = plain_positions(skip_positions)
        if not isinstance(skipped, str):
            skipped = [pos for pos in skipped if pos < len(prompt)]
        scores[done] = trace(traced, prompt, skip_positions=skipped).scores()
    if prompts:
        progress("trace", len(prompts), len(prompts))
    return scores


def _prompts(model: LanguageModel, rows: TokenRows, n_graphs: int, skip_positions: SkipPositions) -> list[Tensor]:
    """First tokens of evenly spaced documents; a document of nothing but BOS is none."""
    first_row: dict[int, Tensor] = {}
    for document, row in zip(rows.document, rows.rows, strict=True):
        if document not in first_row and count_measured(model, row, skip_positions):
            first_row[document] = row
    first_rows = list(first_row.values())
    n_prompts = min(n_graphs, len(first_rows))
    return [first_rows[i * len(first_rows) // n_prompts][:N_PROMPT_TOKENS] for i in range(n_prompts)]
