"""Models of Triton's Python backend that serve one tier; copied byte for byte into the repository."""
