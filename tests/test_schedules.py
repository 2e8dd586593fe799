"""SET and static methods, and when an update falls due."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from topology_cases import assert_uniform, bits, seeded

from sparse_rl.topology import (
    SET,
    Static,
    Topology,
    UpdateSchedule,
)

quick = settings(max_examples=40, deadline=None)

# Methods


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


# Schedules


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (UpdateSchedule(), {0: 0.05, 1000: 0.05, 10**9: 0.05}),
        (UpdateSchedule(0.3, 100, stop=500), {0: 0.3, 500: 0.3, 501: 0.3}),
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
