"""attrgraph: exact attribution graphs, which say why a language model said what it said.

import attrgraph as ag

model = ag.load_model("demo")
graph = ag.trace(model, "in the state containing dallas the capital is")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrgraph.errors import AttrGraphError
    from attrgraph.graph import Graph
    from attrgraph.graph_loading import load_graph
    from attrgraph.influence import Scores
    from attrgraph.models.language_model import LanguageModel
    from attrgraph.models.loading import load_model
    from attrgraph.targets import LogitDifference
    from attrgraph.tracing import trace
    from attrgraph.transcoders import Transcoders, load_transcoders, save_transcoders

# Importing torch and transformers takes seconds, so each name is imported when it is first used.
_HOMES = {
    "AttrGraphError": "attrgraph.errors",
    "Graph": "attrgraph.graph",
    "LanguageModel": "attrgraph.models.language_model",
    "LogitDifference": "attrgraph.targets",
    "Scores": "attrgraph.influence",
    "Transcoders": "attrgraph.transcoders",
    "load_graph": "attrgraph.graph_loading",
    "load_model": "attrgraph.models.loading",
    "load_transcoders": "attrgraph.transcoders",
    "save_transcoders": "attrgraph.transcoders",
    "trace": "attrgraph.tracing",
}

__all__ = [
    "AttrGraphError",
    "Graph",
    "LanguageModel",
    "LogitDifference",
    "Scores",
    "Transcoders",
    "load_graph",
    "load_model",
    "load_transcoders",
    "save_transcoders",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attrgraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
