"""Several graphs: what two have in common and what not, what many have in common, and why one answer and not another.

alignment.py which positions of two prompts correspond; diff.py two graphs; diff_dot.py its picture; union.py many
graphs; contrast.py the graph of a difference of two answers.
"""

from attrgraph.graph.comparison.alignment import ALIGNMENTS
from attrgraph.graph.comparison.diff import Diff, diff
from attrgraph.graph.comparison.union import union, union_edges, union_nodes

__all__ = ["ALIGNMENTS", "Diff", "diff", "union", "union_edges", "union_nodes"]
