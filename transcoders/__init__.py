"""Feature dictionaries for a model's MLPs: encode, decode, load, save, train."""

import lazy_loader

# reading a run's settings does not need torch, so each name of __init__.pyi is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
