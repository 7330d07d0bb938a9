"""Validate a graph: change nodes of the model, and compare the effects with those that the graph predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from attrgraph.attribution.trace import trace
from attrgraph.errors import AttrGraphError, checked
from attrgraph.graph.graph import Graph
from attrgraph.graph.origin import check_traced_model
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import SkipPositions
from attrgraph.progress import Progress, shown
from attrgraph.transcoders import Transcoders
from attrgraph.validation import views
from attrgraph.validation.control_dictionary import control
from attrgraph.validation.measurements import Bench, sample_nodes
from attrgraph.validation.result import Validation
from attrgraph.validation.subject import Subject
from attrgraph.validation.validation_settings import Settings
from attrgraph.validation.verdict import judge


@checked
def validate(
    model: LanguageModel,
    subject: Graph | Prompt,
    *,
    supernodes: Mapping[str, Sequence[str]] | None = None,
    paraphrases: Sequence[Prompt] = (),
    compare_with: Transcoders | None = None,
    prepend: str = "auto",
    skip_positions: SkipPositions = "auto",
    memory_budget: int | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Validation:
    """How far an attribution graph can be trusted: predictions against measurements, with controls and intervals.

    Nodes are taken out of the model (scaled to 0) one by one and in sets, and the effects are compared with those that
    the graph's edges predict. Each mode tests other assumptions: frozen, none (the effects must be those of the edges);
    constrained, with all MLP outputs held, that attention and norms stay as they are; frozen-attention, that features
    respond linearly; free, both, and that errors stay. Predictions are along edges alone where no feature responds
    (frozen, constrained), else along all paths. Intervals are a 95% bootstrap over experiments.

    Args:
        model: the model with the transcoders that the graph was traced with.
        subject: a graph, or a prompt, which is traced with default settings.
        supernodes: node ids by name: groups that are taken out together.
        paraphrases: other prompts that should be answered for the same reasons: their top features are compared.
        compare_with: other transcoders of the model, such as a per-layer set, whose graph of the prompt is compared.
        prepend, skip_positions: of prompts, as for `trace`.
        memory_budget: as for `trace`; experiments that run together keep within it too.
        progress: called as `progress(phase, done, total)`.
        settings: modes, mode, n_nodes, n_controls, n_paths, n_resamples, seed; see `Settings`.

    Raises:
        AttrGraphError: a graph of no tokens, of another model, pruned, or with nodes that the run does not have.
        InterventionError: a mode that does not exist, or none.

    Source: Ameisen et al. 2025, "Circuit Tracing", sections on validating attribution graphs and interventions,
    transformer-circuits.pub/2025/attribution-graphs/methods.html

    Example:
        >>> import attrgraph as ag
        >>> model = ag.load_model("demo")
        >>> found = ag.validate(model, "in texas the capital is", modes=["frozen"], n_nodes=20, n_controls=2)
        >>> found.facts["frozen_error"] < 1e-3
        True
    """
    chosen, progress = Settings(**settings), shown(progress)
    how: Any = {"memory_budget": memory_budget, "prepend": prepend, "skip_positions": skip_positions}
    graph = subject if isinstance(subject, Graph) else trace(model, subject, progress=progress, **how)
    check_traced_model(graph, model)
    tested = Subject.of(model, graph, memory_budget)
    tables, facts, n_sampled = _experiments(tested, chosen, supernodes or {}, progress)
    tables |= {"error_share": views.error_share(graph), "stability": views.stability(graph)}
    if paraphrases:
        tables["paraphrases"] = views.paraphrases(model, graph, paraphrases, **how)
    if compare_with is not None:
        tables["compared"] = views.compared(model, graph, compare_with, memory_budget=memory_budget)
    facts |= views.facts(graph, tested.answer) | {"n_active": len(tested.features) + len(tested.unselected)}
    verdict = judge(facts, tables, chosen.mode, chosen.modes[-1])
    return Validation(verdict, facts, tables, graph, asdict(chosen) | {"n_sampled": n_sampled})


def _experiments(
    subject: Subject, settings: Settings, supernodes: Mapping[str, Sequence[str]], progress: Progress
) -> tuple[dict[str, pd.DataFrame], dict[str, Any], int]:
    """Tables and facts of all experiments in the model, and how many single nodes were taken out."""
    named = {name: _rows(subject, name, nodes) for name, nodes in supernodes.items()}
    sampled = sample_nodes(subject.graph.nodes, subject.can_act, settings.n_nodes, settings.seed)
    if not subject.graph.nodes["influence"].iloc[subject.by_influence].any():
        raise AttrGraphError("the graph has no features with influence, so there is nothing to validate.")
    bench = Bench(subject, settings, progress)
    tables, facts = bench.one_by_one(sampled, named)
    tables |= {
        "rankings": bench.rankings(),
        "necessity": bench.necessity(),
        "control": control(subject, settings, progress),
        "sufficiency": bench.sufficiency(),
        "doses": bench.doses(named),
        "paths": bench.paths(),
    }
    if len(tables["paths"]):
        tables["agreement"] = pd.concat([tables["agreement"], bench.agreement_of_paths(tables["paths"])])
    return tables, facts, len(sampled)


def _rows(subject: Subject, name: str, nodes: Sequence[str]) -> list[int]:
    """Rows of a supernode's nodes."""
    wrong = [node for node in nodes if node not in subject.rows or subject.kinds[subject.rows[node]] == "logit"]
    if wrong or not nodes:
        got = f"{wrong[0]!r}" if wrong else "no node"
        raise AttrGraphError(
            f"supernode {name!r} has {got}; expected ids of features, errors or embeddings as in graph.nodes."
        )
    return sorted({subject.rows[node] for node in nodes})
