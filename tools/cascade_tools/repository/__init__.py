"""Renders a Triton model repository and puts it in its place."""
