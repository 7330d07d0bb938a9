"""Put a graph to the test: change nodes of the model, and compare what follows with what the graph predicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attrgraph.attribution.trace import trace
from attrgraph.errors import AttrGraphError, InterventionError
from attrgraph.graph.graph import Graph
from attrgraph.graph.origin import check_traced_model
from attrgraph.interventions.intervene import MODES
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.progress import Progress
from attrgraph.transcoders import Transcoders
from attrgraph.validation import views
from attrgraph.validation.controls import sample_nodes
from attrgraph.validation.measurements import Bench
from attrgraph.validation.result import Validation
from attrgraph.validation.subject import Subject
from attrgraph.validation.verdict import judge


def validate(
    model: LanguageModel,
    subject: Graph | Prompt,
    *,
    modes: Sequence[str] = ("frozen", "constrained", "frozen-attention", "free"),
    mode: str = "constrained",
    supernodes: Mapping[str, Sequence[str]] | None = None,
    paraphrases: Sequence[Prompt] = (),
    compare_with: Transcoders | None = None,
    n_nodes: int = 256,
    n_controls: int = 20,
    n_paths: int = 10,
    n_resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Validation:
    """How far an attribution graph can be trusted: predictions against measurements, with controls and intervals.

    Nodes are taken out of the model (scaled to 0) one by one and in sets. What follows is compared with what the
    graph's edges predict. Taken out one by one, each mode puts other assumptions to the test: frozen, none (what edges
    say must come out); constrained, with all MLP outputs held, that attention and norms stay as they are;
    frozen-attention, that features respond linearly; free, both, and that errors stay. Predictions are along edges
    alone where no feature responds (frozen, constrained), else along all paths. Intervals are a 95% bootstrap over
    experiments.

    Args:
        model: the model with the transcoders that the graph was traced with.
        subject: a graph, or a prompt, which is traced with default settings.
        modes: in which nodes are taken out one by one; see `intervene`. The last of them also ranks features.
        mode: of experiments on sets of nodes: necessity, sufficiency, doses. In mode free, MLPs above what is taken out
            already respond to it, and a set of several layers would be taken out twice. In mode constrained all MLP
            outputs are held, here as for single nodes.
        supernodes: node ids by name: groups that are taken out together.
        paraphrases: other prompts that should be answered for the same reasons: their top features are compared.
        compare_with: other transcoders of the model, such as a per-layer set, whose graph of the prompt is compared.
        n_nodes: how many nodes are taken out: the most influential half, and random others, unless all fit.
        n_controls: random sets of features, matched on layer and activation, that stand beside each chosen set.
        n_paths: how many of the strongest paths are followed.
        n_resamples, seed: of the bootstrap; the seed also of the sample and the controls.
        progress: called as `progress(phase, done, total)`.

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
    for each in (*modes, mode):
        if each not in MODES:
            raise InterventionError(f"mode is {each!r}; expected one of {', '.join(MODES)}.")
    if not modes:
        raise InterventionError(f"modes is empty; expected some of {', '.join(MODES)}.")
    if isinstance(subject, Graph):
        check_traced_model(subject, model)
        graph = subject
    else:
        graph = trace(model, subject, progress=progress)
    tested = Subject.of(model, graph)
    named = {name: _rows(tested, name, nodes) for name, nodes in (supernodes or {}).items()}
    sampled = sample_nodes(tested.graph.nodes, n_nodes, seed)
    if not len(sampled) or not len(tested.features):
        raise AttrGraphError("the graph has no features with influence, so there is nothing to validate.")
    bench = Bench(tested, mode, n_controls, n_resamples, seed, progress or (lambda phase, done, total: None))
    tables, facts = bench.one_by_one(sampled, modes, named)
    tables |= {
        "rankings": bench.rankings(),
        "necessity": bench.necessity(),
        "sufficiency": bench.sufficiency(),
        "doses": bench.doses(named),
    }
    tables["paths"] = bench.paths(n_paths)
    if len(tables["paths"]):
        tables["agreement"] = pd.concat([tables["agreement"], bench.agreement_of_paths(tables["paths"])])
    tables |= {"error_share": views.error_share(graph), "stability": views.stability(graph)}
    if paraphrases:
        tables["paraphrases"] = views.paraphrases(model, graph, paraphrases)
    if compare_with is not None:
        tables["compared"] = views.compared(model, graph, compare_with)
    facts |= views.facts(graph, tested.answer) | {"n_active": len(tested.features) + len(tested.unselected)}
    settings: dict[str, Any] = {"modes": list(modes), "mode": mode, "n_nodes": n_nodes, "n_controls": n_controls}
    settings |= {"n_resamples": n_resamples, "seed": seed, "n_sampled": len(sampled)}
    return Validation(judge(facts, tables, mode, modes[-1]), facts, tables, graph, settings)


def _rows(subject: Subject, name: str, nodes: Sequence[str]) -> list[int]:
    """Rows of a supernode's nodes."""
    wrong = [node for node in nodes if node not in subject.rows or subject.kinds[subject.rows[node]] == "logit"]
    if wrong or not nodes:
        got = f"{wrong[0]!r}" if wrong else "no node"
        raise AttrGraphError(
            f"supernode {name!r} has {got}; expected ids of features, errors or embeddings as in graph.nodes."
        )
    return sorted({subject.rows[node] for node in nodes})
