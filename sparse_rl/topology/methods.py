"""Dynamic sparse training methods: each is a small override of one loop."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparse_rl.topology.rewiring import Rewiring, drop_by_magnitude, grow_at_random, rewire, without
from sparse_rl.topology.schedules import UpdateSchedule
from sparse_rl.topology.topology import Topology


class Method(Protocol):
    """What a method has to offer: when it acts, and the rewiring that it proposes for one layer."""

    def updates_between(self, before: int, now: int) -> int:
        """Count the updates that fall due in the gradient steps ``(before, now]``."""

    def propose(
        self, topology: Topology, values: Tensor, step: int, generator: torch.Generator | None = None
    ) -> Rewiring:
        """Propose the rewiring of one layer at gradient step ``step``."""


@dataclass(frozen=True)
class SET(UpdateSchedule):
    """
    Sparse evolutionary training: drop the weights of smallest magnitude, grow as many at random.

    With its defaults and on the input layer alone this is Automatic Noise Filtering (ANF, Grooten et al. 2023). SET
    itself (Mocanu et al. 2018) drops a fraction of the positive and of the negative weights, once an epoch.
    """

    def propose(
        self, topology: Topology, values: Tensor, step: int, generator: torch.Generator | None = None
    ) -> Rewiring:
        """
        Propose the rewiring of one layer.

        :param topology: the layer's present topology
        :param values: its active weights, of shape ``(topology.active,)``
        :param step: the present gradient step
        :param generator: source of randomness; PyTorch's global generator if ``None``
        :return: the rewiring; the number of active weights stays as it is
        """
        count = self.count_at(step, topology.active)
        dropped = self.drop(values, count)
        grown = self.grow(without(topology, dropped), count, generator)
        return rewire(topology, dropped, grown)

    def count_at(self, step: int, active: int) -> int:
        """Give the number of weights to replace: the drop fraction of the active ones, rounded down."""
        return int(self.fraction_at(step) * active + 1e-9)

    def drop(self, values: Tensor, count: int) -> Tensor:
        """Choose what to drop: see :func:`~sparse_rl.topology.rewiring.drop_by_magnitude`."""
        return drop_by_magnitude(values, count)

    def grow(self, topology: Topology, count: int, generator: torch.Generator | None) -> Tensor:
        """Choose what to grow: see :func:`~sparse_rl.topology.rewiring.grow_at_random`."""
        return grow_at_random(topology, count, generator)


@dataclass(frozen=True)
class Static:
    """Static sparse training: the topology drawn at the start stays."""

    def updates_between(self, before: int, now: int) -> int:
        """Count the updates that fall due: none ever."""
        return 0

    def propose(
        self, topology: Topology, values: Tensor, step: int, generator: torch.Generator | None = None
    ) -> Rewiring:
        """Propose to leave everything as it is."""
        return Rewiring(topology, topology, torch.arange(topology.active, device=topology.device))
