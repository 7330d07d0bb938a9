"""Words in boxes: what can be shown of a text, how wide it is, and where its lines break."""

# longer labels end in an ellipsis
MOST_CHARACTERS = 48
ELLIPSIS = "…"
FONT_SIZE = 9.0
LINE_HEIGHT = 1.2 * FONT_SIZE  # Graphviz's own
# Widths in units of the font size, of DejaVu Sans, the widest of the fonts that stand in for Helvetica: text that fits
# its box in it fits in Helvetica too.
_NARROW, _WIDE = set("iljtfrI.,:;'|!()[]{}/\\ -`\""), set("mwMW@%—…→")
_WIDTHS = {"narrow": 0.42, "wide": 0.98, "capital": 0.72, "other": 0.64, "full": 1.0}
# the first letters of scripts whose letters are as wide as high, Hangul Jamo and East Asian radicals, and of symbols
_FULL_WIDTH = ((0x1100, 0x115F), (0x2E80, 0xD7FF), (0xF900, 0xFAFF), (0xFE30, 0xFE6F), (0xFF00, 0xFFE6))
# joiners of letters, which have no width and belong to the spelling of some scripts
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""The text with everything that cannot be seen spelled out, as in Python: a line break as \n.

    Whitespace around it is left out, unless there is nothing else.
    """
    if text and not text.strip(" "):
        return f"{len(text)} spaces" if len(text) > 1 else "space"
    return "".join(char if char.isprintable() or char in _JOINERS else _spelled(char) for char in text.strip(" "))


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its start and an ellipsis: at most `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + ELLIPSIS


def width_of(text: str, size: float = FONT_SIZE) -> float:
    """How wide the text is at most, in points."""
    return size * sum(_WIDTHS[_class_of(char)] for char in text)


def wrap(text: str, width: float, size: float = FONT_SIZE) -> list[str]:
    """Lines of at most this width, broken at spaces, and within words that are wider than a line."""
    lines, line = list[str](), ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if width_of(joined, size) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while width_of(line, size) > width and len(line) > 1:
            n_fit = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or width_of(line[:n], size) <= width)
            lines.append(line[:n_fit])
            line = line[n_fit:]
    return [*lines, line]


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _class_of(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF or any(low <= code <= high for low, high in _FULL_WIDTH):
        return "full"
    if char in _NARROW:
        return "narrow"
    if char in _WIDE:
        return "wide"
    return "capital" if char.isupper() else "other"
