"""Memory of a tier on one device, from what one instance holds.

ONNX Runtime, torch and TensorRT plans with a dynamic dimension open the model once per instance:
count x (weights + arena). Of a static TensorRT plan Triton keeps one engine per GPU: weights + count x
context. Both are `shared + count x own`; in the first case nothing is shared.
"""

from __future__ import annotations


def held_mib(own_mib: float, shared_mib: float, instances: int) -> float:
    """What so many instances hold on one device."""
    return shared_mib + instances * own_mib
