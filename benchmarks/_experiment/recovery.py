"""What a shift of the features costs, and how soon it is made good."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparse_rl.plots.curves import Curve
from sparse_rl.plots.intervals import Array

#: An agent has recovered when it has this much of its last return before the shift.
REGAINED = 0.9


@dataclass(frozen=True)
class Recovery:
    """
    What one shift did to the runs of an agent. All arrays have the shape ``(runs,)``.

    :param shift: the environment step of the shift
    :param before: return of the last evaluation before it
    :param lowest: the lowest return between it and the next one
    :param steps: environment steps to the first evaluation with 90 % of the return before; infinite if there is none
        until the next shift, NaN where the return before is not above 0, so that there is nothing to regain
    """

    shift: int
    before: Array
    lowest: Array
    steps: Array


def recoveries(curve: Curve) -> Iterator[Recovery]:
    """
    Look at each shift that has evaluations on both sides.

    An evaluation at the very step of a shift is on neither: features change places when an episode begins, so that it
    depends on the length of episodes whether they have changed already.

    :param curve: the runs of an agent
    :return: what each shift did to them
    """
    for shift in curve.shifts:
        assert curve.permute is not None
        earlier = np.flatnonzero(curve.steps < shift)
        later = (curve.steps > shift) & (curve.steps < shift + curve.permute)
        if not (earlier.size and later.any()):
            continue
        before, after = curve.returns[:, earlier[-1]], curve.returns[:, later]
        regained = after >= REGAINED * before[:, None]
        steps = np.where(regained.any(axis=1), curve.steps[later][regained.argmax(axis=1)] - shift, np.inf)
        yield Recovery(shift, before, after.min(axis=1), np.where(before > 0, steps, np.nan))
