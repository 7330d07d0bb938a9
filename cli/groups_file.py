"""Groups of nodes in JSON files."""

from pathlib import Path

from attrgraph.errors import GraphFileError
from attrgraph.files import read_json


def read_groups(path: Path) -> dict[str, list[str]]:
    """Groups of nodes: `{"name": ["node id", ...], ...}`.

    Raises:
        GraphFileError: the file cannot be read, or holds something else.
    """
    try:
        groups = read_json(path)
    except (OSError, ValueError) as e:
        raise GraphFileError(f"{path}: cannot be read as JSON ({e}).") from e
    is_right = isinstance(groups, dict) and all(
        isinstance(nodes, list) and all(isinstance(node, str) for node in nodes) for nodes in groups.values()
    )
    if not is_right:
        raise GraphFileError(f'{path}: expected JSON of the form {{"name": ["node id", ...], ...}}.')
    return dict(groups)
