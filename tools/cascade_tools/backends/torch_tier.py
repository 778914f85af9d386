"""A tier on Triton's Python backend: a torch program with its head, on the device of its instance group.

For the embedded server, whose Python has the packages of the virtual environment. The program's outputs are
LABEL, CONFIDENCE and optionally PROBS, as everywhere in a cascade.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .joined import answer
from .torch_session import TorchSession


class TritonPythonModel:
    """One program per instance; requests of a batch are run together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open `model.pt2` beside this file."""
        config = json.loads(args["model_config"])
        self._outputs = [entry["name"] for entry in config["output"]]
        # Where tiers share cores, short work goes first: easy rows must not wait for hard ones.
        os.nice(int(config["parameters"]["nice"]["string_value"]))
        threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = TorchSession(folder / "model.pt2", threads, device)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return answer(requests, self._session.inputs, self._outputs, self._session.run)
