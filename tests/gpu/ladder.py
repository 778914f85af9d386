"""A small net and a large one on random rows: enough to serve and to measure, nothing to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cascade_tools.artifacts import (
    CalibratedTier,
    Calibration,
    GearPlan,
    InputSpec,
    PlacedDevice,
    PlacedInstances,
    Placement,
    Reliability,
    ScoreTable,
)
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.store import Workspace, save_score_table
from tests.helpers import Array, Json, gear_entry, plan_content, route_entry, spec_content, write_cascade

TIERS = ("tiny", "giant")
ROWS, FEATURES, CLASSES, WIDTH, BATCH = 2048, 512, 10, 8192, 32
INPUT = InputSpec(name="X", datatype="FP32", dims=(FEATURES,))
MODULE = f"""
    import numpy as np
    import torch
    from torch import nn

    def rows():
        x = np.random.default_rng(0).normal(size=({ROWS}, {FEATURES})).astype(np.float32)
        return {{"X": x, "target": x[:, :{CLASSES}].argmax(1)}}

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            torch.manual_seed(width)
            self.first = nn.Linear({FEATURES}, width)
            self.second = nn.Linear(width, width)
            self.last = nn.Linear(width, {CLASSES})

        def forward(self, x):
            bent = torch.relu(self.second(torch.relu(self.first(x))))
            return 4.0 * x[:, :{CLASSES}] + self.last(bent)

    def tiny():
        return Net(32)

    def giant():
        return Net({WIDTH})
"""


def calibrated(tier: str) -> CalibratedTier:
    nothing = Reliability(ece=0.0, ece_equal_width=0.0, nll=0.0, brier=0.0, auroc=None)
    return CalibratedTier(
        tier=tier,
        method="temperature",
        signal="max_probability",
        temperature=1.0,
        accuracy=1.0,
        before=nothing,
        after=nothing,
    )


def ladder(folder: Path, kind: str) -> Workspace:
    """The two tiers in one format, as `calibrate` would leave them."""
    content = spec_content()
    content["tiers"] = [
        {"name": tier, "format": kind, "source": {"torch": f"ladder:{tier}"}} for tier in TIERS
    ]
    content["data"] = {"validation": "ladder:rows"}
    content["serving"] = {"max_batch_size": BATCH}
    cascade = write_cascade(folder, content, {"ladder.py": MODULE})
    work = Workspace(cascade, folder / "build" / cascade.name)
    calibration = Calibration(
        cascade=cascade.name,
        made_from={},
        inputs=(INPUT,),
        classes=CLASSES,
        rows={},
        tiers=tuple(calibrated(tier) for tier in TIERS),
    )
    work.save(CALIBRATION_FILE, calibration)
    shape = (ROWS, len(TIERS))
    table = ScoreTable(
        tiers=TIERS,
        confidence=np.ones(shape, np.float32),
        label=np.zeros(shape, np.int64),
        target=all_rows()[:, :CLASSES].argmax(axis=1),
        group=np.arange(ROWS),
        split=np.array(["fit", "search", "verify", "verify"] * (ROWS // 4)),
    )
    save_score_table(work.path(SCORES_FILE), table)
    return work


def all_rows() -> Array:
    """What the cascade's own data gives, float32 [rows, features]."""
    return np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)


def on_gpu(instances: int = 1) -> Placement:
    """Both tiers on the first GPU."""
    device = PlacedDevice(
        type="here", kind="gpu", gpu=0, memory_mib=8192, used_memory_mib=0.0, busy_share=0.0
    )
    return Placement(
        cascade="pair",
        made_from={},
        rate_rps=1.0,
        bound_rps=1.0,
        gap=0.0,
        status="optimal",
        giant_only_rps=None,
        batch=dict.fromkeys(TIERS, BATCH),
        devices=(device,),
        instances=tuple(
            PlacedInstances(tier=tier, device=0, count=instances, busy_instances=0.0) for tier in TIERS
        ),
    )


def plan(digests: dict[str, str], cut: float) -> GearPlan:
    """Rows below the cut go on to the giant."""
    content: Json = plan_content(TIERS)
    content["cascade"] = "pair"
    content["inputs"] = [INPUT.model_dump()]
    content["classes"] = CLASSES
    for entry in content["ladder"]:
        entry |= {"model": f"pair_{entry['tier']}", "sha256": digests[entry["tier"]]}
    routes = [route_entry([cut], [1, -1]), route_entry([], [-1])]
    content["gears"] = [gear_entry({"tiers": list(TIERS), "routes": routes})]
    return GearPlan.model_validate(content)
