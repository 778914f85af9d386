"""A tier on Triton's Python backend: an ONNX graph with its head, run by ONNX Runtime on one thread.

For servers that have no ONNX Runtime backend, such as the embedded one. The graph's outputs are LABEL,
CONFIDENCE and optionally PROBS, as everywhere in a cascade.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .onnx_session import OnnxSession


class TritonPythonModel:
    """One session per instance; requests of a batch are run together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open `model.onnx` beside this file."""
        config = json.loads(args["model_config"])
        self._outputs = [entry["name"] for entry in config["output"]]
        # Where tiers share cores, short work goes first: easy rows must not wait for hard ones.
        os.nice(int(config["parameters"]["nice"]["string_value"]))
        threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = OnnxSession(folder / "model.onnx", threads)
        self._inputs = self._session.inputs

    def execute(self, requests: list[Any]) -> list[Any]:
        """Join the rows of all requests, run once, and split the outputs again."""
        parts = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        alone = len(parts) == 1
        joined = parts[0] if alone else {n: np.concatenate([p[n] for p in parts]) for n in self._inputs}
        try:
            outputs = self._session.run(self._outputs, joined)
        except Exception as error:
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        edges = np.cumsum([len(part[self._inputs[0]]) for part in parts])[:-1]
        split = [[output] if alone else np.split(output, edges) for output in outputs]
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(name, pieces[number])
                    for name, pieces in zip(self._outputs, split, strict=True)
                ]
            )
            for number in range(len(requests))
        ]
