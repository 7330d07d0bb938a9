"""The inner operations: a plain PyTorch reference that is the specification, and the form that is used."""
