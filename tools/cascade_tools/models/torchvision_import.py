"""Lets torchvision be imported beside a torch that its own library was not built for.

The usual case: torch is the small CPU build, torchvision came from the public index and is built for CUDA.
Its library of box operators does not load then, and torchvision does not import since it describes operators
that nobody has declared. No classifier calls them, but transformers and timm import torchvision.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# Operators that torchvision describes although its library may be missing.
BOX_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # an operator lives as long as its library object


@cache
def make_torchvision_importable() -> None:
    """Import torchvision if it is installed; declare its box operators where its library does not load."""
    if find_spec("torchvision") is None:
        return
    import torch

    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what is half-imported
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in BOX_OPERATORS:
            library.define(schema)
        _declared.append(library)
