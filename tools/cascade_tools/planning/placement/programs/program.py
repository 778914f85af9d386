"""Builds one mixed-integer program, sparse, block by block, and solves it with HiGHS."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_matrix

from cascade_tools.planning.placement.problem import FloatArray, IntArray

STATUS = {0: "optimal", 1: "time limit", 2: "infeasible", 3: "unbounded", 4: "failed"}
OBJECTIVE = 1000.0  # HiGHS stops at an absolute gap of 1e-6, so objectives of order one are enlarged

Term = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


class Program:
    """Columns and rows so far. Rows are given as blocks of (row within the block, column, coefficient)."""

    def __init__(self) -> None:
        self.width = 0
        self.height = 0
        self._columns: list[tuple[FloatArray, FloatArray, bool]] = []
        self._entries: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._limits: list[tuple[FloatArray, FloatArray]] = []

    def columns(
        self, count: int, upper: npt.ArrayLike = np.inf, lower: npt.ArrayLike = 0.0, whole: bool = False
    ) -> IntArray:
        """Positions of `count` new variables within these limits."""
        low, high = (np.broadcast_to(np.asarray(v, np.float64), (count,)) for v in (lower, upper))
        self._columns.append((low, high, whole))
        self.width += count
        return np.arange(self.width - count, self.width)

    def rows(
        self, count: int, terms: Iterable[Term], lower: npt.ArrayLike = -np.inf, upper: npt.ArrayLike = np.inf
    ) -> None:
        """Add `count` rows: lower <= sum of the terms <= upper. Terms broadcast; equal entries add up."""
        for row, column, value in terms:
            r, c, v = np.broadcast_arrays(row, column, np.asarray(value, np.float64))
            self._entries.append((r.ravel().astype(np.int64) + self.height, c.ravel(), v.ravel()))
        low, high = (np.broadcast_to(np.asarray(v, np.float64), (count,)) for v in (lower, upper))
        self._limits.append((low, high))
        self.height += count

    def solve(
        self, cost: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], limit_s: float, gap: float = 1e-7
    ) -> OptimizeResult:
        """Minimise the sum of cost x column. `fun` and `mip_dual_bound` are in the given units."""
        c = np.zeros(self.width)
        for column, value in cost:
            np.add.at(c, *np.broadcast_arrays(column, np.asarray(value, np.float64)))
        enlarge = OBJECTIVE / max(float(np.abs(c).max(initial=0.0)), 1e-300)
        result = milp(
            c * enlarge,
            constraints=[LinearConstraint(self._matrix(), *self._joined(self._limits))],
            integrality=np.concatenate([np.full(len(low), float(w)) for low, _, w in self._columns]),
            bounds=Bounds(*self._joined([column[:2] for column in self._columns])),
            options={"time_limit": max(limit_s, 1e-3), "mip_rel_gap": gap},
        )
        for name in ("fun", "mip_dual_bound"):
            if result.get(name) is not None:
                result[name] = float(result[name]) / enlarge
        return result

    def _matrix(self) -> csr_matrix:
        if not self._entries:
            return csr_matrix((self.height, self.width))
        row, column, value = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        return csr_matrix((value, (row, column)), shape=(self.height, self.width))

    @staticmethod
    def _joined(pairs: list[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
        return np.concatenate([low for low, _ in pairs]), np.concatenate([high for _, high in pairs])
