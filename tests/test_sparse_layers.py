"""Sparse layers: conversion, saving, rewiring, training; and the hand-written backward pass."""

import copy
import io
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_rl.nn import FeatureMajorMLP, SparseLinear, rewire_layer, sparse_layers, sparsify
from sparse_rl.topology import SET, Rewiring, Static, Topology, rewire

KERNELS = ("numba", "scatter")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_layer(kernel: str = "auto", seed: int = 0, active: int = 30, bias: bool = True) -> SparseLinear:
    torch.manual_seed(seed)
    return SparseLinear(Topology.random((8, 11), active, seeded(seed)), bias=bias, kernel=kernel)


def batch(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*(shape or (5, 11)), generator=seeded(seed))


def by_hand(layer: SparseLinear, x: Tensor) -> Tensor:
    """What a layer computes, from its buffers alone: no cache is asked."""
    weight = torch.zeros(layer.out_features, layer.in_features, dtype=layer.values.dtype)
    for row in range(layer.out_features):
        for p in range(int(layer.row_ptr[row]), int(layer.row_ptr[row + 1])):
            weight[row, layer.columns[p]] = layer.values[p].detach()
    return F.linear(x, weight, layer.bias)


def proposal(layer: SparseLinear, fraction: float = 0.4, seed: int = 3) -> Rewiring:
    return SET(fraction).propose(layer.topology, layer.values, 1, seeded(seed))


def bits(values: Tensor) -> list[int]:
    return values.detach().view(torch.int32).tolist()


# -- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dense_layer_keeps_the_weights_that_the_topology_names(bias: bool, dtype: torch.dtype) -> None:
    linear = nn.Linear(11, 8, bias=bias, dtype=dtype)
    topology = Topology.random((8, 11), 30)
    layer = SparseLinear.from_dense(linear, topology)
    assert layer.topology == topology
    assert layer.values.dtype == dtype
    assert torch.equal(layer.dense_weight(), linear.weight * topology.mask())
    back = layer.to_dense()
    assert type(back) is nn.Linear
    assert back.weight.dtype == dtype
    assert back.weight.requires_grad
    assert torch.equal(back.weight, layer.dense_weight())
    again = SparseLinear.from_dense(back, topology)
    assert torch.equal(again.values, layer.values)
    if bias:
        assert layer.bias is not None
        assert torch.equal(layer.bias, linear.bias)
        assert torch.equal(back.bias, linear.bias)
    else:
        assert layer.bias is None
        assert back.bias is None
    x = batch().to(dtype)
    torch.testing.assert_close(layer(x), back(x))


def test_looking_at_a_layer_draws_no_random_numbers() -> None:
    layer = make_layer()
    state = torch.get_rng_state()
    layer.to_dense()
    layer.dense_weight()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_topology_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("A topology of shape (11, 8) does not fit Linear(")):
        SparseLinear.from_dense(nn.Linear(11, 8), Topology.random((11, 8), 5))


def test_new_layers_start_within_the_bounds_of_a_dense_one() -> None:
    layer = SparseLinear(Topology.random((100, 400), 5000))
    for parameter in layer.parameters():
        assert 0.045 < parameter.abs().max() <= 0.05
    assert layer.values.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.05)


def test_a_layer_describes_itself() -> None:
    layer = make_layer("numba")
    assert repr(layer) == (
        "SparseLinear(in_features=11, out_features=8, active=30, density=0.3409, bias=True, kernel=numba)"
    )
    assert layer.density == 30 / 88


def test_the_parameters_are_the_active_weights_and_the_bias() -> None:
    assert {name: tuple(p.shape) for name, p in make_layer().named_parameters()} == {"values": (30,), "bias": (8,)}
    assert list(make_layer().state_dict()) == ["values", "bias", "row_ptr", "columns"]


@pytest.mark.parametrize(("active", "chosen"), [(44, "numba"), (45, "scatter")])
def test_auto_follows_the_density(active: int, chosen: str) -> None:
    assert make_layer(active=active).chosen_kernel == chosen


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown kernel 'nunba'\. Did you mean 'numba'"):
        make_layer("nunba")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_layer_of_double_precision(kernel: str) -> None:
    layer = make_layer(kernel)
    single = layer(batch())
    layer.double()
    assert (layer.row_ptr.dtype, layer.columns.dtype) == (torch.int32, torch.int32)
    double = layer(batch().double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "shapes", [[(11,)], [(2, 5, 11)], [(5, 10)], [(5, 12)], [(5, 8), (1, 3)], [(1, 8), (5, 3)], [(5, 11), (5, 1)], []]
)
def test_inputs_that_do_not_fit_are_refused_by_every_kernel(kernel: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"Expected blocks of shape \(batch, width\) with 11 features in all, not "):
        make_layer(kernel)(*[batch(*shape) for shape in shapes])


# -- saving and copying ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_topology_travels_with_the_state_dict(kernel: str) -> None:
    source, layer = make_layer(kernel, 1), make_layer(kernel, 2)
    old = layer.topology
    old_positions = old.positions.clone()
    assert source.topology != old
    layer(batch())  # fills the caches
    layer(batch(5, 7), batch(5, 4))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True))
    assert layer.topology == source.topology
    for inputs in ([batch()], batch().split([7, 4], dim=1)):
        torch.testing.assert_close(layer(*inputs), by_hand(source, batch()))
    assert torch.equal(old.positions, old_positions)
    assert Topology.from_positions(old.shape, old_positions) == Topology(old.shape, old.row_ptr, old.columns)


def test_loading_does_not_tie_two_layers_together() -> None:
    source, layer = make_layer(seed=1), make_layer(seed=2)
    layer.load_state_dict(source.state_dict())
    expected = by_hand(source, batch())
    source.rewire(proposal(source))
    torch.testing.assert_close(layer(batch()), expected)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("columns", 0, 11, "Columns must lie in [0, 11)."),
        ("columns", 3, -1, "Columns must lie in [0, 11)."),
        ("columns", 1, 0, "The columns of a row must be strictly increasing."),
        ("row_ptr", 0, 1, "Row pointers must run from 0 to 20 in 9 steps."),
        ("row_ptr", -1, 2**31 - 1, "Row pointers must run from 0 to 20 in 9 steps."),
        ("row_ptr", 4, 10**6, "Row pointers must not decrease."),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_corrupted_topology_is_refused_and_the_layer_stays_usable(
    name: str, index: int, value: int, message: str, strict: bool
) -> None:
    layer = SparseLinear(Topology.from_positions((8, 11), torch.arange(20) * 4), kernel="numba")
    network = nn.Sequential(layer)
    topology = layer.topology
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state[f"0.{name}"][index] = value
    with pytest.raises(RuntimeError, match=re.escape(f"invalid topology for 0: {message}")):
        network.load_state_dict(state, strict=strict)
    assert layer.topology == topology
    torch.testing.assert_close(layer(batch()), by_hand(layer, batch()))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("active", [29, 31, 88])
def test_a_layer_takes_the_state_of_one_with_another_number_of_weights(kernel: str, active: int) -> None:
    layer, other = make_layer(kernel), make_layer(kernel, 1, active=active)
    parameter = layer.values
    layer(batch()).sum().backward()
    layer.load_state_dict(other.state_dict())
    assert layer.values is parameter
    assert layer.values.grad is None
    assert layer.topology == other.topology
    torch.testing.assert_close(layer(batch()), by_hand(other, batch()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.update(values=state["values"][:-1]),
        lambda state: state.update(values=state["values"][:, None], columns=state["columns"][:, None]),
        lambda state: state.update(columns=state["columns"].float()),
        lambda state: state.update(columns=state["columns"].flip(0)),
        lambda state: state.pop("row_ptr"),
    ],
)
def test_a_damaged_state_of_another_size_is_refused_and_the_layer_stays_usable(spoil: Callable[[Any], Any]) -> None:
    layer, other = make_layer("numba"), make_layer("numba", 1, active=31)
    topology, state = layer.topology, dict(other.state_dict())
    spoil(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for|Missing key"):
        layer.load_state_dict(state)
    assert layer.topology == topology
    assert layer.values.numel() == 30
    torch.testing.assert_close(layer(batch()), by_hand(layer, batch()))


def test_a_copy_is_independent() -> None:
    layer = make_layer("numba")
    expected = layer(batch())  # fills the caches, which are copied too
    twin = copy.deepcopy(layer)
    layer.rewire(proposal(layer))
    with torch.no_grad():
        layer.values.fill_(7)
    torch.testing.assert_close(twin(batch()), expected)
    torch.testing.assert_close(by_hand(twin, batch()), expected)
    expected = layer(batch())
    twin.rewire(proposal(twin, seed=5))
    torch.testing.assert_close(layer(batch()), expected)


# -- rewiring --------------------------------------------------------------------------------------------------------


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


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weight_decay", [0.0, 2e-4])
def test_training_is_that_of_a_dense_layer_whose_absent_weights_are_held_at_zero(
    kernel: str, weight_decay: float
) -> None:
    sparse = nn.Sequential(make_layer(kernel), nn.Tanh(), nn.Linear(8, 2)).double()
    mask = sparse[0].topology.mask()
    dense = nn.Sequential(sparse[0].to_dense(), nn.Tanh(), copy.deepcopy(sparse[2]))
    x, y = batch(50, 11).double(), batch(50, 2, seed=10).double()
    losses = []
    for network in (sparse, dense):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=weight_decay)
        for _ in range(50):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x), y)
            loss.backward()
            if network is dense:
                dense[0].weight.grad *= mask
            optimizer.step()
        losses.append(loss.detach())
    assert losses[1] < 0.7 * F.mse_loss(torch.zeros_like(y), y)  # something was learnt
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    torch.testing.assert_close(sparse[0].dense_weight(), dense[0].weight.detach(), rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(sparse[2].parameters(), dense[2].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


# -- sparsify --------------------------------------------------------------------------------------------------------


class Policy(nn.Module):
    """Two hidden layers and two heads, as SAC's actor has."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.mu = nn.Linear(16, 3)
        self.log_std = nn.Linear(16, 3)


NAMES = ["latent.0", "latent.2", "mu", "log_std"]


@pytest.mark.parametrize(
    ("distribution", "sparse"),
    [
        ("input", {"latent.0": 64}),
        ("uniform", {"latent.0": 11, "latent.2": 8}),
        ("erk", {"latent.0": 10, "latent.2": 9}),
    ],
)
def test_layers_become_sparse_and_heads_stay_dense(distribution: str, sparse: dict[str, int]) -> None:
    policy = Policy()
    dense = copy.deepcopy(policy)
    # Of 672 weights the heads keep 96; 19 remain for layers of 320 and 256, in that proportion or as 36 to 32.
    sparsity = 0.8 if distribution == "input" else 1 - (96 + 19) / 672
    sparsify(policy, NAMES, sparsity, distribution, dense=["mu", "log_std"], kernel="scatter", generator=seeded(0))
    assert {name: layer.values.numel() for name, layer in sparse_layers(policy).items()} == sparse
    assert isinstance(policy.mu, nn.Linear)
    for name, layer in sparse_layers(policy).items():
        assert layer.kernel == "scatter"
        original = dense.get_submodule(name)
        assert isinstance(original, nn.Linear)
        assert torch.equal(layer.dense_weight(), original.weight * layer.topology.mask())
        assert torch.equal(layer.bias, original.bias)


def test_sparsity_zero_leaves_a_network_alone() -> None:
    policy = Policy()
    parameters = list(policy.parameters())
    sparsify(policy, NAMES, 0.0, "erk")
    assert not sparse_layers(policy)
    assert all(mine is theirs for mine, theirs in zip(policy.parameters(), parameters, strict=True))


def test_the_same_seed_makes_the_same_topologies() -> None:
    first, second, third = Policy(), Policy(), Policy()
    for policy, seed in ((first, 1), (second, 1), (third, 2)):
        sparsify(policy, NAMES, 0.8, generator=seeded(seed))
    topology = sparse_layers(first)["latent.0"].topology
    assert topology == sparse_layers(second)["latent.0"].topology
    assert topology != sparse_layers(third)["latent.0"].topology


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, "Sparsity must lie in [0, 1), not 1.0"),
        ({"sparsity": 0.999}, ValueError, "leaves the layer of shape (16, 20) without a single weight"),
        ({"distribution_name": "erq"}, ValueError, "Unknown sparsity distribution 'erq'. Did you mean 'erk'?"),
        ({"kernel": "cuda"}, ValueError, "Unknown kernel 'cuda'."),
        ({"layers": ["latent.1"]}, ValueError, "Only linear layers can be made sparse, but 'latent.1' is a ReLU."),
        ({"layers": ["latent.7"]}, AttributeError, "7"),
        ({"dense": ["mi"]}, ValueError, "Unknown layer to stay dense 'mi'. Did you mean 'mu'?"),
        ({"dense": ["latent.0"]}, ValueError, "cannot be both the only sparse layer and dense"),
    ],
)
def test_what_cannot_be_made_sparse_is_refused_and_left_alone(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    policy = Policy()
    with pytest.raises(error, match=re.escape(message)):
        sparsify(policy, **({"layers": NAMES, "sparsity": 0.8} | arguments))
    assert not sparse_layers(policy)


def test_a_sparse_layer_cannot_be_made_sparse_again() -> None:
    policy = Policy()
    sparsify(policy, NAMES, 0.5)
    with pytest.raises(ValueError, match=r"Only linear layers can be made sparse, but 'latent\.0' is a SparseLinear"):
        sparsify(policy, NAMES, 0.8)


# -- the hand-written backward pass ----------------------------------------------------------------------------------

WIDTHS = (13, 12, 9, 4)
MIXES = [
    ("dense", "dense", "dense"),
    ("numba", "dense", "dense"),
    ("scatter", "dense", "numba"),
    ("numba", "scatter", "numba"),
    ("dense", "numba", "scatter"),
    ("numba", "numba", "numba"),
]


def make_network(kinds: Sequence[str], relu_last: bool = False, bias: bool = True, seed: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for index, (kind, (n_in, n_out)) in enumerate(zip(kinds, pairwise(WIDTHS[: len(kinds) + 1]), strict=True)):
        linear = nn.Linear(n_in, n_out, bias=bias)
        if kind == "dense":
            modules.append(linear)
        else:
            topology = Topology.random((n_out, n_in), n_out * n_in // 3, seeded(10 * seed + index))
            modules.append(SparseLinear.from_dense(linear, topology, kind))
        modules.append(nn.ReLU())
    return nn.Sequential(*(modules if relu_last else modules[:-1])).double()


def autograd(network: nn.Sequential, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = x.t().clone().requires_grad_()
    y = network(x)
    dx, *gradients = torch.autograd.grad(y, [x, *network.parameters()], dy.t())
    return y.detach().t(), dx.t(), gradients


def assert_runs_like_autograd(mlp: FeatureMajorMLP, network: nn.Sequential, first: int, size: int) -> None:
    x = batch(WIDTHS[0], size, seed=size).double()
    y = mlp.forward(x, first=first)
    dy = batch(*y.shape, seed=size + 1).double()
    expected_y, expected_dx, expected_gradients = autograd(network, x, dy)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(y, expected_y, **close)
    untouched = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    torch.testing.assert_close(mlp.input_gradient(dy), expected_dx[first:], **close)
    for before, parameter in zip(untouched, network.parameters(), strict=True):
        assert before is None if parameter.grad is None else torch.equal(parameter.grad, before)
    mlp.backward(dy)
    for parameter, gradient in zip(network.parameters(), expected_gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, **close)


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
@pytest.mark.parametrize("first", [0, 10, 13])
@pytest.mark.parametrize("relu_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_feature_major_network_runs_like_autograd(
    kinds: tuple[str, ...], first: int, relu_last: bool, bias: bool
) -> None:
    network = make_network(kinds, relu_last, bias)
    mlp = FeatureMajorMLP(list(network))
    for size in (7, 7, 1):  # gradients of the pass before are overwritten
        assert_runs_like_autograd(mlp, network, first, size)


@pytest.mark.parametrize("kind", ["dense", "numba", "scatter"])
@pytest.mark.parametrize("relu_last", [False, True])
def test_a_single_layer_is_a_network(kind: str, relu_last: bool) -> None:
    network = make_network([kind], relu_last)
    assert_runs_like_autograd(FeatureMajorMLP(list(network)), network, 10, 6)


def test_gradients_overwrite_those_of_the_pass_before_and_reuse_their_memory() -> None:
    network = make_network(MIXES[1])
    mlp = FeatureMajorMLP(list(network))
    x = batch(13, 5).double()
    dy = torch.ones_like(mlp.forward(x))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    mlp.backward(dy)
    kept = [p.grad for p in network.parameters()]
    first = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    mlp.backward(dy)
    for gradient, parameter in zip(first, network.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    assert all(a is b.grad for a, b in zip(kept, network.parameters(), strict=True))


@pytest.mark.parametrize("kinds", MIXES[1:4], ids="-".join)
def test_a_feature_major_network_follows_its_layers(kinds: tuple[str, ...]) -> None:
    network = make_network(kinds)
    mlp = FeatureMajorMLP(list(network))
    assert_runs_like_autograd(mlp, network, 10, 7)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    optimizer.step()
    for layer in sparse_layers(network).values():
        rewire_layer(layer, proposal(layer), optimizer)
    assert_runs_like_autograd(mlp, network, 10, 7)
    other = make_network(kinds)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    network.load_state_dict(other.state_dict())
    assert_runs_like_autograd(mlp, network, 10, 7)


def test_a_pass_that_is_not_remembered_leaves_the_remembered_one_alone() -> None:
    network = make_network(MIXES[1])
    mlp = FeatureMajorMLP(list(network))
    x = batch(13, 5).double()
    dy = torch.ones_like(mlp.forward(x))
    expected = mlp.input_gradient(dy)
    torch.testing.assert_close(mlp.forward(x * 2, remember=False), network(2 * x.t()).t().detach())
    assert torch.equal(mlp.input_gradient(dy), expected)


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
@pytest.mark.parametrize("bias", [False, True])
def test_networks_of_one_shape_run_as_one(kinds: tuple[str, ...], bias: bool) -> None:
    networks = [make_network(kinds, bias=bias, seed=seed) for seed in (1, 2, 3)]
    copies = copy.deepcopy(networks)
    one = FeatureMajorMLP(*(list(network) for network in networks))
    each = [FeatureMajorMLP(list(network)) for network in copies]
    for size in (7, 1):
        x = batch(13, size, seed=size).double()
        y = one.forward(x, first=10)
        dy = batch(*y.shape, seed=size + 1).double()
        torch.testing.assert_close(y, torch.cat([mlp.forward(x, first=10) for mlp in each]))
        parts = dy.chunk(3)
        expected = sum(mlp.input_gradient(part) for mlp, part in zip(each, parts, strict=True))
        torch.testing.assert_close(one.input_gradient(dy), expected)
        one.backward(dy)
        for mlp, part, network, duplicate in zip(each, parts, networks, copies, strict=True):
            mlp.backward(part)
            for parameter, expected in zip(network.parameters(), duplicate.parameters(), strict=True):
                torch.testing.assert_close(parameter.grad, expected.grad)


def test_networks_that_run_as_one_stay_themselves() -> None:
    networks = [make_network(MIXES[1], seed=seed) for seed in (1, 2)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    identities = [list(network.parameters()) for network in networks]
    mlp = FeatureMajorMLP(*(list(network) for network in networks))
    for network, state, parameters in zip(networks, before, identities, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    x = batch(13, 5).double()

    def assert_follows() -> None:
        expected = torch.cat([network(x.t()).t() for network in networks])
        torch.testing.assert_close(mlp.forward(x), expected.detach())

    with torch.no_grad():
        for parameter in networks[1].parameters():
            parameter.mul_(2)
    assert_follows()
    networks[0].load_state_dict(before[1])
    assert_follows()
    networks[1][-1].bias.data = torch.ones_like(networks[1][-1].bias)  # torn out of the common tensor
    assert_follows()
    for network in networks:
        for layer in sparse_layers(network).values():
            rewire_layer(layer, proposal(layer))
    assert_follows()


def test_heads_read_the_same_output() -> None:
    body = make_network(MIXES[1], relu_last=True)
    width = body[-2].out_features
    heads = [nn.Linear(width, 2).double(), nn.Linear(width, 2).double()]
    mlp = FeatureMajorMLP(list(body), heads=heads)
    x = batch(13, 5).double()
    y = mlp.forward(x)
    expected = torch.cat([head(body(x.t())) for head in heads], dim=1)
    torch.testing.assert_close(y, expected.detach().t())
    dy = batch(*y.shape).double()
    gradients = torch.autograd.grad(expected, [*body.parameters(), *heads[1].parameters()], dy.t())
    mlp.backward(dy)
    for parameter, gradient in zip([*body.parameters(), *heads[1].parameters()], gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
def test_a_gradient_may_be_for_the_first_columns_only(kinds: tuple[str, ...]) -> None:
    network = make_network(kinds)
    mlp, narrow = FeatureMajorMLP(list(network)), FeatureMajorMLP(list(network))
    x = batch(13, 8).double()
    dy = batch(*mlp.forward(x).shape).double()[:, :5].contiguous()
    narrow.forward(x[:, :5].contiguous())
    narrow.backward(dy)
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    mlp.backward(dy)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(mlp.input_gradient(dy), narrow.input_gradient(dy))


def test_networks_that_differ_do_not_run_as_one() -> None:
    network = make_network(MIXES[1])
    assert not FeatureMajorMLP.supports(list(network), list(make_network(MIXES[1], relu_last=True)))
    assert not FeatureMajorMLP.supports(list(network), [nn.Linear(13, 9)])
    assert not FeatureMajorMLP.supports(list(network), heads=[nn.Linear(9, 2)])  # no ReLU below the heads
    assert not FeatureMajorMLP.supports()


def test_autograd_is_not_involved() -> None:
    network = make_network(MIXES[1])
    assert not FeatureMajorMLP(list(network)).forward(batch(13, 5).double()).requires_grad


@pytest.mark.parametrize("kind", ["dense", "numba", "scatter"])
def test_tensors_that_do_not_fit_are_refused(kind: str) -> None:
    mlp = FeatureMajorMLP(list(make_network([kind, kind])))
    mlp.forward(batch(13, 5).double())
    for shape in ((9, 6), (8, 5), (10, 5)):
        for use in (mlp.backward, mlp.input_gradient):
            with pytest.raises(ValueError, match=re.escape(f"output of shape (9, 5), not one of shape {shape}")):
                use(torch.ones(shape).double())
    for shape in ((10, 5), (14, 5), (13,)):
        with pytest.raises(ValueError, match=re.escape("Expected inputs of shape (13, batch)")):
            mlp.forward(torch.ones(shape).double())
    for first in (-1, 14):
        with pytest.raises(ValueError, match="between 0 and 13"):
            mlp.forward(torch.ones(13, 5).double(), first=first)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layers", "supported"),
    [
        ([nn.Linear(3, 4)], True),
        ([nn.Linear(3, 4), nn.ReLU()], True),
        ([nn.Linear(3, 4), nn.ReLU(), SparseLinear(Topology.random((2, 4), 3))], True),
        ([], False),
        ([nn.ReLU()], False),
        ([nn.Linear(3, 4), nn.Linear(4, 2)], False),
        ([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)], False),
        ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh()], False),
        ([nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)], False),
        ([nn.Conv1d(3, 4, 1)], False),
        ([Doubled(3, 4)], False),
        ([nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))], False),
        ([nn.Linear(3, 4, device="meta")], False),
    ],
)
def test_supported_layers(layers: list[nn.Module], supported: bool) -> None:
    assert FeatureMajorMLP.supports(layers) == supported
    if not supported:
        with pytest.raises(
            ValueError, match="Expected linear layers with ReLU between them, the same in all networks, not"
        ):
            FeatureMajorMLP(layers)


def test_parameters_that_are_frozen_get_no_gradient_from_the_hand_written_backward_pass():
    layers = [SparseLinear(Topology.random((4, 6), 10)), nn.ReLU(), nn.Linear(4, 2)]
    layers[0].values.requires_grad_(False)
    layers[2].bias.requires_grad_(False)
    mlp = FeatureMajorMLP(layers)
    mlp.backward(torch.ones_like(mlp.forward(torch.randn(6, 3))))
    assert layers[0].values.grad is None
    assert layers[2].bias.grad is None
    assert layers[0].bias.grad is not None
    assert layers[2].weight.grad is not None
