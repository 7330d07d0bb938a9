"""From a model and a corpus to a finished folder of transcoders; learning itself is in `transcoders.training`."""
