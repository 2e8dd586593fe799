"""Topologies, their rewiring, schedules and distributions: indices only, no layers."""

import copy
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_rl.topology import (
    SET,
    Rewiring,
    Static,
    Topology,
    UpdateSchedule,
    distribution,
    drop_by_magnitude,
    erdos_renyi,
    erk,
    grow_at_random,
    input_layer,
    rewire,
    uniform,
    without,
)
from sparse_rl.topology.topology import sample_distinct

quick = settings(max_examples=40, deadline=None)


@st.composite
def topologies(draw: st.DrawFn, largest: int = 12) -> Topology:
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    active = draw(st.integers(1, shape[0] * shape[1]))
    return Topology.random(shape, active, seeded(draw(st.integers(0, 1000))))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(values: Tensor) -> list[int]:
    return values.view(torch.int32).tolist()


def chi_square(counts: Tensor, draws: int, per_draw: int) -> float:
    """Of how often each of ``n`` items came up, ``per_draw`` distinct ones at a time: chi-square with n - 1 degrees."""
    n = counts.numel()
    p = per_draw / n
    return float(((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (n - 1) / n)


def assert_uniform(draw: Callable[[torch.Generator], Tensor], n: int, per_draw: int, draws: int = 2000) -> None:
    generator = seeded(0)
    counts = torch.zeros(n)
    for _ in range(draws):
        items = draw(generator)
        assert items.unique().numel() == per_draw
        counts[items] += 1
    spread = (2 * (n - 1)) ** 0.5
    assert n - 1 - 3 * spread < chi_square(counts, draws, per_draw) < n - 1 + 4 * spread


# -- topologies ------------------------------------------------------------------------------------------------------


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


# -- rewiring --------------------------------------------------------------------------------------------------------


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


# -- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "active", "count"),
    [
        (0.05, 43520, 2176),  # ANF on HalfCheetah-noise98
        (0.05, 19, 0),
        (0.05, 20, 1),
        (0.05, 39, 1),
        (0.3, 10, 3),  # 0.3 * 10 is just below 3 in binary, as is 0.29 * 100 below 29
        (0.29, 100, 29),
        (0.0, 1000, 0),
        (1.0, 1000, 1000),
    ],
)
def test_set_replaces_the_drop_fraction_rounded_down(fraction: float, active: int, count: int) -> None:
    method = SET(drop_fraction=fraction)
    assert method.count_at(1000, active) == count
    topology = Topology.random((256, 400), active, seeded(0))
    rewiring = method.propose(topology, torch.randn(active, generator=seeded(1)), 1000, seeded(2))
    assert rewiring.n_grown == rewiring.n_dropped == count


def test_set_proposes_the_same_for_the_same_seed() -> None:
    topology, values = Topology.random((20, 30), 100, seeded(0)), torch.randn(100, generator=seeded(1))
    a, b, c = (SET(0.5).propose(topology, values, 1, seeded(seed)) for seed in (3, 3, 4))
    assert a.after == b.after
    assert a.after != c.after


def test_set_in_a_full_layer_restarts_its_smallest_weights() -> None:
    topology = Topology.from_positions((1, 4), torch.arange(4))
    rewiring = SET(0.5).propose(topology, torch.tensor([4.0, -1.0, 2.0, -3.0]), 1)
    assert rewiring.after == topology
    assert rewiring.source.tolist() == [0, -1, -1, 3]


def test_set_grows_dropped_positions_again_as_often_as_others() -> None:
    topology, values = Topology.from_positions((1, 8), torch.arange(4)), torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert_uniform(lambda g: SET(0.5).propose(topology, values, 1, g).after.positions[2:] - 2, 6, 2)


def test_set_changes_less_as_its_drop_fraction_decays() -> None:
    topology, values = Topology.random((20, 30), 100, seeded(0)), torch.randn(100, generator=seeded(1))
    method = SET(0.5, decay="cosine", stop=1000)
    assert [method.propose(topology, values, step).n_grown for step in (0, 500, 1000, 1001)] == [50, 25, 0, 0]


def test_static_never_updates_and_proposes_nothing() -> None:
    topology = Topology.random((5, 6), 10)
    values = torch.randn(10)
    rewiring = Static().propose(topology, values, 1000)
    assert Static().updates_between(0, 10**9) == 0
    assert rewiring.after == topology
    assert (rewiring.n_dropped, rewiring.n_grown) == (0, 0)
    assert bits(rewiring.carry(values)) == bits(values)


# -- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (UpdateSchedule(), {0: 0.05, 1000: 0.05, 10**9: 0.05}),
        (UpdateSchedule(0.3, 100, stop=500), {0: 0.3, 500: 0.3, 501: 0.0}),
        (
            UpdateSchedule(0.4, 100, decay="cosine", stop=900),
            {0: 0.4, 300: 0.3, 450: 0.2, 600: 0.1, 900: 0.0, 901: 0.0, 1800: 0.0},
        ),
    ],
)
def test_drop_fraction_at_a_step(schedule: UpdateSchedule, table: dict[int, float]) -> None:
    assert {step: schedule.fraction_at(step) for step in table} == pytest.approx(table, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "now", "unlimited", "until_3500"),
    [
        (0, 0, 0, 0),
        (0, 999, 0, 0),
        (0, 1000, 1, 1),
        (999, 1000, 1, 1),
        (1000, 1000, 0, 0),
        (1000, 1001, 0, 0),
        (1000, 1999, 0, 0),
        (500, 3200, 3, 3),  # several at once
        (2999, 4000, 2, 1),
        (3000, 4000, 1, 0),
        (3400, 9000, 6, 0),
        (5000, 9000, 4, 0),
    ],
)
def test_updates_that_fall_due(before: int, now: int, unlimited: int, until_3500: int) -> None:
    assert UpdateSchedule().updates_between(before, now) == unlimited
    assert UpdateSchedule(stop=3500).updates_between(before, now) == until_3500


@quick
@given(st.integers(1, 50), st.none() | st.integers(1, 200), st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_no_update_is_lost_or_done_twice_however_often_one_looks(
    interval: int, stop: int | None, looks: list[int]
) -> None:
    assume(stop is None or stop >= interval)  # others end before they start, and are refused
    schedule = UpdateSchedule(update_interval=interval, stop=stop)
    looks = [0, *sorted(looks)]
    seen = sum(schedule.updates_between(a, b) for a, b in pairwise(looks))
    last = looks[-1] if stop is None else min(looks[-1], stop)
    assert seen == schedule.updates_between(0, looks[-1]) == len(range(interval, last + 1, interval))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_fraction": -0.1}, "The drop fraction must lie in [0, 1], not -0.1."),
        ({"drop_fraction": 1.1}, "The drop fraction must lie in [0, 1], not 1.1."),
        ({"drop_fraction": float("nan")}, "not nan"),
        ({"update_interval": 0}, "The update interval must be at least 1 gradient step, not 0."),
        ({"decay": "cosin", "stop": 1}, "Unknown decay of the drop fraction 'cosin'. Did you mean 'cosine'?"),
        ({"decay": "linear"}, "Unknown decay of the drop fraction 'linear'."),
        ({"decay": "cosine"}, "A cosine decay needs the gradient step at which it ends: give `stop`."),
        ({"stop": 0}, "must stop after at least 1 gradient step, not 0."),
    ],
)
@pytest.mark.parametrize("kind", [UpdateSchedule, SET])
def test_bad_schedules_are_refused(kind: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**arguments)


# -- distributions ---------------------------------------------------------------------------------------------------

CHEETAH = [(256, 17), (256, 256), (6, 256)]


def test_anf_keeps_51_weights_per_feature_of_halfcheetah_noise98() -> None:
    counts = input_layer([(256, 850), (256, 256), (12, 256)], 0.8)
    assert counts == [43520, 65536, 3072]
    assert counts[0] / 850 == 51.2


@pytest.mark.parametrize(
    ("features", "actions", "dense", "anf", "truncated"),
    [
        # The paper's set-up: two hidden layers of 256; the actor's output has mean and deviation. `truncated` is what
        # the authors' int((1 - 0.8) * n) makes of it: up to one weight less in each of the three sparse layers.
        (17, 6, 216_320, 203_418, 203_416),  # HalfCheetah without noise
        (85, 6, 268_544, 213_862, 213_861),
        (170, 6, 333_824, 226_918, 226_917),
        (340, 6, 464_384, 253_030, 253_029),
        (850, 6, 856_064, 331_366, 331_365),  # noise98
        (1700, 6, 1_508_864, 461_926, 461_925),  # noise99
        (550, 3, 622_592, 283_444, 283_441),  # Hopper-noise98
        (1100, 3, 1_044_992, 367_924, 367_921),  # Hopper-noise99
        (7520, 17, 5_989_888, 1_362_636, 1_362_635),  # Humanoid-noise95
    ],
)
def test_weights_of_an_actor_and_two_critics(features: int, actions: int, dense: int, anf: int, truncated: int) -> None:
    inputs = (features, features + actions, features + actions)
    outputs = (2 * actions, 1, 1)

    def total(sparsity: float) -> int:
        networks = [[(256, n_in), (256, 256), (n_out, 256)] for n_in, n_out in zip(inputs, outputs, strict=True)]
        return sum(sum(input_layer(network, sparsity)) for network in networks)

    assert total(0) == dense
    assert total(0.8) == anf
    assert dense - sum(256 * n - int((1 - 0.8) * 256 * n) for n in inputs) == truncated


def test_erdos_renyi_of_small_policies_worked_by_hand() -> None:
    # 71,424 weights in all. The output keeps its 1,536; the others share what is left, 273 parts and 512.
    # At 60 % the input layer would get 9,402 of the 27,033.6, but has only 4,352: it becomes dense.
    assert erdos_renyi(CHEETAH, 0.6, dense=[2]) == [4352, round(27033.6 - 4352), 1536]
    # At 85 % it is not full: 10,713.6 - 1,536 = 9,177.6 in the same proportion.
    assert erdos_renyi(CHEETAH, 0.85, dense=[2]) == [round(9177.6 * 273 / 785), round(9177.6 * 512 / 785), 1536]


def test_uniform_sparsity_pays_for_the_dense_output_layer() -> None:
    shapes = [(256, 23), (256, 256), (1, 256)]
    counts = uniform(shapes, 0.9, dense=[2])
    sparsities = [1 - count / (n * m) for count, (n, m) in zip(counts, shapes, strict=True)]
    assert sparsities == pytest.approx([0.9032, 0.9032, 0.0], abs=1e-4)  # the ANF code's "90.3 / 90.3 / 0"
    assert uniform(shapes, 0.9) == [589, 6554, 26]


linear_shapes = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5)


@quick
@given(linear_shapes, st.floats(0, 0.99))
def test_erk_is_erdos_renyi_for_linear_layers(shapes: list[tuple[int, int]], sparsity: float) -> None:
    def share_out(kind: Callable[..., list[int]]) -> list[int] | str:
        try:
            return kind(shapes, sparsity)
        except ValueError as error:
            return str(error)

    assert share_out(erk) == share_out(erdos_renyi)


def test_erk_counts_kernel_dimensions_and_erdos_renyi_does_not() -> None:
    shapes = [(32, 16, 3, 3), (64, 32, 1, 1)]
    # By hand: erk gives each layer factor * sum(shape), that is 54 and 98 parts of (4608 + 2048) / 10 weights;
    # erdos_renyi gives it factor * (n_in + n_out) * kernel size, that is 48 * 9 and 96 parts.
    assert erk(shapes, 0.9) == [round(665.6 * 54 / 152), round(665.6 * 98 / 152)]
    assert erdos_renyi(shapes, 0.9) == [round(665.6 * 432 / 528), round(665.6 * 96 / 528)]


@quick
@given(linear_shapes, st.floats(0, 0.95), st.sampled_from(["uniform", "erdos_renyi", "erk"]), st.data())
def test_the_total_is_met_and_no_layer_is_overfull(
    shapes: list[tuple[int, int]], sparsity: float, name: str, data: st.DataObject
) -> None:
    sizes = [n * m for n, m in shapes]
    dense = data.draw(st.sets(st.integers(0, len(shapes) - 1), max_size=len(shapes)))
    try:
        counts = distribution(name)(shapes, sparsity, dense)
    except ValueError as error:
        assert re.search("cannot be reached|without a single weight", str(error))  # noqa: PT017
        return
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(counts[i] == sizes[i] for i in dense)
    assert abs(sum(counts) - (1 - sparsity) * sum(sizes)) <= len(shapes)


def test_a_layer_that_would_be_overfull_becomes_dense_and_the_others_give_up_nothing_more() -> None:
    shapes = [(2, 300), (300, 300), (300, 2)]
    counts = erdos_renyi(shapes, 0.5)
    assert counts == [600, 45600 - 1200, 600]
    assert sum(counts) == 0.5 * sum(n * m for n, m in shapes)


@pytest.mark.parametrize("name", ["input", "uniform", "erdos_renyi", "erk"])
def test_sparsity_zero_is_dense(name: str) -> None:
    sizes = [n * m for n, m in CHEETAH]
    for dense in ([], [2], [1, 2]) if name == "input" else ([], [2], [0, 1, 2]):
        assert distribution(name)(CHEETAH, 0.0, dense) == sizes


@pytest.mark.parametrize(
    ("share_out", "message"),
    [
        (lambda: uniform(CHEETAH, 1.0), "Sparsity must lie in [0, 1), not 1.0"),
        (lambda: erk(CHEETAH, -0.1), "Sparsity must lie in [0, 1), not -0.1"),
        (lambda: input_layer(CHEETAH, float("nan")), "Sparsity must lie in [0, 1), not nan"),
        (lambda: input_layer(CHEETAH, 0.8, [0]), "cannot be both the only sparse layer and dense"),
        (lambda: input_layer([(2, 3), (4, 2)], 0.99), "leaves the layer of shape (2, 3) without a single weight"),
        (lambda: uniform([(10, 10), (2, 2)], 0.9), "leaves the layer of shape (2, 2) without a single weight"),
        (
            lambda: uniform(CHEETAH, 0.99, [1]),
            "Sparsity 0.99 cannot be reached: the layers that stay dense already hold 65536 of 71424 weights.",
        ),
        (lambda: uniform(CHEETAH, 0.5, [0, 1, 2]), "cannot be reached: the layers that stay dense already hold 71424"),
        (
            lambda: distribution("erdos-renyi"),
            "Unknown sparsity distribution 'erdos-renyi'. Did you mean 'erdos_renyi'?",
        ),
        (lambda: distribution("magic"), "Known: erdos_renyi, erk, input, uniform."),
    ],
)
def test_impossible_distributions_are_refused(share_out: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        share_out()


def test_a_rewiring_is_a_value() -> None:
    topology = Topology.random((5, 6), 10)
    rewiring = SET(0.5).propose(topology, torch.randn(10), 1)
    with pytest.raises(AttributeError):
        rewiring.after = topology  # type: ignore[misc]
    assert isinstance(rewiring, Rewiring)
