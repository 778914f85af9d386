"""Cuts an exported tier into stages, and sees that together they are the tier.

    profile every node > choose the cuts > time the stages > weigh the nodes by that > choose again ...

The times of single nodes do not tell all: the optimizer of ONNX Runtime fuses nodes, and differently in a
stage. So the stages themselves are timed, the nodes of each are weighed by what it really took, and the cuts
are chosen anew, for `ROUNDS` rounds at most; the best partition is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from cascade_tools.artifacts import ExportedStage, ExportedTier, InputSpec, Partition
from cascade_tools.errors import CheckFailed, UsageError
from cascade_tools.models.node_runs import run_nodes
from cascade_tools.models.partition import MOST_CROSSING, Cut, CuttableGraph, StageGraph, save_graph
from cascade_tools.models.source import Inputs
from cascade_tools.models.staged import AT_ONCE, Stages
from cascade_tools.models.usercode import Rows, blame_user_code
from cascade_tools.planning.partition import MIB, Chain, CutPoint, partition
from cascade_tools.spec import Format, Tier, load_devices
from cascade_tools.stages.exported_files import recorded
from cascade_tools.store import Workspace

BATCH = 8
PROFILE_RUNS = 8
ROUNDS = 4
USELESS = 0.9  # of the time in one stage
EVEN = 1.05  # a balance that is not worth another round
SLACK = 0.03  # times are known no better, so within it the cut is taken where fewer bytes cross
CHECKED_ROWS = 64
ANSWER = ("LABEL", "CONFIDENCE")
CONFIDENCE_TOLERANCE: dict[Format, float] = {"onnx": 1e-5, "onnx_fp16": 1e-2}


@dataclass(frozen=True)
class _Trial:
    """One partition, written and timed."""

    cuts: tuple[CutPoint, ...]
    stages: tuple[StageGraph, ...]
    files: tuple[Path, ...]
    beside: tuple[tuple[Path, ...], ...]
    time_ms: tuple[float, ...]

    @property
    def balance(self) -> float:
        return max(self.time_ms) / fmean(self.time_ms)

    def opened(self) -> Stages:
        return _open(self.files, self.stages)


def cut_into_stages(
    work: Workspace,
    tier: Tier,
    exported: ExportedTier,
    inputs: tuple[InputSpec, ...],
    rows: Rows,
    whole: Path,
    cap_mib: float | None = None,
) -> ExportedTier:
    """Write the stages of a tier beside its graph; a tier in one stage stays as it is.

    Args:
        work: names the devices.
        tier: says how many stages.
        exported: the tier as it is so far.
        inputs: of the model.
        rows: labelled rows, whose inputs are run.
        whole: the tier's graph in the staging folder.
        cap_mib: of the weights of a stage; default: what the smallest device leaves.

    Raises:
        UsageError: the graph cannot be cut, or not so often.
        Infeasible: the weights of so few stages do not fit; says how many would.
        CheckFailed: the stages answer differently from the whole.
    """
    if tier.stages == 1:
        return exported
    field = f"tiers.{tier.name}.stages"
    cap_mib = smallest_device_mib(work) if cap_mib is None else cap_mib
    folder = whole.parent / f".cut-{tier.name}"
    folder.mkdir()
    try:
        with blame_user_code(f"{field}: cutting the graph", "set stages to 1"):
            made = _cut(work, tier, inputs, rows, whole, folder, int(cap_mib * MIB), field)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return exported.model_copy(update={"partition": made})


def _cut(
    work: Workspace,
    tier: Tier,
    inputs: tuple[InputSpec, ...],
    rows: Rows,
    whole: Path,
    folder: Path,
    cap_bytes: int,
    field: str,
) -> Partition:
    """Cut, compare, and put the stages beside the whole graph."""
    size = min(BATCH, work.cascade.serving.max_batch_size)
    batches = [_batch(rows, size, start) for start in range(0, size * PROFILE_RUNS, size)]
    graph = CuttableGraph(whole, inputs, field)
    chain, cuts = _cut_points(graph, tier.stages, folder, rows, batches)
    best = _balance(graph, chain, cuts, tier, folder, batches, cap_bytes)
    opened = Stages([whole], [ANSWER])
    checked = rows.take(slice(None, None, max(1, len(rows) // CHECKED_ROWS))).inputs
    mismatches, error = _require_equal(
        field, checked, opened, best.opened(), CONFIDENCE_TOLERANCE[tier.format]
    )
    whole_ms = opened.median_ms(batches)[0]
    return Partition(
        stages=_put_beside(best, whole.parent),
        batch=size,
        whole_ms=whole_ms,
        balance=best.balance,
        label_mismatches=mismatches,
        confidence_error=error,
    )


def smallest_device_mib(work: Workspace) -> float:
    """What the smallest of the devices leaves for models: a stage may come to any of them."""
    return min(group.memory_mib - group.reserved_mib for group in load_devices(work.cascade).devices)


def _batch(rows: Rows, size: int, start: int) -> Inputs:
    return rows.take(np.arange(start, start + size) % len(rows)).inputs


def _cut_points(
    graph: CuttableGraph, stages: int, folder: Path, rows: Rows, batches: list[Inputs]
) -> tuple[Chain, dict[CutPoint, Cut]]:
    """The graph as a chain with measured times, and what crosses at its cut points."""
    path = folder / "whole.onnx"
    save_graph(graph.model, graph.weights_bytes, path)
    runs = run_nodes(path, [_batch(rows, 2, 0), _batch(rows, 3, 0)], batches)
    cuts = graph.cuts(runs.made)
    if not cuts:
        raise UsageError(
            f"{graph.name}: the graph cannot be cut: nowhere do at most {MOST_CROSSING} tensors lead from "
            "what comes before to what comes after, each with the batch as its first dimension",
            "set stages to 1; a cut needs a narrow place, such as the residual stream between two blocks",
        )
    chain = graph.chain(runs, cuts)
    # One stage more than the graph has parts is refused by `partition`, and says how many there may be.
    taken = partition(chain, min(stages, len(cuts) + 1))
    times = chain.stage_times(taken)
    if stages > 1 and max(times) > USELESS * sum(times):
        raise UsageError(
            f"{graph.name}: the graph cannot be cut so that it helps: {max(times) / sum(times):.0%} of its "
            f"time would stay in one stage, a part in which everywhere more than {MOST_CROSSING} tensors "
            "lead from what comes before to what comes after",
            "set stages to 1; a cut needs a narrow place, such as the residual stream between two blocks",
        )
    return chain, {cut.point: cut for cut in cuts}


def _balance(
    graph: CuttableGraph,
    chain: Chain,
    cuts: dict[CutPoint, Cut],
    tier: Tier,
    folder: Path,
    batches: list[Inputs],
    cap_bytes: int,
) -> _Trial:
    """The best of a few rounds."""
    best: _Trial | None = None
    tried: set[tuple[CutPoint, ...]] = set()
    for number in range(ROUNDS):
        taken = partition(chain, tier.stages, cap_bytes=cap_bytes, slack=SLACK)
        if taken in tried:
            break
        tried.add(taken)
        trial = _try(graph, [cuts[point] for point in taken], tier, folder / str(number), batches)
        if best is None or max(trial.time_ms) < max(best.time_ms):
            best = trial
        if trial.balance <= EVEN:
            break
        chain = _weighed(chain, trial)
    assert best is not None
    return best


def _try(graph: CuttableGraph, cuts: list[Cut], tier: Tier, folder: Path, batches: list[Inputs]) -> _Trial:
    folder.mkdir()
    stages = graph.stages(cuts)
    files = [folder / f"{tier.name}_s{number}of{len(stages)}.onnx" for number in range(1, len(stages) + 1)]
    beside = [
        save_graph(stage.model, stage.weights_bytes, file) for stage, file in zip(stages, files, strict=True)
    ]
    time_ms = _open(files, stages).median_ms(batches)
    return _Trial(tuple(cut.point for cut in cuts), stages, tuple(files), tuple(beside), time_ms)


def _open(files: Sequence[Path], stages: Sequence[StageGraph]) -> Stages:
    return Stages(files, [[spec.name for spec in stage.outputs] for stage in stages])


def _weighed(chain: Chain, trial: _Trial) -> Chain:
    """The chain with the time that each stage took shared out over its nodes as they had it before."""
    edges = chain.edges(trial.cuts)
    time_ms = np.asarray(chain.time_ms, np.float64).copy()
    for taken_ms, (start, end) in zip(trial.time_ms, pairwise(edges), strict=True):
        part = time_ms[start:end]
        part[:] = part * (taken_ms / part.sum()) if part.sum() > 0.0 else taken_ms / len(part)
    return replace(chain, time_ms=tuple(time_ms.tolist()))


def _put_beside(best: _Trial, folder: Path) -> tuple[ExportedStage, ...]:
    """Move the files of the best partition to the tier's graph, and describe them."""
    made = []
    for number, stage in enumerate(best.stages):
        for path in (best.files[number], *best.beside[number]):
            path.replace(folder / path.name)
        main = recorded(folder / best.files[number].name)
        made.append(
            ExportedStage(
                number=number + 1,
                file=main.file,
                sha256=main.sha256,
                beside=tuple(recorded(folder / path.name) for path in best.beside[number]),
                inputs=stage.inputs,
                outputs=stage.outputs,
                weights_mib=stage.weights_bytes / MIB,
                time_ms=best.time_ms[number],
                crossing_bytes=stage.crossing_bytes,
            )
        )
    return tuple(made)


def _require_equal(
    field: str, rows: Inputs, whole: Stages, staged: Stages, tolerance: float
) -> tuple[int, float]:
    """Labels that differ, and the largest difference of the confidences.

    Raises:
        CheckFailed: the stages are not the whole.
    """
    wanted, found = whole.answers(rows, AT_ONCE), staged.answers(rows)
    mismatches = int((wanted["LABEL"] != found["LABEL"]).sum())
    error = float(np.abs(wanted["CONFIDENCE"] - found["CONFIDENCE"]).max())
    if mismatches or not error <= tolerance:
        raise CheckFailed(
            f"{field}: the stages one after the other differ from the whole graph: {mismatches} of "
            f"{wanted['LABEL'].size} labels, confidence by up to {error:.2e}",
            "set stages to 1, and look for operators that mix the rows of a batch",
        )
    return mismatches, error
