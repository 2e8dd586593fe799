"""Rewiring: layers, optimizers and followers take a new topology, and keep what stays."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_cases import KERNELS, batch, bits, by_hand, make_layer, proposal, seeded
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor

from sparse_rl.nn import SparseLinear, rewire_layer
from sparse_rl.topology import Rewiring, Static, Topology, rewire


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_rewired_layer_computes_with_its_new_weights(kernel: str) -> None:
    layer = make_layer(kernel)
    dense = layer.dense_weight()
    layer(batch())  # fills the caches
    layer(batch(5, 7), batch(5, 4))
    rewiring = proposal(layer)
    layer.rewire(rewiring)
    assert layer.topology == rewiring.after != rewiring.before
    new = torch.zeros(8 * 11, dtype=torch.bool)
    new[rewiring.after.positions[rewiring.source < 0]] = True
    assert torch.equal(layer.dense_weight(), dense * rewiring.after.mask() * ~new.view(8, 11))
    for inputs in ([batch()], batch().split([7, 4], dim=1)):
        torch.testing.assert_close(layer(*inputs), F.linear(batch(), layer.dense_weight(), layer.bias))
        torch.testing.assert_close(layer(*inputs), by_hand(layer, batch()))
    layer.double()(batch().double()).sum().backward()
    assert layer.values.grad is not None
    assert bool((layer.values.grad != 0).all())  # new weights learn


def test_topologies_handed_out_before_a_rewiring_stay_what_they_were() -> None:
    given = Topology.random((8, 11), 30, seeded(0))
    layer = SparseLinear(given)
    handed_out = layer.topology
    before = copy.deepcopy(given)
    for seed in range(3):
        rewiring = proposal(layer, seed=seed)
        after = copy.deepcopy(rewiring.after)
        layer.rewire(rewiring)
        rewired = layer.topology
        layer.load_state_dict(make_layer(seed=seed + 10).state_dict())
        for topology, expected in ((given, before), (handed_out, before), (rewiring.after, after), (rewired, after)):
            assert topology == expected
            assert torch.equal(topology.row_ptr, expected.row_ptr)
            assert torch.equal(topology.columns, expected.columns)


def test_a_rewiring_of_another_topology_is_refused() -> None:
    layer, other = make_layer(), make_layer(seed=1)
    state = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="This rewiring was made for another topology than the layer's present one"):
        layer.rewire(proposal(other))
    stale = proposal(layer)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, state[name])
    layer.rewire(stale)
    with pytest.raises(ValueError, match="another topology"):
        layer.rewire(stale)


def resizing(layer: SparseLinear, dropped: int, grown: int) -> Rewiring:
    """Drop the first weights, and grow at the last places that are free."""
    free = (~layer.topology.mask()).flatten().nonzero().flatten()
    return rewire(layer.topology, torch.arange(dropped), free[len(free) - grown :])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("dropped", "grown"), [(29, 0), (1, 0), (0, 1), (2, 20), (0, 58)])
def test_a_layer_may_shrink_and_grow(kernel: str, dropped: int, grown: int) -> None:
    layer = make_layer(kernel)
    parameter, optimizer = layer.values, torch.optim.Adam(layer.parameters())
    graph = layer(batch())  # one that is alive remembers the old size
    for _ in range(2):
        layer(batch()).square().sum().backward()
        optimizer.step()
    rewiring, before = resizing(layer, dropped, grown), optimizer.state[parameter]["exp_avg"].clone()
    values = layer.values.detach().clone()
    rewire_layer(layer, rewiring, optimizer)
    assert layer.values is parameter
    assert layer.values.dtype == torch.float32
    assert layer.values.numel() == 30 - dropped + grown
    assert bits(layer.values) == bits(rewiring.carry(values))
    assert bits(optimizer.state[parameter]["exp_avg"]) == bits(rewiring.carry(before))
    layer(batch()).square().sum().backward()
    assert layer.values.grad.shape == layer.values.shape
    optimizer.step()
    torch.testing.assert_close(layer(batch()), by_hand(layer, batch()))
    assert graph.requires_grad


def test_a_layer_keeps_at_least_one_weight() -> None:
    layer = make_layer(active=3)
    with pytest.raises(ValueError, match="has to keep at least one weight"):
        layer.rewire(resizing(layer, 3, 0))


@pytest.mark.parametrize(("dropped", "grown"), [(12, 12), (5, 0), (0, 5)])
def test_a_backward_pass_through_a_layer_that_was_rewired_since_is_refused(dropped: int, grown: int) -> None:
    layer = make_layer("numba")
    loss = layer(batch()).sum()
    layer.rewire(resizing(layer, dropped, grown))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], set[str]]] = {
    "adam": (lambda p: torch.optim.Adam(p, 1e-2), {"exp_avg", "exp_avg_sq"}),
    "fused": (lambda p: torch.optim.Adam(p, 1e-2, fused=True), {"exp_avg", "exp_avg_sq"}),
    "amsgrad": (lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "adamw": (lambda p: torch.optim.AdamW(p, 1e-2), {"exp_avg", "exp_avg_sq"}),
    "momentum": (lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9), {"momentum_buffer"}),
    "sgd": (lambda p: torch.optim.SGD(p, 1e-2), set()),
}


@pytest.mark.parametrize("active", [1, 30])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_follows_the_weights(name: str, active: int) -> None:
    make, vectors = OPTIMIZERS[name]
    layer = make_layer("scatter", active=active)
    optimizer = make(layer.parameters())

    def train() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            layer(batch()).square().sum().backward()
            optimizer.step()

    train()
    state = optimizer.state.get(layer.values, {})
    before = {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    bias_before = copy.deepcopy(optimizer.state.get(layer.bias, {}))
    values, moments_of = layer.values.detach().clone(), layer.values
    rewiring = proposal(layer, 1.0 if active == 1 else 0.4)
    rewire_layer(layer, rewiring, optimizer)
    assert layer.values is moments_of  # the optimizer still trains this parameter
    assert layer.values.grad is None
    kept = rewiring.source >= 0
    assert {key for key, value in before.items() if value.shape == values.shape} == vectors
    for old, now in [(values, layer.values), *((before[key], state[key]) for key in vectors)]:
        assert bits(now[kept]) == bits(old[rewiring.source[kept]])
        assert bits(now[~kept]) == [0] * rewiring.n_grown
    if "exp_avg" in vectors:
        assert state["step"] == before["step"] == 3
    for key, value in bias_before.items():
        assert torch.equal(torch.as_tensor(optimizer.state[layer.bias][key]), torch.as_tensor(value))
    train()
    assert layer.values.isfinite().all()


@pytest.mark.parametrize(
    ("optimizer", "settings", "name", "beginning"),
    [
        (torch.optim.Adagrad, {"initial_accumulator_value": 0.5}, "sum", 0.5),
        (torch.optim.RMSprop, {}, "square_avg", 0.0),
        (RMSpropTFLike, {}, "square_avg", 1.0),
    ],
)
def test_a_new_weights_state_is_what_its_optimizer_begins_with(
    optimizer: type[torch.optim.Optimizer], settings: dict[str, Any], name: str, beginning: float
) -> None:
    """With zero instead, RMSpropTFLike's first step would be about as large as its learning rate allows."""
    layer = make_layer()
    trainer = optimizer(layer.parameters(), 1e-2, **settings)
    layer(batch()).square().sum().backward()
    trainer.step()
    rewiring = proposal(layer, 0.4)
    rewire_layer(layer, rewiring, trainer)
    new = trainer.state[layer.values][name][rewiring.source < 0]
    assert new.tolist() == [beginning] * rewiring.n_grown


def test_an_optimizer_that_has_not_stepped_yet_has_nothing_to_move() -> None:
    layer = make_layer()
    optimizer = torch.optim.Adam(layer.parameters())
    rewire_layer(layer, proposal(layer), optimizer)
    assert not optimizer.state


def test_followers_take_the_topology_and_keep_their_own_values() -> None:
    layer = make_layer("scatter")
    targets = [copy.deepcopy(layer) for _ in range(2)]
    with torch.no_grad():
        for factor, target in enumerate(targets, start=2):
            target.values.mul_(factor)
    rewiring = proposal(layer)
    expected = [rewiring.carry(each.values.detach()) for each in (layer, *targets)]
    rewire_layer(layer, rewiring, None, iter(targets))
    for each, values in zip((layer, *targets), expected, strict=True):
        assert each.topology == rewiring.after
        assert torch.equal(each.values, values)
        torch.testing.assert_close(each(batch()), by_hand(each, batch()))


def test_a_static_topology_changes_nothing() -> None:
    layer = make_layer()
    state = copy.deepcopy(layer.state_dict())
    rewire_layer(layer, Static().propose(layer.topology, layer.values, 1000))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, state[name])
