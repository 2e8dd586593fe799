"""When a topology changes, and by how much."""

import math
from dataclasses import dataclass

from sparse_rl.names import unknown

DECAYS = ("constant", "cosine")


@dataclass(frozen=True)
class UpdateSchedule:
    """
    The update times and drop fractions of a dynamic sparse training method. Time is counted in gradient steps.

    :param drop_fraction: fraction of a layer's active weights that an update replaces, in [0, 1]; the initial one if it
        decays (ANF: 0.05)
    :param update_interval: gradient steps between two updates (ANF: 1000)
    :param decay: ``"constant"`` (ANF, SET) or ``"cosine"``: falls to zero at ``stop`` as in RigL (Evci et al. 2020)
    :param stop: no update after this gradient step; ``None`` for never
    :raises ValueError: if a value is out of range
    """

    drop_fraction: float = 0.05
    update_interval: int = 1000
    decay: str = "constant"
    stop: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"The drop fraction must lie in [0, 1], not {self.drop_fraction}.")
        if self.update_interval < 1:
            raise ValueError(f"The update interval must be at least 1 gradient step, not {self.update_interval}.")
        if self.decay not in DECAYS:
            raise ValueError(unknown("decay of the drop fraction", self.decay, DECAYS))
        if self.stop is not None and self.stop < 1:
            raise ValueError(f"Topology updates must stop after at least 1 gradient step, not {self.stop}.")
        if self.stop is not None and self.stop < self.update_interval:
            raise ValueError(
                f"Topology updates would end before they start: `stop` is gradient step {self.stop}, and the first "
                f"update comes at {self.update_interval}, the `update_interval`: train longer, or update more often."
            )
        if self.decay == "cosine" and self.stop is None:
            raise ValueError("A cosine decay needs the gradient step at which it ends: give `stop`.")

    def updates_between(self, before: int, now: int) -> int:
        """
        Count the updates that fall due after gradient step ``before``, up to and including ``now``.

        :param before: the gradient step up to which updates were counted already
        :param now: the present gradient step
        :return: the number of multiples of the interval in ``(before, now]``, none of them after ``stop``
        """
        last = now if self.stop is None else min(now, self.stop)
        return max(0, last // self.update_interval - before // self.update_interval)

    def fraction_at(self, step: int) -> float:
        """
        Give the drop fraction of an update that is due.

        :param step: gradient step; after ``stop``, where a last update may be made up for, as at ``stop``
        :return: fraction of the active weights to replace, in [0, 1]
        """
        if self.stop is not None:
            step = min(step, self.stop)
        if self.decay == "cosine":
            assert self.stop is not None
            return self.drop_fraction / 2 * (1 + math.cos(math.pi * step / self.stop))
        return self.drop_fraction


@dataclass(frozen=True)
class Budget:
    """
    How many weights a layer may have.

    :param start: the number of active weights with which training starts
    :param end: the number of active weights that the layer is to have in the end
    """

    start: int
    end: int

    def at(self, progress: float) -> int:
        """
        Give the number of active weights on the way from start to end.

        :param progress: how much of the way is done, in [0, 1]
        :return: the number of active weights, rounded
        """
        return round(self.start + (self.end - self.start) * progress)


@dataclass(frozen=True, kw_only=True)
class BudgetSchedule:
    """
    The update times of a method that changes the number of active weights. Time is counted in gradient steps.

    Updates come at ``begin + update_interval``, ``begin + 2 * update_interval``, ..., and at ``end``, where the layers
    have exactly the weights that they are to have.

    :param begin: the gradient step at which the change begins
    :param end: the gradient step at which it is complete
    :param update_interval: gradient steps between two updates
    :raises ValueError: if a value is out of range
    """

    begin: int = 0
    end: int
    update_interval: int = 1000

    def __post_init__(self) -> None:
        if self.update_interval < 1:
            raise ValueError(f"The update interval must be at least 1 gradient step, not {self.update_interval}.")
        if self.begin < 0:
            raise ValueError(f"`begin` must be a gradient step of at least 0, not {self.begin}.")
        if self.end <= self.begin:
            raise ValueError(
                f"The schedule would end before it starts: `end` is gradient step {self.end}, `begin` {self.begin}."
            )

    def updates_between(self, before: int, now: int) -> int:
        """
        Count the updates that fall due after gradient step ``before``, up to and including ``now``.

        :param before: the gradient step up to which updates were counted already
        :param now: the present gradient step
        :return: the number of updates in ``(before, now]``
        """
        return max(0, self._updates_until(now) - self._updates_until(before))

    def progress_at(self, step: int) -> float:
        """
        Tell how much of the time has passed.

        :param step: gradient step
        :return: 0 up to ``begin``, 1 from ``end`` on, linear in between
        """
        return min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))

    def _updates_until(self, step: int) -> int:
        on_the_way = max(0, min(step, self.end - 1) - self.begin) // self.update_interval
        return on_the_way + (step >= self.end)
