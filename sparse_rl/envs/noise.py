"""Extremely noisy environments: noise features that an agent has to learn to ignore."""

import secrets
from fractions import Fraction
from math import ceil
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs.checks import SEED_BITS, checked_seed, vector_bounds
from sparse_rl.envs.distributions import DISTRIBUTIONS, NoiseModel
from sparse_rl.names import unknown

__all__ = ["NoiseFeatures", "NonFiniteObservationError", "total_features"]


class NonFiniteObservationError(ValueError):
    """The environment gave an observation with NaN or infinity in it: the simulation has probably diverged."""


def total_features(n_real: int, fraction: float) -> int:
    """
    Count the features of a noisy observation: ``ceil(n_real / (1 - fraction))``, in exact arithmetic.

    The fraction is taken as the decimal number it is written as. In floating point, as in the authors' code, 17 real
    features and 90 % noise make 171 features instead of 170, because ``17 / (1 - 0.9)`` comes out above 170.

    :param n_real: number of real features
    :param fraction: fraction of all features that are noise, in [0, 1)
    :return: number of all features
    :raises TypeError: if ``fraction`` is not a number
    :raises ValueError: if ``fraction`` is outside [0, 1)

    >>> [total_features(17, fraction) for fraction in (0, 0.8, 0.9, 0.98, 0.995)]
    [17, 85, 170, 850, 3400]
    """
    if isinstance(fraction, bool) or not isinstance(fraction, float | int | np.floating):
        raise TypeError(f"The noise `fraction` must be a number in [0, 1), got {fraction!r}.")
    if not 0 <= fraction < 1:
        raise ValueError(f"The noise `fraction` must be in [0, 1), got {fraction!r}. For 98 % noise give 0.98.")
    return ceil(n_real / (1 - Fraction(str(fraction))))


class NoiseFeatures(gym.Wrapper[NDArray[np.float32], Any, Any, Any], gym.utils.RecordConstructorArgs):
    """
    Append noise features to the observations, until they make up the given fraction of all features.

    The noise is a function of (seed, episode, step, feature) and nothing else: it leaves the environment's own random
    numbers alone, so that trajectories are the same at every noise level; with less noise one sees the first of the
    noise features that one sees with more; and a replay buffer can draw it again, from :attr:`noise_model` and
    ``info["noise"]``, instead of storing it.

    Each seeded reset, ``reset(seed=s)``, sets the noise's seed to s (its lower 63 bits) and starts at episode 0. Each
    other reset starts the next episode. Before the first seeded reset the constructor's seed holds.

    Paper: Grooten et al., "Automatic Noise Filtering with Dynamic Sparse Training in Deep Reinforcement Learning",
    AAMAS 2023, arXiv 2302.06548.

    :param env: an environment whose observations are vectors
    :param fraction: fraction of all features that are noise, in [0, 1); see :func:`total_features`
    :param distribution: ``"normal"``, or ``"real"`` for noise that imitates the histograms of the real features in a
        random policy's rollout
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
        gym.Wrapper.__init__(self, env)
        low, high = vector_bounds(env, "NoiseFeatures")
        n_real = len(low)
        n_noise = total_features(n_real, fraction) - n_real
        if distribution not in DISTRIBUTIONS:
            raise ValueError(unknown("noise distribution", distribution, DISTRIBUTIONS))
        if distribution != "normal" and std != 1:
            raise ValueError(f"`std` is for distribution='normal' only, got std={std!r} with {distribution!r}.")
        if seed is not None:
            seed = checked_seed(seed, "NoiseFeatures")

        #: Draws this environment's noise; picklable.
        self.noise_model = NoiseModel(n_real, n_noise, DISTRIBUTIONS[distribution](env.spec, std))
        #: The seed of the present noise.
        self.noise_seed = secrets.randbits(SEED_BITS) if seed is None else seed
        #: Episodes since the last seeded reset, from 0; -1 before the first reset.
        self.episode = -1
        #: Steps in the present episode; 0 at its reset.
        self.step_in_episode = 0
        unbounded = np.full(n_noise, np.inf, np.float32)
        self.observation_space = gym.spaces.Box(
            np.concatenate([low, -unbounded]), np.concatenate([high, unbounded]), dtype=np.float32
        )

    @property
    def real_features(self) -> NDArray[np.bool_]:
        """Which features are real: bool ``(features,)``."""
        return np.arange(self.noise_model.n_real + self.noise_model.n_noise) < self.noise_model.n_real

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start the next episode, or episode 0 of another seed.

        :param seed: seed for the environment and for the noise
        :param options: options for the environment
        :return: observation, float32 ``(features,)``, and info
        :raises NonFiniteObservationError: if the environment's observation is not finite
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.noise_seed, self.episode = seed & (2**SEED_BITS - 1), -1
        self.episode += 1
        self.step_in_episode = 0
        return self._add_noise(observation), self._say_where(info)

    def step(self, action: Any) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: action for the environment
        :return: observation, float32 ``(features,)``, reward, terminated, truncated and info
        :raises NonFiniteObservationError: if the environment's observation is not finite
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.step_in_episode += 1
        return self._add_noise(observation), reward, terminated, truncated, self._say_where(info)

    def _add_noise(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        n_real, n_noise = self.noise_model.n_real, self.noise_model.n_noise
        # A new array each time: the caller may keep it.
        result = np.empty(n_real + n_noise, np.float32)
        with np.errstate(over="ignore"):  # becomes infinite, which is reported below
            result[:n_real] = observation
        finite = np.isfinite(result[:n_real])
        if not finite.all():
            raise NonFiniteObservationError(
                f"Feature {finite.argmin()} of the environment's observation is {observation[finite.argmin()]} at step "
                f"{self.step_in_episode} of episode {self.episode} (seed {self.noise_seed}), expected a finite float32 "
                "number. The simulation has probably diverged: are the actions finite and within the action space?"
            )
        self.noise_model.draw(self.noise_seed, self.episode, self.step_in_episode, out=result[n_real:, None])
        return result

    def _say_where(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"noise": {"seed": self.noise_seed, "episode": self.episode, "step": self.step_in_episode}}
