"""Several graphs: what two have in common and what not, and what many have in common.

alignment.py which positions of two prompts correspond; diff.py two graphs; union.py many graphs. A picture of a
difference is made by `attrgraph.viz.diff_dot`, the graph of a difference of two answers by
`attrgraph.attribution.contrast`.
"""

from attrgraph.graph.comparison.alignment import ALIGNMENTS
from attrgraph.graph.comparison.diff import Diff, diff
from attrgraph.graph.comparison.union import union, union_edges, union_nodes

__all__ = ["ALIGNMENTS", "Diff", "diff", "union", "union_edges", "union_nodes"]
