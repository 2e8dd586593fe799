"""What a network looks at, what it costs and how alive it is: published figures, and examples worked by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import TD3
from torch import nn

from sparse_rl.metrics import (
    connections_per_feature,
    count_dense_weights,
    count_weights,
    dormant_ratio,
    effective_rank,
    gradient_signal_to_noise,
    hidden_activations,
    inference_flops,
    learning_curve_area,
    loss_change_allocation,
    passages,
    srank,
    topology_overlap,
    training_flops,
)
from sparse_rl.nn import SparseLinear, sparsify
from sparse_rl.topology import SET, Topology


def sparse_layer() -> SparseLinear:
    layer = SparseLinear(Topology.from_mask(torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]])))
    with torch.no_grad():
        layer.values.copy_(torch.tensor([0.5, -2.0, -0.25, 0.0, 1.0]))
    return layer


def test_connections_of_a_sparse_layer() -> None:
    counts, strengths = connections_per_feature(sparse_layer())
    assert counts.tolist() == [3, 0, 2, 0]  # a new weight that is still zero counts
    assert strengths.tolist() == [0.75, 0, 3, 0]
    assert (counts.dtype, strengths.dtype) == (np.int64, np.float32)


def test_connections_of_a_dense_layer() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, -2.0], [0.0, -3.0, 0.5]]))
    counts, strengths = connections_per_feature(layer)
    assert counts.tolist() == [2, 2, 2]
    assert strengths.tolist() == [0, 4, 2.5]
    assert (counts.dtype, strengths.dtype) == (np.int64, np.float32)


def test_a_sparse_layer_is_as_strong_as_its_dense_twin() -> None:
    layer = SparseLinear(Topology.random((20, 30), 100))
    counts, strengths = connections_per_feature(layer)
    np.testing.assert_allclose(strengths, connections_per_feature(layer.to_dense())[1], rtol=1e-6)
    assert counts.tolist() == layer.topology.mask().sum(0).tolist()
    assert counts.sum() == 100


def test_active_weights_are_counted_and_biases_are_not() -> None:
    assert count_weights(sparse_layer()) == 5
    assert count_weights(nn.Linear(4, 3)) == 12
    assert count_weights(nn.Sequential(sparse_layer(), nn.ReLU(), nn.Sequential(nn.Linear(3, 2, bias=False)))) == 11
    assert count_weights(nn.ReLU()) == 0


def test_a_shared_layer_is_counted_once() -> None:
    layer = sparse_layer()
    assert count_weights(nn.ModuleList([layer, nn.Sequential(layer)])) == 5


def test_the_anf_actor_of_halfcheetah_noise98() -> None:
    actor = nn.Sequential(nn.Linear(850, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 12))
    assert count_weights(actor) == 286_208
    sparsify(actor, ["0", "2", "4"], 0.8)
    assert count_weights(actor) == 43_520 + 65_536 + 3_072
    assert connections_per_feature(actor[0])[0].mean() == 51.2


# What it costs: the published figures, from the layers as they are


def mlp(n_inputs: int, n_outputs: int, lambdas: tuple[int, int] | None = None) -> nn.Sequential:
    """Two hidden layers of 256; ``lambdas``: lambda (n_in + n_out) weights in each, as Sokar et al. (2022)."""
    layers: list[nn.Module] = []
    for index, (n, m) in enumerate([(n_inputs, 256), (256, 256), (256, n_outputs)]):
        if lambdas is None or index == 2:
            layers += [nn.Linear(n, m), nn.ReLU()]
        else:
            layers += [SparseLinear(Topology.random((m, n), lambdas[index] * (n + m))), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def td3_of(n_observations: int, n_actions: int, lambdas: tuple[int, int] | None = None) -> dict[str, nn.Module]:
    critics = [mlp(n_observations + n_actions, 1, lambdas) for _ in range(2)]
    return {"actor": mlp(n_observations, n_actions, lambdas), "critics": nn.ModuleList(critics)}


def training_cost(td3: dict[str, nn.Module], steps: int = 1_000_000) -> int:
    actor, critics = (count_weights(td3[name]) for name in ("actor", "critics"))
    return training_flops(critics, 100, steps) + training_flops(actor, 100, steps // 2)


def test_ds_td3_in_halfcheetah_costs_what_was_published() -> None:
    """Sokar et al. (2022): 214,784 and 106,169 weights; 1.07e14 operations for a dense agent, 0.492 of it if sparse."""
    dense, sparse = td3_of(17, 6), td3_of(17, 6, (7, 64))
    assert sum(map(count_weights, dense.values())) == 214_784
    assert sum(map(count_weights, sparse.values())) == 106_169
    assert sum(map(count_dense_weights, sparse.values())) == 214_784
    assert training_cost(dense) == 107_443_200_000_000
    assert training_cost(sparse) == 52_836_900_000_000
    assert f"{training_cost(dense):.2e}" == "1.07e+14"
    assert round(training_cost(sparse) / training_cost(dense), 3) == 0.492


@pytest.mark.parametrize(
    ("n_observations", "n_actions", "lambda_1", "ratio"),
    [(11, 3, 7, 0.505), (111, 8, 40, 0.502), (376, 17, 61, 0.440)],
    ids=["Hopper", "Ant", "Humanoid"],
)
def test_ds_td3_elsewhere(n_observations: int, n_actions: int, lambda_1: int, ratio: float) -> None:
    dense, sparse = td3_of(n_observations, n_actions), td3_of(n_observations, n_actions, (lambda_1, 64))
    assert round(training_cost(sparse) / training_cost(dense), 3) == ratio


def test_our_networks_have_the_published_sizes() -> None:
    """Stable-Baselines3's own TD3 in HalfCheetah, with the papers' layers."""
    model = TD3("MlpPolicy", "HalfCheetah-v5", policy_kwargs={"net_arch": [256, 256]}, buffer_size=1)
    assert count_weights(model.actor) + count_weights(model.critic) == 214_784
    assert inference_flops(count_weights(model.actor)) == 2 * (17 * 256 + 256 * 256 + 256 * 6)


def test_operations_by_hand() -> None:
    assert inference_flops(5) == 10
    assert inference_flops(5, batch_size=3) == 30
    assert training_flops(5, batch_size=3, updates=4) == 3 * 30 * 4


# What its neurons do


def test_what_goes_through_a_network() -> None:
    """Two outputs that read the same activations, as SAC's actor has."""
    body, mean, spread = nn.Sequential(sparse_layer(), nn.ReLU()), nn.Linear(3, 2), nn.Linear(3, 1)
    network, x = nn.ModuleList([body, mean, spread]), torch.randn(5, 4)

    def run() -> None:
        hidden = body(x)
        mean(hidden)
        spread(hidden)

    seen = passages(network, run)
    assert [passage.layer for passage in seen] == [body[0], mean, spread]
    assert torch.equal(seen[0].inputs, x)
    assert torch.equal(seen[0].outputs, body[0](x))
    (hidden,) = hidden_activations(seen)
    assert torch.equal(hidden, body(x))
    assert not any(layer._forward_hooks for layer in network.modules())


def test_inputs_that_several_networks_read_are_not_hidden() -> None:
    one, other = (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(2))
    x = torch.randn(5, 4)
    hidden = hidden_activations(passages(nn.ModuleList([one, other]), lambda: (one(x), other(x))))
    assert [activations.shape for activations in hidden] == [(5, 3), (5, 3)]


def test_inputs_in_blocks_are_one_input() -> None:
    layer = sparse_layer()
    a, b = torch.randn(5, 3), torch.randn(5, 1)
    (passage,) = passages(layer, lambda: layer(a, b))
    assert torch.equal(passage.inputs, torch.cat([a, b], dim=1))
    assert hidden_activations([passage]) == []


def test_no_hook_stays_when_a_network_fails() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        passages(layer, lambda: layer(torch.ones(1, 4)))
    assert not layer._forward_hooks


def test_dormant_neurons_by_hand() -> None:
    """Mean magnitudes 4, 0.2, 0, 3.8 of mean 2: scores 2, 0.1, 0, 1.9."""
    layer = torch.tensor([[4.0, 0.4, 0.0, -3.8], [-4.0, 0.0, 0.0, 3.8]], dtype=torch.float64)
    assert [dormant_ratio([layer], tau) for tau in (0, 0.09, 0.11, 1.95, 2)] == [0.25, 0.25, 0.5, 0.75, 1]
    awake, dead = torch.ones(2, 4), torch.zeros(2, 4)
    assert dormant_ratio([awake]) == 0
    assert dormant_ratio([dead]) == 1
    assert dormant_ratio([awake, dead, awake, awake]) == 0.25
    assert dormant_ratio([awake, torch.zeros(2, 12)]) == 0.75  # neurons are counted, not layers


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_dormancy_does_not_depend_on_the_scale(scale: float, seed: int) -> None:
    layer = torch.randn(8, 30, generator=torch.Generator().manual_seed(seed)).relu() * torch.arange(30)
    assert dormant_ratio([layer]) == dormant_ratio([layer * scale])


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_equal_directions_are_counted_alike(rank: int) -> None:
    """``rank`` equal singular values, and otherwise zeros."""
    features = torch.zeros(10, 6)
    features[:rank, :rank] = 2 * torch.eye(rank)
    assert srank(features) == srank(features, delta=0) == rank
    assert effective_rank(features) == pytest.approx(rank)


def test_ranks_by_hand() -> None:
    """Singular values 90, 9, 0.9, 0.1: shares 0.9, 0.99, 0.999, 1."""
    features = torch.diag(torch.tensor([0.1, 9.0, 90.0, 0.9]))
    assert [srank(features, delta) for delta in (0.2, 0.05, 0.005, 0)] == [1, 2, 3, 4]
    shares = [0.9, 0.09, 0.009, 0.001]
    assert effective_rank(features) == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares)))


def test_ranks_of_nothing() -> None:
    assert srank(torch.zeros(4, 3)) == 0
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_rounding_is_no_direction() -> None:
    torch.manual_seed(0)
    features = torch.randn(100, 5) @ torch.randn(5, 64)
    assert srank(features, delta=0) == 5


@given(n=st.integers(1, 20), m=st.integers(1, 20), seed=st.integers(0, 1000))
def test_ranks_are_within_bounds_and_blind_to_rotation_and_scale(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, m, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64)).Q
    assert 1 <= srank(features) <= min(n, m)
    assert 1 - 1e-9 <= effective_rank(features) <= min(n, m) + 1e-9
    assert effective_rank(3 * features @ rotation) == pytest.approx(effective_rank(features))


# What its gradients are worth


@pytest.mark.parametrize("is_sparse", [False, True])
def test_signal_to_noise_is_that_of_each_samples_gradient(is_sparse: bool) -> None:
    torch.manual_seed(0)
    layer = sparse_layer() if is_sparse else nn.Linear(4, 3)
    network = nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 1)).double()
    x, losses = torch.randn(16, 4, dtype=torch.float64), []
    weight = layer.values if isinstance(layer, SparseLinear) else layer.weight
    each = []
    for sample in x:  # one by one, as the definition says
        (gradient,) = torch.autograd.grad(network(sample[None]).square().sum(), weight)
        each.append(gradient.flatten())
    gradients = torch.stack(each)
    expected = gradients.mean(0).abs() / (gradients.std(0, correction=0) + 1e-10)

    seen = passages(network, lambda: losses.append(network(x).square().sum()))
    (delta,) = torch.autograd.grad(losses[0], [seen[0].outputs])
    topology = layer.topology if isinstance(layer, SparseLinear) else None
    torch.testing.assert_close(gradient_signal_to_noise(seen[0].inputs.detach(), delta, topology), expected)


def test_signal_to_noise_by_hand() -> None:
    """One input that is 1; gradients 1 and 3: mean 2, deviation 1. A weight without gradient has no signal."""
    ratios = gradient_signal_to_noise(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0], [3.0]]))
    assert ratios.tolist() == pytest.approx([2.0, 0.0])


def test_allocation_is_exact_for_a_cubic_loss() -> None:
    start, move = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return x[0] ** 3 + x[0] * x[1] + 2 * x[1]

    def gradient(x: torch.Tensor) -> list[torch.Tensor]:
        x = x.clone().requires_grad_()
        return list(torch.autograd.grad(loss(x), x))

    (shares,) = loss_change_allocation(gradient(start), gradient(start + move / 2), gradient(start + move), [move])
    assert shares.sum().item() == pytest.approx((loss(start + move) - loss(start)).item(), rel=1e-6)
    # On the way x = 1 + t / 2 and y = -2 + t: x moves through 3 x^2 + y, y through x + 2.
    assert shares.tolist() == pytest.approx([1.5**3 - 1 - 0.75, 1.25 + 2])


# How it changed


def test_overlap_by_hand() -> None:
    before = {"0": Topology.from_positions((2, 5), torch.tensor([0, 1, 2, 9])), "2": Topology.random((4, 4), 16)}
    after = {"0": Topology.from_positions((2, 5), torch.tensor([0, 2, 3, 4])), "2": Topology.random((4, 4), 4)}
    assert topology_overlap({"0": before["0"]}, {"0": after["0"]}) == 0.5
    assert topology_overlap(before, after) == (2 + 4) / (4 + 16)
    assert topology_overlap(before, before) == 1


@given(fraction=st.floats(0, 0.4), seed=st.integers(0, 100))
def test_overlap_is_what_a_rewiring_kept(fraction: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    topology = Topology.random((10, 20), 60, generator)
    rewiring = SET(drop_fraction=fraction, update_interval=1).propose(topology, torch.randn(60), 1, generator)
    returned = int(torch.isin(rewiring.after.positions[rewiring.source < 0], topology.positions).sum())
    assert topology_overlap({"0": topology}, {"0": rewiring.after}) == pytest.approx(
        1 - (rewiring.n_dropped - returned) / 60
    )


def test_the_area_of_a_learning_curve_is_the_published_one() -> None:
    """Sokar et al. (2022): 1.956 in HalfCheetah, 200 evaluations in a million steps, is a mean return of 9780."""
    assert learning_curve_area([9780.0] * 200, 1_000_000) == pytest.approx(1.956)
    assert learning_curve_area([], 10) == 0


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: dormant_ratio([torch.ones(2, 2)], tau=-0.1), "tau must be at least 0, not -0.1"),
        (lambda: dormant_ratio([]), "no hidden neuron"),
        (lambda: srank(torch.ones(2, 2), delta=1), r"delta must lie in \[0, 1\), not 1"),
        (lambda: srank(torch.ones(2)), r"shape \(batch, neurons\), not \(2,\)"),
        (lambda: effective_rank(torch.ones(0, 2)), r"not \(0, 2\)"),
        (lambda: effective_rank(torch.full((2, 2), float("nan"))), "have no rank"),
        (lambda: gradient_signal_to_noise(torch.ones(2, 3), torch.ones(3, 3)), "not of the same batch"),
        (
            lambda: gradient_signal_to_noise(torch.ones(2, 3), torch.ones(2, 4), Topology.random((3, 4), 5)),
            r"topology of shape \(3, 4\) does not fit a layer of shape \(4, 3\)",
        ),
        (lambda: topology_overlap({}, {}), "Without a connection"),
        (lambda: topology_overlap({"0": Topology.random((2, 2), 1)}, {}), r"0 \(2, 2\) cannot be compared"),
        (lambda: learning_curve_area([1.0], 0), "must be at least 1, not 0"),
    ],
)
def test_nonsense_gets_a_sentence(compute: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute()


def test_sizes_that_are_numpys_numbers_are_counted_as_python_s() -> None:
    """Stable-Baselines3 makes such layers for MultiDiscrete actions, and YAML would not take the count."""
    layer = nn.Linear(3, int(np.int64(5)))
    layer.out_features = np.int64(5)  # type: ignore[assignment]
    assert type(count_dense_weights(layer)) is int
