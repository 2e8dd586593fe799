"""Noise with a memory: each feature is an AR(1) process with a time constant of its own."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs.philox import Counters, Stream, fill_bridged, fill_uniform

#: Time constants are drawn between these bounds, in steps: from nearly white noise to slow drift.
SHORTEST, LONGEST = 1.0, 100.0
#: Processes are tied together from intervals of 2**LEVELS steps, whose ends are independent: over 2048 steps even the
#: slowest feature keeps a correlation of 1e-9 only, of which float32 numbers around 1 know nothing.
LEVELS = 11


@dataclass(frozen=True)
class Autoregressive:
    """
    Gaussian AR(1) noise: ``x[t + 1] = a x[t] + sqrt(1 - a^2) e[t + 1]``, with mean 0 and variance 1 at every step.

    Feature j has ``a = exp(-1 / time_constants(n)[j])``, so that its autocorrelation is ``exp(-lag / time constant)``.
    Each episode has processes of its own, stationary from its first step.

    The recurrence is not what is computed. It would need what came before, while a replay buffer wants single moments
    from anywhere: they come from :func:`~sparse_rl.envs.philox.fill_bridged`, which has the same distribution because
    the process is Gaussian and Markov. Between two values at a distance of 2h, the one in the middle has the mean
    ``a^h / (1 + a^2h)`` times their sum, and the variance ``(1 - a^2h) / (1 + a^2h)``.
    """

    memory = 1 << LEVELS  # not a field

    def fill(self, out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
        """Fill ``out``, see :meth:`~sparse_rl.envs.distributions.Distribution.fill`."""
        fill_bridged(out, stream, seeds, episodes, steps, *_bridges(len(out)))


def time_constants(n: int) -> NDArray[np.float64]:
    """
    Tell after how many steps the autocorrelation of each AR(1) feature has fallen to 1/e.

    They are log-uniform from 1 to 100 steps, and a function of the feature alone: as a sensor has its own, they are
    the same in all episodes, under all seeds, in training and evaluation, and at every noise level.

    :param n: number of features
    :return: float64 ``(n,)``

    >>> time_constants(4).round(1).tolist()
    [43.1, 46.0, 5.6, 16.0]
    """
    uniform = np.empty((n, 1), np.float32)
    fill_uniform(uniform, Stream.TIME_CONSTANT, 0, 0, 0)
    return SHORTEST * (LONGEST / SHORTEST) ** uniform[:, 0].astype(np.float64)


@lru_cache(maxsize=32)
def _bridges(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute weights and standard deviations of middles, each float32 ``(LEVELS, n)``: row k is for h = 2**k."""
    correlations = np.exp(-(np.float64(2) ** np.arange(LEVELS)[:, None]) / time_constants(n))
    squares = correlations**2
    return (correlations / (1 + squares)).astype(np.float32), np.sqrt((1 - squares) / (1 + squares)).astype(np.float32)
