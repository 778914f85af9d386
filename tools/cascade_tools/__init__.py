"""Cascades of models on NVIDIA Triton: most requests are answered by a small model."""

__version__ = "0.1.0"
