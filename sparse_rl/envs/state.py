"""What an environment is in the middle of: its state as plain values and arrays, and back into place, to the bit."""

import sys
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from functools import singledispatch
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

__all__ = ["KeepsItself", "StateError", "restore", "state_of"]

_PLAIN = (type(None), bool, int, float, str, np.generic)
# What an environment is made with, and does not change: by type, or by name where the type is in an optional package.
_AS_BUILT = (EnvSpec, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_AS_BUILT_NAMES = {"MjModel", "MujocoRenderer", "NoiseModel"}
_ARGUMENTS = {"_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}  # what a layer was made with
_GENERATOR = "_np_random"


class StateError(ValueError):
    """There is something whose state cannot be kept, or a state that belongs to something else."""


@runtime_checkable
class KeepsItself(Protocol):
    """A layer of an environment with attributes that only itself can keep."""

    #: The names of these attributes.
    kept_by_itself: frozenset[str]

    def own_state(self) -> Any:
        """Give what has to be kept of them: plain values and arrays."""

    def restore_own_state(self, state: Any) -> None:
        """Put back what :meth:`own_state` gave."""


def state_of(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """
    Give the state of an environment: of each wrapper, the base environment, its generators and its simulation.

    Known are attributes that are plain values, NumPy arrays, or lists, tuples, dictionaries, sets and deques of these;
    NumPy's generators; the generators of spaces; and MuJoCo's simulations. Of these ``mjSTATE_INTEGRATION`` is not
    enough: an environment may read what the last step computed (Humanoid's reward is the difference between this step's
    centre of mass and the last one's, which is one substep old), so all arrays of ``mjData`` are kept whose size is
    fixed. The others, such as contacts, are computed again.

    :param env: the environment
    :return: plain values and arrays. ``"obstacles"`` names what cannot be kept, in words; if there is any,
        :func:`restore` brings back only what is around it
    """
    obstacles: list[str] = []
    seen: list[Any] = []
    kept = [_keep_layer(layer, obstacles, seen) for layer in _layers(env)]
    return {"layers": kept, "obstacles": obstacles}


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """
    Put an environment that was made in the same way, and reset, into a state.

    If the state has obstacles, the environment has to be reset after that, so as to begin an episode: its counters and
    generators then are where they would be.

    :param env: the environment
    :param state: what :func:`state_of` gave
    :raises StateError: if the state is that of another environment
    """
    layers = list(_layers(env))
    if [type(layer).__name__ for layer in layers] != [kept["type"] for kept in state["layers"]]:
        raise StateError(f"The state is that of another environment than {env}.")
    for layer, kept in zip(layers, state["layers"], strict=True):
        _restore_layer(layer, kept)


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Give the wrappers, from the outermost one, and the base environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _keep_layer(layer: gym.Env[Any, Any], obstacles: list[str], seen: list[Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    own = _own_attributes(layer)
    n_before = len(obstacles)
    for name, value in vars(layer).items():
        if name in _skipped(layer) | own or _is_as_built(value, layer):
            continue
        try:
            if _is_object(value):
                objects[name] = keep(value)
            else:
                values[name] = _copy(value, seen)
        except StateError as error:
            obstacles.append(f"{type(layer).__name__}.{name} ({error})")
    kept = {"type": type(layer).__name__, "objects": objects}
    if len(obstacles) > n_before:
        # What is plain may belong to what is not; generators belong to nothing.
        kept["objects"] = {name: objects[name] for name in (_GENERATOR,) if name in objects}
        return kept
    kept["values"] = values
    if isinstance(layer, KeepsItself):
        kept["own"] = layer.own_state()
    return kept


def _restore_layer(layer: gym.Env[Any, Any], kept: dict[str, Any]) -> None:
    present = vars(layer)
    for name, state in kept["objects"].items():
        if not _is_object(present.get(name)):
            raise StateError(f"{type(layer).__name__}.{name} has a state, but is a {type(present.get(name)).__name__}.")
        put_back(present[name], state)
    if "values" not in kept:
        return
    known = {name for name, value in present.items() if not (_is_as_built(value, layer) or _is_object(value))}
    for name in known - set(kept["values"]) - _skipped(layer) - _own_attributes(layer):
        delattr(layer, name)
    for name, value in kept["values"].items():
        # What is as it was stays: somebody else may hold it too.
        if name not in present or not _is_same(present[name], value):
            setattr(layer, name, deepcopy(value))
    if isinstance(layer, KeepsItself):
        layer.restore_own_state(kept["own"])


def _own_attributes(layer: gym.Env[Any, Any]) -> frozenset[str]:
    return layer.kept_by_itself if isinstance(layer, KeepsItself) else frozenset()


def _skipped(layer: gym.Env[Any, Any]) -> set[str]:
    """Name what is not of the layer itself: what a wrapper wraps has a state of its own."""
    return _ARGUMENTS | {"env"} if isinstance(layer, gym.Wrapper) else _ARGUMENTS


def _is_as_built(value: object, layer: gym.Env[Any, Any]) -> bool:
    owner = getattr(value, "__self__", None)
    if isinstance(value, MethodType | BuiltinFunctionType) and not isinstance(owner, ModuleType | type | None):
        return owner is layer or owner is layer.unwrapped  # a method has the state of whom it belongs to
    return isinstance(value, _AS_BUILT) or type(value).__name__ in _AS_BUILT_NAMES


def _copy(value: Any, seen: list[Any]) -> Any:
    """Copy a plain value; complain if part of it is not plain, or is part of another one too."""
    if type(value) in _PLAIN or (isinstance(value, np.generic) and value.dtype.kind in "biuf"):
        return value
    if type(value) is tuple:
        return tuple(_copy(each, seen) for each in value)
    if any(value is other for other in seen):
        raise StateError(f"the same {type(value).__name__} as elsewhere")
    if type(value) is np.ndarray:
        if value.dtype.kind not in "biuf" or not value.dtype.isnative or value.dtype.itemsize > 8:
            raise StateError(f"an array of {'objects' if value.dtype.hasobject else value.dtype}")
        if _has_foreign_memory(value):
            raise StateError("a view of other memory")
        if any(isinstance(other, np.ndarray) and np.shares_memory(value, other) for other in seen):
            raise StateError("a view of another array")
        seen.append(value)
        return value.copy()
    if type(value) in (list, set, deque):
        seen.append(value)
        copies = [_copy(each, seen) for each in (sorted(value, key=repr) if type(value) is set else value)]
        return deque(copies, value.maxlen) if isinstance(value, deque) else type(value)(copies)
    if type(value) is dict:
        seen.append(value)
        return {_copy(key, seen): _copy(each, seen) for key, each in value.items()}
    raise StateError(f"a {type(value).__name__}")


def _has_foreign_memory(array: NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return not isinstance(base, np.ndarray | bytes)


def _is_same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(_is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(_is_same, a, b))
    return bool(a == b)


# --- Objects that stay, and whose state is kept ---


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


def _is_object(value: object) -> bool:
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
