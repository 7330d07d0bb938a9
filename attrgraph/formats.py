"""Names of file formats, and what is said when one needs a program: for the library and the command line alike."""

PROFILES = ("neuronpedia", "circuit-tracer", "anthropic")
# graph files that come back as they were; JSON without the bias node
GRAPH_FORMATS = (".json", ".safetensors")
# Measured: links as every tool writes them take ten times a file's size in memory until the graph stands, two-letter
# strings, the worst, seventeen times: 4.2 GiB. Neuronpedia takes 100 MiB; 4 million links fit, at 60 bytes each.
MAX_JSON_BYTES = 2**28
PICTURE_FORMATS = ("svg", "png", "pdf")
NO_GRAPHVIZ = (
    "drawing needs the program dot of Graphviz (apt install graphviz, brew install graphviz); "
    "JSON and DOT files need no program."
)
