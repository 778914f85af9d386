"""The fitted head as a torch module, fused onto a body; the same rules as `runtime/head.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_tools.artifacts import CalibratedTier
from cascade_tools.runtime.head import NO_LABEL, SMALLEST_PROBABILITY

if TYPE_CHECKING:
    import torch

OUTPUTS = ("LABEL", "CONFIDENCE", "PROBS")  # of every exported model, the last where asked for


@dataclass(frozen=True)
class ServedOutputs:
    """What is fused onto a model: its head, the input that masks tokens, and whether PROBS are wanted."""

    head: CalibratedTier
    mask: str | None
    probabilities: bool


def without_head(body: torch.nn.Module) -> torch.nn.Module:
    """The body alone, called like `with_head`; gives its logits in float32."""
    import torch

    class WithoutHead(torch.nn.Module):
        """The model's logits."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.body(*inputs)
            return logits.float()

    return WithoutHead().eval()


def with_head(
    body: torch.nn.Module, body_inputs: int, mask: int | None, served: ServedOutputs
) -> torch.nn.Module:
    """The body, which reads the first inputs, with its head; `mask` is the position of the mask."""
    import torch

    head = served.head

    class WithHead(torch.nn.Module):
        """The model, then temperature, softmax, label and confidence; see `runtime/head.py`."""

        start: torch.Tensor
        length: torch.Tensor
        slope: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            if head.curve is not None:
                at, confidence = (torch.tensor(v, dtype=torch.float64) for v in head.curve)
                self.low = float(confidence[0])
                self.register_buffer("start", at[:-1].float())
                self.register_buffer("length", (at[1:] - at[:-1]).float())
                self.register_buffer(
                    "slope", ((confidence[1:] - confidence[:-1]) / (at[1:] - at[:-1])).float()
                )

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = self.body(*inputs[:body_inputs]).float()
            probs = torch.softmax(logits / head.temperature, dim=-1)
            top = torch.topk(probs, min(2, probs.shape[-1]), dim=-1)
            confidence = top.values[..., :1]
            classes = probs.shape[-1]
            if head.signal == "margin" and classes > 1:
                confidence = confidence - top.values[..., 1:2]
            if head.signal == "entropy" and classes > 1:
                surprise = -torch.log(torch.clamp(probs, min=SMALLEST_PROBABILITY))
                confidence = 1.0 - (probs * surprise).sum(dim=-1, keepdim=True) / math.log(classes)
            # ArgMax, not TopK: of equal logits both must name the first class.
            label = torch.argmax(logits, dim=-1, keepdim=True)
            if logits.ndim == 3:
                label, confidence = label.squeeze(-1), confidence.squeeze(-1)
                if mask is not None:
                    counts = inputs[mask] != 0
                    label = torch.where(counts, label, NO_LABEL)
                    confidence = torch.where(counts, confidence, 1.0)
                confidence = torch.amin(confidence, dim=1, keepdim=True)
            if head.curve is not None:
                # Each piece adds its slope times how far the signal has come along it.
                along = torch.clamp(confidence - self.start, min=0.0)
                confidence = self.low + (torch.minimum(along, self.length) * self.slope).sum(-1, keepdim=True)
            return (label, confidence, probs) if served.probabilities else (label, confidence)

    return WithHead().eval()
