"""What a running Triton counts: its statistics per model, and the router's answers per tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from cascade_tools.errors import CascadeError
from cascade_tools.serving.metrics_page import read_page, samples

TIMEOUT_S = 10.0
NANOSECONDS = 1e6


@dataclass(frozen=True)
class ModelCounts:
    """Since the server's start: requests answered, and their summed times in ms."""

    requests: int
    queue_ms: float
    compute_ms: float

    def since(self, before: ModelCounts) -> tuple[float, float] | None:
        """Mean ms in the queue and in the model per request since then; None where there was none."""
        count = self.requests - before.requests
        if count <= 0:
            return None
        return (self.queue_ms - before.queue_ms) / count, (self.compute_ms - before.compute_ms) / count


def model_counts(url: str, models: Sequence[str]) -> dict[str, ModelCounts]:
    """Triton's statistics of some models, from its gRPC address.

    Raises:
        CascadeError: no server there, or it does not serve one of them.
    """
    found = {}
    with triton_grpc.InferenceServerClient(url) as client:
        for model in models:
            try:
                content = client.get_inference_statistics(model, as_json=True, client_timeout=TIMEOUT_S)
            except InferenceServerException as error:
                raise CascadeError(
                    f"{url}: {error.message()}", f"is a Triton running there, and does it serve {model}?"
                ) from None
            found[model] = _counts(content["model_stats"])
    return found


def _counts(versions: list[dict[str, Any]]) -> ModelCounts:
    def total(name: str, field: str) -> int:
        return sum(int(v.get("inference_stats", {}).get(name, {}).get(field, 0)) for v in versions)

    compute = sum(total(name, "ns") for name in ("compute_input", "compute_infer", "compute_output"))
    return ModelCounts(total("queue", "count"), total("queue", "ns") / NANOSECONDS, compute / NANOSECONDS)


def answers_by_tier(metrics_url: str, model: str) -> dict[str, float]:
    """Rows that each tier of a cascade has answered so far, from Triton's metrics page.

    Raises:
        CascadeError: the page cannot be read.
    """
    found: dict[str, float] = {}
    for labels, value in samples(read_page(metrics_url), "cascade_answers"):
        if labels.get("model") == model:
            found[labels["tier"]] = found.get(labels["tier"], 0.0) + value
    return found
