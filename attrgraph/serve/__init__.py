"""The local app: pages of graphs, and a model that answers them one request after the other."""
