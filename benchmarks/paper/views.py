"""Dense small tiers: a shipped classifier that looks at every image several times, each moved a little.

They are real models, slower and more accurate than what they are made of.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from benchmarks.paper.setting import Setting
from cascade_tools.artifacts import CalibratedTier
from cascade_tools.models.head import ServedOutputs
from cascade_tools.models.state import load_state, read_state
from cascade_tools.models.torch_source import TorchSource
from cascade_tools.models.usercode import Rows, call
from cascade_tools.planning.calibration import Head, fit_head, reliability
from cascade_tools.runtime.head import Scores
from cascade_tools.stages.calibrate import run_source

PIXELS = 16
TIMED = 200


class Views(nn.Module):
    """Mean logits over all shifts by at most `reach` pixels in each direction.

    Args:
        body: takes images [n, 1, 16, 16].
        reach: (2 reach + 1) squared views.
    """

    def __init__(self, body: nn.Module, reach: int) -> None:
        super().__init__()
        self.body = body
        self.reach = reach

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes]."""
        side = 2 * self.reach + 1
        wide = functional.pad(pixels, (self.reach,) * 4)
        views = [wide[:, :, y : y + PIXELS, x : x + PIXELS] for y in range(side) for x in range(side)]
        logits = self.body(torch.cat(views, dim=1).reshape(-1, 1, PIXELS, PIXELS))
        found: torch.Tensor = logits.reshape(-1, side * side, logits.shape[-1]).mean(dim=1)
        return found


@dataclass(frozen=True)
class DenseTier:
    """One such tier with its head and its graph."""

    name: str
    source: TorchSource
    head: Head
    graph: bytes

    def scores(self, rows: Rows) -> Scores:
        """Labels and confidences."""
        return self.head(run_source(self.source, rows, lambda done, count: None))


def dense_tier(setting: Setting, name: str, of: str, reach: int, fit: Rows) -> DenseTier:
    """A tier of views, its temperature fitted on some rows.

    Args:
        setting: has the cascade.
        name: of the new tier.
        of: the tier that it is made of.
        reach: see `Views`.
        fit: rows that the head is fitted on.
    """
    tier = next(tier for tier in setting.cascade.tiers if tier.name == of)
    folder, field = setting.cascade.folder, f"tiers.{of}.source"
    assert tier.source.torch is not None and tier.source.weights is not None
    body = call(folder, tier.source.torch, field)
    path = folder / tier.source.weights
    load_state(body, read_state(path, field), path, field)
    source = TorchSource(Views(body.eval(), reach), field)
    logits = run_source(source, fit, lambda done, count: None)
    head = fit_head(logits, fit.target, "temperature", "max_probability")
    worth = reliability(logits, fit.target, head)
    fitted = CalibratedTier(
        tier=name,
        method=head.method,
        signal=head.signal,
        temperature=head.temperature,
        accuracy=float((logits.argmax(axis=1) == fit.target).mean()),
        before=worth,
        after=worth,
    )
    model = source.export(ServedOutputs(fitted, None, probabilities=False), setting.plan.inputs)
    return DenseTier(name, source, head, model.SerializeToString())


def row_times_ms(graphs: dict[str, bytes], rows: Rows) -> dict[str, float]:
    """Median time of one row per graph, in this process with one thread; the graphs take turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(TIMED + 10):
        row = {name: values[turn % len(rows)][None] for name, values in rows.inputs.items()}
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, row)
            if turn >= 10:
                times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}
