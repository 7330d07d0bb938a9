"""Words in boxes: what can be shown of a text, how wide it is, and where its lines break."""

from unicodedata import east_asian_width

# longer labels end in an ellipsis
MOST_CHARACTERS = 48
ELLIPSIS = "…"
FONT_SIZE = 9.0
LINE_HEIGHT = 1.2 * FONT_SIZE  # Graphviz's own
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]{}/\\ -`\""), frozenset("mwMW@%—…→")
# joiners of letters, which have no width and belong to the spelling of some scripts
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""The text with every character that cannot be seen written as in Python: a line break as \n.

    Spaces around it are left out, unless there is nothing else.
    """
    if text and not text.strip(" "):
        return f"{len(text)} spaces" if len(text) > 1 else "space"
    return "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode("ascii")
        for char in text.strip(" ")
    )


def typed(text: str) -> str:
    r"""A token as it can be given back as a target: as `visible`, but for one space at an end with spaces as \x20."""
    word = text.strip(" ")
    if word and len(text) <= len(word) + 1:
        return visible(text)
    before, after = (text, "") if not word else text.split(word)
    return r"\x20" * len(before) + visible(word) + r"\x20" * len(after)


def shorten(text: str) -> str:
    """The text, or its start and an ellipsis: at most `MOST_CHARACTERS` characters."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1].rstrip() + ELLIPSIS


def width_of(text: str) -> float:
    """How wide the text is at most, in points."""
    return FONT_SIZE * sum(map(_width, text))


def wrap(text: str, width: float) -> list[str]:
    """Lines of at most this width, broken at spaces, and within words that are wider than a line."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and width_of(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines


def _width(char: str) -> float:
    """In units of the font size, in DejaVu Sans, the widest font that replaces Helvetica where that is missing."""
    if east_asian_width(char) in "WF" or ord(char) > 0xFFFF:
        return 1.0
    if char in _NARROW:
        return 0.42
    if char in _WIDE:
        return 0.98
    return 0.72 if char.isupper() else 0.64
