"""Keeps the cores from sleeping while one request at a time is timed.

At one client every core sleeps between two steps of a request. On a virtual machine a sleeping core is given
away, and each of the half dozen wakes of a request waits for the host; then the host is measured and not the
models. Loops of idle priority hold the cores and yield to any other work at once.

Where Linux groups processes by session (autogroup), an idle priority counts within the session only, and
every session gets an equal share of a core; so the loops give their sessions the least weight there is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# Ends with the process that started it, however that ends.
LOOP = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
try:
    with open("/proc/self/autogroup", "w") as group:
        group.write("19")
except OSError:
    pass  # this kernel does not group
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextmanager
def awake_cores() -> Iterator[None]:
    """One loop of idle priority per core that this process may use, until the block ends.

    None under a CPU quota, which the loops would use up for everybody.
    """
    command = [sys.executable, "-I", "-S", "-c", LOOP, str(os.getpid())]
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in () if has_cpu_quota(CGROUP) else os.sched_getaffinity(0):
            loops.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C in the terminal is for the caller
                )
            )
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def has_cpu_quota(cgroup: Path) -> bool:
    """The processes here share a limited amount of CPU time (cgroups of version 2 or 1)."""
    for file, unlimited in (("cpu.max", "max"), ("cpu/cpu.cfs_quota_us", "-1")):
        try:
            return (cgroup / file).read_text().split()[0] != unlimited
        except (OSError, IndexError):
            continue
    return False
