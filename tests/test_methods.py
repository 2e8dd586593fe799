"""The methods of the papers: each by hand, their budgets exact, growth by gradient equal to a dense computation's."""

import math
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rl.topology import (
    SET,
    Budget,
    BudgetSchedule,
    GradualPruning,
    Method,
    NeuroplasticExpansion,
    Rewiring,
    RigL,
    SignedSET,
    Static,
    Topology,
    WeightGradient,
    drop_by_sign,
    erdos_renyi_by_lambda,
    grow_by_gradient,
)

quick = settings(max_examples=60, deadline=None)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_of(shape: tuple[int, int], positions: list[int]) -> Topology:
    return Topology.from_positions(shape, torch.tensor(positions, dtype=torch.int64))


def gradient_of(shape: tuple[int, int], batch: int, seed: int) -> WeightGradient:
    """Of small whole numbers: their products are exact whatever the order of summation, and ties are many."""
    inputs, d_outputs = (
        torch.randint(-2, 3, (batch, n), generator=seeded(seed + i)).float() for i, n in enumerate(shape[::-1])
    )
    return WeightGradient(inputs, d_outputs)


# -- SET and DS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "dropped"),
    [
        (0.0, []),
        (0.25, [4]),  # of four that are not negative one: the zero; of three negative ones none
        (0.34, [3, 4]),  # one and one: the zero, and -0.1
        (0.5, [2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_fraction_of_each_sign_is_dropped(fraction: float, dropped: list[int]) -> None:
    values = torch.tensor([0.9, -0.8, 0.2, -0.1, 0.0, -0.5, 0.6], requires_grad=True)
    assert drop_by_sign(values, fraction).tolist() == dropped


def test_the_two_rules_of_set_differ_where_signs_differ_in_size() -> None:
    topology, values = layer_of((2, 4), [0, 1, 2, 3]), torch.tensor([0.1, 0.2, -3.0, -4.0])
    by_magnitude, by_sign = (kind(0.5).propose(topology, values, 1, seeded(0)) for kind in (SET, SignedSET))
    assert kept_of(by_magnitude) == [2, 3]
    assert kept_of(by_sign) == [1, 3]
    assert by_magnitude.after.active == by_sign.after.active == 4


def kept_of(rewiring: Rewiring) -> list[int]:
    return rewiring.source[rewiring.source >= 0].tolist()


def test_the_last_update_of_ds_drops_without_growing() -> None:
    topology, values = layer_of((2, 5), list(range(8))), torch.tensor([1.0, 2, 3, 4, -1, -2, -3, -4])
    method = SignedSET(0.25, update_interval=100, stop=350)
    assert [method.propose(topology, values, step).after.active for step in (100, 200, 300)] == [8, 8, 6]
    assert method.updates_between(300, 10**6) == 0
    # With many gradient steps at a time one may have gone past the last update when it falls due.
    assert method.updates_between(280, 420) == 1
    assert method.propose(topology, values, 420).after.active == 6
    assert SignedSET(0.25).propose(topology, values, 10**6).after.active == 8


def test_ds_has_the_weights_of_its_paper() -> None:
    """DS-TD3 on HalfCheetah: 106,169 weights where the dense networks have 214,784."""
    actor, critic = [(256, 17), (256, 256), (6, 256)], [(256, 23), (256, 256), (1, 256)]
    networks = [actor, critic, critic]
    counts = [erdos_renyi_by_lambda(network, [7, 64]) for network in networks]
    assert sum(n * m for network in networks for n, m in network) == 214_784
    assert sum(map(sum, counts)) == 106_169
    assert [round(count / (n * m), 3) for count, (n, m) in zip(counts[0], actor, strict=True)] == [0.439, 0.5, 1]
    assert round(counts[1][0] / (256 * 23), 3) == 0.332


@pytest.mark.parametrize(
    ("lambdas", "densities"),
    [
        ([12, 80], [0.753, 0.625]),  # DS-SAC on HalfCheetah
        ([1000, 80], [1, 0.625]),  # a layer that cannot hold so many is dense
        ([12], [0.753, 1]),
    ],
)
def test_a_lambda_for_each_layer(lambdas: list[float], densities: list[float]) -> None:
    shapes = [(256, 17), (256, 256)]
    counts = erdos_renyi_by_lambda(shapes, lambdas)
    assert [round(count / (n * m), 3) for count, (n, m) in zip(counts, shapes, strict=True)] == densities


@pytest.mark.parametrize(
    ("lambdas", "message"),
    [([], "must be numbers above 0"), ([7, 0], "not [7, 0]"), ([1, 2, 3], "There are 3 lambdas for 2 layers")],
)
def test_lambdas_that_make_no_sense_are_refused(lambdas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        erdos_renyi_by_lambda([(4, 5), (3, 4)], lambdas)


# -- RigL ------------------------------------------------------------------------------------------------------------


def test_growth_by_gradient_worked_by_hand() -> None:
    # The gradient is [[1 * 1, 1 * 2, 1 * 3], [-2 * 1, -2 * 2, -2 * 3]], and the largest, -6, is active already.
    gradient = WeightGradient(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -2.0]]))
    assert gradient.rows(0, 2).tolist() == [[1, 2, 3], [-2, -4, -6]]
    topology = layer_of((2, 3), [5])
    assert grow_by_gradient(topology, 5, gradient).tolist() == [4, 2, 1, 3, 0]  # of two and two the lower position
    assert grow_by_gradient(topology, 0, gradient).tolist() == []


@quick
@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 100), st.integers(0, 1000))
def test_growth_by_gradient_is_the_top_of_a_dense_gradient_whatever_the_block(
    data: st.DataObject, n_rows: int, n_columns: int, batch: int, block: int, seed: int
) -> None:
    shape = (n_rows, n_columns)
    topology = Topology.random(shape, data.draw(st.integers(1, n_rows * n_columns)), seeded(seed))
    count = data.draw(st.integers(0, topology.size - topology.active))
    gradient = gradient_of(shape, batch, seed)
    dense = (gradient.d_outputs.t() @ gradient.inputs).abs()
    dense[topology.mask()] = -1
    expected = dense.flatten().argsort(descending=True, stable=True)[:count]
    assert torch.equal(grow_by_gradient(topology, count, gradient, block), expected)


def test_growth_by_gradient_never_holds_the_dense_gradient() -> None:
    class Counting(WeightGradient):
        def rows(self, first: int, last: int) -> torch.Tensor:
            computed.append((first, last))
            return super().rows(first, last)

    computed: list[tuple[int, int]] = []
    small = gradient_of((100, 30), 4, 0)
    for changes, rows in (({"block": 99}, [3] * 33 + [1]), ({}, [12] * 8 + [4])):  # a small layer too
        computed.clear()
        grow_by_gradient(Topology.random((100, 30), 50), 20, Counting(small.inputs, small.d_outputs), **changes)
        assert [last - first for first, last in computed] == rows
        assert all(a[1] == b[0] for a, b in pairwise(computed))


def test_a_gradient_of_another_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("gradient of a layer of shape (3, 4), not one of outputs (2, 4)")):
        grow_by_gradient(layer_of((3, 4), [0]), 1, gradient_of((4, 3), 2, 0))
    with pytest.raises(ValueError, match="only 1 positions are inactive"):
        grow_by_gradient(layer_of((1, 2), [0]), 2, gradient_of((1, 2), 2, 0))
    with pytest.raises(ValueError, match="no gradient was given"):
        RigL(0.5).propose(layer_of((1, 2), [0]), torch.ones(1), 1)


def test_rigl_worked_by_hand() -> None:
    topology = layer_of((2, 3), [0, 1, 2, 5])
    gradient = WeightGradient(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -2.0]]))
    rewiring = RigL(0.5, update_interval=10, decay="cosine", stop=90).propose(
        topology, torch.tensor([5.0, -0.5, 0.1, 4.0]), 30, gradient=gradient
    )
    # Half of the weights decayed by a cosine to 3/8, that is one weight: 0.1 goes, from where the gradient is 3. The
    # largest gradient at an inactive position is now -4.
    assert kept_of(rewiring) == [0, 1, 3]
    assert rewiring.after.positions.tolist() == [0, 1, 4, 5]


def test_what_rigl_drops_may_grow_again_and_restarts_from_zero() -> None:
    topology, gradient = layer_of((1, 3), [0, 1]), WeightGradient(torch.tensor([[9.0, 1.0, 2.0]]), torch.ones(1, 1))
    rewiring = RigL(0.5).propose(topology, torch.tensor([0.1, 7.0]), 1, gradient=gradient)
    assert rewiring.after == topology
    assert rewiring.carry(torch.tensor([0.1, 7.0])).tolist() == [0, 7]


def test_only_methods_that_grow_by_gradient_want_one() -> None:
    wanting = {kind for kind in (SET, SignedSET, RigL, GradualPruning, NeuroplasticExpansion, Static) if wants(kind)}
    assert wanting == {RigL, NeuroplasticExpansion}


def wants(kind: type[Method]) -> bool:
    return kind.needs_gradient


# -- methods that change the number of weights -----------------------------------------------------------------------


def test_gradual_pruning_worked_by_hand() -> None:
    """From 100 % to 10 % of 1000 weights: the cube of the time that is left, times 900, and 100."""
    method = GradualPruning(begin=100, end=500, update_interval=100)
    topology, active = Topology.random((20, 50), 1000, seeded(0)), []
    values = torch.randn(1000, generator=seeded(1))
    for step in range(0, 700, 100):
        rewiring = method.propose(topology, values, step, budget=Budget(1000, 100))
        assert rewiring.n_grown == 0
        if rewiring.n_dropped:  # the weakest go
            kept = kept_of(rewiring)
            dropped = sorted(set(range(topology.active)) - set(kept))
            assert values[dropped].abs().max() <= values[kept].abs().min()
        topology, values = rewiring.after, rewiring.carry(values)
        active.append(topology.active)
    assert active == [1000, 1000, round(100 + 900 * 27 / 64), round(100 + 900 / 8), round(100 + 900 / 64), 100, 100]


def test_neuroplastic_expansion_worked_by_hand() -> None:
    method = NeuroplasticExpansion(end=100, update_interval=50, prune_ratio=0.5)
    topology, budget = layer_of((2, 3), [0, 1]), Budget(2, 4)
    gradient = WeightGradient(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -2.0]]))
    rewiring = method.propose(topology, torch.tensor([0.5, -9.0]), 50, budget=budget, gradient=gradient)
    # One weight more: two are grown, where the gradient is -6 and -4, and 0.5 is pruned for it.
    assert rewiring.after.positions.tolist() == [1, 4, 5]
    assert rewiring.source.tolist() == [1, -1, -1]
    assert method.propose(rewiring.after, torch.ones(3), 100, budget=budget, gradient=gradient).after.active == 4


SCHEDULES = st.tuples(st.integers(0, 50), st.integers(1, 200), st.integers(1, 70)).map(
    lambda each: {"begin": each[0], "end": each[0] + each[1], "update_interval": each[2]}
)


@quick
@given(SCHEDULES, st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.9), st.integers(1, 37))
def test_density_is_exact_under_every_schedule_however_often_one_looks(
    schedule: dict[str, int], a: int, b: int, ratio: float, stride: int
) -> None:
    shape = (5, 8)
    gradient = gradient_of(shape, 3, 0)
    for method, budget, power in (
        (GradualPruning(**schedule), Budget(max(a, b), min(a, b)), 3),
        (NeuroplasticExpansion(**schedule, prune_ratio=ratio), Budget(min(a, b), max(a, b)), 1),
    ):
        method.check(budget)
        topology = Topology.random(shape, budget.start, seeded(a))
        for before, now in pairwise(range(0, schedule["end"] + 2 * stride, stride)):
            if not method.updates_between(before, now):
                continue
            values = torch.randn(topology.active, generator=seeded(now))
            topology = method.propose(topology, values, now, budget=budget, gradient=gradient).after
            time = min(1.0, max(0.0, (now - schedule["begin"]) / (schedule["end"] - schedule["begin"])))
            exact = budget.start + (budget.end - budget.start) * (1 - (1 - time) ** power)
            assert abs(topology.active - exact) <= 0.5 + 1e-9
        assert topology.active == budget.end


@quick
@given(st.floats(0.1, 1), st.sampled_from([SET, SignedSET, RigL]), st.integers(1, 40), st.integers(1, 9))
def test_the_other_methods_keep_their_budget_under_a_decaying_schedule(
    fraction: float, kind: type[SET], active: int, n_updates: int
) -> None:
    method = kind(fraction, update_interval=10, decay="cosine", stop=10 * n_updates + 15)
    topology, gradient = Topology.random((5, 8), active, seeded(active)), gradient_of((5, 8), 3, 1)
    for step in range(10, 10 * n_updates + 10, 10):
        values = torch.randn(topology.active, generator=seeded(step))
        rewiring = method.propose(topology, values, step, seeded(step), gradient=gradient)
        decayed = fraction / 2 * (1 + math.cos(math.pi * step / (10 * n_updates + 15)))
        assert rewiring.n_dropped == rewiring.n_grown <= decayed * topology.active + 1e-6
        topology = rewiring.after
        assert topology.active == active


@pytest.mark.parametrize(
    ("before", "now", "updates"),
    [(0, 100, 0), (0, 199, 0), (0, 200, 1), (200, 300, 1), (0, 400, 3), (400, 449, 0), (400, 450, 1), (450, 10**6, 0)],
)
def test_updates_that_change_the_budget_fall_due_at_multiples_of_the_interval_and_at_the_end(
    before: int, now: int, updates: int
) -> None:
    assert BudgetSchedule(begin=100, end=450, update_interval=100).updates_between(before, now) == updates


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradualPruning(end=0), "would end before it starts: `end` is gradient step 0, `begin` 0"),
        (lambda: NeuroplasticExpansion(begin=10, end=9), "`end` is gradient step 9, `begin` 10"),
        (lambda: GradualPruning(begin=-1, end=9), "`begin` must be a gradient step of at least 0, not -1"),
        (lambda: GradualPruning(end=9, update_interval=0), "The update interval must be at least 1 gradient step"),
        (lambda: NeuroplasticExpansion(end=9, prune_ratio=1), "`prune_ratio` must lie in [0, 1), not 1"),
        (lambda: SignedSET(1.0, 10, stop=30), "nothing would be left, because the last update drops without growing"),
        (lambda: RigL(stop=999), "would end before they start: `stop` is gradient step 999"),
        (lambda: GradualPruning(end=9).check(Budget(10, 11)), "`sparsity`, at the end, must not be less than"),
        (lambda: NeuroplasticExpansion(end=9).check(Budget(10, 9)), "`sparsity`, at the end, must not be more than"),
        (lambda: SET().check(Budget(10, 9)), "SET keeps the number of active weights"),
        (lambda: RigL().check(Budget(10, 11)), "leave out `initial_sparsity`"),
        (lambda: Static().check(Budget(10, 11)), "Static keeps"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
