"""A graph as Graphviz DOT text, and the picture that Graphviz makes of it."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from attrgraph.errors import checked
from attrgraph.viz.caption import caption_of
from attrgraph.viz.dot_text import below_picture, paragraphs, scene_as_dot, write_picture
from attrgraph.viz.layout import lay_out
from attrgraph.viz.legend import arrow_look, box_look, legend
from attrgraph.viz.scene import Groups, make_scene

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


@checked
def to_dot(graph: "Graph", *, groups: Groups | None = None, min_share: float = 0.0, caption: bool = True) -> str:
    """DOT text with every box and arrow in its place. The same graph gives the same text.

    Tokens are at the bottom in the order of the prompt, layers above one another, the answer on top. An arrow's width
    is its share of its target's input; a positive one is blue and solid, a negative one vermilion and dashed; below a
    share of 5% it is light. A box is the darker the more influence it has. Labels of more than 48 characters end in an
    ellipsis.

    Args:
        graph: any graph; its bias node is not drawn.
        groups: supernodes: each name's member ids are drawn as one box.
        min_share: arrows with less of their target's input are left out; the caption says how many.
        caption: write below what was asked and answered, what is left out, and the scales.

    Raises:
        AttrGraphError: as `attrgraph.viz.scene.make_scene`.
        GraphFileError: a prompt of more than 5000 tokens.
    """
    scene = make_scene(graph, groups=groups, min_share=min_share)
    layout = lay_out(scene, graph.n_layers)
    darkest = max((box.influence for box in scene.boxes if isfinite(box.influence)), default=0.0)
    below = list[str]()
    if caption:
        left, top, width = below_picture(layout)
        below, top = legend(left, top, width, darkest)
        below.append(paragraphs(caption_of(graph, scene, min_share=min_share), left, top, width))
    looks = [box_look(box, darkest) for box in scene.boxes]
    return scene_as_dot(scene, layout, looks, map(arrow_look, scene.arrows), below)


@checked
def draw_graph(
    graph: "Graph",
    path: str | Path,
    *,
    groups: Groups | None = None,
    min_share: float = 0.0,
    caption: bool = True,
    overwrite: bool = True,
) -> None:
    """Draw the graph into an SVG, PNG or PDF file, or write the DOT text of the drawing, by the file's ending.

    Args:
        graph: pruned, best to some dozen nodes.
        path: ending in .svg, .png, .pdf or .dot.
        groups, min_share, caption: as `to_dot`.
        overwrite: False refuses to replace an existing file.

    Raises:
        GraphFileError: an unknown ending, more than 500 nodes, no Graphviz, or the file cannot be written.
        AttrGraphError: as `to_dot`.

    Example:
        >>> import attrgraph as ag
        >>> graph = ag.trace(ag.load_model("demo"), "in texas the capital is").prune(0.6)
        >>> ag.draw_graph(graph, "texas.dot", groups={"texas": ["E_584_3"]})  # doctest: +SKIP
    """
    write_picture(
        lambda: to_dot(graph, groups=groups, min_share=min_share, caption=caption),
        path,
        n_nodes=len(graph.nodes),
        overwrite=overwrite,
    )
