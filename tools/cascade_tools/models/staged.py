"""The stages of a model, run one after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from cascade_tools.backends.onnx_session import OnnxSession
from cascade_tools.models.source import Inputs

WARM_UP_RUNS = 2
MIN_RUNS = 12
MIN_SECONDS = 0.5
MAX_RUNS = 500
THREADS = 1
# Rows that a stage gets at a time; each another number, as in a server that batches before every stage.
UNEVEN = (16, 5, 11, 7)
AT_ONCE = (13,)  # for the whole graph: another number still


class Stages:
    """Opened stages; one graph by itself is a single stage.

    Args:
        files: of the graphs, in order.
        outputs: names, of each that are wanted.
    """

    def __init__(self, files: Sequence[Path], outputs: Sequence[Sequence[str]]) -> None:
        self._sessions = [OnnxSession(file, THREADS) for file in files]
        self._outputs = [tuple(names) for names in outputs]

    def answers(self, inputs: Inputs, sizes: Sequence[int] = UNEVEN) -> Inputs:
        """All that the stages make of the rows, by name; every stage takes them in batches of another size.

        Raises:
            Exception: whatever ONNX Runtime raises.
        """
        known = dict(inputs)
        for number in range(len(self._sessions)):
            size = sizes[number % len(sizes)]
            rows = len(next(iter(inputs.values())))
            parts = [
                self._run(number, {name: values[start : start + size] for name, values in known.items()})
                for start in range(0, rows, size)
            ]
            known |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return known

    def median_ms(self, batches: Sequence[Inputs]) -> tuple[float, ...]:
        """The median time of every stage, over runs of the whole chain with one batch after the other."""
        for batch in batches[:WARM_UP_RUNS]:
            self._timed(batch)
        taken: list[list[float]] = []
        start_s = time.perf_counter()
        while len(taken) < MAX_RUNS and (
            len(taken) < MIN_RUNS or time.perf_counter() - start_s < MIN_SECONDS
        ):
            taken.append(self._timed(batches[len(taken) % len(batches)]))
        return tuple(1000.0 * median(times) for times in zip(*taken, strict=True))

    def _timed(self, batch: Inputs) -> list[float]:
        known, taken = dict(batch), []
        for number in range(len(self._sessions)):
            start_s = time.perf_counter()
            made = self._run(number, known)
            taken.append(time.perf_counter() - start_s)
            known |= made
        return taken

    def _run(self, number: int, known: Inputs) -> Inputs:
        session, names = self._sessions[number], self._outputs[number]
        found = session.run(names, {name: known[name] for name in session.inputs})
        return dict(zip(names, found, strict=True))
