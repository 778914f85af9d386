"""What Triton's metrics page says of a served cascade's load, as a reading for `planning.watch`.

nv_inference_count                      of the router: rows that entered `execute`, refused ones included
nv_inference_pending_request_count      of the router: requests that wait for that
cascade_answers, cascade_escalations    rows that each tier was asked for, by whoever runs it
nv_inference_count, _exec_count, _compute_infer_duration_us        of each tier's models
nv_gpu_utilization, cascade_gear        now
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from cascade_tools.errors import EnvironmentLacks
from cascade_tools.planning.watch import Reading, Work
from cascade_tools.serving.metrics_page import read_page, samples

ROWS, EXECUTIONS = "nv_inference_count", "nv_inference_exec_count"
COMPUTE_US = "nv_inference_compute_infer_duration_us"
REQUESTS = ("nv_inference_request_success", "nv_inference_request_failure")
PENDING = "nv_inference_pending_request_count"
US_PER_S = 1e6

Counts = Mapping[str, float]


def read_load(url: str, model: str, tiers: Mapping[str, str]) -> Reading:
    """Read the page now; see `load_of`.

    Raises:
        EnvironmentLacks: the page cannot be read, or it is not of a server of this cascade.
    """
    text = read_page(url)
    at_s = time.monotonic()
    try:
        return load_of(text, model, tiers, at_s)
    except KeyError:
        raise EnvironmentLacks(
            f"{url}: shows no model {model}", "is it the metrics page of the server that serves this cascade?"
        ) from None


def load_of(text: str, model: str, tiers: Mapping[str, str], at_s: float) -> Reading:
    """A reading from the text of a page.

    Args:
        text: in Prometheus' format.
        model: the router's.
        tiers: the model of every tier, by tier; the names of stages begin with it.
        at_s: when it was read.

    Raises:
        KeyError: the page does not have the router.
    """
    rows, executions, compute_us = (_by_model(text, name) for name in (ROWS, EXECUTIONS, COMPUTE_US))
    if model not in rows:
        raise KeyError(model)
    work = {}
    for tier, own in tiers.items():
        models = _models_of(own, rows)
        if models:
            first = models[0]
            compute_s = sum(compute_us.get(name, 0.0) for name in models) / US_PER_S
            work[tier] = Work(rows[first], executions.get(first, 0.0), compute_s)
    gears = [value for labels, value in samples(text, "cascade_gear") if labels.get("model") == model]
    requests = sum(_by_model(text, name).get(model, 0.0) for name in REQUESTS)
    waiting = _by_model(text, PENDING).get(model, 0.0)
    per_request = rows[model] / requests if requests > 0.0 else 1.0
    return Reading(
        at_s=at_s,
        rows=rows[model] + waiting * per_request,
        requests=requests + waiting,
        ended=requests,
        asked=_asked(text, model),
        work=work,
        gpu_utilization={
            labels.get("gpu_uuid", ""): value for labels, value in samples(text, "nv_gpu_utilization")
        },
        gear=int(gears[0]) if gears else None,
    )


def _by_model(text: str, name: str) -> dict[str, float]:
    """Sums over the versions of each model."""
    found: dict[str, float] = {}
    for labels, value in samples(text, name):
        found[labels.get("model", "")] = found.get(labels.get("model", ""), 0.0) + value
    return found


def _models_of(own: str, rows: Counts) -> list[str]:
    """The tier's own model, or its stages in order; an ensemble over stages computes nothing itself."""
    stages = {
        int(match.group(1)): name
        for name in rows
        if (match := re.fullmatch(rf"{re.escape(own)}_s(\d+)of\d+", name))
    }
    return [stages[number] for number in sorted(stages)] or [name for name in (own,) if name in rows]


def _asked(text: str, model: str) -> dict[str, float]:
    """Rows that a tier answered or handed on."""
    found: dict[str, float] = {}
    for name, label in (("cascade_answers", "tier"), ("cascade_escalations", "source")):
        for labels, value in samples(text, name):
            if labels.get("model") == model and label in labels:
                found[labels[label]] = found.get(labels[label], 0.0) + value
    return found
