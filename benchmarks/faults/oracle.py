"""What every tier says of every row, in process and row by row, and what a policy makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.faults.ladder import FEATURES, INPUT, NAMES, policies
from cascade_tools.artifacts import PolicyTable
from cascade_tools.runtime.plan import parse_policy
from cascade_tools.runtime.policy import ANSWER, route

CANDIDATES = 4000
ORDINARY = 1024
MARGIN = 2e-3  # from every cut of every policy: batches are rounded otherwise than single rows
TOLERANCE = 2e-4  # of a confidence

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Oracle:
    """All rows that are ever sent, and the right answers.

    Attributes:
        rows: float32 [n, 64]; the first `ORDINARY` are finite, the others hold NaN and the like.
        label: int64 [n, tiers].
        confidence: float32 [n, tiers]; 0 where it is not finite, as the router has it.
        tables: all policies that a plan may hold, by name.
        tier: policy -> int64 [n], the tier that answers.
    """

    rows: Array
    label: Array
    confidence: Array
    tables: dict[str, PolicyTable]
    tier: dict[str, Array]


def make_oracle(graphs: dict[str, bytes], seed: int = 0) -> Oracle:
    """Choose rows that no rounding can send elsewhere, and that no other row's answer fits."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((CANDIDATES, FEATURES)).astype(np.float32)
    label, confidence = _ask(graphs, rows)
    tables = policies(confidence)
    chosen = np.flatnonzero(_clear(tables, confidence) & _unlike_others(label, confidence))[:ORDINARY]
    if len(chosen) < ORDINARY:
        raise RuntimeError(f"only {len(chosen)} of {CANDIDATES} rows do")
    odd = _odd_rows(rows[chosen])
    odd_label, odd_confidence = _ask(graphs, odd)
    rows = np.concatenate([rows[chosen], odd])
    label = np.concatenate([label[chosen], odd_label])
    confidence = np.concatenate([confidence[chosen], odd_confidence])
    tier = {name: _follow(table, confidence) for name, table in tables.items()}
    return Oracle(rows, label, confidence, tables, tier)


def _ask(graphs: dict[str, bytes], rows: Array) -> tuple[Array, Array]:
    """Label and confidence [rows, tiers]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    columns = []
    for name in NAMES:
        session = onnxruntime.InferenceSession(graphs[name], options, providers=["CPUExecutionProvider"])
        found = [session.run(["LABEL", "CONFIDENCE"], {INPUT: rows[i : i + 1]}) for i in range(len(rows))]
        columns.append([np.concatenate(part)[:, 0] for part in zip(*found, strict=True)])
    label, confidence = (np.stack([column[kind] for column in columns], axis=1) for kind in range(2))
    return label, np.where(np.isfinite(confidence), confidence, np.float32(0.0))


def _odd_rows(rows: Array) -> Array:
    """Rows with one value, or all, that no model was made for."""
    odd = []
    for number, value in enumerate((np.nan, np.inf, -np.inf, 3e38, -3e38)):
        one, all_of_them = rows[number].copy(), np.full(FEATURES, value, np.float32)
        one[number] = value
        odd += [one, all_of_them]
    both = rows[9].copy()
    both[:2] = np.inf, -np.inf
    return np.stack([*odd, both])


def _clear(tables: dict[str, PolicyTable], confidence: Array) -> Array:
    """Rows whose confidences are far from every cut."""
    clear = np.ones(len(confidence), bool)
    for table in tables.values():
        for name, entry in zip(table.tiers, table.routes, strict=True):
            own = confidence[:, NAMES.index(name)]
            for cut in entry.cuts:
                clear &= np.abs(own - cut) > MARGIN
    return clear


def _unlike_others(label: Array, confidence: Array) -> Array:
    """Rows none of whose answers, by any tier, could be that of an earlier row."""
    answer = (2.0 * label + confidence).astype(np.float64)  # confidences are at most 1
    order = np.argsort(answer, axis=None)
    near = np.diff(answer.ravel()[order]) <= 4.0 * TOLERANCE
    owner = order // answer.shape[1]
    alike = np.zeros(len(label), bool)
    alike[np.maximum(owner[:-1], owner[1:])[near & (owner[:-1] != owner[1:])]] = True
    return ~alike


def _follow(table: PolicyTable, confidence: Array) -> Array:
    """Ladder index of the tier that answers each row."""
    policy = parse_policy(table.model_dump(), "policy")
    level = np.zeros(len(confidence), np.int64)
    done = np.zeros(len(confidence), bool)
    for number, name in enumerate(policy.tiers):
        here = np.flatnonzero(~done & (level == number))
        goal = route(policy.bands[number], confidence[here, NAMES.index(name)])
        done[here[goal == ANSWER]] = True
        level[here[goal != ANSWER]] = goal[goal != ANSWER]
    return np.array([NAMES.index(name) for name in policy.tiers])[level]
