"""The export of a whole ladder: formats, what is recorded, and all or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cascade_tools.artifacts import CalibratedTier, Calibration, Exported, InputSpec, Reliability, ScoreTable
from cascade_tools.errors import CheckFailed, EnvironmentLacks, UsageError
from cascade_tools.machine.gpus import find_gpus
from cascade_tools.planning.calibration import expected_calibration_error
from cascade_tools.stages.calibrate import CALIBRATION_FILE, SCORES_FILE
from cascade_tools.stages.export import EXPORTED_FILE, export
from cascade_tools.stages.exported_files import changed_file
from cascade_tools.stages.precision import describe_half
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, save_score_table
from tests.helpers import Json, spec_content, write_cascade

ROWS, FEATURES, CLASSES = 300, 6, 3
MODULE = f"""
    import numpy as np
    import torch

    def rows():
        x = np.random.default_rng(0).normal(size=({ROWS}, {FEATURES})).astype(np.float32)
        return {{"X": x, "target": (x[:, :{CLASSES}] + 0.5 * x[:, {CLASSES}:]).argmax(1)}}

    class Net(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale
            self.weight = torch.nn.Parameter(2.0 * torch.eye({FEATURES})[:, :{CLASSES}])

        def forward(self, x):
            return (self.scale * (self.scale * x)) @ self.weight / self.scale / self.scale

    def small():
        return Net(1.0)

    def large():
        return Net(1.0)

    def beyond():
        return Net(1e3)

    def branch():
        class Branch(Net):
            def forward(self, x):
                return super().forward(x) if float(x.sum()) > 0 else super().forward(2 * x)

        return Branch(1.0)
"""
REPORT = Reporter(Console(quiet=True))


@pytest.fixture(autouse=True)
def imports_stay() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("ladder", None)


def rows() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype(np.float32)
    return x, (x[:, :CLASSES] + 0.5 * x[:, CLASSES:]).argmax(1)


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


def ladder(folder: Path, *tiers: Json) -> Workspace:
    """A cascade of these tiers as `calibrate` would leave it; a third of the rows fitted the heads."""
    content = spec_content()
    content["tiers"] = list(tiers)
    content["data"] = {"validation": "ladder:rows"}
    content["serving"] = {"max_batch_size": 8}
    cascade = write_cascade(folder, content, {"ladder.py": MODULE})
    work = Workspace(cascade, folder / "build" / cascade.name)
    names = [tier["name"] for tier in tiers]
    work.save(
        CALIBRATION_FILE,
        Calibration(
            cascade=cascade.name,
            made_from={},
            inputs=(InputSpec(name="X", datatype="FP32", dims=(FEATURES,)),),
            classes=CLASSES,
            rows={},
            tiers=tuple(calibrated(name) for name in names),
        ),
    )
    table = ScoreTable(
        tiers=tuple(names),
        confidence=np.ones((ROWS, len(names)), np.float32),
        label=np.zeros((ROWS, len(names)), np.int64),
        target=rows()[1],
        group=np.arange(ROWS),
        split=np.array(["fit", "search", "verify"] * (ROWS // 3)),
    )
    save_score_table(work.path(SCORES_FILE), table)
    return work


def tier(name: str, kind: str, source: str | None = None) -> Json:
    return {"name": name, "format": kind, "source": {"torch": f"ladder:{source or name}"}}


def files(work: Workspace) -> dict[str, bytes]:
    return {
        path.relative_to(work.build).as_posix(): path.read_bytes()
        for path in work.build.rglob("*")
        if path.is_file()
    }


def ran(work: Workspace) -> Exported:
    export(work, {}, REPORT)
    return work.load(EXPORTED_FILE, Exported, "export")


def test_every_tier_gets_its_format_and_is_judged(tmp_path: Path) -> None:
    work = ladder(tmp_path, tier("small", "pt2"), tier("large", "onnx_fp16"))
    before = set(files(work))
    small, large = ran(work).tiers
    assert set(files(work)) - before == {"export/small.pt2", "export/large.onnx", EXPORTED_FILE}
    assert (small.format, large.format) == ("pt2", "onnx_fp16")
    assert changed_file(work, small) is None
    assert changed_file(work, large) is None
    assert (small.parity_label_mismatches, small.half) == (0, None)
    assert small.parity_confidence_error < 1e-5
    half = large.half
    assert half is not None
    assert half.rows == 2 * ROWS // 3, "all rows that the head was not fitted on"
    x, target = rows()
    held_out = np.arange(ROWS) % 3 != 0
    logits = 2.0 * x[held_out, :CLASSES]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = logits.argmax(1) == target[held_out]
    assert half.ece_before == pytest.approx(expected_calibration_error(probabilities.max(1), right), abs=1e-6)
    assert half.ece_after != half.ece_before
    assert half.ece_after == pytest.approx(half.ece_before, abs=0.01)
    assert half.labels_changed <= 1
    assert large.parity_confidence_error < 0.01
    assert f"{half.labels_changed} of {half.rows} labels changed, ECE " in describe_half(large)


def test_a_failing_tier_leaves_everything_as_it_was(tmp_path: Path) -> None:
    work = ladder(tmp_path, tier("small", "pt2"), tier("large", "pt2"))
    ran(work)
    before = files(work)
    changed = ladder(tmp_path, tier("small", "pt2", "large"), tier("large", "pt2", "branch"))
    with pytest.raises(UsageError, match=r"tiers\.large\.source: torch\.export: "):
        export(changed, {}, REPORT)
    for name in (CALIBRATION_FILE, SCORES_FILE):
        before[name] = changed.path(name).read_bytes()
    assert files(changed) == before
    assert not [path for path in work.build.iterdir() if path.name.startswith(".")]


def test_files_of_an_older_format_go(tmp_path: Path) -> None:
    ran(ladder(tmp_path, tier("small", "onnx")))
    work = ladder(tmp_path, tier("small", "pt2"))
    ran(work)
    assert [path.name for path in work.path("export").iterdir()] == ["small.pt2"]
    work.path("export/small.pt2").write_bytes(b"another")
    found = work.load(EXPORTED_FILE, Exported, "export").tier("small")
    assert changed_file(work, found) == work.path("export/small.pt2")


def test_a_model_that_half_precision_breaks_is_refused(tmp_path: Path) -> None:
    work = ladder(tmp_path, tier("small", "onnx_fp16", "beyond"))
    with pytest.raises(
        CheckFailed, match=r"in half precision 200 of 200 rows get no number as confidence"
    ) as caught:
        export(work, {}, REPORT)
    assert "take format onnx" in caught.value.hint
    assert not work.path(EXPORTED_FILE).exists()


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_a_plan_is_asked_of_a_gpu_before_anything_is_exported(tmp_path: Path) -> None:
    work = ladder(tmp_path, tier("small", "onnx"), tier("large", "tensorrt"))
    before = files(work)
    with pytest.raises(EnvironmentLacks, match="no NVIDIA GPU"):
        export(work, {}, REPORT)
    assert files(work) == before


def test_an_onnx_file_with_format_pt2_is_refused_at_once(tmp_path: Path) -> None:
    content = spec_content()
    content["tiers"][0] = {"name": "small", "source": {"onnx": "small.onnx"}, "format": "pt2"}
    with pytest.raises(UsageError, match=r"tiers\.0: format: pt2 is made of a torch module"):
        write_cascade(tmp_path, content)
