"""The twelve faults: what is sent, what is done to the server meanwhile, and which errors that explains."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.ladder import CASCADE, NAMES
from benchmarks.faults.scene import Load, Scene

MODELS = tuple(f"{CASCADE}_{name}" for name in NAMES)
FEW_ROWS = 8
STILL_S = 0.5  # Triton 2.51 gives a process up that stands still for longer than a second
SLOW_S = 4.0
STEADY = {"plain": 1.0}
# What a client sees of a server that is going, gone or coming.
GOING = (
    r"^UNAVAILABLE: .*(Socket closed|Stream removed|GOAWAY|Broken pipe|failed to connect|Connection reset)",
    r"^UNAVAILABLE: .*(Server is stopping|not ready|exiting)",
    r"^NOT_FOUND: .* has no available versions",
    r"^\w+: cascade chaos: tier \w+ and all larger ones did not answer",
)
AWAY = (r"^NOT_FOUND: .* has no available versions", r"^UNAVAILABLE: .*not ready")
FULL = (r"^UNAVAILABLE: .* rows are in flight, the limit of this router",)
ROUTER_GONE = (r"Stub process .* is not healthy", r"^NOT_FOUND: .* has no available versions", r"not ready")


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        name: as it stands there.
        short: for `--only`.
        inject: does the harm while the load runs.
        mix: kinds of requests, see `load`.
        allowed: patterns of errors that the clients have to expect.
        limits: of the router, in place of the usual ones.
    """

    name: str
    short: str
    inject: Callable[[Scene, Load], None]
    mix: dict[str, float] = field(default_factory=lambda: STEADY)
    allowed: tuple[str, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)


def nothing(scene: Scene, load: Load) -> None:
    """The requests are the fault."""


def kill_tiers(scene: Scene, load: Load) -> None:
    """One process of each tier, one after the other; the keeper revives them."""
    for share, model in zip((0.1, 0.4, 0.7), MODELS, strict=True):
        load.wait_for(share)
        scene.kill(model)


def reload_tiers(scene: Scene, load: Load) -> None:
    """Each tier, and then the router itself, away for half a second."""
    for share, model in zip((0.1, 0.3, 0.5, 0.7), (*MODELS, CASCADE), strict=True):
        load.wait_for(share)
        scene.unload(model)
        time.sleep(0.5)
        scene.load(model)


def slow_tiers(scene: Scene, load: Load) -> None:
    """Each tier stands still for half a second, and then takes 1.5 s a batch for a while."""
    for number, model in enumerate(MODELS):
        load.wait_for(0.05 + 0.1 * number)
        with scene.stopped(model):
            time.sleep(STILL_S)
    for number, (name, model) in enumerate(zip(NAMES, MODELS, strict=True)):
        load.wait_for(0.4 + 0.2 * number)
        scene.load_slow(name)
        time.sleep(SLOW_S)
        scene.load(model)


def swap_plans(scene: Scene, load: Load) -> None:
    """Seven other plans, and three that are none."""
    steps: list[Callable[[], None]] = [
        lambda: scene.put_plan("eager"),
        lambda: scene.put_plan("careful"),
        lambda: scene.put_corrupt_plan(scene.plan_bytes("eager")[:-30]),
        lambda: scene.put_plan("without middle"),
        lambda: scene.put_plan("without tiny"),
        lambda: scene.put_corrupt_plan(_with_route(scene, {"cuts": [float("nan")], "to": [1, -1]})),
        lambda: scene.put_plan("giant alone"),
        lambda: scene.put_plan("tiny alone"),
        lambda: scene.put_corrupt_plan(_with_route(scene, {"cuts": [0.5], "to": [0, -1]})),
        lambda: scene.put_plan("without giant"),
    ]
    for number, step in enumerate(steps):
        load.wait_for(0.05 + 0.09 * number)
        step()


def _with_route(scene: Scene, route: dict[str, Any]) -> bytes:
    """A plan whose first tier has another route."""
    content = json.loads(scene.plan_bytes("careful"))
    content["gears"][-1]["policy"]["routes"][0] = route
    return json.dumps(content).encode()


def terminate_server(scene: Scene, load: Load) -> None:
    """SIGTERM, and the server is started again."""
    _restart(scene, load, signal.SIGTERM)


def kill_server(scene: Scene, load: Load) -> None:
    """SIGKILL, and the server is started again."""
    _restart(scene, load, signal.SIGKILL)


def _restart(scene: Scene, load: Load, number: signal.Signals) -> None:
    load.wait_for(0.3)
    scene.signal_server(number)
    scene.end()
    scene.start()


def kill_router(scene: Scene, load: Load) -> None:
    """The router's process, twice; the keeper revives it."""
    for share in (0.2, 0.6):
        load.wait_for(share)
        scene.router_kills_s.append(scene.kill(CASCADE))
        before = scene.stubs(CASCADE)
        while load.is_running and scene.stubs(CASCADE) in (before, []):
            time.sleep(0.1)


FAULTS = (
    Fault("a tier's process is killed", "kill-tier", kill_tiers),
    Fault("a tier is unloaded and loaded, then the router", "reload", reload_tiers, allowed=AWAY),
    Fault("a slow tier", "slow", slow_tiers, allowed=FULL),
    Fault("ten plans swapped, three corrupt", "plans", swap_plans),
    Fault("admission full", "full", nothing, allowed=FULL, limits={"rows_in_flight": FEW_ROWS}),
    Fault(
        "malformed requests",
        "malformed",
        nothing,
        mix={"plain": 0.5, "malformed": 0.5},
        allowed=(r"^INVALID_ARGUMENT: ",),
    ),
    Fault("NaN and infinite inputs", "odd", nothing, mix={"plain": 0.5, "odd": 0.5}),
    Fault(
        "clients cancel at random",
        "cancel",
        nothing,
        mix={"plain": 0.5, "cancelled": 0.5},
        allowed=(r"^CANCELLED: by the client",),
    ),
    Fault("deadlines that cannot be met", "deadline", nothing, mix={"plain": 0.5, "hopeless": 0.5}),
    Fault("SIGTERM of the server", "sigterm", terminate_server, allowed=GOING),
    Fault("SIGKILL of the server", "sigkill", kill_server, allowed=GOING),
    Fault("the router's process is killed", "kill-router", kill_router, allowed=(*ROUTER_GONE, *FULL)),
)
