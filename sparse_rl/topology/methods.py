"""Dynamic sparse training methods: each is a small override of one loop. What papers and codes do: docs/methods/."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sparse_rl.topology.gradients import WeightGradient, grow_by_gradient
from sparse_rl.topology.rewiring import (
    Rewiring,
    drop_by_magnitude,
    drop_by_sign,
    grow_at_random,
    rewire,
    share,
    without,
)
from sparse_rl.topology.schedules import Budget, BudgetSchedule, UpdateSchedule
from sparse_rl.topology.topology import Topology


class Method(Protocol):
    """What a method has to offer: when it acts, and the rewiring that it proposes for one layer."""

    #: Whether :meth:`propose` wants the gradient of all weights, absent ones included.
    needs_gradient: ClassVar[bool]

    def updates_between(self, before: int, now: int) -> int:
        """Count the updates that fall due in the gradient steps ``(before, now]``."""

    def check(self, budget: Budget) -> None:
        """
        Check that a layer suits the method.

        :raises ValueError: if its number of active weights is to change otherwise than the method changes it
        """

    def propose(
        self,
        topology: Topology,
        values: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        *,
        budget: Budget,
        gradient: WeightGradient | None = None,
    ) -> Rewiring:
        """Propose the rewiring of one layer at gradient step ``step``."""


class _ConstantBudget:
    """What methods share that keep each layer's number of active weights."""

    needs_gradient: ClassVar[bool] = False

    def check(self, budget: Budget) -> None:
        """
        Check that a layer is to keep its number of active weights.

        :param budget: the layer's
        :raises ValueError: if it is not
        """
        if budget.start != budget.end:
            raise ValueError(
                f"{type(self).__name__} keeps the number of active weights, but a layer is to go from {budget.start} "
                f"to {budget.end}: leave out `initial_sparsity`, or choose a method that prunes or grows."
            )


@dataclass(frozen=True)
class SET(_ConstantBudget, UpdateSchedule):
    """
    Sparse evolutionary training: drop the weights of smallest magnitude, grow as many at random.

    With its defaults and on the input layer alone this is Automatic Noise Filtering (ANF, Grooten et al. 2023). For the
    drop rule of SET's own paper see :class:`SignedSET`.
    """

    def propose(
        self,
        topology: Topology,
        values: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        *,
        budget: Budget | None = None,
        gradient: WeightGradient | None = None,
    ) -> Rewiring:
        """
        Propose the rewiring of one layer.

        :param topology: the layer's present topology
        :param values: its active weights, of shape ``(topology.active,)``
        :param step: the present gradient step
        :param generator: source of randomness; PyTorch's global generator if ``None``
        :param budget: not used: the number of active weights stays as it is
        :param gradient: the gradient of all weights, for methods that grow by it
        :return: the rewiring
        """
        dropped = self.drop(values, step)
        grown = self.grow(without(topology, dropped), self.growth_at(step, dropped.numel()), generator, gradient)
        return rewire(topology, dropped, grown)

    def count_at(self, step: int, active: int) -> int:
        """Give the number of weights to replace: the drop fraction of the active ones, rounded down."""
        return share(self.fraction_at(step), active)

    def drop(self, values: Tensor, step: int) -> Tensor:
        """Choose what to drop: see :func:`~sparse_rl.topology.rewiring.drop_by_magnitude`."""
        return drop_by_magnitude(values, self.count_at(step, values.numel()))

    def growth_at(self, step: int, n_dropped: int) -> int:
        """Give the number of weights to grow: as many as were dropped."""
        return n_dropped

    def grow(
        self, topology: Topology, count: int, generator: torch.Generator | None, gradient: WeightGradient | None
    ) -> Tensor:
        """Choose what to grow: see :func:`~sparse_rl.topology.rewiring.grow_at_random`."""
        return grow_at_random(topology, count, generator)


@dataclass(frozen=True)
class SignedSET(SET):
    """
    SET as in its paper (Mocanu et al. 2018), and DS as in its authors' code (Sokar et al. 2022).

    It drops a fraction of the positive and of the negative weights. The last update, if there is a ``stop``, drops
    without growing, so that no connection is left that had no time to learn.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop is not None and self.fraction_at(self.stop) == 1:
            raise ValueError(
                "With a drop fraction of 1 nothing would be left, because the last update drops without growing: give "
                "a smaller `drop_fraction`, or leave out `stop`."
            )

    def drop(self, values: Tensor, step: int) -> Tensor:
        """Choose what to drop: see :func:`~sparse_rl.topology.rewiring.drop_by_sign`."""
        return drop_by_sign(values, self.fraction_at(step))

    def growth_at(self, step: int, n_dropped: int) -> int:
        """Give the number of weights to grow: as many as were dropped, but none at the last update."""
        is_last = self.stop is not None and step >= self.stop // self.update_interval * self.update_interval
        return 0 if is_last else n_dropped


@dataclass(frozen=True)
class RigL(SET):
    """
    The rigged lottery (Evci et al. 2020): drop the smallest magnitudes, grow where the gradient is largest.

    In the paper, and in reinforcement learning (Graesser et al. 2022), the drop fraction decays by a cosine.
    """

    needs_gradient: ClassVar[bool] = True

    def grow(
        self, topology: Topology, count: int, generator: torch.Generator | None, gradient: WeightGradient | None
    ) -> Tensor:
        """Choose what to grow: see :func:`~sparse_rl.topology.gradients.grow_by_gradient`."""
        return grow_by_gradient(topology, count, _given(gradient))


@dataclass(frozen=True, kw_only=True)
class GradualPruning(BudgetSchedule):
    """
    Gradual magnitude pruning (Zhu & Gupta 2017): the smallest magnitudes go, fast at first and then ever slower.

    A layer's sparsity follows ``s_end + (s_start - s_end) * (1 - progress) ** 3``.
    """

    needs_gradient: ClassVar[bool] = False

    def check(self, budget: Budget) -> None:
        """
        Check that a layer is to become smaller, or to stay as it is.

        :param budget: the layer's
        :raises ValueError: if it is to have more active weights than at the start
        """
        if budget.end > budget.start:
            raise ValueError(
                f"Pruning cannot make a layer of {budget.start} active weights one of {budget.end}: `sparsity`, at the "
                "end, must not be less than `initial_sparsity`, at the start."
            )

    def propose(
        self,
        topology: Topology,
        values: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        *,
        budget: Budget,
        gradient: WeightGradient | None = None,
    ) -> Rewiring:
        """
        Propose the rewiring of one layer.

        :param topology: the layer's present topology
        :param values: its active weights, of shape ``(topology.active,)``
        :param step: the present gradient step
        :param generator: not used
        :param budget: the numbers of active weights at start and end
        :param gradient: not used
        :return: the rewiring, which only drops
        """
        wanted = budget.at(1 - (1 - self.progress_at(step)) ** 3)
        dropped = drop_by_magnitude(values, max(0, topology.active - wanted))
        return rewire(topology, dropped, topology.positions[:0])


@dataclass(frozen=True, kw_only=True)
class NeuroplasticExpansion(BudgetSchedule):
    """
    Growth from sparse to dense (Liu et al. 2025), where the gradient is largest; what is weak is pruned meanwhile.

    The number of active weights rises linearly: our reconstruction. See docs/methods/ne.md.

    :param prune_ratio: weights pruned for each one grown, in [0, 1)
    """

    prune_ratio: float = 0.4
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.prune_ratio < 1:
            raise ValueError(f"`prune_ratio` must lie in [0, 1), not {self.prune_ratio}: what is left is the growth.")

    def check(self, budget: Budget) -> None:
        """
        Check that a layer is to become larger, or to stay as it is.

        :param budget: the layer's
        :raises ValueError: if it is to have fewer active weights than at the start
        """
        if budget.end < budget.start:
            raise ValueError(
                f"Growth cannot make a layer of {budget.start} active weights one of {budget.end}: `sparsity`, at the "
                "end, must not be more than `initial_sparsity`, at the start."
            )

    def propose(
        self,
        topology: Topology,
        values: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        *,
        budget: Budget,
        gradient: WeightGradient | None = None,
    ) -> Rewiring:
        """
        Propose the rewiring of one layer.

        :param topology: the layer's present topology
        :param values: its active weights, of shape ``(topology.active,)``
        :param step: the present gradient step
        :param generator: not used
        :param budget: the numbers of active weights at start and end
        :param gradient: the gradient of all weights
        :return: the rewiring
        """
        more = max(0, budget.at(self.progress_at(step)) - topology.active)
        # Of n that are grown, prune_ratio * n are paid for by pruning, and the others are what the layer gains.
        n_pruned = min(round(more * self.prune_ratio / (1 - self.prune_ratio)), topology.active)
        dropped = drop_by_magnitude(values, n_pruned)
        grown = grow_by_gradient(without(topology, dropped), more + n_pruned, _given(gradient))
        return rewire(topology, dropped, grown)


@dataclass(frozen=True)
class Static(_ConstantBudget):
    """Static sparse training: the topology drawn at the start stays."""

    def updates_between(self, before: int, now: int) -> int:
        """Count the updates that fall due: none ever."""
        return 0

    def propose(
        self,
        topology: Topology,
        values: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        *,
        budget: Budget | None = None,
        gradient: WeightGradient | None = None,
    ) -> Rewiring:
        """Propose to leave everything as it is."""
        return Rewiring(topology, topology, torch.arange(topology.active, device=topology.device))


def _given(gradient: WeightGradient | None) -> WeightGradient:
    if gradient is None:
        raise ValueError("This method grows where the gradient is largest, but no gradient was given.")
    return gradient
