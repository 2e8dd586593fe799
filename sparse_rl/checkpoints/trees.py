"""Nested plain values and arrays as a flat dictionary of tensors, which a safetensors file can hold, and back."""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from sparse_rl.storage import StorageError, parse_json

#: ``None``, truth values, numbers, strings, NumPy's numbers and arrays, PyTorch's tensors, and lists, tuples, sets,
#: deques and dictionaries of these.
Tree = Any
_JSON = "tree"
_FEW = 16  # a longer list of numbers is shorter as an array


def pack(tree: Tree) -> dict[str, th.Tensor | NDArray[Any]]:
    """
    Flatten a tree.

    :param tree: the tree
    :return: its arrays and tensors, by number, and under ``"tree"`` the rest of it: JSON, as bytes
    :raises TypeError: if there is something else in it
    """
    arrays: dict[str, th.Tensor | NDArray[Any]] = {}
    text = json.dumps(_encode(tree, arrays), allow_nan=False, separators=(",", ":"))
    return {_JSON: np.frombuffer(text.encode(), np.uint8), **arrays}


def unpack(tensors: Mapping[str, th.Tensor]) -> Tree:
    """
    Rebuild a tree.

    :param tensors: what :func:`pack` gave, read from a file
    :return: the tree: equal, with the same types
    :raises StorageError: if it is not a tree
    """
    try:
        return _decode(parse_json(tensors[_JSON].numpy().tobytes(), "a tree"), tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"The file does not hold a tree: {type(error).__name__}: {error}.") from error


def _encode(value: Any, arrays: dict[str, th.Tensor | NDArray[Any]]) -> Any:
    if isinstance(value, np.generic):
        return _stored("scalar", np.asarray(value), arrays)
    if isinstance(value, np.ndarray | th.Tensor):
        return _stored("array" if isinstance(value, np.ndarray) else "tensor", value, arrays)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(key, arrays), _encode(each, arrays)] for key, each in value.items()]}
    if not isinstance(value, list | tuple | set | deque):
        raise TypeError(f"A {type(value).__name__} cannot be kept in a checkpoint: give plain values and arrays.")
    if isinstance(value, list) and len(value) > _FEW and all(type(each) is float for each in value):
        return _stored("floats", np.array(value), arrays)
    encoded = [_encode(each, arrays) for each in value]
    if isinstance(value, list):
        return encoded
    if isinstance(value, deque):
        return {"deque": [value.maxlen, encoded]}
    return {"tuple" if isinstance(value, tuple) else "set": encoded}


def _stored(kind: str, array: th.Tensor | NDArray[Any], arrays: dict[str, th.Tensor | NDArray[Any]]) -> dict[str, str]:
    # What occurs twice is stored once, and will be one again.
    key = next((key for key, other in arrays.items() if other is array), str(len(arrays)))
    arrays[key] = array
    return {kind: key}


def _decode(value: Any, tensors: Mapping[str, th.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return _KINDS[kind](content, tensors)


_KINDS: Mapping[str, Callable[[Any, Mapping[str, th.Tensor]], Any]] = {
    "float": lambda content, _: float(content),
    "tensor": lambda content, tensors: tensors[content],
    "array": lambda content, tensors: tensors[content].numpy().copy(),  # of its own, as it was
    "scalar": lambda content, tensors: tensors[content].numpy()[()],
    "floats": lambda content, tensors: tensors[content].numpy().tolist(),
    "tuple": lambda content, tensors: tuple(_decode(content, tensors)),
    "set": lambda content, tensors: set(_decode(content, tensors)),
    "deque": lambda content, tensors: deque(_decode(content[1], tensors), content[0]),
    "dict": lambda content, tensors: {_decode(key, tensors): _decode(each, tensors) for key, each in content},
}
