"""The load of `simulate` and `replay`: one set of options, and what does not belong together is refused."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cascade_tools.cli.arrivals import SECONDS, Format, Kind, Load
from cascade_tools.cli.replay import replay
from cascade_tools.cli.simulate import simulate
from cascade_tools.planning.traces.formats import FORMATS
from cascade_tools.planning.traces.generators import KINDS, generate, poisson
from cascade_tools.stages.trace_file import read_arrivals

from .cli_calls import assert_refused, call


def test_both_verbs_take_every_option_alike() -> None:
    first, second = (inspect.signature(verb).parameters for verb in (simulate, replay))
    for field in fields(Load):
        assert (first[field.name].annotation, first[field.name].default) == (
            second[field.name].annotation,
            second[field.name].default,
        )
    assert "load" not in first and "load" not in second


def test_choices_are_those_that_there_are() -> None:
    assert set(get_args(Kind)) == set(KINDS)
    assert set(get_args(Format)) == set(FORMATS)


def test_loads_are_drawn_read_and_shaped(tmp_path: Path) -> None:
    drawn, words = Load(rate=20.0, seed=2).made()
    np.testing.assert_array_equal(drawn, poisson(20.0, SECONDS, 2))
    assert words == "poisson arrivals, 20 requests/s for 60 s"
    waves, _ = Load(rate=50.0, arrivals="diurnal", low_rate=5.0, period=4.0, seconds=8.0).made()
    np.testing.assert_array_equal(waves, generate("diurnal", 50.0, 8.0, 0, low_rps=5.0, period_s=4.0))
    trace = tmp_path / "some.csv"
    trace.write_text("second,count\n0,4\n1,8\n2,2\n")
    read, words = Load(trace=trace, window="0:2", peak_rps=4.0, seed=1).made()
    np.testing.assert_array_equal(read, read_arrivals(trace, None, (0.0, 2.0), 4.0, 1))
    assert words == "trace some.csv, seconds 0:2, scaled to a peak of 4 requests/s over 1 s"


MISTAKES = [
    ((), ("--rate or --trace: give one of them",)),
    (("--arrivals", "gamma"), ("--rate: is needed with --arrivals",)),
    (("--seconds", 5), ("--rate: is needed with --seconds",)),
    (("--rate", 900000, "--seconds", 60), ("more than 5000000 requests",)),
    (("--trace", "x.csv", "--rate", 5), ("--rate: belongs to drawn arrivals", "--peak-rps")),
    (("--trace", "x.csv", "--arrivals", "gamma"), ("--arrivals: belongs to drawn arrivals",)),
    (("--trace", "x.csv", "--seconds", 5), ("--seconds: belongs to drawn arrivals",)),
    (("--trace", "x.csv", "--cv", 2), ("--cv: belongs to drawn arrivals",)),
    (("--trace", "x.csv", "--low-rate", 2), ("--low-rate: belongs to drawn arrivals",)),
    (("--rate", 5, "--format", "csv"), ("--format: belongs to --trace",)),
    (("--rate", 5, "--cv", 2), ("--cv: belongs to --arrivals gamma", "poisson")),
    (("--rate", 5, "--arrivals", "gamma", "--period", 2), ("--period: belongs to --arrivals on-off or",)),
    (("--rate", 5, "--arrivals", "spike", "--low-rate", 9), ("--low-rate 9: is above --rate 5",)),
    (("--rate", 5, "--peak-window", 9), ("--peak-window: belongs to --peak-rps",)),
    (("--rate", 5, "--window", "8:2"), ("--window 8:2: must be FROM:TO",)),
]


@pytest.mark.parametrize("verb", ["simulate", "replay"])
@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_what_does_nothing_is_refused(
    verb: str, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert_refused(call(verb, "nowhere", *arguments), 2, *words)
