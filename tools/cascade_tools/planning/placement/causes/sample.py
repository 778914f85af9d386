"""As many devices of a cluster as tell whether one complete chain of every tier fits into it.

Such a placement takes at most as many sites as there are tiers (one with the closure `host`), and of the
equal devices of a site at most as many as the chains have stages. More of them do not help: what does not fit
into these devices does not fit into all of them, and as much is missing.
"""

from __future__ import annotations

from cascade_tools.planning.placement.patterns.sites import sites_of, some_of_each
from cascade_tools.planning.placement.problem import IntArray, Problem
from cascade_tools.planning.placement.programs.numbers import numbers_of


def sample(problem: Problem) -> IntArray:
    """Their positions, ascending."""
    sites = 1 if problem.closure == "host" else len(problem.tiers)
    places = sum(max(variant.stages for variant in tier.variants) for tier in problem.tiers)
    return some_of_each(sites_of(problem, numbers_of(problem)), sites, places)
