"""A cascade of models that label tokens, from its folder to answers of a real Triton."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_tools.artifacts import GearPlan
from cascade_tools.models.usercode import load_rows
from cascade_tools.planning.evaluate import follow, threshold_policy
from cascade_tools.serving.embedded import embedded_triton
from cascade_tools.serving.infer import infer_rows
from cascade_tools.serving.load import run_load
from cascade_tools.spec import load_cascade
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.pipeline import run_all
from cascade_tools.stages.progress import Reporter
from cascade_tools.store import Workspace, load_score_table

from ..cli_calls import forgotten_user_code
from ..token_pair import TOKENS, write_token_pair
from .helpers import to_bytes, with_policies


@pytest.fixture
def work(one_hop: None, tmp_path: Path, report: Reporter) -> Workspace:
    folder = write_token_pair(tmp_path / "tokens")
    work = Workspace(load_cascade(folder), folder / "build" / "tokens")
    with forgotten_user_code():
        run_all(work, "embedded", report)
    return work


def test_every_row_gets_the_labels_of_the_tier_that_is_sure(
    triton: None, work: Workspace, tmp_path: Path
) -> None:
    table = load_score_table(work.path("scores.npz"))
    # A policy that uses both tiers, whatever this machine's times say.
    policy = threshold_policy(table.tiers, (float(np.median(table.confidence[:, 0])),))
    repository = work.path("repository") / "current"
    plan = with_policies(work.load(GEARS_FILE, GearPlan, "gears"), (policy, None))
    (repository / "tokens" / "plan" / "gear_plan.json").write_bytes(to_bytes(plan))
    with forgotten_user_code():
        rows = load_rows(work.cascade, "validation")
    answered = follow(table, policy).answered
    with embedded_triton(repository) as server:
        load = run_load(
            server.grpc_url,
            "tokens",
            rows.inputs,
            {"X": "FP32", "COUNTS": "INT64"},
            8,
            ("LABEL", "CONFIDENCE", "TIER"),
        )
        few = tmp_path / "rows.npz"
        np.savez(few, **rows.take(slice(0, 5)).inputs)
        answers = infer_rows(few, "tokens", server.grpc_url, "grpc", None)
    label, tier = load.outputs["LABEL"], load.outputs["TIER"]
    assert label.shape == (len(rows), TOKENS)
    assert tier.tolist() == answered.argmax(axis=1).tolist()
    assert 0.3 < (tier == 0).mean() < 0.7
    right = (label == rows.target).all(axis=1)
    wanted = (table.label == table.target[:, None])[np.arange(len(rows)), tier]
    assert right.tolist() == wanted.tolist()
    np.testing.assert_allclose(
        load.outputs["CONFIDENCE"], table.confidence[np.arange(len(rows)), tier], atol=1e-4
    )
    assert (label[rows.inputs["COUNTS"] == 0] == -1).all()
    assert [answer["label"] for answer in answers] == label[:5].tolist()
