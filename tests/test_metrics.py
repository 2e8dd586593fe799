"""What a network looks at, and what it costs, in examples worked by hand."""

import numpy as np
import torch
from torch import nn

from sparse_rl.metrics import connections_per_feature, count_weights
from sparse_rl.nn import SparseLinear, sparsify
from sparse_rl.topology import Topology


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
