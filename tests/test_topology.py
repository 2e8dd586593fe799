"""Topologies are values; rewiring keeps their budget and every kept weight: properties, and cases worked by hand."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from topology_cases import assert_uniform, bits, seeded, topologies

from sparse_rl.topology import (
    SET,
    Static,
    Topology,
    drop_by_magnitude,
    grow_at_random,
    rewire,
    without,
)
from sparse_rl.topology.topology import sample_distinct

quick = settings(max_examples=40, deadline=None)

# Topologies


def test_a_topology_worked_by_hand() -> None:
    topology = Topology.from_positions((3, 4), torch.tensor([11, 1, 8, 3]))
    assert topology.row_ptr.tolist() == [0, 2, 2, 4]
    assert topology.columns.tolist() == [1, 3, 0, 3]
    assert topology.rows.tolist() == [0, 0, 2, 2]
    assert topology.positions.tolist() == [1, 3, 8, 11]
    assert topology.mask().int().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert (topology.active, topology.size, topology.density) == (4, 12, 4 / 12)
    assert (topology.row_ptr.dtype, topology.columns.dtype) == (torch.int32, torch.int32)
    assert repr(topology) == "Topology(shape=(3, 4), active=4, density=0.3333)"
    topology.validate()


@quick
@given(topologies())
def test_positions_and_masks_describe_a_topology_completely(topology: Topology) -> None:
    assert Topology.from_positions(topology.shape, topology.positions) == topology
    assert Topology.from_positions(topology.shape, topology.positions.flip(0)) == topology
    assert Topology.from_mask(topology.mask()) == topology
    assert Topology.from_mask(topology.mask().float() * -0.5) == topology
    assert topology.mask().sum() == topology.active


@quick
@given(topologies())
def test_random_topologies_are_sorted_unique_in_range_and_of_the_exact_size(topology: Topology) -> None:
    topology.validate()
    assert bool((topology.positions.diff() > 0).all())
    assert topology.positions.min() >= 0
    assert topology.positions.max() < topology.size
    assert topology.row_ptr[-1] == topology.active == topology.columns.numel()


@quick
@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_a_random_topology_has_exactly_the_weights_it_was_asked_for(data: st.DataObject, rows: int, cols: int) -> None:
    active = data.draw(st.integers(1, rows * cols))
    assert Topology.random((rows, cols), active).active == active


def test_topologies_are_equal_when_shape_and_positions_are() -> None:
    a = Topology.from_positions((2, 6), torch.tensor([1, 5]))
    assert a == Topology.from_positions((2, 6), torch.tensor([5, 1]))
    assert a == copy.deepcopy(a)
    assert a != Topology.from_positions((2, 6), torch.tensor([1, 6]))
    assert a != Topology.from_positions((3, 4), torch.tensor([1, 5]))
    assert a != "a topology"
    with pytest.raises(TypeError):
        hash(a)


def test_the_same_seed_draws_the_same_topology_and_another_seed_another() -> None:
    def draw(seed: int) -> Topology:
        return Topology.random((30, 40), 200, seeded(seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_without_a_generator_the_global_one_is_used() -> None:
    torch.manual_seed(5)
    a = Topology.random((30, 40), 200)
    torch.manual_seed(5)
    assert Topology.random((30, 40), 200) == a


@pytest.mark.parametrize("active", [1, 6, 15, 19])
def test_every_position_is_equally_likely(active: int) -> None:
    assert_uniform(lambda g: Topology.random((4, 5), active, g).positions, 20, active)


@pytest.mark.parametrize(("population", "count"), [(12, 4), (12, 9), (20, 1), (100, 50)])
def test_samples_are_distinct_and_uniform(population: int, count: int) -> None:
    assert_uniform(lambda g: sample_distinct(population, count, g), population, count)


@pytest.mark.parametrize("count", [3, 9])
def test_samples_come_in_random_order(count: int) -> None:
    assert_uniform(lambda g: sample_distinct(12, count, g)[-1:], 12, 1)


@pytest.mark.parametrize(("population", "count"), [(0, 0), (1, 0), (1, 1), (7, 7), (10**12, 5)])
def test_samples_of_extreme_sizes(population: int, count: int) -> None:
    sample = sample_distinct(population, count, seeded(0))
    assert sample.dtype == torch.int64
    assert sample.unique().numel() == count
    assert bool((sample < population).all())


@pytest.mark.parametrize(
    ("row_ptr", "columns", "message"),
    [
        ([0, 2, 3, 4], [0, 3, 1, 2], None),
        ([0, 2, 4], [0, 3, 1, 2], "Row pointers must run from 0 to 4 in 4 steps."),
        ([0, 2, 3, 4, 4], [0, 3, 1, 2], "Row pointers must run from 0 to 4 in 4 steps."),
        ([1, 2, 3, 4], [0, 3, 1, 2], "Row pointers must run from 0 to 4 in 4 steps."),
        ([0, 2, 3, 5], [0, 3, 1, 2], "Row pointers must run from 0 to 4 in 4 steps."),
        ([0, 2, 3, 3], [0, 3, 1, 2], "Row pointers must run from 0 to 4 in 4 steps."),
        ([0, 3, 2, 4], [0, 3, 1, 2], "Row pointers must not decrease."),
        ([0, 9, 3, 4], [0, 3, 1, 2], "Row pointers must not decrease."),
        ([0, 2, 3, 4], [0, 4, 1, 2], "Columns must lie in [0, 4)."),
        ([0, 2, 3, 4], [-1, 3, 1, 2], "Columns must lie in [0, 4)."),
        ([0, 2, 3, 4], [3, 0, 1, 2], "The columns of a row must be strictly increasing."),
        ([0, 2, 3, 4], [3, 3, 1, 2], "The columns of a row must be strictly increasing."),
    ],
)
def test_validate_finds_each_kind_of_corruption(row_ptr: list[int], columns: list[int], message: str | None) -> None:
    topology = Topology((3, 4), torch.tensor(row_ptr, dtype=torch.int32), torch.tensor(columns, dtype=torch.int32))
    if message is None:
        topology.validate()
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            topology.validate()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Topology.random((2, 3), 0), "A layer of shape (2, 3) can keep between 1 and 6 weights, not 0"),
        (lambda: Topology.random((2, 3), 7), "between 1 and 6 weights, not 7"),
        (lambda: Topology.random((0, 3), 1), "at least one output and one input, not shape (0, 3)"),
        (lambda: Topology.from_positions((2, 3), torch.tensor([6])), "Positions must lie in [0, 6)"),
        (lambda: Topology.from_positions((2, 3), torch.tensor([-1, 2])), "Positions must lie in [0, 6)"),
        (lambda: Topology.from_positions((2, 3), torch.tensor([4, 1, 4])), "Positions must be unique"),
    ],
)
def test_impossible_topologies_are_refused(make: Callable[[], Topology], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# Rewiring


@pytest.mark.parametrize(
    ("count", "dropped"),
    [
        (0, []),
        (1, [5]),
        (2, [1, 5]),  # |-0.1| ties with |0.1|: the first goes
        (3, [1, 4, 5]),
        (4, [1, 2, 4, 5]),
        (5, [1, 2, 3, 4, 5]),
        (6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_smallest_magnitudes_are_dropped_whatever_their_sign(count: int, dropped: list[int]) -> None:
    values = torch.tensor([0.5, -0.1, 0.3, -0.4, 0.1, 0.0], requires_grad=True)
    assert drop_by_magnitude(values, count).tolist() == dropped


def test_of_many_ties_exactly_as_many_are_dropped_as_asked() -> None:
    assert drop_by_magnitude(torch.tensor([0.0, 1.0, -0.0, 0.0, 0.0]), 3).tolist() == [0, 2, 3]


@pytest.mark.parametrize("count", [-1, 4])
def test_weights_that_do_not_exist_cannot_be_dropped(count: int) -> None:
    with pytest.raises(ValueError, match=f"Cannot drop {count} of 3 weights"):
        drop_by_magnitude(torch.ones(3), count)


@quick
@given(topologies(), st.data())
def test_growth_never_picks_an_active_position(topology: Topology, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, topology.size - topology.active))
    grown = grow_at_random(topology, count, seeded(data.draw(st.integers(0, 100))))
    assert grown.unique().numel() == count
    assert not topology.mask().flatten()[grown].any()


@quick
@given(topologies())
def test_growing_everything_fills_the_layer(topology: Topology) -> None:
    grown = grow_at_random(topology, topology.size - topology.active)
    assert sorted(grown.tolist()) == (~topology.mask()).flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize("count", [1, 3, 10])
def test_growth_is_uniform_over_the_inactive_positions(count: int) -> None:
    topology = Topology.from_positions((3, 6), torch.tensor([0, 1, 2, 7, 12, 17]))
    inactive = (~topology.mask()).flatten().nonzero().flatten().tolist()
    rank = torch.full((18,), -1)
    rank[inactive] = torch.arange(12)
    assert_uniform(lambda g: rank[grow_at_random(topology, count, g)], 12, count)


@pytest.mark.parametrize("count", [-1, 5])
def test_there_must_be_room_to_grow(count: int) -> None:
    topology = Topology.from_positions((2, 3), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=f"Cannot grow {count} weights: only 4 positions are inactive"):
        grow_at_random(topology, count)


def test_a_rewiring_worked_by_hand() -> None:
    before = Topology.from_positions((2, 3), torch.tensor([0, 2, 4, 5]))
    rewiring = rewire(before, dropped=torch.tensor([1, 3]), grown=torch.tensor([3, 2]))
    assert rewiring.before is before
    assert rewiring.after.positions.tolist() == [0, 2, 3, 4]
    assert rewiring.source.tolist() == [0, -1, -1, 2]  # position 2 was dropped and grown again: it is new
    assert (rewiring.n_dropped, rewiring.n_grown) == (2, 2)
    assert rewiring.carry(torch.tensor([10.0, 20.0, 30.0, 40.0])).tolist() == [10, 0, 0, 30]
    assert before.positions.tolist() == [0, 2, 4, 5]


def test_a_topology_can_shrink_to_nothing_and_grow_from_it() -> None:
    full = Topology.from_positions((2, 2), torch.arange(4))
    empty = without(full, torch.arange(4))
    empty.validate()
    assert empty.active == 0
    assert sorted(grow_at_random(empty, 4).tolist()) == [0, 1, 2, 3]
    assert without(full, torch.tensor([0, 2])).positions.tolist() == [1, 3]


def test_a_rewiring_lives_where_its_topology_does() -> None:
    before, dropped, grown = Topology.random((5, 6), 10), torch.tensor([1]), torch.empty(0, dtype=torch.int64)
    with torch.device("meta"):  # whatever names no device ends up there
        rewirings = [rewire(before, dropped, grown), Static().propose(before, torch.ones(10), 0)]
    for rewiring in rewirings:
        assert rewiring.after.device == rewiring.source.device == before.device == torch.device("cpu")


def test_a_position_that_is_still_active_cannot_be_grown() -> None:
    topology = Topology.from_positions((2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="Positions must be unique"):
        rewire(topology, torch.tensor([0]), torch.tensor([2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_what_is_carried_over_keeps_its_type(dtype: torch.dtype) -> None:
    topology = Topology.from_positions((2, 3), torch.tensor([0, 2]))
    carried = rewire(topology, torch.tensor([0]), torch.tensor([1])).carry(torch.tensor([7, 9], dtype=dtype))
    assert carried.dtype == dtype
    assert carried.tolist() == [0, 9]


@pytest.mark.parametrize("size", [1, 3])
def test_a_vector_of_another_topology_is_not_carried_over(size: int) -> None:
    topology = Topology.from_positions((2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=re.escape(f"Expected one entry per active weight, 2, not ({size},).")):
        Static().propose(topology, torch.ones(2), 0).carry(torch.ones(size))


@quick
@given(
    topologies(),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_under_any_rewiring_the_budget_is_kept_and_so_is_every_kept_weight_to_the_bit(
    topology: Topology, updates: list[tuple[float, int]], seed: int
) -> None:
    generator = seeded(seed)
    active = topology.active
    values, moment = (torch.randn(active, generator=generator) for _ in range(2))
    for fraction, step in updates:
        method = SET(drop_fraction=fraction)
        count = method.count_at(step, active)
        dropped = set(drop_by_magnitude(values, count).tolist())
        rewiring = method.propose(topology, values, step, generator)
        rewiring.after.validate()
        assert rewiring.after.active == active
        assert (rewiring.n_dropped, rewiring.n_grown) == (count, count)
        for old in (values, moment):
            kept = zip(topology.positions.tolist(), bits(old), strict=True)
            expected = {position: bit for index, (position, bit) in enumerate(kept) if index not in dropped}
            carried = zip(rewiring.after.positions.tolist(), bits(rewiring.carry(old)), strict=True)
            assert all(bit == expected.pop(position, 0) for position, bit in carried)
            assert not expected
        topology, values, moment = rewiring.after, rewiring.carry(values), rewiring.carry(moment)
        values = torch.where(values == 0, torch.randn(active, generator=generator), values)  # some training
