"""Fills the report's template from whatever has been made so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cascade_tools import __version__, resources
from cascade_tools.artifacts import (
    Calibration,
    Exported,
    Frontier,
    GearPlan,
    Placement,
    Profile,
    RoutingPolicy,
    Score,
)
from cascade_tools.errors import ArtifactError
from cascade_tools.report import pictures
from cascade_tools.report.compare import compare_served
from cascade_tools.scoring.score import SCORE_FILE
from cascade_tools.stages.calibrate import CALIBRATION_FILE
from cascade_tools.stages.export import EXPORTED_FILE
from cascade_tools.stages.gears import GEARS_FILE
from cascade_tools.stages.place import PLACEMENT_FILE
from cascade_tools.stages.profile import PROFILE_FILE
from cascade_tools.stages.search import FRONTIER_FILE, POLICY_FILE
from cascade_tools.store import (
    Workspace,
    digest_file,
    readable_disk_errors,
    write_atomically,
)

REPORT_FILE = "report.html"


def write_report(work: Workspace) -> Path:
    """Write `report.html`.

    Raises:
        ArtifactError: a stage up to the gears has not been run.
    """
    calibration = work.load(CALIBRATION_FILE, Calibration, "calibrate")
    profile = work.load(PROFILE_FILE, Profile, "profile")
    policy = work.load(POLICY_FILE, RoutingPolicy, "search")
    frontier = work.load(FRONTIER_FILE, Frontier, "search")
    score = _score(work)
    values: dict[str, Any] = {
        "version": __version__,
        "cascade": work.cascade.name,
        "calibration": calibration,
        "exported": work.load(EXPORTED_FILE, Exported, "export"),
        "profile": profile,
        "policy": policy,
        "frontier": frontier,
        "placement": work.load(PLACEMENT_FILE, Placement, "place"),
        "plan": work.load(GEARS_FILE, GearPlan, "gears"),
        "score": score,
        "comparison": compare_served(score.giant, score.cascade_score) if score else [],
        "pictures": {
            "frontier": pictures.draw_frontier(frontier, policy),
            "reliability": pictures.draw_reliability(calibration),
            "profile": pictures.draw_profile(profile),
            "shares": pictures.draw_shares(list(policy.chosen.answers), list(policy.chosen.answers.values())),
        },
    }
    if score:
        values["pictures"] |= {
            "comparison": pictures.draw_comparison(score),
            "shares": pictures.draw_shares(
                [tier.name for tier in score.tiers], [tier.answer_share for tier in score.tiers]
            ),
        }
    environment = Environment(
        loader=FileSystemLoader(resources.templates()),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report/page.html.j2").render(**values)
    path = work.path(REPORT_FILE)
    with readable_disk_errors(path):
        write_atomically(path, page.encode())
    return path


def _score(work: Workspace) -> Score | None:
    """The demo's score, if there is one and it belongs to the plan of now."""
    try:
        score = work.load(SCORE_FILE, Score, "demo")
    except ArtifactError:
        return None
    fresh = all(digest_file(work.path(name)) == made for name, made in score.made_from.items())
    return score if fresh else None
