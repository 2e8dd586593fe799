"""Networks that become sparse: which layers do, and which stay as they are."""

import copy
import re
from typing import Any

import pytest
import torch
from layer_cases import seeded
from torch import nn

from sparse_rl.nn import sparse_layers, sparsify


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
