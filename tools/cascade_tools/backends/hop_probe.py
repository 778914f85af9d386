"""Calls `hop_echo` as the router calls a tier and times every call."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

ROW = np.zeros((1, 256), np.float32)


class TritonPythonModel:
    """Inputs CALLS and THREADS INT32 [1]; output SECONDS FP64 [CALLS], one per call."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the calls of each request, spread over its threads."""
        responses = []
        for request in requests:
            calls, threads = (
                int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0])
                for name in ("CALLS", "THREADS")
            )
            with ThreadPoolExecutor(threads) as pool:
                seconds = list(pool.map(self._call, range(calls)))
            output = pb_utils.Tensor("SECONDS", np.array(seconds))
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses

    @staticmethod
    def _call(_: int) -> float:
        start = time.perf_counter()
        response = pb_utils.InferenceRequest(
            model_name="hop_echo",
            requested_output_names=["ECHO"],
            inputs=[pb_utils.Tensor("ROW", ROW)],
        ).exec()
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        response.output_tensors()[0].as_numpy()
        return time.perf_counter() - start
