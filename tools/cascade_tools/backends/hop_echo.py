"""A model that does nothing: calling it costs what any call of a tier costs beside the tier's own work."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Gives its input back."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor("ECHO", pb_utils.get_input_tensor_by_name(r, "ROW").as_numpy())
                ]
            )
            for r in requests
        ]
