"""`place` says what the router takes, and refuses a goal that is above it."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from cascade_tools.artifacts import Placement
from cascade_tools.resources import shipped_cascade
from cascade_tools.stages.asking import NO_CPU

from .cli_calls import call


def test_a_cluster_without_a_cpu_says_what_is_not_counted(tmp_path: Path) -> None:
    folder, build = tmp_path / "vit-cluster", tmp_path / "build"
    shutil.copytree(shipped_cascade("vit-cluster"), folder)
    two = {"devices": [{"type": "gpu-24gb", "kind": "gpu", "count": 2, "memory_mib": 24576}]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    placed = call("place", folder, "--devices", tmp_path / "two.yaml", "--build-dir", build)
    assert placed.code == 0, placed.err
    assert NO_CPU in " ".join(placed.out.split())
    made = Placement.model_validate_json((build / "vit-cluster" / "placement.json").read_text())
    assert (made.notes, made.router_rps) == ((NO_CPU,), None)
