"""What the wrappers ask for: an environment whose observations are vectors, and a sensible seed."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

#: Seeds have 63 bits, so that they fit the signed integers that vector environments and replay buffers store.
SEED_BITS = 63


def vector_bounds(env: gym.Env[Any, Any], wrapper: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Look up the bounds of an environment's observations.

    :param env: the environment to wrap
    :param wrapper: who asks, for the error message
    :return: lowest and highest values, each float32 ``(features,)``
    :raises TypeError: if the observation space is no :class:`gymnasium.spaces.Box`
    :raises ValueError: if the observations have more or fewer than one dimension
    """
    space = env.observation_space
    advice = f"Wrap the environment in gymnasium.wrappers.FlattenObservation before {wrapper}."
    if not isinstance(space, gym.spaces.Box):
        raise TypeError(f"{wrapper} expects a Box observation space of one dimension, got {space}. {advice}")
    if len(space.shape) != 1:
        raise ValueError(f"{wrapper} expects observations of one dimension, got shape {space.shape}. {advice}")
    with np.errstate(over="ignore"):  # float64 bounds beyond float32's range become infinite, which is true of them
        return space.low.astype(np.float32), space.high.astype(np.float32)


def checked_seed(seed: Any, wrapper: str) -> int:
    """
    Check a wrapper's ``seed`` argument.

    :param seed: what the user gave
    :param wrapper: who asks, for the error message
    :return: the seed
    :raises TypeError: if it is not an integer
    :raises ValueError: if it is negative or has more than 63 bits
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"{wrapper} expects an integer seed, got {seed!r}.")
    if not 0 <= seed < 2**SEED_BITS:
        raise ValueError(f"{wrapper} expects a seed from 0 to 2**{SEED_BITS} - 1, got {seed}.")
    return int(seed)
