"""What a viewer stores with a graph, its `qParams`: pinned nodes, groups of nodes, the node clicked last."""

import json
from typing import Any

from attrgraph.errors import GraphFileError
from attrgraph.io.problems import say_repaired

EMPTY_PARAMS: dict[str, Any] = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}

# one id may stand for a feature at every position, and groups may name it again and again
_MAX_REFERENCES = 10**6


def pinned_ids(value: Any) -> list[str]:
    """`pinnedIds`: a list, or as a viewer saves it, one text with commas."""
    if isinstance(value, str):
        value = value.split(",")
    return [item for item in value if isinstance(item, str) and item] if isinstance(value, list) else []


def supernodes(value: Any) -> list[list[str]]:
    """`supernodes`: lists of a label and ids, or one text that holds them as JSON."""
    value = _from_text(value)
    groups = value if isinstance(value, list) else []
    return [
        [item for item in group if isinstance(item, str)]
        for group in groups
        if isinstance(group, list) and group and isinstance(group[0], str)
    ]


def own_labels(value: Any) -> list[tuple[str, str]] | None:
    """`clerps`: labels that a user gave to nodes, as a list of pairs, a mapping, or one text; None if none of these."""
    value = _from_text(value)
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return None
    return [(str(name), str(label)) for name, label in pairs]


def referred_ids(params: dict[str, Any]) -> list[str]:
    """Every node id in qParams: pinned, in a group, or clicked."""
    grouped = [item for group in supernodes(params.get("supernodes")) for item in group[1:]]
    return [*pinned_ids(params.get("pinnedIds")), *grouped, *_clicked_id(params)]


def read_params(params: dict[str, Any], names: dict[str, list[str]], *, keep_unknown: bool = True) -> dict[str, Any]:
    """qParams as lists, with all five keys and the graph's own node ids; other keys as they are.

    Args:
        params: as the file has them.
        names: the graph's node ids for each id that the file may use.
        keep_unknown: whether ids that name no node stay.

    Raises:
        ValueError: the ids stand for more than a million nodes.
    """
    n_found = 0

    def to_nodes(ids: list[str]) -> list[str]:
        nonlocal n_found
        found = [name for item in dict.fromkeys(ids) for name in names.get(item, [item] if keep_unknown else [])]
        n_found += len(found)
        if n_found > _MAX_REFERENCES:
            raise ValueError(f"qParams refer to more than {_MAX_REFERENCES} nodes")
        return list(dict.fromkeys(found))

    read = {**EMPTY_PARAMS, **{name: value for name, value in params.items() if name != "clerps"}}
    read["pinnedIds"] = to_nodes(pinned_ids(params.get("pinnedIds")))
    read["supernodes"] = [[label, *to_nodes(ids)] for label, *ids in supernodes(params.get("supernodes"))]
    read["clickedId"] = next(iter(to_nodes(_clicked_id(params))), "")
    for name in ("linkType", "sg_pos"):
        if not isinstance(read[name], str):
            read[name] = EMPTY_PARAMS[name]
    return read


def write_params(params: Any, ids: set[str], repairs: list[str]) -> dict[str, Any]:
    """qParams for a file: only ids of its nodes, and all five keys; what had to go is added to `repairs`.

    Raises:
        GraphFileError: the graph's qParams are not a dictionary.
    """
    if not isinstance(params, dict):
        raise GraphFileError(f"the graph's qParams are a {type(params).__name__}; expected a dictionary.")
    unknown = [name for name in dict.fromkeys(referred_ids(params)) if name not in ids]
    say_repaired(repairs, unknown, "id", "in qParams left out that name no node of the graph")
    params = read_params(params, {name: [name] for name in ids}, keep_unknown=False)
    return {**params, "supernodes": [group for group in params["supernodes"] if len(group) > 1]}


def _clicked_id(params: dict[str, Any]) -> list[str]:
    """The id in a list, which is empty if there is none: viewers save an empty choice as the text null."""
    value = params.get("clickedId")
    return [value] if isinstance(value, str) and value not in ("", "null", "undefined") else []


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
