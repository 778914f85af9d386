"""Writes what a replay gave: figures for machines, a picture, and a page for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cascade_tools import __version__, resources
from cascade_tools.report.pictures import draw_shares
from cascade_tools.report.replay_pictures import draw_course
from cascade_tools.stages.replay import ReplayReport
from cascade_tools.store import readable_disk_errors, write_atomically

JSON_FILE = "replay.json"
PICTURE_FILE = "replay.svg"
PAGE_FILE = "replay.html"


def write_replay(folder: Path, report: ReplayReport, arrivals: str) -> Path:
    """Write `replay.json`, `replay.svg` and `replay.html`; the page is returned.

    Args:
        folder: where they go; it is made.
        report: of the replay.
        arrivals: where the arrivals come from, in words.

    Raises:
        CascadeError: the disk is full or cannot be written.
    """
    picture = draw_course(report.over_time, report.window_s, report.slo_ms)
    environment = Environment(
        loader=FileSystemLoader(resources.templates()),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report/replay.html.j2").render(
        version=__version__,
        report=report,
        arrivals=arrivals,
        course=picture,
        shares=draw_shares(list(report.shares), list(report.shares.values())),
    )
    content = json.dumps({"arrivals": arrivals, **asdict(report)}, indent=1, allow_nan=False)
    with readable_disk_errors(folder):
        write_atomically(folder / JSON_FILE, content.encode() + b"\n")
        write_atomically(folder / PICTURE_FILE, picture.encode())
        write_atomically(folder / PAGE_FILE, page.encode())
    return folder / PAGE_FILE
