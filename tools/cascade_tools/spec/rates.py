"""What the gears keep, and the arrival rates that they are planned for."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from cascade_tools.spec.base import Spec
from cascade_tools.spec.names import InnerPath

SUM_OF_SHARES = 1e-3  # shares may be written with few digits
MOST_BINS = 100


class Slo(Spec):
    """What the gears keep; exactly one field. The rest is as good as it can be then.

    Attributes:
        p95_ms: latency that 95 % of the requests keep at every planned rate; accuracy is maximised.
        p99_ms: likewise of 99 %.
        accuracy: least mean accuracy over the planned requests, 0..1; latency is minimised.
        energy_j: most energy of a request, as a mean over the planned requests; accuracy is maximised.
    """

    p95_ms: float | None = Field(default=None, gt=0.0)
    p99_ms: float | None = Field(default=None, gt=0.0)
    accuracy: float | None = Field(default=None, gt=0.0, le=1.0)
    energy_j: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Slo:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of p95_ms, p99_ms, accuracy and energy_j; found {found}")
        return self

    @property
    def name(self) -> str:
        """The field that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def bound(self) -> float:
        """Its value."""
        return float(getattr(self, self.name))


class Histogram(Spec):
    """Shares of time between rates (rows/s): `edges_rps` ascend, between two of them lies one of `shares`."""

    edges_rps: tuple[float, ...] = Field(min_length=2, max_length=MOST_BINS + 1)
    shares: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Histogram:
        edges, bins = len(self.edges_rps), len(self.shares)
        if edges != bins + 1:
            raise ValueError(f"edges_rps: {bins} shares need {bins + 1}, found {edges}")
        # Written so that a NaN is refused, too.
        if not all(low < high for low, high in pairwise(self.edges_rps)) or not self.edges_rps[0] >= 0.0:
            raise ValueError("edges_rps: must begin at 0 or above and grow from edge to edge")
        if not self.edges_rps[-1] < float("inf"):
            raise ValueError("edges_rps: the last is the highest rate that is planned for, a finite number")
        if not all(share >= 0.0 for share in self.shares) or not abs(sum(self.shares) - 1.0) <= SUM_OF_SHARES:
            raise ValueError(f"shares: must be at least 0 and sum to 1, found {sum(self.shares):g}")
        return self


class Rates(Spec):
    """The arrival rates (rows/s) that are expected; one of `histogram`, `trace` and `max_rps`.

    Attributes:
        max_rps: the highest rate. With `trace`: what its peak is scaled to. Alone: low rates are more common
            than high ones, by Zipf's law over equal bins.
        histogram: shares of time by rate.
        trace: a file of arrivals in the cascade's folder, whose rate per second counts; the formats are those
            of `replay`.
        zipf: exponent of that law: bin k, from 1 for the lowest, has a share in proportion to k ** -zipf.
        bins: equal bins between 0 and the highest rate; a gear serves one or several of them.
    """

    max_rps: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    histogram: Histogram | None = None
    trace: InnerPath | None = None
    zipf: float = Field(default=1.0, ge=0.0, le=10.0)
    bins: int = Field(default=8, ge=1, le=MOST_BINS)

    @model_validator(mode="after")
    def _one_source(self) -> Rates:
        if self.histogram is not None and self.trace is not None:
            raise ValueError("give 'histogram' or 'trace', not both")
        if self.histogram is not None and self.max_rps is not None:
            raise ValueError("'max_rps' is the last of histogram.edges_rps; remove it")
        if self.histogram is None and self.trace is None and self.max_rps is None:
            raise ValueError("give 'histogram', 'trace', or the highest rate as 'max_rps'")
        if "zipf" in self.model_fields_set and (self.histogram is not None or self.trace is not None):
            raise ValueError("'zipf' is for 'max_rps' alone; remove it")
        if "bins" in self.model_fields_set and self.histogram is not None:
            raise ValueError("'bins' are those of 'histogram'; remove it")
        return self
