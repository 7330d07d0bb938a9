"""How boxes and arrows of a graph look, and the legend that says what it means."""

from math import isfinite

from attrgraph.viz.dot_text import PLAIN, edge, node, quote
from attrgraph.viz.scene import Arrow, Box
from attrgraph.viz.text import LINE_HEIGHT, width_of

# arrows with less are drawn thin and light
LIGHT_BELOW = 0.05
# told apart by colour-blind readers (Okabe and Ito's blue and vermilion), and their tints for small shares
_POSITIVE, _NEGATIVE = ("#0072b2", "#8fc1de"), ("#d55e00", "#eeb68a")
# of the most influential box: dark enough to be seen at once, light enough for black text in greyscale
_DARKEST = (240, 190, 80)
_ERROR = 'style="filled,dashed"'
_BOX_LOOKS = {
    "logit": 'style="filled,bold", color="#000000", penwidth=1.6',
    "group": "peripheries=2",
    "feature": 'style="filled,rounded"',
    "attention feature": 'style="filled,diagonals"',
    "error": _ERROR,
    "attention error": _ERROR,
    "unknown": "shape=octagon",
}
_SHARES = (0.5, 0.2, 0.05)
_SAMPLE_WIDTH, _GAP = 26.0, 16.0


def box_look(box: Box, darkest: float) -> str:
    """DOT attributes of a box; `darkest` is the influence that is drawn darkest."""
    look = _BOX_LOOKS.get(box.kind, "")
    return look if box.kind == "logit" else ", ".join(filter(None, [_fill(box.influence, darkest), look]))


def arrow_look(arrow: Arrow) -> str:
    """DOT attributes of an arrow."""
    strong, light = _POSITIVE if arrow.weight > 0 else _NEGATIVE
    color, style = strong if arrow.share >= LIGHT_BELOW else light, "solid" if arrow.weight > 0 else "dashed"
    tooltip = f"{arrow.weight:.4g}, {arrow.share:.1%} of the input"
    return f'color="{color}", style={style}, penwidth={arrow.width:.2f}, tooltip="{tooltip}"'


def legend(left: float, top: float, width: float, darkest: float) -> tuple[list[str], float]:
    """Lines of DOT with samples of arrows and boxes and what they mean, and the height of the last row."""
    arrows = [(Arrow(0, 0, 1.0, share), f"{share:.0%} of the target's input") for share in _SHARES]
    arrows += [(Arrow(0, 0, 1.0, 0.15), "raises the target"), (Arrow(0, 0, -1.0, 0.15), "lowers it")]
    samples: list[tuple[Arrow | float, str]] = [*arrows, (0.0, "no influence"), (1.0, f"influence {darkest:.3f}")]
    out, x, y = list[str](), left, top - LINE_HEIGHT
    for number, (sample, text) in enumerate(samples):
        text_width = width_of(text)
        if x > left and x + _SAMPLE_WIDTH + text_width > left + width:
            x, y = left, y - 1.4 * LINE_HEIGHT
        key, text_x = f"legend {number}", x + _SAMPLE_WIDTH + 4
        if isinstance(sample, Arrow):
            curve = [(x + _SAMPLE_WIDTH * i / 3, y) for i in range(4)]
            tail, head = f"{key} from", f"{key} to"
            for end, at in ((tail, curve[0]), (head, curve[-1])):
                out.append(node(end, '""', at, (0.1, 0.1), "style=invis"))
            out.append(edge(tail, head, curve, arrow_look(sample)))
        else:
            size = (_SAMPLE_WIDTH, LINE_HEIGHT)
            out.append(node(f"{key} box", '""', (x + _SAMPLE_WIDTH / 2, y), size, _fill(sample, 1.0)))
        out.append(node(key, quote(text), (text_x + text_width / 2, y), (text_width, LINE_HEIGHT), PLAIN))
        x = text_x + text_width + _GAP
    return out, y


def _fill(influence: float, darkest: float) -> str:
    """White to the darkest; what is not a number is white."""
    amount = min(max(influence / darkest, 0.0), 1.0) if darkest > 0 and isfinite(influence) else 0.0
    return 'fillcolor="#' + "".join(f"{round(255 - amount * (255 - channel)):02x}" for channel in _DARKEST) + '"'
