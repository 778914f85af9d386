"""Requests of a batch run together; copied beside the tiers' model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Run = Callable[[Sequence[str], Mapping[str, npt.NDArray[np.generic]]], list[Any]]


def answer(requests: list[Any], inputs: Sequence[str], outputs: Sequence[str], run: Run) -> list[Any]:
    """Join the rows of all requests, run once, and split the outputs again; one response per request.

    Args:
        requests: of Triton's Python backend.
        inputs: names that the model reads.
        outputs: names that are wanted.
        run: gives the wanted outputs of all rows.
    """
    parts = [
        {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in inputs}
        for request in requests
    ]
    alone = len(parts) == 1
    joined = parts[0] if alone else {name: np.concatenate([p[name] for p in parts]) for name in inputs}
    try:
        found = run(outputs, joined)
    except Exception as error:
        failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
        return [pb_utils.InferenceResponse(error=failure) for _ in requests]
    edges = np.cumsum([len(part[inputs[0]]) for part in parts])[:-1]
    split = [[output] if alone else np.split(output, edges) for output in found]
    return [
        pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, pieces[number]) for name, pieces in zip(outputs, split, strict=True)
            ]
        )
        for number in range(len(requests))
    ]
