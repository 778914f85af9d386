"""The loops that keep the cores awake yield to other work and never stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cascade_tools.serving.awake import CGROUP, awake_cores, has_cpu_quota


@pytest.mark.parametrize(
    ("file", "text", "quota"),
    [
        ("cpu.max", "max 100000\n", False),
        ("cpu.max", "200000 100000\n", True),
        ("cpu/cpu.cfs_quota_us", "-1\n", False),
        ("cpu/cpu.cfs_quota_us", "150000\n", True),
        ("other", "", False),
    ],
)
def test_a_quota_of_the_container_is_noticed(tmp_path: Path, file: str, text: str, quota: bool) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert has_cpu_quota(tmp_path) is quota


EXPECTED = 0 if has_cpu_quota(CGROUP) else len(os.sched_getaffinity(0))
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
    before = set(psutil.Process().children())
    with awake_cores():
        loops = [child for child in psutil.Process().children() if child not in before]
        assert len(loops) == EXPECTED
        assert wait_until_all_at_idle_priority(loops)
    assert not any(loop.is_running() for loop in loops)


def test_the_loops_end_with_a_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        loops = psutil.Process(holder.pid).children()
        assert len(loops) == EXPECTED
        holder.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(loops, timeout=20.0)
    assert not alive


AUTOGROUP = Path("/proc/self/autogroup")


@pytest.mark.skipif(
    not AUTOGROUP.exists() or not EXPECTED, reason="this kernel groups no processes by session"
)
def test_their_sessions_have_the_least_weight() -> None:
    before = set(psutil.Process().children())
    with awake_cores():
        loops = [child for child in psutil.Process().children() if child not in before]
        deadline = time.monotonic() + 20.0
        while not all("nice 19" in group_of(loop) for loop in loops) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all("nice 19" in group_of(loop) for loop in loops)


def group_of(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/autogroup").read_text()
