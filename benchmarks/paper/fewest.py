"""The fewest devices with which somebody keeps an SLO and an accuracy at a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar


class Point(NamedTuple):
    """One point of the grid.

    Attributes:
        slo_ms: that 95 % of all requests keep.
        allowance: points of accuracy below the giant.
        rate_rps: the highest of the trace, over all devices.
    """

    slo_ms: float
    allowance: float
    rate_rps: float


class Way(Protocol):
    """One way to serve, such as one gear plan."""

    def keeps(self, rate_rps: float, slo_ms: float, allowance: float) -> bool:
        """Whether one device keeps both at this highest rate."""


_W = TypeVar("_W", bound=Way)


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest count in 1..most that is enough; None if none is.

    Args:
        enough: once true, it stays true for larger counts.
        most: the largest count that is tried.
    """
    short, count = 0, 1
    while not enough(count):
        if count >= most:
            return None
        short, count = count, min(2 * count, most)
    while count - short > 1:
        middle = (short + count) // 2
        short, count = (short, middle) if enough(middle) else (middle, count)
    return count


def fewest_devices(ways: Sequence[_W], point: Point, most: int) -> tuple[int, _W] | None:
    """The fewest devices that any of these ways needs, each with an equal share of the rate, and which way.

    Args:
        ways: in the order in which equals are preferred.
        point: of the grid.
        most: devices.
    """
    best: tuple[int, _W] | None = None
    for way in ways:
        limit = most if best is None else best[0] - 1
        enough = _enough(way, point)
        if limit < 1 or (best is not None and not enough(limit)):
            continue
        count = fewest(enough, limit)
        if count is not None:
            best = count, way
    return best


def _enough(way: Way, point: Point) -> Callable[[int], bool]:
    return lambda count: way.keeps(point.rate_rps / count, point.slo_ms, point.allowance)


def shares_at_least(ratios: Iterable[float], bounds: Sequence[float]) -> list[float]:
    """Share of the ratios that are at least each of the bounds."""
    known = list(ratios)
    return [sum(ratio >= bound - 1e-9 for ratio in known) / max(1, len(known)) for bound in bounds]
