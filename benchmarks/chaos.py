"""Twelve faults under steady load: is every request answered once, and rightly?

A small cascade of random nets is served as `cascade-tools serve` does it, on the loopback interface. Clients
in a process of their own send rows whose right answers are known, while the server is harmed. An answer is
wrong if no policy that was in force gives it for that row; a flagged one if the tier that it names does not.
Lost is a request without an answer and without an error after 10 s. Writes build/benchmarks/chaos.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.catalogue import FAULTS, Fault
from benchmarks.faults.judge import Verdict, judge
from benchmarks.faults.ladder import MAX_BATCH
from benchmarks.faults.scene import SECOND_SEND, Scene
from cascade_tools.cli.output import show_table
from cascade_tools.machine.facts import machine

OUT = Path("build/benchmarks/chaos.json")
FOLDER = Path("build/benchmarks/chaos")
REQUESTS = 100_000
CLIENTS = 32
RATE_RPS = 800.0
LONGEST_S = 12 * 60
COLUMNS = ("sent", "answered", "wrong", "degraded", "refused", "lost", "lost_expected", "answered_twice")
NEVER = ("wrong", "lost", "answered_twice", "unexpected")


def run_fault(scene: Scene, fault: Fault, requests: int, seed: int) -> Verdict:
    """One row of the table; afterwards the server is whole again."""
    if fault.limits:
        scene.put_plan("base", **fault.limits)
    begun_s, second_sends = time.time(), scene.logged(SECOND_SEND)
    with scene.load_of(
        requests=requests, mix=fault.mix, clients=CLIENTS, rate_rps=RATE_RPS, seed=seed
    ) as load:
        fault.inject(scene, load)
        records = load.results()
    verdict = judge(
        scene.oracle,
        records,
        scene.plans_since(begun_s),
        fault.allowed,
        [at_s for at_s in scene.router_kills_s if at_s >= begun_s],
        scene.logged(SECOND_SEND) - second_sends,
    )
    # A row that was never counted out would keep full batches from being admitted.
    scene.put_plan("base", rows_in_flight=MAX_BATCH)
    scene.wait_until_whole()
    scene.put_plan("base")
    return verdict


def run(faults: list[Fault], requests: int, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All rows of the table, `requests` in all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    with Scene(folder) as scene:
        scene.wait_until_whole()
        for number, fault in enumerate(faults):
            share = requests // len(faults) + (number < requests % len(faults))
            begun_s = time.monotonic()
            verdict = run_fault(scene, fault, share, number)
            seconds = time.monotonic() - begun_s
            print(f"{fault.name}: {share} requests in {seconds:.1f} s", file=sys.stderr, flush=True)
            rows.append({"fault": fault.name, **asdict(verdict), "seconds": seconds})
    return rows


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"not done after {LONGEST_S} s")


def main() -> int:
    """Run, print, write; 1 if anything happened that must never."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="in all")
    parser.add_argument("--only", default="", help=f"some of {', '.join(f.short for f in FAULTS)}; by commas")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [fault.short for fault in FAULTS]
    unknown = set(wanted) - {fault.short for fault in FAULTS}
    if unknown:
        parser.error(f"--only: no fault {sorted(unknown)[0]!r}")
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_S)
    begun_s = time.monotonic()
    try:
        rows = run([fault for fault in FAULTS if fault.short in wanted], options.requests)
    except TimeoutError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - begun_s
    total = {name: sum(row[name] for row in rows) for name in (*COLUMNS, "unexpected")}
    show_table(
        f"{total['sent']} requests, {len(rows)} faults, {seconds:.0f} s",
        ["fault", *(name.replace("_", " ") for name in COLUMNS)],
        [
            [row["fault"], *(f"{row[name]:,}" for name in COLUMNS)]
            for row in [*rows, {"fault": "all", **total}]
        ],
    )
    for row in rows:
        if row["unexpected"]:
            print(f"{row['fault']}: {row['unexpected']} errors that it does not explain: {row['errors']}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "seconds": seconds, "clients": CLIENTS, "rows": rows, "total": total}
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {OUT}")
    return int(any(total[name] for name in NEVER))


if __name__ == "__main__":
    raise SystemExit(main())
