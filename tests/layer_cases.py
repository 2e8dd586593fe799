"""Layers for tests, and what is expected of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_rl.nn import SparseLinear
from sparse_rl.topology import SET, Rewiring, Topology

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
