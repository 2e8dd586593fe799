"""Extremely noisy environments: noise features that an agent has to learn to ignore."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs.appended import AppendFeatures
from sparse_rl.envs.distributions import DISTRIBUTIONS, NoiseModel
from sparse_rl.names import unknown

__all__ = ["NoiseFeatures"]


class NoiseFeatures(AppendFeatures):
    """
    Append noise features to the observations, until they make up the given fraction of all features.

    The noise is a function of (seed, episode, step, feature) and nothing else: it leaves the environment's own random
    numbers alone, so that trajectories are the same at every noise level; with less noise one sees the first of the
    noise features that one sees with more; and a replay buffer can draw it again, from :attr:`noise_model` and
    ``info["noise"]``, instead of storing it.

    Each seeded reset, ``reset(seed=s)``, sets the noise's seed to s (its lower 63 bits) and starts at episode 0. Each
    other reset starts the next episode. Before the first seeded reset the constructor's seed holds.

    Paper: Grooten et al., "Automatic Noise Filtering with Dynamic Sparse Training in Deep Reinforcement Learning",
    AAMAS 2023, arXiv 2302.06548. AR(1) noise is not from there.

    :param env: an environment whose observations are vectors
    :param fraction: fraction of all features that are noise, in [0, 1); see
        :func:`~sparse_rl.envs.appended.total_features`
    :param distribution: ``"normal"``; ``"real"`` for noise that imitates the histograms of the real features in a
        random policy's rollout; or ``"ar"`` for AR(1) processes, see
        :class:`~sparse_rl.envs.autoregressive.Autoregressive`
    :param std: standard deviation of normal noise
    :param seed: the noise's seed until the first seeded reset; by default one from the operating system
    :raises TypeError: if an argument has the wrong type, or the observation space is no Box
    :raises ValueError: if an argument is out of range, or observations are not one-dimensional

    >>> import gymnasium as gym
    >>> env = NoiseFeatures(gym.make("CartPole-v1"), fraction=0.5)
    >>> observation, info = env.reset(seed=42)
    >>> observation.round(3)
    array([ 0.027, -0.006,  0.036,  0.02 , -0.97 ,  0.194, -1.924, -1.236],
          dtype=float32)
    >>> info["noise"]
    {'seed': 42, 'episode': 0, 'step': 0}
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        fraction: float,
        distribution: str = "normal",
        std: float = 1.0,
        seed: int | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, fraction=fraction, distribution=distribution, std=std, seed=seed)
        super().__init__(env, fraction, seed)
        if distribution not in DISTRIBUTIONS:
            raise ValueError(unknown("noise distribution", distribution, DISTRIBUTIONS))
        if distribution != "normal" and std != 1:
            raise ValueError(f"`std` is for distribution='normal' only, got std={std!r} with {distribution!r}.")
        #: Draws this environment's noise; picklable.
        self.noise_model = NoiseModel(self.n_real, self.n_noise, DISTRIBUTIONS[distribution](env.spec, std))

    def _noise_bounds(
        self, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        unbounded = np.full(self.n_noise, np.inf, np.float32)
        return -unbounded, unbounded

    def _fill(self, out: NDArray[np.float32]) -> None:
        self.noise_model.draw(self.noise_seed, self.episode, self.step_in_episode, out=out[:, None])
