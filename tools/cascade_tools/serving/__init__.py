"""A real Triton on this machine, and the clients that speak to it."""
