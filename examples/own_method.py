"""
A sparse training method of your own: drop the weakest weights, and grow where whole features are looked at already.

    python train.py --algo examples.own_method:RichGetRicher-sac --env HalfCheetah-noise98
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparse_rl.topology import SET, Topology, WeightGradient


@dataclass(frozen=True)
class RichGetRicher(SET):
    """
    SET, with growth that prefers features by the number of their connections.

    :param power: 0 to grow at random, as SET does; the larger, the richer get the rich
    """

    power: float = 2.0

    #: What goes with it when `train.py` is to run it; --sparsity, -params and so on change it.
    recipe: ClassVar[dict[str, object]] = {"sparsity": 0.8, "distribution": "input"}

    def grow(
        self, topology: Topology, count: int, generator: torch.Generator | None, gradient: WeightGradient | None
    ) -> Tensor:
        """Choose what to grow: flat positions that are free, sorted."""
        rows, columns = topology.shape
        connections = torch.bincount(topology.columns, minlength=columns)
        weights = (1.0 + connections).pow(self.power).repeat(rows)
        weights[topology.positions] = 0  # these exist
        return torch.multinomial(weights, count, generator=generator).sort().values
