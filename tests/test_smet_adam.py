"""Freshly grown weights: plain Adam takes giant steps with them, SMETAdam does not, and it is Adam otherwise."""

import copy
import io
from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparse_rl.agents import SAC
from sparse_rl.nn import SMETAdam, SparseLinear, density_of, rewire_layer, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, TopologyCallback
from sparse_rl.topology import SET, Rewiring, Topology

OFF: dict[str, Any] = {"warmup_steps": 0, "density_exponent": 0.0}
OLD = 1_000_000  # steps; no bias is left


def layer_of(active: int = 20, seed: int = 0) -> SparseLinear:
    """Make a layer that is connected to all of its features, if it has weights enough."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        topology = Topology.random((8, 10), active, generator)
        if active < 20 or len(topology.columns.unique()) == 10:
            return SparseLinear(topology)


def proposal(layer: SparseLinear, drop_fraction: float = 0.25) -> Rewiring:
    method = SET(drop_fraction=drop_fraction, update_interval=1)
    return method.propose(layer.topology, layer.values, 1, torch.Generator().manual_seed(1))


def steps_of_new_weights(optimizer_class: type[torch.optim.Optimizer], n: int, **options: Any) -> list[float]:
    """Rewire an old layer, then give one and the same gradient again and again: how far do its new weights move?"""
    layer = layer_of()
    optimizer = optimizer_class([layer.values], lr=1.0, eps=0.0, **options)
    layer.values.grad = torch.ones_like(layer.values)
    optimizer.step()
    state = optimizer.state[layer.values]
    state["step"].fill_(OLD)
    if "ages" in state:
        state["ages"].fill_(OLD)
    state["exp_avg"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    rewiring = proposal(layer)
    rewire_layer(layer, rewiring, optimizer)
    new, moves = rewiring.source < 0, []
    assert new.any()
    for _ in range(n):
        before = layer.values.detach().clone()
        layer.values.grad = torch.ones_like(layer.values)
        optimizer.step()
        step = before - layer.values.detach()
        torch.testing.assert_close(step[~new], torch.ones_like(step[~new]), rtol=1e-4, atol=0)  # the old ones go on
        assert step[new].unique().numel() <= 2  # alike, up to the rounding of their values
        moves.append(float(step[new].mean()))
    return moves


def test_plain_adam_takes_giant_steps_with_new_weights() -> None:
    """The published factors: 3.16 at first, 6.57 at most, after 12 steps."""
    moves = steps_of_new_weights(torch.optim.Adam, 199)
    assert [round(moves[step - 1], 2) for step in (1, 2, 12, 51, 199)] == [3.16, 4.25, 6.57, 4.46, 2.35]
    assert max(moves) == moves[11]


def test_with_ages_new_weights_take_ordinary_steps() -> None:
    assert steps_of_new_weights(SMETAdam, 199, **OFF) == pytest.approx([1.0] * 199, rel=1e-4)


def test_the_warm_up_of_steps_is_linear() -> None:
    moves = steps_of_new_weights(SMETAdam, 150, warmup_steps=100, warmup="update", density_exponent=0.0)
    assert moves == pytest.approx([min(age / 100, 1) for age in range(1, 151)], rel=1e-3)


def test_the_warm_up_of_the_momentum_compounds() -> None:
    """By the recurrence m <- (0.9 m + 0.1) min(t / S, 1), in Python's own numbers."""
    expected, m = [], 0.0
    for age in range(1, 151):
        m = (0.9 * m + 0.1) * min(age / 100, 1)
        expected.append(m / (1 - 0.9**age))
    moves = steps_of_new_weights(SMETAdam, 150, warmup_steps=100, density_exponent=0.0)
    assert moves == pytest.approx(expected, rel=1e-3)
    assert moves[0] == pytest.approx(0.01, rel=1e-4)
    assert max(moves) <= 1 + 1e-4


@pytest.mark.parametrize(("exponent", "factor"), [(0.0, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_a_sparse_layer_learns_faster_by_its_density(exponent: float, factor: float) -> None:
    layer = layer_of(active=20)  # of 80: density 1/4
    optimizer = SMETAdam(layer.parameters(), lr=0.1, warmup_steps=0, density_exponent=exponent)
    before = [p.detach().clone() for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    values, bias = (b - p.detach() for b, p in zip(before, layer.parameters(), strict=True))
    torch.testing.assert_close(values, torch.full_like(values, 0.1 * factor))
    torch.testing.assert_close(bias, torch.full_like(bias, 0.1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(layer_of(), nn.ReLU(), nn.Linear(8, 3))


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(16, 10, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3}, {"betas": (0.0, 0.0)}]
)
def test_it_is_adam_when_nothing_is_rewired(options: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    train(ours, SMETAdam(ours.parameters(), lr=1e-2, **OFF, **options), 200)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-2, foreach=False, **options), 200)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@given(steps=st.integers(1, 50), lr=st.floats(1e-5, 1.0), beta_1=st.floats(0, 0.99), beta_2=st.floats(0.5, 0.9999))
def test_one_step_is_adams_up_to_rounding(steps: int, lr: float, beta_1: float, beta_2: float) -> None:
    """From the same state and with the same gradient, so that rounding has no time to grow."""
    ours, theirs = layer_of(), layer_of()
    theirs.values.data.copy_(ours.values.data)
    optimizer = SMETAdam([ours.values], lr=lr, betas=(beta_1, beta_2), **OFF)
    reference = torch.optim.Adam([theirs.values], lr=lr, betas=(beta_1, beta_2), foreach=False)
    for _ in range(steps):
        gradient = torch.randn_like(ours.values)
        ours.values.grad, theirs.values.grad = gradient, gradient.clone()
        start = theirs.values.detach().clone()
        ours.values.data.copy_(start)
        optimizer.step()
        reference.step()
        torch.testing.assert_close(ours.values - start, theirs.values - start, rtol=1e-5, atol=2e-6)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            optimizer.state[ours.values][name], reference.state[theirs.values][name], rtol=0, atol=0
        )


def test_rewiring_carries_all_state_and_starts_new_weights_from_zero() -> None:
    net = network()
    optimizer = SMETAdam(net.parameters())
    train(net, optimizer, 7)
    layer = net[0]
    before = {name: value.clone() for name, value in optimizer.state[layer.values].items()}
    rewiring = proposal(layer)
    rewire_layer(layer, rewiring, optimizer)
    after = optimizer.state[layer.values]
    kept = rewiring.source >= 0
    for name in ("ages", "exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name][kept], before[name][rewiring.source[kept]])
        assert not after[name][~kept].any()
    assert after["step"] == 7
    train(net, optimizer, 3)
    assert after["ages"][kept].unique().tolist() == [10]
    assert after["ages"][~kept].unique().tolist() == [3]
    assert "ages" not in optimizer.state[net[2].weight]  # all of one age


def test_state_can_be_saved_and_loaded() -> None:
    net = network()
    optimizer = SMETAdam(net.parameters(), warmup_steps=5)
    train(net, optimizer, 4)
    rewire_layer(net[0], proposal(net[0]), optimizer)
    train(net, optimizer, 2)
    file = io.BytesIO()
    torch.save({"network": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = network()
    twin.load_state_dict(saved["network"])
    restored = SMETAdam(twin.parameters())
    restored.load_state_dict(saved["optimizer"])
    train(net, optimizer, 5, seed=1)
    train(twin, restored, 5, seed=1)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(optimizer.state[net[0].values]["ages"], restored.state[twin[0].values]["ages"])


def test_training_that_began_with_adam_can_go_on() -> None:
    net = network()
    adam = torch.optim.Adam(net.parameters())
    train(net, adam, 6)
    optimizer = SMETAdam(net.parameters(), warmup_steps=3)
    optimizer.load_state_dict(adam.state_dict())
    train(net, optimizer, 1)
    assert optimizer.state[net[0].values]["ages"].tolist() == [7.0] * 20
    assert optimizer.param_groups[0]["warmup_steps"] == 3


def test_parameters_without_a_gradient_stay() -> None:
    net = network()
    optimizer = SMETAdam(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert not optimizer.state


def test_a_closure_gives_the_loss() -> None:
    net = network()
    optimizer = SMETAdam(net.parameters())

    def closure() -> torch.Tensor:
        loss = net(torch.ones(2, 10)).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert isinstance(loss, torch.Tensor)
    assert loss.item() > closure().item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be a number of at least 0, not -1.0"),
        ({"eps": float("nan")}, "eps must be"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"warmup_steps": -1}, "warmup_steps must be"),
        ({"density_exponent": -0.5}, "density_exponent must be"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), not \(0.9, 1.0\)"),
        ({"warmup": "momentun"}, "Unknown warmup 'momentun'. Did you mean 'momentum'"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMETAdam(network().parameters(), **options)


# Whom an optimizer takes for sparse


def test_density_is_known_to_whoever_holds_the_parameter() -> None:
    layer = layer_of(active=20)
    assert density_of(layer.values) == 0.25
    assert density_of(layer.bias) is None
    assert density_of(nn.Linear(3, 2).weight) is None


def test_density_counts_connected_features_only() -> None:
    """A layer that was screened has few of them, and is no sparser for that: its learning rate must not grow."""
    few = Topology.from_positions((8, 10), torch.tensor([0, 1, 11, 21, 30]))  # the first two features
    layer = SparseLinear(few)
    assert density_of(layer.values) == 5 / 16
    assert layer.density == 5 / 80
    other = layer_of(active=5)
    assert density_of(other.values) == 5 / (8 * len(set(other.columns.tolist())))
    other.load_state_dict(layer.state_dict())
    assert density_of(other.values) == 5 / 16
    rewire_layer(layer, Rewiring(few, layer_of(active=40).topology, torch.full((40,), -1)))
    assert density_of(layer.values) == 0.5


def test_density_survives_copies_conversions_and_assignments() -> None:
    layer = layer_of(active=20)
    assert density_of(copy.deepcopy(layer).values) == 0.25
    assert density_of(copy.deepcopy(layer).double().values) == 0.25
    other = layer_of(active=20, seed=1)
    other.load_state_dict(layer.state_dict(), assign=True)
    assert density_of(other.values) == 0.25
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert density_of(torch.load(file, weights_only=False).values) == 0.25
    assert density_of(layer.to("meta").to_empty(device="cpu").values) == 0.25
    rewire_layer(other, proposal(other))
    assert density_of(other.values) == 20 / (8 * len(set(other.columns.tolist())))


def test_the_fast_learner_trains_with_it_and_the_callback_carries_its_state() -> None:
    env = gym.make("Pendulum-v1")
    policy_kwargs = {"optimizer_class": SMETAdam, "sparsity": 0.5, "net_arch": [16, 16]}
    model = SAC(SparseSACPolicy, env, policy_kwargs=policy_kwargs, learning_starts=20, batch_size=8, seed=0)
    model.learn(61, callback=TopologyCallback(SET(drop_fraction=0.25, update_interval=30)))
    for network in (model.actor, model.critic):
        layers = sparse_layers(network)
        assert layers
        for layer in layers.values():
            state = network.optimizer.state[layer.values]
            assert state["step"] == 41
            young, old = state["ages"].unique().tolist()  # 41 gradient steps, an update of the topology after 30
            assert (young, old) == (11, 41)
            assert int((state["ages"] == young).sum()) == layer.values.numel() // 4
