"""The router inside a real Triton, asked by plain tritonclient."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from cascade_tools.artifacts import GearPlan, ScoreTable
from cascade_tools.models.usercode import Rows
from cascade_tools.planning.evaluate import Question, evaluate
from cascade_tools.runtime.batch import DEADLINE, DEGRADED, FALLBACK
from cascade_tools.runtime.counts import counts_path
from cascade_tools.serving.embedded import Server, embedded_triton
from cascade_tools.store import write_atomically

from .helpers import (
    INPUT,
    MODEL,
    PATIENCE_S,
    Arrays,
    Client,
    Predicted,
    Protocol,
    alone,
    flat,
    metric,
    plan_path,
    predict,
    put_plan,
    settled_metric,
    stubs,
    swapped_plan,
    to_bytes,
    wait_until,
    with_fallback,
    with_limits,
    with_policies,
    with_slow_tiers,
    with_trigger,
)

MAX_BATCH = 8
CLIENTS = 32
TIERS = ("near", "linear", "kernel")
CONFIDENCE_TOLERANCE = 1e-5

Answer = Any  # outputs by name, or what the server refused the request with
Json = dict[str, Any]
BOTH = pytest.mark.parametrize("protocol", ["grpc", "http"])


@pytest.fixture(scope="module")
def expected(tiers: tuple[Any, Any, Any], plan: GearPlan) -> Predicted:
    """What the plan's first gear makes of every test row."""
    return predict(tiers, TIERS, plan.gears[0].policy)


@pytest.fixture(scope="module")
def pixels(rows: Rows) -> npt.NDArray[np.float32]:
    return rows.inputs[INPUT]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server, "grpc") as one:
        yield one


def assert_right(answer: Arrays, expected: Predicted, index: npt.NDArray[Any]) -> None:
    """An answer is that of the rows of `index`, in their order."""
    assert all(len(values) == len(index) for values in answer.values())
    clear = expected.clear[index]
    np.testing.assert_array_equal(answer["TIER"][clear], expected.tier[index][clear])
    np.testing.assert_array_equal(answer["LABEL"][clear], expected.label[index][clear])
    np.testing.assert_allclose(
        answer["CONFIDENCE"][clear], expected.confidence[index][clear], atol=CONFIDENCE_TOLERANCE
    )
    np.testing.assert_allclose(
        answer["PROBS"][clear], expected.probabilities[index][clear], atol=CONFIDENCE_TOLERANCE
    )
    np.testing.assert_array_equal(answer["FLAGS"], 0)


def send_at_once(
    server: Server, parts: list[npt.NDArray[np.float32]], parameters: Sequence[Json | None] | None = None
) -> list[Answer]:
    """Every part as a request of its own, all under way at once; answers in the order of the parts."""

    async def send() -> list[Answer]:
        async with triton_aio.InferenceServerClient(server.grpc_url) as client:

            async def one(part: npt.NDArray[np.float32], own: Json | None) -> Answer:
                tensor = triton_grpc.InferInput(INPUT, list(part.shape), "FP32")
                tensor.set_data_from_numpy(part)
                try:
                    answer = await client.infer(MODEL, [tensor], parameters=own, client_timeout=PATIENCE_S)
                    return flat(answer)
                except InferenceServerException as error:
                    return error

            each = zip(parts, parameters or [None] * len(parts), strict=True)
            return list(await asyncio.gather(*[one(part, own) for part, own in each]))

    return asyncio.run(send())


# What is answered


@BOTH
def test_single_rows_are_answered_as_the_policy_says(
    server: Server, protocol: Protocol, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.arange(0, len(pixels), 2)
    with Client(server, protocol) as client:
        answers = [client.ask(pixels[i : i + 1]) for i in index]
    joined = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
    assert_right(joined, expected, index)
    assert set(joined["TIER"]) == {0, 1, 2}


def test_the_plan_that_the_chain_built_is_followed(
    server: Server,
    served: Path,
    client: Client,
    built_plan: GearPlan,
    tiers: tuple[Any, Any, Any],
    pixels: npt.NDArray[np.float32],
) -> None:
    predicted = predict(tiers, TIERS, built_plan.gears[0].policy)
    index = np.arange(0, len(pixels), 5)
    with swapped_plan(server, served, built_plan):
        answers = [client.ask(pixels[i : i + 1]) for i in index]
    joined = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
    assert_right(joined, predicted, index)


def test_accuracy_and_shares_are_those_that_the_search_predicts(
    server: Server, client: Client, plan: GearPlan, rows: Rows, tiers: tuple[Any, Any, Any]
) -> None:
    label, confidence, _ = tiers
    table = ScoreTable(
        tiers=TIERS,
        confidence=confidence,
        label=label,
        target=rows.target,
        group=rows.group,
        split=np.full(len(rows), "search"),
    )
    nothing = Question((0.0,) * 3, 100.0)
    wanted = evaluate(table, plan.gears[0].policy, nothing)
    pixels = rows.inputs[INPUT]
    answers = [client.ask(pixels[s : s + MAX_BATCH]) for s in range(0, len(pixels), MAX_BATCH)]
    found_label = np.concatenate([a["LABEL"] for a in answers])
    found_tier = np.concatenate([a["TIER"] for a in answers])
    assert float((found_label == rows.target).mean()) == pytest.approx(wanted.accuracy)
    for number, tier in enumerate(TIERS):
        assert float((found_tier == number).mean()) == pytest.approx(wanted.answers[tier])


@BOTH
@pytest.mark.parametrize("size", range(1, MAX_BATCH + 1))
def test_requests_of_several_rows_are_answered_in_order(
    server: Server,
    protocol: Protocol,
    size: int,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    # Neighbours from every tier, so that most requests are answered in several steps.
    mixed = np.argsort(np.random.default_rng(size).random(len(pixels)))
    with Client(server, protocol) as client:
        for start in range(0, 6 * size, size):
            index = mixed[start : start + size]
            assert_right(client.ask(pixels[index]), expected, index)


@pytest.mark.parametrize("inline_entry_ms", [1000.0, 0.0], ids=["inline", "handed off"])
def test_concurrent_requests_all_get_their_own_answers(
    server: Server,
    served: Path,
    plan: GearPlan,
    inline_entry_ms: float,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    rng = np.random.default_rng(0)
    indices = [rng.integers(len(pixels), size=rng.integers(1, MAX_BATCH + 1)) for _ in range(400)]
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with swapped_plan(server, served, with_limits(plan, inline_entry_ms=inline_entry_ms)):
        client = triton_grpc.InferenceServerClient(server.grpc_url)
        try:
            for number, index in enumerate(indices):
                tensor = triton_grpc.InferInput(INPUT, [len(index), pixels.shape[1]], "FP32")
                tensor.set_data_from_numpy(pixels[index])
                client.async_infer(
                    MODEL,
                    [tensor],
                    callback=lambda result, error: answers.put((result, error)),
                    request_id=str(number),
                )
            seen = set()
            for _ in indices:
                result, error = answers.get(timeout=PATIENCE_S)
                assert error is None
                number = int(result.get_response().id)
                assert_right(flat(result), expected, indices[number])
                seen.add(number)
        finally:
            client.close()
    assert seen == set(range(len(indices)))
    assert answers.empty()


# What is refused


def wrong_requests(pixels: npt.NDArray[np.float32]) -> dict[str, tuple[dict[str, Any], str]]:
    """Arguments of `Client.ask`, and what the error must say."""
    return {
        "too many rows": ({"pixels": pixels[: MAX_BATCH + 1]}, rf"batch-size must be <= {MAX_BATCH}"),
        "no rows": ({"pixels": pixels[:0]}, r"PIXELS"),
        "wrong width": ({"pixels": pixels[:2, :5]}, r"shape for input 'PIXELS'.*\[2,5\]"),
        "no batch dimension": ({"pixels": pixels[0]}, r"small"),
        "wrong type": (
            {"pixels": pixels[:2].astype(np.float64), "datatype": "FP64"},
            r"'FP64'.*'FP32'",
        ),
        "wrong name": ({"pixels": pixels[:2], "name": "IMAGE"}, r"'IMAGE'"),
        "unknown model": ({"pixels": pixels[:2], "model": "nobody"}, r"'nobody'"),
    }


@BOTH
@pytest.mark.parametrize("what", wrong_requests(np.zeros((1, 1), np.float32)))
def test_a_wrong_request_is_a_clear_error_and_the_server_goes_on(
    server: Server,
    protocol: Protocol,
    what: str,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    arguments, message = wrong_requests(pixels)[what]
    with Client(server, protocol) as client:
        with pytest.raises(InferenceServerException, match=message):
            client.ask(**arguments)
        index = np.arange(MAX_BATCH)
        assert_right(client.ask(pixels[index]), expected, index)


@BOTH
@pytest.mark.parametrize("parameters", [{"deadline_ms": "soon"}, {"deadline_unix_ms": ""}])
def test_a_deadline_that_is_no_number_is_refused_by_name(
    server: Server, protocol: Protocol, parameters: dict[str, str], pixels: npt.NDArray[np.float32]
) -> None:
    refused = pytest.raises(InferenceServerException, match=next(iter(parameters)))
    with Client(server, protocol) as client, refused as caught:
        client.ask(pixels[:1], parameters=parameters)
    assert "model.py" not in caught.value.message(), "no traceback"


def test_a_wrong_deadline_does_not_harm_requests_of_the_same_batch(
    server: Server, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.arange(CLIENTS)
    parameters = [{"deadline_ms": "soon"} if i % 4 == 0 else None for i in index]
    for _ in range(5):
        answers = send_at_once(server, [pixels[i : i + 1] for i in index], parameters)
        for row, answer in zip(index, answers, strict=True):
            assert isinstance(answer, InferenceServerException) == (row % 4 == 0)
            if row % 4:
                assert_right(answer, expected, np.array([row]))


def test_requests_with_a_wrong_deadline_do_not_use_up_the_admission(
    server: Server,
    served: Path,
    plan: GearPlan,
    client: Client,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    with swapped_plan(server, served, with_limits(plan, rows_in_flight=MAX_BATCH)):
        assert_right(client.ask(pixels[:1]), expected, np.arange(1))
        for _ in range(2):
            with pytest.raises(InferenceServerException):
                client.ask(pixels[:MAX_BATCH], parameters={"deadline_ms": "soon"})
        assert_right(client.ask(pixels[:MAX_BATCH]), expected, np.arange(MAX_BATCH))


# Deadlines


def test_rows_whose_next_tier_would_be_late_are_answered_at_once(
    server: Server,
    served: Path,
    plan: GearPlan,
    client: Client,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    with swapped_plan(server, served, with_slow_tiers(plan, 60_000.0)):
        before = settled_metric(server, "cascade_deadline")
        answer = client.ask(pixels[:MAX_BATCH], parameters={"deadline_ms": 10_000})
        after = settled_metric(server, "cascade_deadline")
    late = expected.tier[:MAX_BATCH] > 0
    assert late.any()
    np.testing.assert_array_equal(answer["TIER"], 0)
    np.testing.assert_array_equal(answer["LABEL"], expected.tier_label[:MAX_BATCH, 0])
    np.testing.assert_array_equal(answer["FLAGS"], np.where(late, DEADLINE, 0))
    assert after - before == late.sum()


@BOTH
def test_a_short_deadline_gives_final_answers_or_flagged_ones_of_an_earlier_tier(
    server: Server, protocol: Protocol, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    flagged = 0
    with Client(server, protocol) as client:
        for row in np.flatnonzero(expected.clear)[:60].tolist():
            answer = client.ask(pixels[row : row + 1], parameters={"deadline_ms": 1})
            tier, flags = int(answer["TIER"][0]), int(answer["FLAGS"][0])
            assert flags in (0, DEADLINE)
            assert answer["LABEL"][0] == expected.tier_label[row, tier]
            if flags:
                assert tier < expected.tier[row]
                flagged += 1
            else:
                assert tier == expected.tier[row]
        answer = client.ask(pixels[:1], parameters={"deadline_ms": -1})
        assert answer["TIER"][0] == 0, "a deadline in the past takes the first answer"
    assert flagged <= (expected.tier > 0).sum()


def test_a_deadline_far_ahead_changes_nothing(
    client: Client, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.arange(MAX_BATCH)
    in_an_hour_ms = int(1000 * (time.time() + 3600))
    for parameters in ({"deadline_ms": 3_600_000}, {"deadline_unix_ms": in_an_hour_ms}):
        assert_right(client.ask(pixels[index], parameters=parameters), expected, index)


def test_a_deadline_of_the_wall_clock_that_has_passed_takes_the_first_answer(
    client: Client, pixels: npt.NDArray[np.float32]
) -> None:
    passed = int(1000 * (time.time() - 1))
    answer = client.ask(pixels[:MAX_BATCH], parameters={"deadline_unix_ms": passed})
    np.testing.assert_array_equal(answer["TIER"], 0)


# Metrics


def test_cheap_tiers_run_in_the_routers_own_process(
    server: Server, client: Client, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    with triton_grpc.InferenceServerClient(server.grpc_url) as other:

        def calls() -> list[int]:
            found = [other.get_inference_statistics(f"{MODEL}_{tier}", as_json=True) for tier in TIERS]
            return [int(s["model_stats"][0].get("inference_count", 0)) for s in found]

        before = calls()
        index = np.flatnonzero(expected.clear)[:64]
        answers = [client.ask(pixels[i : i + 1]) for i in index]
        assert_right(
            {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}, expected, index
        )
        assert calls() == before


def test_metrics_count_every_row_once(
    server: Server, client: Client, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.flatnonzero(expected.clear)[: 12 * MAX_BATCH]
    names = ("cascade_failed", "cascade_rejected", "cascade_degraded", "cascade_deadline")

    def read() -> dict[str, float]:
        return {
            **{tier: metric(server, "cascade_answers", tier=tier) for tier in TIERS},
            "all": metric(server, "cascade_answers"),
            "entries": metric(server, "cascade_confidence_bucket", tier="near", le="+Inf"),
            "escalations": metric(server, "cascade_escalations", source="near"),
            "requests": metric(server, "cascade_latency_ms_bucket", le="+Inf"),
            **{name: metric(server, name) for name in names},
        }

    settled_metric(server, "cascade_answers")
    before = read()
    for start in range(0, len(index), MAX_BATCH):
        client.ask(pixels[index[start : start + MAX_BATCH]])
    wait_until(
        lambda: metric(server, "cascade_answers") >= before["all"] + len(index),
        "all rows are counted",
    )
    settled_metric(server, "cascade_answers")
    grown = {name: value - before[name] for name, value in read().items()}
    tier = expected.tier[index]
    assert grown == {
        **{name: (tier == number).sum() for number, name in enumerate(TIERS)},
        "all": len(index),
        "entries": len(index),
        "escalations": (tier > 0).sum(),
        "requests": len(index) / MAX_BATCH,
        **dict.fromkeys(names, 0),
    }


# Plans that change while serving


def wait_for_more(answers: list[Arrays]) -> None:
    """Wait until a request was answered that began after this call."""
    known = len(answers)
    wait_until(lambda: len(answers) >= known + 2, "requests are answered")


def test_a_plan_is_taken_over_while_requests_are_answered(
    server: Server,
    served: Path,
    plan: GearPlan,
    tiers: tuple[Any, Any, Any],
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    index = np.arange(MAX_BATCH)
    giant = predict(tiers, TIERS, alone("kernel"))
    answers: list[Arrays] = []
    stop = threading.Event()

    def keep_asking() -> None:
        with Client(server, "grpc") as client:
            while not stop.is_set():
                answers.append(client.ask(pixels[index]))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        wait_for_more(answers)
        with swapped_plan(server, served, with_policies(plan, (alone("kernel"), None))):
            wait_for_more(answers)
        wait_for_more(answers)
    finally:
        stop.set()
        asking.join(PATIENCE_S)
    seen = ["kernel" if (a["TIER"] == 2).all() else "all" for a in answers]
    assert seen[0] == "all" and seen[-1] == "all" and "kernel" in seen
    for answer, policy in zip(answers, seen, strict=True):
        assert_right(answer, giant if policy == "kernel" else expected, index)


def changed(content: Json, **fields: Any) -> bytes:
    return json.dumps({**content, **fields}).encode()


def with_a_way_back(content: Json) -> bytes:
    """The first tier hands rows on to itself."""
    gear = copy.deepcopy(content["gears"][-1])
    gear["policy"]["routes"][0]["to"] = [0, 1, -1]
    return changed(content, gears=[gear])


# Contents that the router of the small cascade must not take over.
BROKEN_PLANS: dict[str, Callable[[Json], bytes]] = {
    "cut short": lambda content: changed(content)[:-20],
    "empty": lambda content: b"",
    "not an object": lambda content: b"[]",
    "another kind": lambda content: changed(content, kind="profile"),
    "another format": lambda content: changed(content, format=2),
    "no gears": lambda content: changed(content, gears=[]),
    "a field missing": lambda content: changed({k: v for k, v in content.items() if k != "ladder"}),
    "a way back": with_a_way_back,
    "another cascade": lambda content: changed(content, cascade="other"),
    "other inputs": lambda content: changed(content, inputs=[{"name": "IMAGE"}]),
    "other models": lambda content: changed(
        content, ladder=[{**tier, "model": f"other_{tier['tier']}"} for tier in content["ladder"]]
    ),
}


@pytest.mark.parametrize("what", BROKEN_PLANS)
def test_a_broken_plan_is_refused_and_answers_go_on(
    server: Server,
    served: Path,
    plan: GearPlan,
    client: Client,
    what: str,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    index = np.arange(MAX_BATCH)
    before = metric(server, "cascade_plan_refused")
    write_atomically(plan_path(served), BROKEN_PLANS[what](json.loads(to_bytes(plan))))
    try:
        wait_until(lambda: metric(server, "cascade_plan_refused") > before, "the plan is refused")
        for _ in range(5):
            assert_right(client.ask(pixels[index]), expected, index)
        assert settled_metric(server, "cascade_plan_refused") == before + 1, "counted once"
    finally:
        put_plan(server, served, to_bytes(plan))


@pytest.mark.parametrize("size", [1, MAX_BATCH])
def test_the_gear_follows_the_rate_up_and_down_again(
    server: Server, served: Path, plan: GearPlan, client: Client, size: int, pixels: npt.NDArray[np.float32]
) -> None:
    gears = with_policies(plan, (alone("kernel"), 60.0), (alone("near"), None))
    with swapped_plan(server, served, gears):
        assert client.ask(pixels[:1])["TIER"][0] == 2, "the first gear is the most accurate"
        wait_until(
            lambda: bool((client.ask(pixels[:MAX_BATCH])["TIER"] == 0).all()),
            "many rows at once reach the fast gear",
            every_s=0.0,
        )
        for _ in range(100):
            client.ask(pixels[:MAX_BATCH])
        wait_until(lambda: metric(server, "cascade_gear") == 1, "the metric names the gear")
        for _ in range(8):  # a few rows per second, and nothing waits
            time.sleep(0.25)
            slow = client.ask(pixels[:size])
        assert (slow["TIER"] == 2).all(), "at a low rate the accurate gear comes back"
        wait_until(lambda: metric(server, "cascade_gear") == 0, "the metric names the gear")


# Admission


def test_rows_that_wait_for_company_are_answered_as_without_it(
    server: Server, served: Path, plan: GearPlan, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    parts = np.array_split(np.flatnonzero(expected.clear)[:100], 40)
    with swapped_plan(server, served, with_trigger(plan, min_queue=MAX_BATCH, max_wait_ms=30.0)):
        answers = send_at_once(server, [pixels[part] for part in parts])
        alone = send_at_once(server, [pixels[parts[0]]])  # nobody else comes
    for part, answer in [*zip(parts, answers, strict=True), (parts[0], alone[0])]:
        assert_right(answer, expected, part)


def test_above_the_limit_rows_are_refused_at_once_and_the_others_answered(
    server: Server,
    served: Path,
    plan: GearPlan,
    client: Client,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
) -> None:
    with swapped_plan(server, served, with_limits(plan, rows_in_flight=1)):
        before = settled_metric(server, "cascade_rejected")
        index = np.arange(20 * CLIENTS) % len(pixels)
        answers: list[Answer] = []
        for start in range(0, len(index), CLIENTS):
            answers += send_at_once(server, [pixels[i : i + 1] for i in index[start : start + CLIENTS]])
        refused = [a for a in answers if isinstance(a, InferenceServerException)]
        for row, answer in zip(index, answers, strict=True):
            if not isinstance(answer, InferenceServerException):
                assert_right(answer, expected, np.array([row]))
        assert 0 < len(refused) < len(answers)
        assert {error.status() for error in refused} == {"StatusCode.UNAVAILABLE"}
        assert all("1 rows are in flight" in error.message() for error in refused)
        wait_until(
            lambda: metric(server, "cascade_rejected") == before + len(refused),
            "refused rows are counted",
        )
        for row in range(50):  # whatever was refused has not used up the limit
            assert_right(client.ask(pixels[row : row + 1]), expected, np.array([row]))


# Broken tiers


@pytest.fixture(scope="module")
def breakable(
    triton: None, served: Path, plan: GearPlan, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server to be broken; all its tiers are asked through the server."""
    folder = tmp_path_factory.mktemp("breakable")
    own = shutil.copytree(served, folder / "served")
    plan_path(own).write_bytes(to_bytes(with_fallback(plan, "linear", alone("near"))))
    (own / MODEL / "1" / "onnx_session.py").unlink()
    with embedded_triton(own, log=folder / "triton.log") as running:
        yield running
        # This Triton waits its whole exit timeout for a process that was killed; no test needs that.
        os.killpg(running.process.pid, signal.SIGKILL)


@pytest.fixture
def own_server(breakable: Server, pixels: npt.NDArray[np.float32]) -> Iterator[Server]:
    """The same with all tiers alive; what a test has killed is loaded again after it."""
    yield breakable
    with triton_http.InferenceServerClient(breakable.http_url) as control:
        for tier in TIERS:
            if not stubs(breakable, f"{MODEL}_{tier}"):
                control.unload_model(f"{MODEL}_{tier}")
                wait_until(lambda tier=tier: is_loaded(control, f"{MODEL}_{tier}"), "the tier is loaded")  # type: ignore[misc]
    with Client(breakable, "grpc") as client:
        wait_until(lambda: not client.ask(pixels[:MAX_BATCH])["FLAGS"].any(), "every tier answers again")


def is_loaded(control: triton_http.InferenceServerClient, model: str) -> bool:
    """Load it; false while the unload of before has not let go of it."""
    try:
        control.load_model(model)
    except InferenceServerException:
        return False
    return True


def kill_tier(server: Server, tier: str) -> None:
    """End the processes of one tier as a crash would."""
    victims = stubs(server, f"{MODEL}_{tier}")
    assert victims
    for victim in victims:
        victim.kill()
    wait_until(
        lambda: all(not v.is_running() or v.status() == psutil.STATUS_ZOMBIE for v in victims),
        "the tier's processes are gone",
    )


def test_a_killed_first_tier_is_answered_for_by_the_next_larger_one(
    own_server: Server, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.flatnonzero(expected.clear)[:MAX_BATCH]
    with Client(own_server, "grpc") as client:
        assert_right(client.ask(pixels[index]), expected, index)
        degraded = settled_metric(own_server, "cascade_degraded")
        kill_tier(own_server, "near")
        by_tier = np.zeros(3)
        for part in (index, np.flatnonzero(expected.clear)[MAX_BATCH : 2 * MAX_BATCH]):
            answer = client.ask(pixels[part])
            assert (answer["FLAGS"] & DEGRADED).all()
            np.testing.assert_array_equal(answer["LABEL"], expected.tier_label[part, answer["TIER"]])
            by_tier += np.bincount(answer["TIER"], minlength=3)
        assert by_tier[0] == 0 and by_tier[1] > 0
        assert settled_metric(own_server, "cascade_degraded") == degraded + 2 * MAX_BATCH
        assert metric(own_server, "cascade_failed") == 0


def test_several_instances_of_the_router_share_their_limit_and_their_metrics(
    triton: None,
    served: Path,
    plan: GearPlan,
    expected: Predicted,
    pixels: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    own = shutil.copytree(served, tmp_path / "served")
    config = own / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    plan_path(own).write_bytes(to_bytes(with_limits(plan, rows_in_flight=2 * MAX_BATCH)))
    index = np.flatnonzero(expected.clear)
    parts = np.array_split(index, 100)
    with embedded_triton(own, log=tmp_path / "triton.log") as running:
        assert len(stubs(running, MODEL)) == 2
        right = 0
        for _ in range(2):
            for part, answer in zip(parts, send_at_once(running, [pixels[p] for p in parts]), strict=True):
                if isinstance(answer, InferenceServerException):
                    assert f"{2 * MAX_BATCH} rows are in flight" in answer.message()
                else:
                    assert_right(answer, expected, part)
                    right += len(part)
        total = settled_metric(running, "cascade_answers")
        refused = metric(running, "cascade_rejected")
        assert total == right
        assert total + refused == 2 * len(index)
        counts = counts_path(running.process.pid, MODEL)
        assert np.fromfile(counts, np.int64).reshape(-1, 2)[:2, 0].tolist() == [0, 0]
        both = np.fromfile(counts, np.int64).reshape(-1, 2)[:2, 1]
        assert both.sum() == 2 * len(index) and both.min() > 0
    assert not counts.exists()


def test_without_the_last_tier_the_best_answer_so_far_is_given(
    own_server: Server, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.flatnonzero((expected.tier == 2) & expected.clear)[:MAX_BATCH]
    with Client(own_server, "grpc") as client:
        kill_tier(own_server, "kernel")
        answer = client.ask(pixels[index])
        assert (answer["FLAGS"] & DEGRADED).all()
        assert (answer["TIER"] < 2).all()
        np.testing.assert_array_equal(answer["LABEL"], expected.tier_label[index, answer["TIER"]])


def test_where_the_router_has_no_onnx_runtime_every_tier_is_asked_through_the_server(
    own_server: Server, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    index = np.flatnonzero(expected.clear)[:64]
    with Client(own_server, "grpc") as client:
        answers = [client.ask(pixels[i : i + 1]) for i in index]
    joined = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
    assert_right(joined, expected, index)
    with triton_grpc.InferenceServerClient(own_server.grpc_url) as other:
        for tier, name in enumerate(TIERS):
            stats = other.get_inference_statistics(f"{MODEL}_{name}", as_json=True)["model_stats"][0]
            assert int(stats["inference_count"]) >= (expected.tier[index] == tier).sum() > 0


def test_a_killed_middle_tier_degrades_only_the_rows_that_need_it(
    own_server: Server, expected: Predicted, pixels: npt.NDArray[np.float32]
) -> None:
    answered_by = [np.flatnonzero((expected.tier == tier) & expected.clear)[0] for tier in (0, 1)]
    index = np.array(answered_by)
    with Client(own_server, "grpc") as client:
        kill_tier(own_server, "linear")
        answer = client.ask(pixels[index])
        np.testing.assert_array_equal(answer["TIER"], [0, 2])
        np.testing.assert_array_equal(answer["FLAGS"], [0, DEGRADED])
        np.testing.assert_array_equal(answer["LABEL"], expected.tier_label[index, [0, 2]])
        # It keeps failing, so it is left alone and the plan's routes without it serve.
        wait_until(lambda: set(client.ask(pixels[index])["FLAGS"]) == {FALLBACK}, "the fallback gear serves")
        answer = client.ask(pixels[index])
        np.testing.assert_array_equal(answer["TIER"], [0, 0])
        np.testing.assert_array_equal(answer["LABEL"], expected.tier_label[index, [0, 0]])
        assert settled_metric(own_server, "cascade_tier_broken", tier="linear") == 1
        assert metric(own_server, "cascade_tier_broken", tier="near") == 0
        assert metric(own_server, "cascade_fallback") >= 2


def test_without_any_tier_requests_fail_by_name_and_the_server_stays(
    breakable: Server, pixels: npt.NDArray[np.float32]
) -> None:
    with Client(breakable, "grpc") as client:
        for tier in TIERS:
            kill_tier(breakable, tier)
        with pytest.raises(
            InferenceServerException, match="tier near and all larger ones did not answer"
        ) as e:
            client.ask(pixels[:MAX_BATCH])
        assert e.value.status() == "StatusCode.UNAVAILABLE"
        assert settled_metric(breakable, "cascade_failed") == MAX_BATCH
        assert breakable.process.poll() is None
