"""Groups as viewers store them with a graph: `metadata["qParams"]["supernodes"]`."""

from itertools import chain, count
from typing import TYPE_CHECKING

from attrgraph.errors import AttrGraphError
from attrgraph.graph.groups.flows import Groups, membership
from attrgraph.io.params import EMPTY_PARAMS, pinned_ids, supernodes
from attrgraph.schema import canonical_id

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph


def groups_of(graph: "Graph") -> dict[str, list[str]]:
    """The groups that a graph's file has, as `group` takes them; empty if it has none.

    Members that the graph does not have (pruned away) are left out, and groups that have no member then. A node in
    several groups stays in the first. Groups of one name are told apart by a number: "texas", "texas (2)".
    """
    params = graph.metadata.get("qParams") or {}
    found = supernodes(params.get("supernodes")) if isinstance(params, dict) else []
    free = set(graph.without_bias().nodes.index)
    groups: dict[str, list[str]] = {}
    for label, *given in found:
        members = [node for node in dict.fromkeys(given) if node in free]
        free.difference_update(members)
        if members:
            groups[unused_name(label, set(groups))] = members
    return groups


def with_groups(graph: "Graph", groups: Groups) -> "Graph":
    """The same graph with these groups in place of those it had, for files and viewers.

    Viewers draw groups whose members are pinned, so members are pinned in addition to what was pinned; members of
    replaced groups stay pinned.

    Raises:
        AttrGraphError: as `group`, but for cycles, which viewers can draw.
    """
    lists = {name: [canonical_id(str(node)) for node in members] for name, members in groups.items()}
    membership(graph.without_bias(), lists)
    params = graph.metadata.get("qParams") or {}
    if not isinstance(params, dict):
        raise AttrGraphError(f"the graph's qParams are a {type(params).__name__}; expected a dictionary.")
    pinned = [*pinned_ids(params.get("pinnedIds")), *(node for members in lists.values() for node in members)]
    new = {
        **EMPTY_PARAMS,
        **params,
        "pinnedIds": list(dict.fromkeys(pinned)),
        "supernodes": [[name, *members] for name, members in lists.items()],
    }
    return graph.replace(metadata={**graph.metadata, "qParams": new})


def unused_name(label: str, taken: set[str]) -> str:
    """The label, with the first number that makes it new if it is taken."""
    numbered = (f"{label} ({number})" for number in count(2))
    return next(name for name in chain([label], numbered) if name not in taken)
