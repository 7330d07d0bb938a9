"""attrgraph: exact attribution graphs, which say why a language model said what it said.

import attrgraph as ag

model = ag.load_model("demo")
graph = ag.trace(model, "in the state containing dallas the capital is")
"""

import lazy_loader

# torch and transformers take seconds to import, so each name of __init__.pyi is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
