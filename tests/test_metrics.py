"""Counts in memory, and what `flush` writes of them."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.runtime.metrics import CONFIDENCE_EDGES, LATENCY_EDGES_MS, Family, Metrics
from tests.helpers import run_in_threads, thread_switches_inside

COUNT = Family("rows", "Rows.", "counter")
OTHER = Family("others", "Others.", "counter")
LEVEL = Family("level", "Level.", "gauge")


class Log:
    """Stands where Triton is: remembers what is made, written and dropped, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def make_family(self, family: Family) -> LoggedFamily:
        self.events.append(("family", family.name))
        return LoggedFamily(self, family.name)

    def written(self) -> list[tuple[Any, ...]]:
        """Writes since the last call, sorted."""
        found = [event for event in self.events if event[0] in ("increment", "set")]
        self.events.clear()
        return sorted(found, key=repr)


class LoggedFamily:
    def __init__(self, log: Log, name: str) -> None:
        self._log = log
        self._name = name

    def Metric(self, labels: dict[str, str]) -> LoggedMetric:
        self._log.events.append(("metric", self._name, labels))
        return LoggedMetric(self._log, self._name, labels)

    def __del__(self) -> None:
        self._log.events.append(("family dropped", self._name))


class LoggedMetric:
    def __init__(self, log: Log, name: str, labels: dict[str, str]) -> None:
        self._log = log
        self._name = name
        self._labels = labels

    def increment(self, value: float) -> None:
        self._log.events.append(("increment", self._name, self._labels, value))

    def set(self, value: float) -> None:
        self._log.events.append(("set", self._name, self._labels, value))

    def __del__(self) -> None:
        self._log.events.append(("metric dropped", self._name))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def metrics(log: Log) -> Metrics:
    return Metrics(log.make_family, {"model": "digits"})


def test_nothing_is_written_before_a_flush(log: Log, metrics: Metrics) -> None:
    metrics.add(COUNT, 3)
    metrics.set(LEVEL, 1)
    assert log.events == []


def test_a_flush_writes_the_sum_since_the_last(log: Log, metrics: Metrics) -> None:
    metrics.add(COUNT, 3)
    metrics.add(COUNT)
    metrics.flush()
    assert log.written() == [("increment", "rows", {"model": "digits"}, 4.0)]
    metrics.add(COUNT, 2)
    metrics.flush()
    assert log.written() == [("increment", "rows", {"model": "digits"}, 2.0)]


def test_a_flush_writes_only_what_changed(log: Log, metrics: Metrics) -> None:
    metrics.add(COUNT, 3)
    metrics.add(OTHER, 1)
    metrics.flush()
    log.written()
    metrics.flush()
    assert log.written() == []
    metrics.add(OTHER, 1)
    metrics.flush()
    assert log.written() == [("increment", "others", {"model": "digits"}, 1.0)]


def test_a_gauge_is_set_to_its_latest_value(log: Log, metrics: Metrics) -> None:
    metrics.set(LEVEL, 2)
    metrics.set(LEVEL, 1)
    metrics.flush()
    assert log.written() == [("set", "level", {"model": "digits"}, 1)]


def test_labels_tell_metrics_of_one_family_apart(log: Log, metrics: Metrics) -> None:
    metrics.add(COUNT, 1, tier="tiny")
    metrics.add(COUNT, 2, tier="giant")
    metrics.add(COUNT, 4, tier="tiny")
    metrics.flush()
    assert [event[1:] for event in log.events if event[0] == "family"] == [("rows",)]
    assert log.written() == [
        ("increment", "rows", {"model": "digits", "tier": "giant"}, 2.0),
        ("increment", "rows", {"model": "digits", "tier": "tiny"}, 5.0),
    ]


def test_the_order_of_labels_does_not_matter(log: Log, metrics: Metrics) -> None:
    metrics.add(COUNT, 1, source="a", target="b")
    metrics.add(COUNT, 1, target="b", source="a")
    metrics.flush()
    assert [event[3] for event in log.written()] == [2.0]


def test_a_metric_is_made_once(log: Log, metrics: Metrics) -> None:
    for _ in range(3):
        metrics.add(COUNT)
        metrics.flush()
    assert [event[0] for event in log.events] == ["family", "metric", *["increment"] * 3]


def buckets(log: Log) -> dict[str, float]:
    return {event[2]["le"]: event[3] for event in log.written()}


def test_buckets_are_cumulative(log: Log, metrics: Metrics) -> None:
    metrics.observe(COUNT, [0.5, 1.5, 1.6, 9.0], (1.0, 2.0, 5.0))
    metrics.flush()
    assert buckets(log) == {"1": 1.0, "2": 3.0, "5": 3.0, "+Inf": 4.0}


def test_a_value_on_an_edge_is_inside_its_bucket(log: Log, metrics: Metrics) -> None:
    metrics.observe(COUNT, [2.0], (1.0, 2.0, 5.0))
    metrics.flush()
    assert buckets(log) == {"2": 1.0, "5": 1.0, "+Inf": 1.0}


def test_no_values_write_nothing(log: Log, metrics: Metrics) -> None:
    metrics.observe(COUNT, [], (1.0, 2.0))
    metrics.flush()
    assert log.events == []


@pytest.mark.parametrize("edges", [CONFIDENCE_EDGES, LATENCY_EDGES_MS])
def test_edges_rise_and_print_differently(edges: tuple[float, ...]) -> None:
    assert list(edges) == sorted(set(edges))
    assert len({f"{edge:g}" for edge in edges}) == len(edges)


@given(st.lists(st.floats(0.0, 2.0), max_size=30))
def test_a_bucket_counts_the_values_up_to_its_edge(values: list[float]) -> None:
    log = Log()
    metrics = Metrics(log.make_family, {})
    metrics.observe(COUNT, values, CONFIDENCE_EDGES, tier="tiny")
    metrics.flush()
    wanted = {f"{edge:g}": sum(v <= edge for v in values) for edge in CONFIDENCE_EDGES}
    wanted["+Inf"] = len(values)
    assert buckets(log) == {edge: count for edge, count in wanted.items() if count}


def test_close_flushes_and_never_deletes_a_metric(log: Log) -> None:
    # Of its own: the fixture's would be kept by the test as well.
    metrics = Metrics(log.make_family, {})
    metrics.add(COUNT, 1)
    metrics.flush()
    log.events.clear()
    metrics.add(COUNT, 7)
    metrics.close()
    del metrics
    gc.collect()
    assert [event[0] for event in log.events] == ["increment"]


def test_counts_of_many_threads_are_all_kept(log: Log, metrics: Metrics) -> None:
    def count() -> None:
        for _ in range(20):
            metrics.add(COUNT)

    with thread_switches_inside(Metrics.add):
        run_in_threads([count] * 4)
    metrics.flush()
    assert [event[3] for event in log.written()] == [80.0]


def test_no_count_is_lost_to_a_flush(log: Log, metrics: Metrics) -> None:
    def count() -> None:
        for _ in range(100):
            metrics.add(COUNT)

    def keep_flushing() -> None:
        for _ in range(30):
            metrics.flush()

    with thread_switches_inside(Metrics.add, Metrics.flush):
        run_in_threads([count, keep_flushing])
    metrics.flush()
    assert sum(event[3] for event in log.written()) == 100.0
