"""The hand-written forward and backward pass does what automatic differentiation does."""

import copy
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from layer_cases import batch, proposal, seeded
from torch import Tensor, nn

from sparse_rl.nn import FeatureMajorMLP, SparseLinear, rewire_layer, sparse_layers
from sparse_rl.topology import Topology

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


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
def test_the_gradient_of_nothing_is_zero(kinds: tuple[str, ...]) -> None:
    network = make_network(kinds)
    mlp = FeatureMajorMLP(list(network))
    dy = torch.ones_like(mlp.forward(batch(13, 8).double()))
    mlp.backward(dy)
    assert any(p.grad.any() for p in network.parameters() if p.grad is not None)
    mlp.backward(dy[:, :0].contiguous())
    assert not any(p.grad.any() for p in network.parameters() if p.grad is not None)


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
