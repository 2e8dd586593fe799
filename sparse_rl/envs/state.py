"""What an environment is in the middle of: its state as plain values and arrays, and back into place, to the bit."""

import inspect
from collections import defaultdict, deque
from collections.abc import Iterator
from copy import deepcopy
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from sparse_rl.envs.objects import StateError, is_object, keep, put_back

__all__ = ["KeepsItself", "StateError", "restore", "state_of"]

_PLAIN = (type(None), bool, int, float, str, np.generic)
# What an environment is made with, and does not change: by type, or by name where the type is in an optional package.
_AS_BUILT = (EnvSpec, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_AS_BUILT_NAMES = {"MjModel", "MujocoRenderer", "NoiseModel"}
_ARGUMENTS = {"_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}  # what a layer was made with
_GENERATOR = "_np_random"


class _Seen:
    """What has been copied so far: nothing may be copied twice, or the copies would part ways."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}  # by identity; held, or another one could come to have the same
        self._arrays: defaultdict[int, list[NDArray[Any]]] = defaultdict(list)  # by whose memory they are views of

    def add(self, value: Any) -> None:
        if id(value) in self._objects:
            raise StateError(f"the same {type(value).__name__} as elsewhere")
        self._objects[id(value)] = value

    def add_array(self, array: NDArray[Any]) -> None:
        owner = _owner(array)
        if not isinstance(owner, np.ndarray | bytes):
            raise StateError("a view of other memory")
        if any(np.shares_memory(array, other) for other in self._arrays[id(owner)]):
            raise StateError("a view of another array")
        self._arrays[id(owner)].append(array)


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

    Known are attributes, those in ``__slots__`` included, that are plain values, NumPy arrays, or lists, tuples,
    dictionaries, sets and deques of these; NumPy's generators; the generators of spaces; and MuJoCo's simulations. Of
    these ``mjSTATE_INTEGRATION`` is not enough: an environment may read what the last step computed (Humanoid's reward
    is the difference between this step's centre of mass and the last one's, which is one substep old), so all arrays of
    ``mjData`` are kept whose size is fixed. The others, such as contacts, are computed again.

    :param env: the environment
    :return: plain values and arrays. ``"obstacles"`` names what cannot be kept, in words; if there is any,
        :func:`restore` brings back only what is around it
    """
    obstacles: list[str] = []
    seen = _Seen()
    kept = [_keep_layer(layer, obstacles, seen) for layer in _layers(env)]
    return {"layers": kept, "obstacles": obstacles}


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> list[str]:
    """
    Put an environment that was made in the same way, and reset, into a state.

    If the state has obstacles, or something could not be put back, the environment has to be reset after that, so as to
    begin an episode: its counters and generators then are where they would be.

    :param env: the environment
    :param state: what :func:`state_of` gave
    :return: what could not be put back, in words: functions and classes that are others now. Only methods of the
        environment itself can change places
    :raises StateError: if the state is that of another environment
    """
    layers = list(_layers(env))
    if [type(layer).__name__ for layer in layers] != [kept["type"] for kept in state["layers"]]:
        raise StateError(f"The state is that of another environment than {env}.")
    return [word for layer, kept in zip(layers, state["layers"], strict=True) for word in _restore_layer(layer, kept)]


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Give the wrappers, from the outermost one, and the base environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _keep_layer(layer: gym.Env[Any, Any], obstacles: list[str], seen: _Seen) -> dict[str, Any]:
    values: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    names: dict[str, str] = {}
    own = _own_attributes(layer)
    n_before = len(obstacles)
    for name, value in _attributes(layer).items():
        if name in _skipped(layer) | own:
            continue
        try:
            if _is_as_built(value, layer):
                if (word := _name_of(value, layer)) is not None:
                    names[name] = word
            elif is_object(value):
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
    kept |= {"values": values, "names": names}
    if isinstance(layer, KeepsItself):
        kept["own"] = layer.own_state()
    return kept


def _restore_layer(layer: gym.Env[Any, Any], kept: dict[str, Any]) -> list[str]:
    present = _attributes(layer)
    for name, state in kept["objects"].items():
        if not is_object(present.get(name)):
            raise StateError(f"{type(layer).__name__}.{name} has a state, but is a {type(present.get(name)).__name__}.")
        put_back(present[name], state)
    if "values" not in kept:
        return []
    names: dict[str, str] = kept.get("names", {})  # checkpoints of older versions have none
    known = {name for name, value in present.items() if not (_is_as_built(value, layer) or is_object(value))}
    for name in known - set(kept["values"]) - set(names) - _skipped(layer) - _own_attributes(layer):
        delattr(layer, name)
    for name, value in kept["values"].items():
        # What is as it was stays: somebody else may hold it too.
        if name not in present or not _is_same(present[name], value):
            setattr(layer, name, deepcopy(value))
    if isinstance(layer, KeepsItself):
        layer.restore_own_state(kept["own"])
    words = (_put_name_back(layer, name, present.get(name), word) for name, word in names.items())
    return [word for word in words if word is not None]


def _attributes(layer: gym.Env[Any, Any]) -> dict[str, Any]:
    """Give the attributes of an object, those in the ``__slots__`` of its classes included."""
    state: Any = object.__getstate__(layer)  # not the layer's own, made for pickles
    attributes, in_slots = state if isinstance(state, tuple) else (state, {})
    return {**(attributes or {}), **in_slots}


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


def _name_of(value: object, layer: gym.Env[Any, Any]) -> str | None:
    """
    Name a function, a class or a module, of which an attribute may get another one in the middle of an episode.

    :raises StateError: if it is a method that has no name by which it could be found again
    """
    if isinstance(value, MethodType):
        for whose, owner in (("its", layer), ("the base environment's", layer.unwrapped)):
            if value.__self__ is owner:
                return f"{whose} {_name_in_class(value, owner)}"
    if isinstance(value, type | FunctionType | MethodType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return value.__name__ if isinstance(value, ModuleType) else None


def _name_in_class(method: MethodType, owner: gym.Env[Any, Any]) -> str:
    """Find by what name its class knows a method, whatever the method calls itself."""
    names = (name for name in dir(type(owner)) if inspect.getattr_static(type(owner), name) is method.__func__)
    if (name := next(names, None)) is None:
        raise StateError("a method")
    return name


def _put_name_back(layer: gym.Env[Any, Any], name: str, present: object, word: str) -> str | None:
    """Give an attribute the method that it had; else say what it had. A file cannot say what else is looked up."""
    try:
        if _name_of(present, layer) == word:
            return None
    except StateError:
        pass
    whose, _, method = word.rpartition(" ")
    owner = {"its": layer, "the base environment's": layer.unwrapped}.get(whose)
    if owner is None or not isinstance(inspect.getattr_static(type(owner), method, None), FunctionType):
        return f"{type(layer).__name__}.{name} ({word})"
    setattr(layer, name, getattr(owner, method))
    return None


def _copy(value: Any, seen: _Seen) -> Any:
    """Copy a plain value; complain if part of it is not plain, or is part of another one too."""
    if type(value) in _PLAIN or (isinstance(value, np.generic) and value.dtype.kind in "biuf"):
        return value
    if type(value) is tuple:
        return tuple(_copy(each, seen) for each in value)
    if type(value) is np.ndarray:
        seen.add(value)
        if value.dtype.kind not in "biuf" or not value.dtype.isnative or value.dtype.itemsize > 8:
            raise StateError(f"an array of {'objects' if value.dtype.hasobject else value.dtype}")
        seen.add_array(value)
        return value.copy()
    if type(value) in (list, set, deque):
        seen.add(value)
        copies = [_copy(each, seen) for each in (sorted(value, key=repr) if type(value) is set else value)]
        return deque(copies, value.maxlen) if isinstance(value, deque) else type(value)(copies)
    if type(value) is dict:
        seen.add(value)
        return {_copy(key, seen): _copy(each, seen) for key, each in value.items()}
    raise StateError(f"a {type(value).__name__}")


def _owner(array: NDArray[Any]) -> Any:
    """Find whose memory an array is a view of: another array, itself, or something else."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


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
