"""The layers of the tunnel, from a carrier's bytes to streams, and what keeps them alive."""
