"""Training of transcoders on streams of activations; what comes out is a causal `Transcoders` set."""
