"""Spaces of observations and actions as plain JSON."""

from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Space

from sparse_rl.storage import StorageError

MOST_NUMBERS = 2**22  # in an observation
_MOST_SPACES = 16  # in a dictionary of them
_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_INFINITE = {"inf": np.inf, "-inf": -np.inf}


def describe_space(space: Space[Any]) -> dict[str, Any]:
    """
    Describe a space.

    :param space: a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of these
    :return: its description, which JSON can say
    :raises ValueError: if it is of another kind
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Box):
        bounds = {"low": _describe_bound(space.low), "high": _describe_bound(space.high)}
        return {"kind": kind, "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return {"kind": kind, "n": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": kind, "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"kind": kind, "spaces": {name: describe_space(each) for name, each in space.items()}}
    raise ValueError(f"There is no description for the space {space}.")


def make_space(description: Any, where: str) -> Space[Any]:
    """
    Make the space that somebody describes.

    :param description: what :func:`describe_space` returned, or a stranger claims it did
    :param where: what is read, for error messages
    :return: the space
    :raises StorageError: if there is no such space, or it is too large
    """
    makers = {
        "Box": _make_box,
        "Discrete": lambda n, start: spaces.Discrete(_count(n), start=_integer(start)),
        "MultiDiscrete": lambda n: spaces.MultiDiscrete(_counts(n, most=2**16)),
        "MultiBinary": lambda shape: _make_binary(_shape(shape)),
        "Dict": lambda spaces: _make_dict(spaces, where),
    }
    if not isinstance(description, dict) or description.get("kind") not in makers:
        raise StorageError(f"Expected one of the spaces {', '.join(makers)} in {where}, not {_short(description)}.")
    settings = {key: value for key, value in description.items() if key != "kind"}
    try:
        return makers[description["kind"]](**settings)  # type: ignore[no-any-return, operator]
    except StorageError:
        raise
    except Exception as error:  # NumPy and Gymnasium find what no check here knows
        raise StorageError(f"There is no space {_short(description)} ({where}): {error}") from error


def _make_box(shape: Any, dtype: Any, low: Any, high: Any) -> Space[Any]:
    if dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {_short(dtype)}")
    checked = _shape(shape)
    lowest, highest = (_make_bound(bound, checked, np.dtype(dtype)) for bound in (low, high))
    return spaces.Box(lowest, highest, tuple(checked), dtype=np.dtype(dtype).type)


def _make_binary(shape: list[int]) -> spaces.MultiBinary:
    return spaces.MultiBinary(shape if len(shape) > 1 else shape[0])  # which are not equal to Gymnasium


def _make_dict(given: Any, where: str) -> spaces.Dict:
    if not isinstance(given, dict) or any(
        not isinstance(each, dict) or each.get("kind") == "Dict" for each in given.values()
    ):
        raise ValueError("expected a dictionary of spaces that are not dictionaries")
    if len(given) > _MOST_SPACES:
        raise ValueError(f"{len(given):,} spaces are more than {_MOST_SPACES}")
    return spaces.Dict({name: make_space(each, where) for name, each in given.items()})


def _describe_bound(bound: np.ndarray[Any, Any]) -> Any:
    """Give one number if all are the same, and else all of them in a row; infinities, which JSON lacks, as words."""
    numbers = [str(x) if isinstance(x, float) and not np.isfinite(x) else x for x in bound.ravel().tolist()]
    return numbers[0] if numbers and numbers.count(numbers[0]) == len(numbers) else numbers


def _make_bound(given: Any, shape: list[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    numbers = given if isinstance(given, list) else [given]
    for number in numbers:
        if number not in ("inf", "-inf") and type(number) not in (int, float):
            raise ValueError(f"{_short(number)} is not a bound")
    array = np.array([_INFINITE.get(number, number) for number in numbers], dtype=dtype)
    return array.reshape(shape) if isinstance(given, list) else np.full(shape, array[0])


def _integer(given: Any) -> int:
    if type(given) is not int:
        raise ValueError(f"{_short(given)} is not a whole number")
    return given


def _count(given: Any) -> int:
    if not 1 <= _integer(given) <= MOST_NUMBERS:
        raise ValueError(f"{given} is not in [1, {MOST_NUMBERS:,}]")
    return int(given)


def _counts(given: Any, most: int) -> list[int]:
    if not isinstance(given, list) or len(given) > most:
        raise ValueError(f"{_short(given)} is not a list of up to {most:,} whole numbers")
    return [_count(each) for each in given]


def _shape(given: Any) -> list[int]:
    shape = _counts(given, most=8)
    if prod(shape) > MOST_NUMBERS:
        raise ValueError(f"{shape} is more than {MOST_NUMBERS:,} numbers")
    return shape


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
