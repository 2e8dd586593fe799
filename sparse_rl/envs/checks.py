"""What the wrappers ask for: observations that are vectors, a sensible seed, an environment that can be copied."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
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


def json_of_copy(spec: EnvSpec | None, wanted_by: str, otherwise: str) -> str:
    """
    Describe a copy of an environment that nobody is to watch: it opens no window.

    :param spec: the environment's spec, as ``env.spec``
    :param wanted_by: who asks, for the error message
    :param otherwise: what to do without a copy, for the error message
    :return: the copy's spec as JSON
    :raises gymnasium.error.Error: if the environment cannot be made again from its spec
    """
    advice = f"Make it with gym.make, use wrappers that record their arguments only, or {otherwise}."
    if spec is None:
        raise gym.error.Error(f"{wanted_by} needs a second copy of an environment without a spec. {advice}")
    spec = replace(spec, kwargs={key: value for key, value in spec.kwargs.items() if key != "render_mode"})
    try:
        return spec.to_json()
    except (TypeError, ValueError) as error:
        raise gym.error.Error(
            f"{wanted_by} needs a second copy of {spec.id}, whose spec is not JSON: {error}. {advice}"
        ) from error
