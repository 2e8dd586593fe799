"""Sparse layers: made of dense ones, saved, copied, trained; the same with every kernel."""

import copy
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_cases import KERNELS, batch, by_hand, make_layer, proposal
from torch import nn

from sparse_rl.nn import SparseLinear
from sparse_rl.topology import Topology

# Conversion


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


# Saving and copying


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


# Training


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


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_inputs_of_another_type_are_refused(batch: int, bias: bool) -> None:
    layer = SparseLinear(Topology.random((20, 30), 60), bias=bias, kernel="numba")
    with pytest.raises(ValueError, match="one batch size and dtype"):
        layer(torch.ones(batch, 30, dtype=torch.float64))
