"""What all extremely noisy environments have in common: real features first, then others, up to a given fraction."""

import secrets
from abc import ABC, abstractmethod
from fractions import Fraction
from math import ceil
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs.checks import SEED_BITS, checked_seed, vector_bounds


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


class AppendFeatures(gym.Wrapper[NDArray[np.float32], Any, Any, Any], gym.utils.RecordConstructorArgs, ABC):
    """
    Append features to the observations, until they make up the given fraction of all features.

    Each seeded reset, ``reset(seed=s)``, sets the noise's seed to s (its lower 63 bits) and starts at episode 0. Each
    other reset starts the next episode. Before the first seeded reset the constructor's seed holds.

    :param env: an environment whose observations are vectors
    :param fraction: fraction of all features that are noise, in [0, 1); see :func:`total_features`
    :param seed: the noise's seed until the first seeded reset; by default one from the operating system
    :raises TypeError: if an argument has the wrong type, or the observation space is no Box
    :raises ValueError: if an argument is out of range, or observations are not one-dimensional
    """

    def __init__(self, env: gym.Env[Any, Any], fraction: float, seed: int | None = None) -> None:
        gym.Wrapper.__init__(self, env)
        name = type(self).__name__
        low, high = vector_bounds(env, name)
        #: Number of real features, which come first.
        self.n_real = len(low)
        #: Number of features that are appended.
        self.n_noise = total_features(self.n_real, fraction) - self.n_real
        #: The seed of the present noise.
        self.noise_seed = secrets.randbits(SEED_BITS) if seed is None else checked_seed(seed, name)
        #: Episodes since the last seeded reset, from 0; -1 before the first reset.
        self.episode = -1
        #: Steps in the present episode; 0 at its reset.
        self.step_in_episode = 0
        noise_low, noise_high = self._noise_bounds(low, high)
        self.observation_space = gym.spaces.Box(
            np.concatenate([low, noise_low]), np.concatenate([high, noise_high]), dtype=np.float32
        )

    @property
    def real_features(self) -> NDArray[np.bool_]:
        """Which features are real: bool ``(features,)``."""
        return np.arange(self.n_real + self.n_noise) < self.n_real

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
        return self._append(observation), self._say_where(info)

    def step(self, action: Any) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: action for the environment
        :return: observation, float32 ``(features,)``, reward, terminated, truncated and info
        :raises NonFiniteObservationError: if the environment's observation is not finite
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.step_in_episode += 1
        return self._append(observation), reward, terminated, truncated, self._say_where(info)

    @abstractmethod
    def _noise_bounds(
        self, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give lowest and highest values of the appended features, each ``(n_noise,)``, from the real features'."""

    @abstractmethod
    def _fill(self, out: NDArray[np.float32]) -> None:
        """Write the appended features of the present moment, ``(n_noise,)``."""

    def _append(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        # A new array each time: the caller may keep it.
        result = np.empty(self.n_real + self.n_noise, np.float32)
        with np.errstate(over="ignore"):  # becomes infinite, which is reported below
            result[: self.n_real] = observation
        finite = np.isfinite(result[: self.n_real])
        if not finite.all():
            raise NonFiniteObservationError(
                f"Feature {finite.argmin()} of the environment's observation is {observation[finite.argmin()]} at step "
                f"{self.step_in_episode} of episode {self.episode} (seed {self.noise_seed}), expected a finite float32 "
                "number. The simulation has probably diverged: are the actions finite and within the action space?"
            )
        self._fill(result[self.n_real :])
        return result

    def _say_where(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"noise": {"seed": self.noise_seed, "episode": self.episode, "step": self.step_in_episode}}
