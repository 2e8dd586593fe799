"""
What noise looks like: its distribution, as a function of counters.

Both distributions here are those of Grooten et al., "Automatic Noise Filtering with Dynamic Sparse Training in Deep
Reinforcement Learning", AAMAS 2023, arXiv 2302.06548. They have no memory; that of
:mod:`~sparse_rl.envs.autoregressive` has one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numba import prange
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit
from sparse_rl.envs.autoregressive import Autoregressive
from sparse_rl.envs.checks import json_of_copy
from sparse_rl.envs.philox import Counters, Stream, fill_normal, fill_uniform

#: Length of the random rollout that estimates the marginals of the real features, and bins of their histograms. With
#: 50 samples a bin it takes a third of a second on HalfCheetah, one and a half on Humanoid, once per process.
ROLLOUT_STEPS, BINS = 5_000, 100


class Distribution(Protocol):
    """Noise that anybody can draw again; every feature is independent of the others."""

    @property
    def memory(self) -> int:
        """After how many steps a feature has forgotten its value."""

    def fill(self, out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
        """
        Fill ``out`` with noise: entry ``[j, b]`` is a function of stream, j, and column b's counters.

        :param out: float32 ``(features, columns)``, C-contiguous
        :param stream: which of the independent sequences under a seed
        :param seeds: 64-bit seeds, one for all columns or one per column
        :param episodes: 32-bit counters, one for all columns or one per column
        :param steps: 32-bit counters, one for all columns or one per column
        """


@dataclass(frozen=True)
class Normal:
    """
    Gaussian noise with mean 0, the paper's default.

    :param std: standard deviation; the paper tries 1, 2, 4, 8 and 16
    :raises TypeError: if ``std`` is no number
    :raises ValueError: if ``std`` is not positive and finite
    """

    std: float = 1.0
    memory = 1  # not a field

    def __post_init__(self) -> None:
        if isinstance(self.std, bool) or not isinstance(self.std, float | int | np.floating):
            raise TypeError(f"The noise's standard deviation `std` must be a number, got {self.std!r}.")
        if not (np.isfinite(self.std) and self.std > 0):
            raise ValueError(f"The noise's standard deviation `std` must be positive and finite, got {self.std!r}.")

    def fill(self, out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
        """Fill ``out``, see :meth:`Distribution.fill`."""
        fill_normal(out, stream, seeds, episodes, steps)
        if self.std != 1:
            out *= np.float32(self.std)


@dataclass(frozen=True, eq=False)
class Histograms:
    """
    Noise that looks like the real features: noise feature i is drawn from the histogram of real feature ``i % d``.

    Only the marginals are imitated: noise features are independent of each other and of the past.

    :param edges: float32 ``(d, bins + 1)``, ascending edges of each feature's bins
    :param cumulative: float32 ``(d, m)``, probability of a value below each edge, from 0 to 1; then infinity, up to a
        power of two that exceeds bins + 1
    """

    edges: NDArray[np.float32]
    cumulative: NDArray[np.float32]
    memory = 1  # not a field

    @classmethod
    def of(cls, samples: NDArray[Any], bins: int = BINS) -> "Histograms":
        """
        Count samples.

        :param samples: ``(n, d)``
        :param bins: number of bins of equal width between a feature's smallest and largest value
        :return: one histogram per feature; a feature that never varied is imitated by its constant
        """
        edges = np.linspace(samples.min(axis=0), samples.max(axis=0), bins + 1, axis=1)
        counts = np.array(
            [np.histogram(x, bins, (e[0], e[-1]))[0] for x, e in zip(samples.T, edges, strict=True)], np.float64
        )
        cumulative = np.full((len(counts), 1 << (bins + 1).bit_length()), np.inf, np.float32)
        cumulative[:, 0] = 0
        cumulative[:, 1 : bins + 1] = counts.cumsum(axis=1) / len(samples)
        return cls(edges.astype(np.float32), cumulative)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histograms):
            return NotImplemented
        return np.array_equal(self.edges, other.edges) and np.array_equal(self.cumulative, other.cumulative)

    def __hash__(self) -> int:
        return hash((self.edges.tobytes(), self.cumulative.tobytes()))

    def fill(self, out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
        """Fill ``out``, see :meth:`Distribution.fill`."""
        fill_uniform(out, stream, seeds, episodes, steps)
        if out.shape[1] == 1:
            _quantiles_of_column(out[:, 0], self.edges, self.cumulative)
        else:
            _quantiles_of_columns(out, self.edges, self.cumulative)


@cached_njit(nogil=True, error_model="numpy")
def _quantiles_of_row(u: Any, edge: Any, below: Any) -> None:
    """
    Replace uniform numbers u by the u-quantiles of one histogram: a bin, and a place inside it.

    All columns take a step of the binary search together and without branches, which is vector code (unsigned indices
    spare it a check for negative ones): eight times as fast as one column after the other.
    """
    one = np.uint32(1)
    bins = np.zeros(u.size, np.uint32)
    step = np.uint32(below.size >> 1)
    while step > 0:
        for column in range(bins.size):
            further = np.uint32(bins[column] + step)
            bins[column] = further if below[further] <= u[column] else bins[column]
        step >>= one
    for column in range(bins.size):
        left, right = bins[column], np.uint32(bins[column] + one)
        place = (u[column] - below[left]) / (below[right] - below[left])
        u[column] = edge[left] + place * (edge[right] - edge[left])


@cached_njit(nogil=True, parallel=True)
def _quantiles_of_columns(out: Any, edges: Any, cumulative: Any) -> None:
    """Let row i follow histogram ``i % d``: made for many columns, with all threads."""
    for row in prange(len(out)):
        _quantiles_of_row(out[row], edges[row % len(edges)], cumulative[row % len(edges)])


@cached_njit(nogil=True, error_model="numpy")
def _quantiles_of_column(u: Any, edges: Any, cumulative: Any) -> None:
    """Do the same with a single column, in the calling thread, as an environment's step needs it."""
    one = np.uint32(1)
    for row in range(u.size):
        edge, below = edges[row % len(edges)], cumulative[row % len(edges)]
        left, step = np.uint32(0), np.uint32(below.size >> 1)
        while step > 0:
            further = np.uint32(left + step)
            left = further if below[further] <= u[row] else left
            step >>= one
        right = np.uint32(left + one)
        u[row] = edge[left] + (u[row] - below[left]) / (below[right] - below[left]) * (edge[right] - edge[left])


def marginals(spec: EnvSpec | None) -> Histograms:
    """
    Estimate the distribution of each feature of an environment from a random policy's rollout.

    The rollout has :data:`ROLLOUT_STEPS` steps, is seeded (all copies of an environment, in all processes, imitate
    the same histograms) and runs in a copy of the environment made for it. It is done once per process and spec.

    :param spec: the environment's spec, as ``env.spec``
    :return: the features' histograms
    :raises gymnasium.error.Error: if the environment cannot be made again from its spec
    """
    return _rollout_marginals(json_of_copy(spec, "distribution='real'", "choose distribution='normal'"))


@lru_cache(maxsize=32)
def _rollout_marginals(spec: str) -> Histograms:
    env = gym.make(EnvSpec.from_json(spec), disable_env_checker=True)
    env.action_space.seed(0)
    samples, ended = [], False
    observation, _ = env.reset(seed=0)
    for _ in range(ROLLOUT_STEPS):
        if ended:
            observation, _ = env.reset()
        samples.append(observation)
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated or truncated
    env.close()
    return Histograms.of(np.array(samples, np.float64))


#: How to build each distribution, from the environment's spec and a standard deviation.
DISTRIBUTIONS: dict[str, Callable[[EnvSpec | None, float], Distribution]] = {
    "normal": lambda spec, std: Normal(std),
    "real": lambda spec, std: marginals(spec),
    "ar": lambda spec, std: Autoregressive(),
}


@dataclass(frozen=True)
class NoiseModel:
    """
    All it takes to draw the noise of an environment: what a replay buffer keeps instead of the noise itself.

    :param n_real: number of real features, which come first
    :param n_noise: number of noise features
    :param distribution: what the noise looks like
    """

    n_real: int
    n_noise: int
    distribution: Distribution

    def draw(
        self,
        seeds: Counters,
        episodes: Counters,
        steps: Counters,
        out: NDArray[np.float32] | None = None,
        stream: int = Stream.OBSERVED,
    ) -> NDArray[np.float32]:
        """
        Draw the noise of one or many moments, feature-major.

        :param seeds: the wrapper's ``noise_seed``, one or ``(columns,)``
        :param episodes: the wrapper's ``episode``, one or ``(columns,)``
        :param steps: the wrapper's ``step_in_episode``, one or ``(columns,)``
        :param out: float32 ``(n_noise, columns)``, C-contiguous; a new array if not given
        :param stream: ``Stream.OBSERVED`` is the noise that the wrapper showed; ``Stream.REDRAWN`` is independent of it
        :return: ``out``
        :raises ValueError: if the shapes do not match
        """
        if out is None:
            columns = max(np.size(seeds), np.size(episodes), np.size(steps))
            out = np.empty((self.n_noise, columns), np.float32)
        if out.shape[0] != self.n_noise:
            raise ValueError(f"Expected {self.n_noise} rows for {self.n_noise} noise features, got shape {out.shape}.")
        if out.size:
            self.distribution.fill(out, stream, seeds, episodes, steps)
        return out
