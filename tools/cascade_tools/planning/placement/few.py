"""A goal that few devices of a large cluster meet: a better placement fits into a small part of it.

A placement on at most n devices takes at most n sites, and of the equal devices of a site at most n. So the
direct program over so many of each kind finds the best of them, and what it proves holds for the cluster.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cascade_tools.planning.placement.direct import Found, direct
from cascade_tools.planning.placement.patterns.sites import sites_of, some_of_each
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import numbers_of


def part_for(problem: Problem, value: float) -> IntArray:
    """Positions of devices on which there is a best placement, where one has this value by the goal."""
    least = 1.0
    if problem.goal.minimise == "energy":
        least = min(device.idle_w for device in problem.devices)
    number = len(problem.devices)
    if least > 0.0:
        number = min(number, int(value / least + 1e-6))
    return some_of_each(sites_of(problem, numbers_of(problem)), number, number)


def direct_in(problem: Problem, part: IntArray, time_limit_s: float) -> Found:
    """The best placement on a part of the devices; `at_least` is left to `tidy`."""
    devices = tuple(problem.devices[g] for g in part.tolist())
    found = direct(replace(problem, devices=devices, at_least=None), time_limit_s)
    if found.count is None:
        return found
    count = np.zeros((len(problem.units), len(problem.devices)), np.int64)
    count[:, part] = found.count
    return replace(found, count=count)
