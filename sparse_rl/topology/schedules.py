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
        Give the drop fraction at a gradient step.

        :param step: gradient step
        :return: fraction of the active weights to replace, in [0, 1]
        """
        if self.stop is not None and step > self.stop:
            return 0.0
        if self.decay == "cosine":
            assert self.stop is not None
            return self.drop_fraction / 2 * (1 + math.cos(math.pi * step / self.stop))
        return self.drop_fraction
