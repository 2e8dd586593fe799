"""How good an agent was over the whole of its training."""

from collections.abc import Sequence


def learning_curve_area(returns: Sequence[float], steps: int) -> float:
    """
    Give the learning curve's area (LCA) of Sokar et al. (2022, arXiv 2106.04217, eq. 9): the evaluations' sum per step.

    It compares runs that are evaluated equally often: with an evaluation every 5000 steps it is the mean return
    divided by 5000.

    :param returns: the mean return of each evaluation
    :param steps: environment steps of the whole training
    :return: the area
    :raises ValueError: if there are no steps
    """
    if steps < 1:
        raise ValueError(f"The number of steps must be at least 1, not {steps}.")
    return sum(returns) / steps
