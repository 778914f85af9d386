"""The load that the score is taken with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_tools.artifacts import GearPlan
from cascade_tools.errors import CascadeError
from cascade_tools.models.usercode import Rows
from cascade_tools.serving.embedded import Server, free_ports
from cascade_tools.serving.load import run_load

from .helpers import INPUT, MODEL, predict

DATATYPES = {INPUT: "FP32"}
TIERS = ("near", "linear", "kernel")


def test_outputs_come_back_in_the_order_of_the_rows(
    server: Server, rows: Rows, tiers: tuple[Any, Any, Any], plan: GearPlan
) -> None:
    expected = predict(tiers, TIERS, plan.gears[0].policy)
    load = run_load(server.grpc_url, MODEL, rows.inputs, DATATYPES, 32, ("LABEL", "TIER"))
    assert set(load.outputs) == {"LABEL", "TIER"}
    clear = expected.clear
    np.testing.assert_array_equal(load.outputs["LABEL"][clear], expected.label[clear])
    np.testing.assert_array_equal(load.outputs["TIER"][clear], expected.tier[clear])


def test_times_and_throughput_fit_together(server: Server, rows: Rows) -> None:
    few = rows.take(slice(0, 100))
    load = run_load(server.grpc_url, f"{MODEL}_near", few.inputs, DATATYPES, 4, ("LABEL",))
    assert load.latency_ms.shape == (100,)
    assert (load.latency_ms > 0).all()
    assert load.throughput_rps == pytest.approx(100 / load.wall_s)
    # Four clients at a time: together they waited at most four times as long as the whole took.
    assert load.latency_ms.sum() <= 4 * 1000 * load.wall_s
    assert load.latency_ms.max() <= 1000 * load.wall_s
    assert load.client_cpu_s > 0


def test_fewer_rows_than_clients_are_sent_once_each(server: Server, rows: Rows) -> None:
    few = rows.take(slice(0, 3))
    load = run_load(server.grpc_url, f"{MODEL}_kernel", few.inputs, DATATYPES, 32, ("LABEL",))
    assert load.outputs["LABEL"].shape == (3,)
    assert (load.latency_ms > 0).all()


def test_an_unknown_model_is_named(server: Server, rows: Rows) -> None:
    with pytest.raises(CascadeError, match="nobody") as caught:
        run_load(server.grpc_url, "nobody", rows.inputs, DATATYPES, 2, ("LABEL",))
    assert len(caught.value.message.splitlines()) == 1


def test_a_server_that_is_not_there_is_one_message(rows: Rows) -> None:
    url = f"127.0.0.1:{free_ports().grpc}"
    with pytest.raises(CascadeError, match=f"sending rows to {MODEL} failed"):
        run_load(url, MODEL, rows.inputs, DATATYPES, 2, ("LABEL",))
