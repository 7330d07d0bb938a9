"""How much a pruned graph keeps, unless asked otherwise: the field's defaults, as in circuit-tracer."""

NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98
