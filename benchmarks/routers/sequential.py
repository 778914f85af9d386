"""The cascade as Triton's BLS tutorial writes it: one request after the other, `.exec()` per tier.

The request's tensor goes to the tier as it came; rows are not joined.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

ANSWER = -1


class TritonPythonModel:
    """Parameter `policy`: the models in use with their cuts and destinations, smallest first."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the policy and the input's name."""
        config = json.loads(args["model_config"])
        self._steps = json.loads(config["parameters"]["policy"]["string_value"])
        self._input = config["input"][0]["name"]
        self._cpu = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; each request has one row."""
        return [self._one(pb_utils.get_input_tensor_by_name(r, self._input)) for r in requests]

    def _one(self, row: Any) -> Any:
        level = 0
        while True:
            step = self._steps[level]
            answer = pb_utils.InferenceRequest(
                model_name=step["model"],
                requested_output_names=["LABEL", "CONFIDENCE"],
                inputs=[row],
                preferred_memory=self._cpu,
            ).exec()
            if answer.has_error():
                return pb_utils.InferenceResponse(error=answer.error())
            confidence = pb_utils.get_output_tensor_by_name(answer, "CONFIDENCE")
            goal = step["to"][bisect_right(step["cuts"], confidence.as_numpy()[0, 0])]
            if goal == ANSWER:
                tier = pb_utils.Tensor("TIER", np.array([[step["tier"]]], np.int32))
                label = pb_utils.get_output_tensor_by_name(answer, "LABEL")
                return pb_utils.InferenceResponse(output_tensors=[label, confidence, tier])
            level = goal
