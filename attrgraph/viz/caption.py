"""What stands under a picture: the question and the answer, what was left out, and how to read it."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrgraph.schema import inexact_note
from attrgraph.viz.legend import LIGHT_BELOW
from attrgraph.viz.scene import Scene
from attrgraph.viz.text import ELLIPSIS, shorten, visible

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

_MOST_PROMPT_CHARACTERS, _MOST_ANSWERS = 300, 3


def caption_of(graph: "Graph", scene: Scene, *, min_share: float) -> list[str]:
    """Paragraphs of plain text."""
    paragraphs = [_question(graph), f"{_kept(graph)} {_scores(graph)}", _reading(scene, min_share)]
    if note := inexact_note(graph.metadata):
        paragraphs.insert(1, f"{note}.")
    return paragraphs


def _question(graph: "Graph") -> str:
    tokens = graph.prompt_tokens
    # tokens of words have no spaces, those of subwords bring theirs
    joined = ("" if any(token.startswith((" ", "\u2581", "\u0120")) for token in tokens) else " ").join(tokens)
    prompt = visible(str(graph.metadata.get("prompt") or joined))
    if len(prompt) > _MOST_PROMPT_CHARACTERS:  # its end is what is answered
        prompt = ELLIPSIS + prompt[1 - _MOST_PROMPT_CHARACTERS :]
    answers = graph.nodes[graph.nodes["kind"] == "logit"].sort_values("probability", ascending=False, kind="stable")
    if "answer" in graph.metadata:  # of several tokens, one after the other
        answers = answers.sort_values("pos", kind="stable")
    named = [f"{shorten(visible(str(row.token)))} (p = {row.probability:.3f})" for row in answers.itertuples()]
    more = f", {len(named) - _MOST_ANSWERS} more" if len(named) > _MOST_ANSWERS else ""
    return f"Prompt: {prompt} → {', '.join(named[:_MOST_ANSWERS]) or 'no answer in this graph'}{more}"


def _kept(graph: "Graph") -> str:
    shown = graph.without_bias()
    n_nodes, n_edges = len(shown.nodes), shown.adjacency.nnz
    pruning, before = graph.metadata.get("pruning"), graph.metadata.get("pruned_from")
    if pruning is None:
        kept = f"{n_nodes} nodes and {n_edges} edges, {_unpruned(graph)}."
    elif before is None:
        kept = (
            f"{n_nodes} nodes and {n_edges} edges of a graph pruned before ({_thresholds(pruning)}); the file does not "
            "say how many there were."
        )
    else:
        again = f"; the graph was pruned before ({_thresholds(before['pruning'])})" if "pruning" in before else ""
        kept = (
            f"Pruned to {n_nodes} of {before['nodes']} nodes and {n_edges} of {before['edges']} edges "
            f"({_thresholds(pruning)}){again}."
        )
    return " ".join(
        [kept, *_taken_out(graph), *(["The bias node is not drawn."] if n_nodes < len(graph.nodes) else [])]
    )


def _taken_out(graph: "Graph") -> Iterator[str]:
    """What was left out other than by pruning."""
    whole, without = graph.metadata.get("selected_from"), graph.metadata.get("without")
    if whole is not None:
        yield f"It is a selection from {whole['nodes']} nodes and {whole['edges']} edges."
    if without is not None:
        yield f"{sum(len(one['nodes']) for one in without)} nodes were taken out."


def _unpruned(graph: "Graph") -> str:
    """What is known of a graph that was not pruned here; other tools' files need not say what they left out."""
    if "file_metadata" not in graph.metadata:
        return "unpruned"
    stated = (graph.metadata["file_metadata"] or {}).get("node_threshold")
    if isinstance(stated, int | float) and not isinstance(stated, bool) and stated < 1:
        return f"pruned before, as the file says (node threshold {stated:g})"
    return "the file records no pruning"


def _thresholds(pruning: Mapping[str, Any]) -> str:
    return f"node threshold {pruning['node_threshold']:g}, edge threshold {pruning['edge_threshold']:g}"


def _scores(graph: "Graph") -> str:
    here = graph.scores()
    whole = (graph.metadata.get("pruned_from") or {}).get("scores")
    # null if there is no influence
    if not isinstance(whole, Mapping) or None in whole.values():
        return f"Replacement {here.replacement:.3f}, completeness {here.completeness:.3f}."
    return (
        f"Replacement {whole['replacement']:.3f} (of what is kept: {here.replacement:.3f}), "
        f"completeness {whole['completeness']:.3f} ({here.completeness:.3f})."
    )


def _reading(scene: Scene, min_share: float) -> str:
    parts = [f"Width of an edge: its share of its target's input, light below {LIGHT_BELOW:.0%}."]
    if scene.n_hidden:
        edges = "edge is" if scene.n_hidden == 1 else "edges are"
        parts.append(f"{scene.n_hidden} {edges} not drawn, each with less than {100 * min_share:g}% of it.")
    parts.append("Darkness of a box: its influence on the answer.")
    if any(box.kind == "group" for box in scene.boxes):
        parts.append("A double box stands for several nodes; their edges to others are added up.")
    return " ".join(parts)
