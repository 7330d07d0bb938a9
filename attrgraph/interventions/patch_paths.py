"""Path patching: what one component tells another one directly, and what the answer does about it.

A sender is changed to what it is in the other run; all other attention and MLPs stay as they were, so that the change
reaches the receiver through the stream alone, by the norms in front of it and behind the sender as they then are. What
the receiver makes of it is put into the unchanged run, in which everything above the receiver responds:

    effect = metric(run with the receiver's query, key, value or MLP output so changed) - metric(run)

All positions are changed together. Where the model is linear, the effects of a sender's edges to all receivers, the
answer among them, sum to the effect of patching it.

Source: Wang et al. 2022, "Interpretability in the Wild", arxiv.org/abs/2211.00593; Goldowsky-Dill et al. 2023,
"Localizing Model Behavior with Path Patching", arxiv.org/abs/2304.05969
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrgraph.errors import InterventionError, checked
from attrgraph.interventions.answer_metrics import Metric
from attrgraph.interventions.patch_choice import NodeChoice
from attrgraph.interventions.patch_pair import Positions, run_pair
from attrgraph.interventions.patch_sites import Recorded
from attrgraph.interventions.patch_table import convention, facts_of
from attrgraph.interventions.path_runs import ANSWER, Edge, Part, edge_effects
from attrgraph.models.components import Site, check_site
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.progress import Progress, shown

SENDERS, RECEIVERS = ("embedding", "head", "attn", "mlp"), ("q", "k", "v", "mlp", ANSWER)
_SIDES: tuple[tuple[Literal[0, 1], str], ...] = ((0, "sender"), (1, "receiver"))
PATH_METHODS = ("exact", "attribution")
_PART = re.compile(r"(?P<kind>[a-z]+)(?::(?P<layer>[0-9]{1,6})(?:\.(?P<head>[0-9]{1,6}))?)?")


@checked
def patch_paths(
    model: LanguageModel,
    clean: Prompt,
    corrupt: Prompt,
    *,
    senders: str | Sequence[str] = ("head", "mlp"),
    receivers: str | Sequence[str] = RECEIVERS,
    metric: Metric | None = None,
    direction: str = "denoise",
    method: str = "exact",
    positions: Positions | None = None,
    prepend: str = "auto",
    memory_budget: int | str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What each component does for the answer by what it tells another one directly; see the module.

    Args:
        model: needs no transcoders.
        clean, corrupt, metric, direction, positions, prepend, memory_budget, progress: as for `patch`.
        senders: embedding, head, attn, mlp; or some of them, such as "head:1.2" (layer, head), "head:1" or "mlp:2".
        receivers: q, k, v, mlp, answer; or some of them, such as "q:3.1". Heads may share keys and values.
        method: "exact", or "attribution": the receiver's change, which is measured, times the metric's gradient there.
            Edges to the answer are measured in both.

    Returns:
        A row an edge: sender, receiver, of both kind, layer and head (-1 where there is none), effect, method,
        is_exact; `attrs` as of `patch`.

    Raises:
        As `patch`; InterventionError also of senders and receivers that there are not.

    Example:
        >>> import attrgraph as ag
        >>> texas, illinois = (f"in the state containing {city} the capital is" for city in ("dallas", "chicago"))
        >>> edges = ag.patch_paths(ag.load_model("demo"), texas, illinois, senders="head:3", receivers="answer")
        >>> float(edges["effect"].max()) > 1
        True
    """
    if method not in PATH_METHODS:
        raise InterventionError(f"method is {method!r:.60}; expected one of {', '.join(PATH_METHODS)}.")
    named = [_named("senders", senders, SENDERS), _named("receivers", receivers, RECEIVERS)]
    # those of attention and MLPs are held
    kinds = dict.fromkeys([kind for kind, *_ in (*named[0], *named[1]) if kind != ANSWER] + ["attn", "mlp"])
    how: Any = {"direction": direction, "positions": positions, "memory_budget": memory_budget}
    nodes = [NodeChoice(kind, kind) for kind in kinds]
    pair = run_pair(model, (clean, corrupt), nodes, metric, **how, options={"prepend": prepend})
    sent, received = (_parts_of(model, pair.base, parts) for parts in named)
    is_exact, tell = method == "exact", shown(progress)
    edges = edge_effects(model, pair, sent, received, is_exact=is_exact, memory_budget=memory_budget, progress=tell)
    table = _edge_table(edges, method)
    table.attrs = convention(method, direction) | facts_of(model, pair)
    table.attrs["effect"] = "metric(run with the receiver changed by what the sender tells it directly) - metric(run)"
    return table


def _edge_table(edges: Sequence[Edge], method: str) -> pd.DataFrame:
    columns: dict[str, Any] = {name: [edge[side].name for edge in edges] for side, name in _SIDES}
    for side, name in _SIDES:
        columns[f"{name}_kind"] = [edge[side].kind for edge in edges]
        for what in ("layer", "head"):
            columns[f"{name}_{what}"] = np.array([getattr(edge[side], what) for edge in edges], dtype=np.int64)
    is_exact = np.array([method == "exact" or receiver.kind == ANSWER for _, receiver, _ in edges], dtype=bool)
    columns["effect"] = np.array([effect for *_, effect in edges], dtype=float)
    return pd.DataFrame({**columns, "method": np.where(is_exact, "exact", method), "is_exact": is_exact})


def _named(name: str, given: str | Sequence[str], kinds: Sequence[str]) -> list[tuple[str, int | None, int | None]]:
    """Kind, layer and head of what is named; None for all of them."""
    found = list[tuple[str, int | None, int | None]]()
    for one in [given] if isinstance(given, str) else given:
        match = _PART.fullmatch(one.strip())
        if match is None or match["kind"] not in kinds:
            raise InterventionError(
                f"{name} has {one!r:.60}; expected some of {', '.join(kinds)}, or one of them such as {kinds[1]}:1.2 "
                "(layer, head) or mlp:2."
            )
        layer, head = (None if match[part] is None else int(match[part]) for part in ("layer", "head"))
        if (layer is not None and match["kind"] in ("embedding", ANSWER)) or (
            head is not None and match["kind"] in "attn mlp"
        ):
            raise InterventionError(f"{name} has {one!r:.60}; there is only one {match['kind']} there.")
        found.append((match["kind"], layer, head))
    if not found:
        raise InterventionError(f"{name} is empty; expected some of {', '.join(kinds)}.")
    return found


def _parts_of(model: LanguageModel, base: Recorded, named: Sequence[tuple[str, int | None, int | None]]) -> list[Part]:
    """All senders or receivers that are named, each once, from the lowest layer up."""
    found = list[Part]()
    for kind, layer, head in named:
        if kind in ("embedding", ANSWER):
            found.append(Part(kind, -1 if kind == "embedding" else model.n_layers))
            continue
        for at in range(model.n_layers) if layer is None else [layer]:
            check_site(model, Site(kind, at))
            value = base.values[Site(kind, at)]
            if value.ndim == 2:  # it has no heads
                found.append(Part(kind, at))
                continue
            if head is not None and head >= value.shape[1]:
                raise InterventionError(f"{kind}:{at}.{head}: the layer has {kind} of heads 0 to {value.shape[1] - 1}.")
            found += [Part(kind, at, one) for one in (range(value.shape[1]) if head is None else [head])]
    return sorted(dict.fromkeys(found), key=lambda part: (part.layer, part.kind, part.head))
