"""Growth by gradient: which absent weights would lower the loss fastest, found without storing a dense matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_rl.topology.rewiring import room_to_grow
from sparse_rl.topology.topology import Topology

BLOCK = 65_536  # entries of the gradient that are looked at together, at most: they fit a cache
PARTS = 8  # in so many parts at least, however small the layer: there never is the whole matrix


@dataclass(frozen=True)
class WeightGradient:
    """
    The gradient of a layer's whole weight matrix, absent weights included, as the two factors whose product it is.

    :param inputs: what the layer read, of shape ``(batch, in_features)``
    :param d_outputs: the loss's gradient of what it gave, of shape ``(batch, out_features)``
    """

    inputs: Tensor
    d_outputs: Tensor

    def rows(self, first: int, last: int) -> Tensor:
        """
        Compute some rows of it.

        :param first: the first row
        :param last: the row after the last one
        :return: tensor of shape ``(last - first, in_features)``
        """
        return self.d_outputs[:, first:last].t() @ self.inputs


def grow_by_gradient(topology: Topology, count: int, gradient: WeightGradient, block: int = BLOCK) -> Tensor:
    """
    Choose the ``count`` inactive positions whose gradient is largest in magnitude (RigL, Evci et al. 2020).

    The gradient is computed a few rows at a time, an eighth of the layer at most, of which the best so far are kept. Of
    equal gradients those at lower positions are chosen.

    :param topology: the topology to grow in
    :param count: how many positions to choose
    :param gradient: the gradient of the layer's weights
    :param block: how many entries of the gradient to compute at once, at most; at least a row is
    :return: int64 tensor of shape ``(count,)`` of flat positions, the largest gradient first
    :raises ValueError: if there are fewer than ``count`` inactive positions, or the gradient is another layer's
    """
    room_to_grow(topology, count)
    n_rows, n_columns = topology.shape
    if (gradient.d_outputs.shape[1], gradient.inputs.shape[1]) != topology.shape:
        raise ValueError(
            f"Expected the gradient of a layer of shape {topology.shape}, not one of outputs "
            f"{tuple(gradient.d_outputs.shape)} and inputs {tuple(gradient.inputs.shape)}."
        )
    magnitudes = gradient.inputs.new_empty(0)
    positions = topology.positions[:0]
    if count == 0:
        return positions
    rows = max(1, min(block // n_columns, n_rows // PARTS))
    for first in range(0, n_rows, rows):
        last = min(first + rows, n_rows)
        found = gradient.rows(first, last).abs().flatten()
        is_candidate = torch.ones_like(found, dtype=torch.bool)
        begin, end = topology.row_ptr[first], topology.row_ptr[last]
        is_candidate[topology.positions[begin:end] - first * n_columns] = False
        if magnitudes.numel() == count:
            is_candidate &= found > magnitudes[-1]  # an equal one comes later, so it loses
        candidates = is_candidate.nonzero().flatten()
        magnitudes = torch.cat([magnitudes, found[candidates]])
        positions = torch.cat([positions, candidates + first * n_columns])
        best = magnitudes.argsort(descending=True, stable=True)[:count]
        magnitudes, positions = magnitudes[best], positions[best]
    return positions
