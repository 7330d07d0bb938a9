"""Patching: put what a node is in one run into another run, and see what the answer does.

    effect = metric(patched run) - metric(run that is patched into)

- exact: every node in a run of its own, in batches;
- attribution: the node's change times the gradient of the metric in the run that is patched into;
- ig: the same with the gradient's mean between the two runs, by the midpoint rule. Between them, more and more is added
  of the changes of all nodes of one site together, so that their effects sum to what all of them do;
- relp: attribution with a gradient that is less bent, by the rules of `models.relevance`;
- graph: no effect but the node's influence in the clean prompt's attribution graph, to be compared with effects.

Where the model is linear, all but the last are one number.

Source: Vig et al. 2020, "Causal Mediation Analysis", arxiv.org/abs/2004.12265; Nanda 2023, "Attribution Patching",
neelnanda.io/attribution-patching; Hanna et al. 2024, "Have Faith in Faithfulness", arxiv.org/abs/2403.17806
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from attrgraph.errors import InterventionError, PromptError, checked
from attrgraph.interventions.answer_metrics import Metric
from attrgraph.interventions.patch_choice import choose_nodes
from attrgraph.interventions.patch_pair import Positions
from attrgraph.interventions.patch_table import Patching, PatchOptions, patched_pairs
from attrgraph.models.language_model import LanguageModel, Prompt


@checked
def patch(
    model: LanguageModel,
    clean: Prompt | Sequence[Prompt],
    corrupt: Prompt | Sequence[Prompt],
    *,
    nodes: str | Sequence[str] | None = None,
    metric: Metric | Sequence[Metric] | None = None,
    direction: str = "denoise",
    method: str = "exact",
    positions: Positions | Sequence[Positions] | None = None,
    **options: Unpack[PatchOptions],
) -> pd.DataFrame:
    """What each node does for the answer, by putting it from one prompt's run into another's.

    Args:
        model: features and errors need transcoders, other nodes do not.
        clean: the prompt whose answer is explained, as for `trace`; or several, for the mean over pairs.
        corrupt: the same with something changed, and another answer.
        nodes: kinds: feature, error, head, attn, mlp, resid (what enters a block), embedding; also resid_mid, q, k, v.
            Default: the first seven, those that the model has. Or some of a kind: "head:1.2@8", "mlp:2@3:6", "3/458".
        metric: `LogitDifference`, `LogProbability`, `KLDivergence`, or a function of the last position's logits
            [n_rows, d_vocab]; of several pairs also one each. Default: the logit of the clean answer minus the other's.
        direction: "denoise" puts nodes of the clean run into the corrupt run, "noise" the other way round.
        method: exact, attribution, ig, relp or graph; see the module.
        positions: of prompts of different lengths, names of tokens with their positions in both, such as
            {"name": (3, 4), "end": (-1, -1)}; only these are patched.
        options: see `PatchOptions`.

    Returns:
        A row a node: node (its id), kind, layer, pos (in the clean prompt), head, feature (an embedding's token; -1 of
        others), effect, method, is_exact; with `refine` also the estimate; of several pairs the 95% interval of the
        mean effect (low, high), and in how many it is not 0 (n_changed). `attrs` says how effects are to be read.

    Raises:
        InterventionError, TargetError: nodes, a method, a direction or a metric that there is not.
        PromptError: prompts of different lengths without `positions`; or as for `trace`.
        TranscoderError: features of a model without transcoders.

    Example:
        >>> import attrgraph as ag
        >>> texas, illinois = (f"in the state containing {city} the capital is" for city in ("dallas", "chicago"))
        >>> heads = ag.patch(ag.load_model("demo"), texas, illinois, nodes="head")
        >>> float(heads["effect"].max()) > 1
        True
    """
    how = Patching(choose_nodes(model, nodes, of_graphs=method == "graph"), direction, method, options)
    is_one = not _are_several(clean) and not _are_several(corrupt)
    n_pairs = 1 if is_one else _n_pairs(clean, corrupt)
    metrics, places = (_of_each(name, given, n_pairs) for name, given in (("metric", metric), ("positions", positions)))
    prompts: Any = [(clean, corrupt)] if is_one else list(zip(clean, corrupt, strict=True))
    return patched_pairs(model, list(zip(prompts, metrics, places, strict=True)), how)


def _are_several(prompts: Any) -> bool:
    """Whether it is a list of prompts: of texts, or of lists; one prompt is a text, or a list of ids or of messages."""
    if isinstance(prompts, str | Mapping):
        return False
    if isinstance(prompts, Tensor | np.ndarray):
        return prompts.ndim == 2
    first = next(iter(prompts), None) if isinstance(prompts, Sequence) else None
    return isinstance(first, str | list | tuple) or getattr(first, "ndim", 0) == 1


def _n_pairs(clean: Any, corrupt: Any) -> int:
    numbers = [len(prompts) if _are_several(prompts) else 1 for prompts in (clean, corrupt)]
    if numbers[0] != numbers[1] or not _are_several(clean) or not _are_several(corrupt):
        raise PromptError(f"there are {numbers[0]} clean prompts and {numbers[1]} corrupt ones; expected pairs.")
    return numbers[0]


def _of_each(name: str, given: Any, n_pairs: int) -> list[Any]:
    """What is given for all pairs, or for each."""
    if not isinstance(given, list | tuple):
        return [given] * n_pairs
    if len(given) != n_pairs:
        raise InterventionError(f"{name} has {len(given)} for {n_pairs} pair(s) of prompts; give one, or one for each.")
    return list(given)
