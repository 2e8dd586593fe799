"""NumPy's archives of arrays, ``.npz``: as large as they say they are, and nothing but numbers and text."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sparse_rl.storage.archives import read_members
from sparse_rl.storage.reading import StorageError, open_regular

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MOST_RATIO = 1032  # what Deflate can do: tables of small numbers shrink a lot, and what they unpack to is bounded


def load_arrays(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """
    Read the arrays of a ``.npz`` file that a stranger may have made.

    :param path: the file
    :param max_bytes: how many bytes it may have, packed and unpacked
    :return: its arrays by name
    :raises StorageError: if it is no such file, no regular file, too large or damaged, if an array is not as large as
        it says, or holds Python objects, which would have to be unpickled
    :raises OSError: if it cannot be read
    """
    with open_regular(path, max_bytes) as (file, _):
        try:
            members = read_members(file, max_bytes, "its zip archive", max_ratio=_MOST_RATIO)
        except StorageError as error:
            raise StorageError(f"{str(path)!r} is damaged: {str(error).rstrip('.')}.") from error
    arrays = {}
    for member, content in members.items():
        name = member.removesuffix(".npy")
        try:
            with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 has written
                arrays[name] = _array(content)
        except Exception as error:  # a damaged header can fail in any way
            problem = str(error).partition("\n")[0].rstrip(".")
            raise StorageError(
                f"{str(path)!r} is damaged: its array {name[:80]!r} cannot be read: {problem}."
            ) from error
    return arrays


def _array(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError("it is in an unusual version of the format")
    shape, _, dtype = _HEADERS[version](stream)
    size = dtype.itemsize
    for length in shape:
        size *= length  # not NumPy's product, which overflows
    if not dtype.hasobject and size != len(content) - stream.tell():
        raise ValueError(f"it says that it has {size:,} bytes, and has {len(content) - stream.tell():,}")
    stream.seek(0)
    return np.asarray(npy.read_array(stream, allow_pickle=False))
