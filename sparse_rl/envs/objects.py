"""Objects in environments that stay what they are, and whose state is kept: generators, spaces, simulations."""

import sys
from functools import singledispatch
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class StateError(ValueError):
    """There is something whose state cannot be kept, or a state that belongs to something else."""


@singledispatch
def keep(value: object) -> Any:
    """
    Give the state of an object that has one.

    :param value: the object
    :return: plain values and arrays
    :raises StateError: if its type is not known
    """
    if _is_simulation(value):
        return _keep_simulation(value)
    raise StateError(f"a {type(value).__name__}")


@singledispatch
def put_back(value: object, state: Any) -> None:
    """
    Put an object back into a state.

    :param value: the object
    :param state: what :func:`keep` gave
    :raises StateError: if it is the state of something else
    """
    assert _is_simulation(value)
    _restore_simulation(value, state)


def is_object(value: object) -> bool:
    """
    Tell whether an object has a state that can be kept.

    :param value: the object
    :return: whether :func:`keep` knows its type
    """
    return isinstance(value, np.random.Generator | np.random.RandomState | gym.Space) or _is_simulation(value)


@keep.register
def _(value: np.random.Generator) -> Any:
    return value.bit_generator.state


@put_back.register
def _(value: np.random.Generator, state: Any) -> None:
    if value.bit_generator.state["bit_generator"] != state["bit_generator"]:
        raise StateError(f"The state of a {state['bit_generator']} does not fit {value}.")
    value.bit_generator.state = state


@keep.register
def _(value: np.random.RandomState) -> Any:
    return value.get_state(legacy=False)


@put_back.register
def _(value: np.random.RandomState, state: Any) -> None:
    value.set_state(state)


@keep.register
def _(value: gym.Space) -> Any:  # type: ignore[type-arg]
    inner = getattr(value, "spaces", ())
    inner = list(inner.values()) if isinstance(inner, dict) else list(inner)
    return [value._np_random and keep(value.np_random), [keep(space) for space in inner]]


@put_back.register
def _(value: gym.Space, state: Any) -> None:  # type: ignore[type-arg]
    own, of_inner = state
    if own is None:
        value._np_random = None  # type: ignore[assignment]
    else:
        put_back(value.np_random, own)
    inner = getattr(value, "spaces", ())
    for space, kept in zip(inner.values() if isinstance(inner, dict) else inner, of_inner, strict=True):
        put_back(space, kept)


def _is_simulation(value: object) -> bool:
    mujoco = sys.modules.get("mujoco")
    return mujoco is not None and isinstance(value, mujoco.MjData)


def _keep_simulation(data: Any) -> dict[str, Any]:
    mujoco = sys.modules["mujoco"]
    what = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(data.model, what))
    mujoco.mj_getState(data.model, data, integration, what)
    # One array for each type: a file of hundreds of small ones is slow to write.
    arrays = {kind: np.concatenate([a.ravel() for a in group]) for kind, group in _fixed_arrays(data).items()}
    return {"integration": integration, "arrays": arrays}


def _restore_simulation(data: Any, state: dict[str, Any]) -> None:
    mujoco = sys.modules["mujoco"]
    what = mujoco.mjtState.mjSTATE_INTEGRATION
    groups = _fixed_arrays(data)
    sizes = {kind: sum(array.size for array in group) for kind, group in groups.items()}
    if (
        len(state["integration"]) != mujoco.mj_stateSize(data.model, what)
        or {kind: len(array) for kind, array in state["arrays"].items()} != sizes
    ):
        raise StateError("The state of the simulation is that of another model, or of another version of MuJoCo.")
    mujoco.mj_resetData(data.model, data)
    mujoco.mj_setState(data.model, data, state["integration"], what)
    mujoco.mj_forward(data.model, data)  # for contacts and whatever else has no fixed size
    for kind, group in groups.items():
        parts = np.split(state["arrays"][kind], np.cumsum([array.size for array in group])[:-1])
        for array, part in zip(group, parts, strict=True):
            array[...] = part.reshape(array.shape)
    mujoco.mj_setState(data.model, data, state["integration"], what)


def _fixed_arrays(data: Any) -> dict[str, list[NDArray[Any]]]:
    """Give the arrays whose size does not depend on what touches what, by type."""
    empty = sys.modules["mujoco"].MjData(data.model)
    groups: dict[str, list[NDArray[Any]]] = {}
    for name in dir(data):
        array = None if name.startswith("_") else getattr(data, name)
        if isinstance(array, np.ndarray) and array.size and array.shape == getattr(empty, name).shape:
            groups.setdefault(array.dtype.str, []).append(array)
    return groups
