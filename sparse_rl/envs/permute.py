"""Environments that shift: all features change places, as if the sensors had been plugged in anew."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs import philox
from sparse_rl.envs.checks import checked_seed, vector_bounds

__all__ = ["PermuteFeatures", "permutation_at"]


def permutation_at(seed: int, phase: int, n: int) -> NDArray[np.int64]:
    """
    Compute the order of the features in a phase: ``observation[k] = inner[permutation[k]]``.

    Phase 0 is the identity. Each later phase is a random order, odd (an odd number of swaps) in odd phases and even in
    even phases: so it differs from its predecessor's without anyone having to know that one.

    :param seed: 63-bit seed
    :param phase: 0, 1, 2, ...
    :param n: number of features
    :return: int64 ``(n,)``
    :raises ValueError: if ``n < 2`` in a phase other than 0 (there is no other order), or the phase is negative

    >>> [permutation_at(seed=0, phase=phase, n=5).tolist() for phase in range(3)]
    [[0, 1, 2, 3, 4], [1, 3, 0, 2, 4], [4, 0, 1, 2, 3]]
    """
    if phase < 0:
        raise ValueError(f"A phase is a number from 0, got {phase}.")
    if phase == 0:
        return np.arange(n)
    if n < 2:
        raise ValueError(f"Expected at least 2 features to re-order, got {n}.")
    result = philox.permutation(seed, phase, n)
    if _parity(result) != phase % 2:
        result[:2] = result[1::-1].copy()
    return result


def _parity(permutation: NDArray[np.int64]) -> int:
    """Count the swaps that sort a permutation, modulo 2."""
    order, swaps = permutation.tolist(), 0
    for i in range(len(order)):
        while order[i] != i:
            j = order[i]
            order[i], order[j] = order[j], order[i]
            swaps += 1
    return swaps % 2


class PermuteFeatures(gym.Wrapper[NDArray[np.float32], Any, Any, Any], gym.utils.RecordConstructorArgs):
    """
    Re-order all features, and choose another order every so many steps.

    The order is a function of seed and phase, see :func:`permutation_at`. The phase is the number of steps since the
    last seeded reset, divided by ``every``; it is looked up at resets only, so that no episode is torn apart. A seeded
    reset, ``reset(seed=s)``, starts again at phase 0. The order does not depend on s: all copies of an environment,
    for training and for evaluation, show the same orders. An evaluation environment follows a training environment by
    :meth:`set_phase`.

    Paper: Grooten et al., "Automatic Noise Filtering with Dynamic Sparse Training in Deep Reinforcement Learning",
    AAMAS 2023, arXiv 2302.06548; its experiments re-order every 1,000,000 steps, with 95 % noise.

    :param env: an environment whose observations are vectors
    :param every: number of steps per phase; by default the phase never changes by itself
    :param seed: chooses the orders
    :raises TypeError: if an argument has the wrong type, or the observation space is no Box
    :raises ValueError: if an argument is out of range, or observations are no vectors of two or more features

    >>> import gymnasium as gym
    >>> env = PermuteFeatures(gym.make("CartPole-v1"), every=100)
    >>> env.set_phase(3)
    >>> observation, info = env.reset(seed=42)
    >>> info["phase"], info["permutation"]
    (3, array([3, 0, 1, 2]))
    """

    def __init__(self, env: gym.Env[Any, Any], every: int | None = None, seed: int = 0) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, every=every, seed=seed)
        gym.Wrapper.__init__(self, env)
        low, high = vector_bounds(env, "PermuteFeatures")
        if len(low) < 2:
            raise ValueError(f"PermuteFeatures expects at least 2 features to re-order, got {len(low)}.")
        if every is not None and (isinstance(every, bool) or not isinstance(every, int)):
            raise TypeError(f"`every` must be a number of steps or None, got {every!r}.")
        if every is not None and every < 1:
            raise ValueError(f"`every` must be a positive number of steps, got {every}. For no change give None.")
        self._every = every
        #: Chooses the orders: see :func:`permutation_at`.
        self.permutation_seed = checked_seed(seed, "PermuteFeatures")
        self._steps = 0
        self._chosen_phase: int | None = None
        self._phase = 0
        self._permutation = permutation_at(self.permutation_seed, 0, len(low))
        # A space cannot change with the phase, so that each feature gets the loosest bounds of all.
        self.observation_space = gym.spaces.Box(low.min(), high.max(), low.shape, np.float32)

    @property
    def phase(self) -> int:
        """The present phase."""
        return self._phase

    @property
    def permutation(self) -> NDArray[np.int64]:
        """A copy of the present order: ``observation[k] = inner[permutation[k]]``, int64 ``(features,)``."""
        return self._permutation.copy()

    @property
    def real_features(self) -> NDArray[np.bool_]:
        """Which features are real now: bool ``(features,)``; all of them if the inner environment does not say."""
        if self.env.has_wrapper_attr("real_features"):
            inner: NDArray[np.bool_] = self.env.get_wrapper_attr("real_features")
            return inner[self._permutation]
        return np.ones(len(self._permutation), np.bool_)

    def set_phase(self, phase: int) -> None:
        """
        Choose the phase from the next reset on; from then on it does not change by itself.

        :param phase: 0, 1, 2, ...
        :raises ValueError: if it is negative
        """
        if phase < 0:
            raise ValueError(f"A phase is a number from 0, got {phase}.")
        self._chosen_phase = int(phase)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start an episode, in another phase if it is time.

        :param seed: seed for the environment; if given, the steps are counted from 0 again
        :param options: options for the environment
        :return: observation, float32 ``(features,)``, and info
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._steps = 0
        self._enter(self._due_phase())
        return self._permute(observation), info | {"phase": self._phase, "permutation": self.permutation}

    def step(self, action: Any) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: action for the environment
        :return: observation, float32 ``(features,)``, reward, terminated, truncated and info
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return self._permute(observation), reward, terminated, truncated, info | {"phase": self._phase}

    def _due_phase(self) -> int:
        if self._chosen_phase is not None:
            return self._chosen_phase
        return 0 if self._every is None else self._steps // self._every

    def _enter(self, phase: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self._permutation = permutation_at(self.permutation_seed, phase, len(self._permutation))

    def _permute(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        # Indexing with an array copies, so that the caller may keep the result.
        return observation[self._permutation].astype(np.float32, copy=False)
