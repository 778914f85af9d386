"""Where a chain is cut: against all possible cuts, and what cannot be cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_tools.errors import Infeasible, UsageError
from cascade_tools.planning.partition import Chain, CutPoint, held_bytes, partition

Score = tuple[float, int]


def chain(
    times: list[int], cuts: dict[int, int] | None = None, weights: list[dict[str, int]] | None = None
) -> Chain:
    """Nodes of whole milliseconds; without `cuts`, one byte crosses between any two of them."""
    found = cuts if cuts is not None else dict.fromkeys(range(1, len(times)), 1)
    points = tuple(CutPoint(position, crossing) for position, crossing in sorted(found.items()))
    return Chain("tiers.giant", times, weights or [{}] * len(times), points)


def stages_of(cut: Chain, taken: tuple[CutPoint, ...]) -> list[range]:
    return [range(start, end) for start, end in pairwise(cut.edges(taken))]


def weights_of(cut: Chain, nodes: range) -> int:
    held: dict[str, int] = {}
    for node in nodes:
        held |= cut.weights[node]
    return sum(held.values())


def score(cut: Chain, taken: tuple[CutPoint, ...]) -> Score:
    """Time of the slowest stage, and the bytes that cross."""
    slowest = max(sum(cut.time_ms[node] for node in nodes) for nodes in stages_of(cut, taken))
    return slowest, sum(point.crossing_bytes for point in taken)


def possible(cut: Chain, stages: int, cap: int) -> list[tuple[CutPoint, ...]]:
    """All ways to take the cuts whose stages hold no more than the cap."""
    return [
        taken
        for taken in combinations(cut.cuts, stages - 1)
        if all(weights_of(cut, nodes) <= cap for nodes in stages_of(cut, taken))
    ]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    nodes = draw(st.integers(1, 9))
    times = draw(st.lists(st.integers(0, 9), min_size=nodes, max_size=nodes))
    places = draw(st.sets(st.integers(1, nodes - 1))) if nodes > 1 else set()
    cuts = {place: draw(st.integers(0, 5)) for place in places}
    sizes = {name: draw(st.integers(0, 9)) for name in "abcd"}
    names = st.sets(st.sampled_from("abcd"))
    weights = [{name: sizes[name] for name in draw(names)} for _ in range(nodes)]
    return chain(times, cuts, weights)


@given(chains(), st.integers(1, 6), st.integers(0, 40), st.sampled_from([0.0, 0.25, 1.0]))
def test_no_other_cuts_are_better(cut: Chain, stages: int, cap: int, slack: float) -> None:
    if stages > len(cut.cuts) + 1:
        with pytest.raises(UsageError, match=r"tiers\.giant: "):
            partition(cut, stages, cap_bytes=cap, slack=slack)
        return
    ways = possible(cut, stages, cap)
    if not ways:
        with pytest.raises(Infeasible):
            partition(cut, stages, cap_bytes=cap, slack=slack)
        return
    taken = partition(cut, stages, cap_bytes=cap, slack=slack)
    assert taken in ways
    limit = (1.0 + slack) * min(score(cut, way)[0] for way in ways)
    near = [score(cut, way) for way in ways if score(cut, way)[0] <= limit]
    slowest, crossing = score(cut, taken)
    assert (crossing, slowest) == min((crossing, slowest) for slowest, crossing in near)


@given(chains(), st.integers(1, 6), st.integers(0, 40))
def test_the_smallest_count_that_fits_is_told(cut: Chain, stages: int, cap: int) -> None:
    counts = [count for count in range(1, len(cut.cuts) + 2) if possible(cut, count, cap)]
    if stages > len(cut.cuts) + 1 or stages in counts:
        return
    with pytest.raises(Infeasible) as caught:
        partition(cut, stages, cap_bytes=cap)
    assert caught.value.constraint == "memory"
    assert caught.value.details.get("smallest_stages") == min(counts, default=None)
    if counts:
        assert partition(cut, min(counts), cap_bytes=cap)[: min(counts) - 1] in possible(
            cut, min(counts), cap
        )


@given(chains())
def test_a_weight_counts_once_in_a_stage(cut: Chain) -> None:
    edges = cut.edges(cut.cuts)
    held = held_bytes(cut, edges)
    for i, j in combinations(range(len(edges)), 2):
        assert held[i, j] == weights_of(cut, range(edges[i], edges[j]))


def test_the_slowest_stage_is_as_fast_as_it_can_be() -> None:
    assert [point.position for point in partition(chain([4, 1, 1, 1, 1, 4]), 3)] == [1, 5]
    assert [point.position for point in partition(chain([1, 1, 1, 1, 4]), 2)] == [4]


def test_of_equally_fast_cuts_the_one_with_fewer_bytes_is_taken() -> None:
    cut = chain([3, 0, 0, 3], {1: 9, 2: 2, 3: 5})
    assert partition(cut, 2) == (CutPoint(2, 2),)


def test_slack_buys_fewer_bytes() -> None:
    cut = chain([10] * 10, {5: 100, 6: 1})
    assert partition(cut, 2) == (CutPoint(5, 100),)
    assert partition(cut, 2, slack=0.1) == (CutPoint(5, 100),)
    assert partition(cut, 2, slack=0.2) == (CutPoint(6, 1),)


def test_the_times_of_stages_are_those_of_their_nodes() -> None:
    assert chain([1, 2, 3, 4]).stage_times([CutPoint(1, 1), CutPoint(3, 1)]) == (1, 5, 4)


def test_one_stage_needs_no_cut() -> None:
    assert partition(chain([1], {}), 1) == ()


def test_tied_weights_are_held_by_both_stages() -> None:
    tied = [{"embedding": 100}, {"a": 10}, {"b": 10}, {"embedding": 100}]
    cut = chain([1, 1, 1, 1], None, tied)
    assert partition(cut, 2, cap_bytes=110) == (CutPoint(2, 1),)
    with pytest.raises(Infeasible) as caught:
        partition(cut, 1, cap_bytes=119)
    assert caught.value.details == {"smallest_stages": 2}


def test_too_few_cut_points_are_counted() -> None:
    with pytest.raises(UsageError) as caught:
        partition(chain([1] * 9, {2: 1, 4: 1, 6: 1}), 8)
    assert caught.value.message == (
        "tiers.giant: 8 stages: the graph has only 3 cut points, so at most 4 stages"
    )
    assert "4" in caught.value.hint


def test_a_graph_without_a_cut_point_says_so() -> None:
    with pytest.raises(UsageError, match="2 stages: the graph has no cut point"):
        partition(chain([1, 1], {}), 2)


def test_a_cap_that_needs_more_stages_says_how_many() -> None:
    mib = 2**20
    cut = chain([1] * 4, None, [{str(node): mib} for node in range(4)])
    with pytest.raises(Infeasible) as caught:
        partition(cut, 2, cap_bytes=mib)
    assert caught.value.message == (
        "tiers.giant: 2 stages do not keep the cap of 1.0 MiB for the weights of one stage; "
        "the smallest count that does is 4"
    )


def test_a_part_that_never_fits_says_what_it_holds() -> None:
    cut = chain([1, 1, 1], {1: 1}, [{}, {"a": 2**20}, {"b": 2**20}])
    with pytest.raises(Infeasible, match=r"a part without a cut point holds 2\.0 MiB") as caught:
        partition(cut, 2, cap_bytes=2**20)
    assert caught.value.details == {}
