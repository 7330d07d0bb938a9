"""Where the files of the shipped model and transcoders lie."""

from importlib.resources import files
from pathlib import Path

from attrgraph.errors import ModelLoadError

# names that stand for shipped transcoders, and their folders
SHIPPED = {"demo": "cross_layer", "demo-per-layer": "per_layer"}


def shipped_folder(name: str) -> Path:
    """The folder of the model, "model", or of a set of transcoders.

    Raises:
        ModelLoadError: the installation lacks it.
    """
    folder = Path(str(files("attrgraph"))) / "demo" / "data" / name
    if not folder.is_dir():
        raise ModelLoadError(f"{folder}: the demo's files are not in this installation; install the package again.")
    return folder
