"""How fast the cores are: at times a neighbour on the same physical core halves the speed of a virtual one.

No counter of the guest tells that, unlike time that is stolen outright, and CPU times are longer, too. So a
process on each core does the same short work twenty times a second (a few thousandths of the core) and
writes how much CPU time it took.

Only on virtual machines that show no two threads of one core: elsewhere what slows a core may be the load
itself that is measured.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
CPU_INFO, CPUS = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu")
MOST_CORES = 8  # that are watched: enough to tell
QUICK_PERCENTILE, QUICK = 2.0, 1.4  # full speed is what is not much slower than the quickest samples
LEARN_S = 1.0  # before the first block, so that it has something to be held against
# Ends with the process that started it. The least of three parts: the first may find its caches cold.
WATCH = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
part = range(3_000)
while os.getppid() == int(sys.argv[1]):
    least = None
    for _ in range(3):
        began = time.thread_time_ns()
        for _ in part:
            pass
        spent = time.thread_time_ns() - began
        least = spent if least is None else min(least, spent)
    os.write(1, f"{time.perf_counter():.4f} {least}\\n".encode())
    time.sleep(0.05)
"""
_seen_ns: list[float] = []


@dataclass
class CoreSpeed:
    """What was seen of all cores in a block; known when that has ended.

    Full speed is what this process has seen in its best times, so what is told of a first, short block can
    be too little.

    Attributes:
        at_s: of each sample, by `time.perf_counter`; `spent_ns` what the work took.
    """

    at_s: list[float] = field(default_factory=list)
    spent_ns: list[float] = field(default_factory=list)

    def slowness(self) -> float:
        """How many times longer all work took on the average than at full speed; 1 without samples."""
        if not self.spent_ns:
            return 1.0
        return max(1.0, float(np.mean(self.spent_ns)) / _full_ns())

    def speed(self) -> FloatArray:
        """Of each sample, 1 is full speed, float64 [samples]."""
        return np.minimum(1.0, _full_ns() / np.array(self.spent_ns)) if self.spent_ns else np.zeros(0)


@contextmanager
def watched_cores() -> Iterator[CoreSpeed]:
    """Watch the cores during the block; nothing is seen where that would say nothing of neighbours."""
    found = CoreSpeed()
    if not has_neighbours():
        yield found
        return
    with ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))[:MOST_CORES]
        outputs = [stack.enter_context(_watcher(core)) for core in cores]
        if not _seen_ns:
            time.sleep(LEARN_S)
        began_s = time.perf_counter()
        try:
            yield found
        finally:
            for output in outputs:
                output.seek(0)
                # What is written meanwhile may be cut off.
                for line in output.read().decode().splitlines()[:-1]:
                    at_s, spent_ns = map(float, line.split())
                    _seen_ns.append(spent_ns)
                    if at_s >= began_s:
                        found.at_s.append(at_s)
                        found.spent_ns.append(spent_ns)


@cache
def has_neighbours() -> bool:
    """A virtual machine whose cores seem to be whole ones: others may use their second threads."""
    try:
        virtual = re.search(r"^flags\s*:.*\bhypervisor\b", CPU_INFO.read_text(), re.MULTILINE)
        siblings = {path.read_text().strip() for path in CPUS.glob("cpu[0-9]*/topology/thread_siblings_list")}
    except OSError:
        return False
    return virtual is not None and bool(siblings) and all(text.isdecimal() for text in siblings)


def _full_ns() -> float:
    seen = np.array(_seen_ns)
    return float(np.median(seen[seen <= QUICK * np.percentile(seen, QUICK_PERCENTILE)]))


@contextmanager
def _watcher(core: int) -> Iterator[IO[bytes]]:
    """A process that watches a core during the block, and the file that it writes to."""
    with TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCH, str(os.getpid()), str(core)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the caller
        )
        try:
            while os.fstat(output.fileno()).st_size == 0 and process.poll() is None:
                time.sleep(0.005)  # until it runs: what follows is not disturbed by its start
            yield output
        finally:
            process.kill()
            process.wait()
