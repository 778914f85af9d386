"""The loops that keep the cores awake yield to other work and never stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from cascade_tools.serving.awake import awake_cores

HELD = """
import os, signal
from cascade_tools.serving.awake import awake_cores
with awake_cores():
    print("ready", flush=True)
    signal.pause()
"""


def wait_until_all_at_idle_priority(loops: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        if all(os.sched_getscheduler(loop.pid) == os.SCHED_IDLE for loop in loops):
            return True
        time.sleep(0.01)
    return False


def test_one_loop_of_idle_priority_per_core_until_the_block_ends() -> None:
    with awake_cores():
        loops = psutil.Process().children()
        assert len(loops) == len(os.sched_getaffinity(0))
        assert wait_until_all_at_idle_priority(loops)
    assert not any(loop.is_running() for loop in loops)


def test_the_loops_end_with_a_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        loops = psutil.Process(holder.pid).children()
        assert len(loops) == len(os.sched_getaffinity(0))
        holder.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(loops, timeout=20.0)
    assert not alive
