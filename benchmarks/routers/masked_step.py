"""One step of a cascade that is a Triton ensemble: it always runs, and a mask says for which rows it counts.

The mask is the tensor GOAL: the step that each row goes to next, -1 once it is answered. A step runs its
graph on the rows of its batch that are its own, and hands all other rows' answers on as they came.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

STATE = (("LABEL", np.int64), ("CONFIDENCE", np.float32), ("TIER", np.int32), ("GOAL", np.int32))


class TritonPythonModel:
    """Inputs: the row and, after the first step, the state as IN_LABEL and so on; outputs: the state."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph of the tier that this step stands for."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._step = json.loads(parameters["step"]["string_value"])
        self._cuts = np.asarray(self._step["cuts"], np.float32)
        self._to = np.asarray(self._step["to"], np.int32)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        graph = Path(args["model_repository"]).parent / self._step["model"] / "1" / "model.onnx"
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Join the batch, run what is this step's, split again."""
        rows = self._joined(requests, self._input)
        if self._step["level"] == 0:
            state = {name: np.zeros((len(rows), 1), kind) for name, kind in STATE}
        else:
            state = {name: self._joined(requests, f"IN_{name}").copy() for name, _ in STATE}
        mine = np.flatnonzero(state["GOAL"][:, 0] == self._step["level"])
        if mine.size:
            label, confidence = self._session.run(["LABEL", "CONFIDENCE"], {self._input: rows[mine]})
            state["LABEL"][mine] = label
            state["CONFIDENCE"][mine] = confidence
            state["TIER"][mine] = self._step["tier"]
            state["GOAL"][mine] = self._to[np.searchsorted(self._cuts, confidence, side="right")]
        responses = []
        first = 0
        for request in requests:
            count = pb_utils.get_input_tensor_by_name(request, self._input).shape()[0]
            part = slice(first, first + count)
            first += count
            outputs = [pb_utils.Tensor(name, state[name][part]) for name, _ in STATE]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses

    @staticmethod
    def _joined(requests: list[Any], name: str) -> Any:
        parts = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
