"""Supernodes: nodes of a graph put together to groups, and the smaller graph between the groups.

flows.py how much influence goes along each edge; grouped.py the graph of groups; grouping_score.py what a grouping
loses; automatic.py groups by position, flow or weights; saved_groups.py groups in graph files.
"""

from attrgraph.graph.groups.automatic import auto_groups
from attrgraph.graph.groups.grouped import GroupedGraph, group
from attrgraph.graph.groups.grouping_score import grouping_score
from attrgraph.graph.groups.saved_groups import groups_of, with_groups

__all__ = ["GroupedGraph", "auto_groups", "group", "grouping_score", "groups_of", "with_groups"]
