"""A change of topology as a value: ``drop`` and ``grow`` propose it, layers, optimizers and targets apply it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_rl.topology.topology import Topology, sample_distinct


@dataclass(frozen=True)
class Rewiring:
    """
    How one topology becomes another.

    :param before: the topology that is left
    :param after: the topology that replaces it
    :param source: int64 tensor of shape ``(after.active,)``: where each weight of ``after`` stands in ``before``,
        or -1 for a newly grown weight
    """

    before: Topology
    after: Topology
    source: Tensor

    @property
    def n_dropped(self) -> int:
        """How many weights of ``before`` do not carry over."""
        return self.before.active - int((self.source >= 0).sum())

    @property
    def n_grown(self) -> int:
        """How many weights of ``after`` are new."""
        return int((self.source < 0).sum())

    def carry(self, vector: Tensor, fill: float = 0.0) -> Tensor:
        """
        Carry a per-weight vector over: values, optimizer moments, gradients.

        Kept entries are copied bit for bit.

        :param vector: tensor of shape ``(before.active,)``
        :param fill: the entries of new weights
        :return: tensor of shape ``(after.active,)``, of the same dtype
        :raises ValueError: if the vector does not belong to ``before``
        """
        if vector.shape != (self.before.active,):
            raise ValueError(f"Expected one entry per active weight, {self.before.active}, not {tuple(vector.shape)}.")
        kept = self.source >= 0
        carried = vector.new_full((self.after.active,), fill)
        carried[kept] = vector[self.source[kept]]
        return carried


def drop_by_magnitude(values: Tensor, count: int) -> Tensor:
    """
    Choose the ``count`` active weights of smallest magnitude, as ANF does (both signs together).

    Ties fall to the weight that comes first, so that exactly ``count`` are chosen. (The authors' code drops whatever
    does not exceed a threshold: one weight more, and all ties.)

    :param values: the active weights, of shape ``(active,)``
    :param count: how many to drop
    :return: sorted int64 tensor of shape ``(count,)`` with the indices of the weights to drop
    :raises ValueError: if there are fewer than ``count`` weights
    """
    if not 0 <= count <= values.numel():
        raise ValueError(f"Cannot drop {count} of {values.numel()} weights.")
    return values.detach().abs().argsort(stable=True)[:count].sort().values


def drop_by_sign(values: Tensor, fraction: float) -> Tensor:
    """
    Choose a fraction of the positive and of the negative weights, those closest to zero (SET, Mocanu et al. 2018).

    Both numbers are rounded down. A weight of exactly zero counts as positive, and so goes first. (The authors' code,
    and that of DS, drops whatever does not exceed a threshold of its sign: one weight more of each, and all zeros.)

    :param values: the active weights, of shape ``(active,)``
    :param fraction: fraction of the weights of each sign to drop, in [0, 1]
    :return: sorted int64 tensor with the indices of the weights to drop
    """
    values = values.detach()
    dropped = []
    for side in ((values >= 0).nonzero().flatten(), (values < 0).nonzero().flatten()):
        dropped.append(side[drop_by_magnitude(values[side], share(fraction, side.numel()))])
    return torch.cat(dropped).sort().values


def share(fraction: float, count: int) -> int:
    """
    Take a fraction of a number, rounded down.

    :param fraction: the fraction, in [0, 1]
    :param count: the number
    :return: the whole part of their product, as in exact arithmetic: 0.3 of 10 is 3
    """
    return int(fraction * count + 1e-9)


def grow_at_random(topology: Topology, count: int, generator: torch.Generator | None = None) -> Tensor:
    """
    Choose ``count`` inactive positions uniformly at random (SET, Mocanu et al. 2018).

    :param topology: the topology to grow in
    :param count: how many positions to choose
    :param generator: source of randomness; PyTorch's global generator if ``None``
    :return: int64 tensor of shape ``(count,)`` of flat positions
    :raises ValueError: if there are fewer than ``count`` inactive positions
    """
    ranks = sample_distinct(room_to_grow(topology, count), count, generator).to(topology.device)
    # The r-th inactive position is r plus the number of active positions before it. With a_i the sorted active
    # positions, a_i - i inactive positions lie before a_i: no dense mask is needed.
    gaps_before = topology.positions - torch.arange(topology.active, device=topology.device)
    return ranks + torch.searchsorted(gaps_before, ranks, right=True)


def room_to_grow(topology: Topology, count: int) -> int:
    """
    Count the inactive positions, and check that there are enough of them.

    :param topology: the topology to grow in
    :param count: how many positions are wanted
    :return: the number of inactive positions
    :raises ValueError: if there are fewer than ``count``
    """
    inactive = topology.size - topology.active
    if not 0 <= count <= inactive:
        raise ValueError(f"Cannot grow {count} weights: only {inactive} positions are inactive.")
    return inactive


def rewire(topology: Topology, dropped: Tensor, grown: Tensor) -> Rewiring:
    """
    Replace some active weights by new ones.

    A position that is dropped and grown in the same step counts as new: it restarts from zero like any other.
    (The authors' ANF code lets it keep its old value.)

    :param topology: the present topology
    :param dropped: indices into its active weights, unique, of shape ``(n,)``
    :param grown: flat positions, unique, which are not active once ``dropped`` is gone
    :return: the change, to be applied to everything that has one entry per active weight
    :raises ValueError: if a grown position is still active
    """
    kept = torch.ones(topology.active, dtype=torch.bool, device=topology.device)
    kept[dropped] = False
    kept_index = kept.nonzero().flatten()
    positions = torch.cat([topology.positions[kept_index], grown])
    source = torch.cat([kept_index, torch.full_like(grown, -1)])
    after = Topology.from_positions(topology.shape, positions)
    return Rewiring(topology, after, source[positions.argsort()])


def without(topology: Topology, dropped: Tensor) -> Topology:
    """
    Remove active weights.

    :param topology: the present topology
    :param dropped: indices into its active weights
    :return: the smaller topology
    """
    return rewire(topology, dropped, topology.positions[:0]).after
