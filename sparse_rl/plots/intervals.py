"""
The interquartile mean and its stratified bootstrap, after "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (Agarwal et al. 2021).

The estimators are those of the authors' package ``rliable``: the 25 % trimmed mean of all scores, and percentile
intervals from runs that are drawn again within each task. The package itself is not used: it draws from NumPy's global
generator whatever its ``random_state`` says, so that its intervals differ from call to call; it wants equally many runs
of every task; and it brings Pandas, Seaborn and Statsmodels for what are twenty lines.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Turns scores of shape ``(..., n)`` into one figure of each ``n``.
Statistic = Callable[[Array], Array]

REPETITIONS = 50_000  # as in the paper's code
CONFIDENCE = 0.95


def iqm(scores: Array) -> Array:
    """
    Average the middle half of scores: of ``n``, the lowest and the highest ``n // 4`` are left out.

    Fewer than four have no such ends; their interquartile mean is the mean.

    :param scores: scores of shape ``(..., n)``
    :return: interquartile means of shape ``(...)``
    """
    cut = scores.shape[-1] // 4
    middle = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1))


def mean(scores: Array) -> Array:
    """
    Average all scores.

    :param scores: scores of shape ``(..., n)``
    :return: means of shape ``(...)``
    """
    return np.asarray(scores.mean(axis=-1))


#: What sums runs up, by its name.
STATISTICS: dict[str, Statistic] = {"iqm": iqm, "mean": mean}


def interval(
    strata: Sequence[Array], repetitions: int = REPETITIONS, seed: int = 0, statistic: Statistic = iqm
) -> tuple[float, float]:
    """
    Give a 95 % interval of the interquartile mean: what other runs of the same tasks might have given.

    :param strata: the scores of the runs of each task, each of shape ``(runs,)``
    :param repetitions: how often runs are drawn again, with replacement, within each task
    :param seed: seed of the draws
    :param statistic: what takes the place of the interquartile mean
    :return: the lower and the upper end
    """
    generator = np.random.default_rng(seed)
    drawn = [scores[generator.integers(len(scores), size=(repetitions, len(scores)))] for scores in strata]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=1)), [tail, 100 - tail])
    return float(low), float(high)
