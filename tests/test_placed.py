"""What a placement keeps beside the solver's answer, and what stays off stdout."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace

import numpy as np
import pytest

from cascade_tools.errors import Infeasible
from cascade_tools.planning.placement.baselines import baselines
from cascade_tools.planning.placement.baselines.full_lp import full_lp
from cascade_tools.planning.placement.problem import Device, Goal, IntArray, Problem, TierLoad, Variant
from cascade_tools.planning.placement.solve import solve
from cascade_tools.stages.placed import planned
from cascade_tools.stages.solver_output import solver_output_on_stderr


def tier(
    name: str, *, reach: float = 1.0, ms: float = 1.0, utilization: float = 1.0, memory_mib: int = 100
) -> TierLoad:
    variant = Variant(
        stages=1,
        batch=1,
        seconds_per_row={"gpu": ms / 1000.0},
        utilization={"gpu": utilization},
        memory_mib=memory_mib,
        further_mib=memory_mib,
    )
    return TierLoad(name, reach, (variant,))


def problem(*tiers: TierLoad, gpus: tuple[int, ...] = (1000,)) -> Problem:
    return Problem(tiers, tuple(Device("gpu", memory) for memory in gpus))


PAIR = (tier("first", utilization=0.5), tier("last", reach=0.01, utilization=0.5))


def test_the_last_tier_keeps_what_it_would_have_alone() -> None:
    assert planned(problem(*PAIR)).solution.count.tolist() == [[2], [1]]
    assert planned(problem(*PAIR), keep_giant=True).solution.count.tolist() == [[2], [2]]


def test_it_gives_way_where_that_does_not_fit_beside_the_others() -> None:
    found = planned(problem(*PAIR, gpus=(350,)), keep_giant=True)
    assert found.solution.count.tolist() == [[2], [1]]
    assert found.giant_alone is not None
    assert found.giant_alone.rate_rps == pytest.approx(2000.0)


@pytest.mark.parametrize(("goal", "instances"), [(Goal(100.0), None), (Goal(), [[2], [2]])])
def test_the_baselines_are_computed_once(
    monkeypatch: pytest.MonkeyPatch, goal: Goal, instances: list[list[int]] | None
) -> None:
    asked = []

    def counted(problem: Problem) -> IntArray:
        asked.append(problem)
        return full_lp(problem)

    monkeypatch.setattr(baselines, "full_lp", counted)
    found = planned(replace(problem(*PAIR), goal=goal), keep_giant=True)
    assert len(asked) == 1
    assert found.giant_alone is not None
    assert found.giant_alone.rate_rps == pytest.approx(2000.0)  # the highest, whatever the goal
    if instances is not None:
        assert found.solution.count.tolist() == instances


def test_instances_that_are_there_anyhow_stay() -> None:
    found = planned(problem(*PAIR), np.array([[3], [0]]))
    assert found.solution.count.tolist() == [[3], [1]]


@pytest.mark.parametrize(
    ("tiers", "gpus", "missing_mib"),
    [
        ((tier("small"), tier("huge", memory_mib=1300)), (1000, 800), 300),  # one fits nowhere
        (tuple(tier(name, memory_mib=900) for name in "abc"), (1000, 1000), 700),  # all together do not
        (tuple(tier(name, memory_mib=600) for name in "abc"), (1000, 1000), 200),  # no device takes two
    ],
)
def test_what_does_not_fit_says_how_much_is_missing(
    tiers: tuple[TierLoad, ...], gpus: tuple[int, ...], missing_mib: int
) -> None:
    with pytest.raises(Infeasible) as caught:
        solve(problem(*tiers, gpus=gpus))
    assert caught.value.constraint == "memory"
    assert caught.value.details["missing_mib"] == missing_mib


def test_what_the_solver_prints_does_not_reach_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with solver_output_on_stderr():
        ctypes.CDLL(None).printf(b"from C, still in its buffer")
    print("after")
    printed = capfd.readouterr()
    assert printed.out == "before\nafter\n"
    assert printed.err == "from C, still in its buffer"


def test_what_the_solver_says_of_its_functions_reaches_nobody_unless_it_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    trace, trouble = "HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n", "trouble\n"
    with solver_output_on_stderr():
        os.write(2, trace.encode() + trouble.encode())
        os.write(1, trace.encode())
    assert capfd.readouterr() == ("", trouble)
    with pytest.raises(ValueError), solver_output_on_stderr():
        os.write(2, trace.encode())
        raise ValueError
    assert capfd.readouterr() == ("", trace)
