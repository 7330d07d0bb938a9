"""How a graph is drawn, up to the text that Graphviz reads: no drawing library is needed here.

text.py words in boxes; scene.py boxes and arrows, with supernodes merged and small edges left out; layout.py where
boxes are placed; routes.py how arrows get from one to another; legend.py how boxes and arrows look; caption.py what is
written under the picture; dot_text.py writes them down. `attrgraph.viz.draw` draws a graph, `attrgraph.viz.diff_dot`
two graphs in one.
"""

# beyond this, nobody can read the picture
MOST_NODES_DRAWN = 500
# each has a box; a million would take minutes
MOST_TOKENS_DRAWN = 5000
