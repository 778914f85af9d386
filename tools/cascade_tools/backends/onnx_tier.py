"""A tier on Triton's Python backend: an ONNX graph with its head, run by ONNX Runtime on one thread.

For servers that have no ONNX Runtime backend, such as the embedded one. The graph's outputs are LABEL,
CONFIDENCE and optionally PROBS, as everywhere in a cascade.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .joined import answer
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

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return answer(requests, self._session.inputs, self._outputs, self._session.run)
