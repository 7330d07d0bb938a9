"""How a graph is drawn, up to the text that Graphviz reads: no drawing library is needed here.

text.py words in boxes; scene.py boxes and arrows, with supernodes merged and small edges left out; layout.py where
boxes stand; routes.py how arrows get from one to another; caption.py what stands under the picture.
`attrgraph.viz.draw` writes them down.
"""

# beyond this, nobody can read the picture
MOST_NODES_DRAWN = 500
