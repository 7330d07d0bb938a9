"""A graph and the explorer's scripts in one HTML file."""

import base64
import hashlib
import re
import zlib
from html import escape
from pathlib import Path
from string import Template

from attrgraph.viz.text import visible

_FOLDER = Path(__file__).parent
# each uses earlier ones only, except inside functions
_SCRIPTS = """
graph html influence subgraph paths groups state layout look pens drawing labels base pointer canvas
link feature pathpanel panel lists focus panels search moves save keys bindings main
ask settings server
""".split()
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^ *(/\*\*((?!\*/).)*\*/|//[^\n]*)\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?:async )?(?:function\*?|class|const) (\w+)", re.MULTILINE)


class ExplorerPage(str):
    """The explorer as HTML; a notebook shows it in a frame."""

    def __repr__(self) -> str:
        return f"ExplorerPage({len(self) / 1000:,.0f} KB of HTML)"

    def _repr_html_(self) -> str:
        how = 'sandbox="allow-scripts allow-downloads" title="Graph" style="width:100%;height:640px;border:0"'
        return f'<iframe srcdoc="{escape(self)}" {how}></iframe>'


def explorer_page(title: str, about: bytes, edges: bytes, features: bytes) -> ExplorerPage:
    """The whole page.

    Args:
        title: of the page.
        about: JSON of all that a graph has but edges, as graph.js reads it.
        edges: a sparse matrix, [target, source]: where rows start, sources, weights.
        features: JSON of what features mean, by layer/feature.
    """
    script = _whole_script()
    template = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
    return ExplorerPage(
        template.substitute(
            title=escape(visible(title)),
            style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
            script=script,
            hash=_hash(script),
            about=_packed(about),
            edges=_packed(edges),
            features=_packed(features),
        )
    )


def two_pages(title: str, left: ExplorerPage, right: ExplorerPage) -> ExplorerPage:
    """Two explorers side by side, each in a frame, which tell each other what is selected."""
    script = _plain(_FOLDER / "frames.js")
    template = Template((_FOLDER / "frames.html").read_text(encoding="utf-8"))
    pages = {"left": escape(left), "right": escape(right)}
    hashes = {"hash": _hash(script), "inner_hash": _hash(_whole_script())}
    return ExplorerPage(template.substitute(title=escape(visible(title)), script=script, **pages, **hashes))


def _whole_script() -> str:
    return "\n".join(_script(_FOLDER / f"{name}.js") for name in _SCRIPTS)


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script(path: Path) -> str:
    """A module as a part of one script: what it exports is known to all, the rest to itself."""
    exported = ", ".join(_EXPORT.findall(path.read_text(encoding="utf-8")))
    return f"const {{ {exported} }} = (() => {{\n{_plain(path)}\nreturn {{ {exported} }};\n}})();"


def _plain(path: Path) -> str:
    """A module without imports, comments and the word export."""
    text = _IMPORT.sub("", path.read_text(encoding="utf-8"))
    return _COMMENT.sub("", re.sub(r"^export ", "", text, flags=re.MULTILINE))


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 6)).decode()
