"""
Tensors in files of the safetensors format (https://github.com/huggingface/safetensors), checked before they are read.

Such a file is a header, in JSON, of names, dtypes, shapes and places, and then the numbers. Nothing in it can run. But
a header can lie, and a disk can err: so the header is checked as a whole before memory is taken for a single tensor,
and a checksum tells whether the bytes are those that were written. A checksum is no signature: it finds accidents, and
who wants to deceive computes another one.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_rl.storage.atomic import write_atomically
from sparse_rl.storage.reading import StorageError, open_regular, parse_json

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
MOST_BYTES = 2**30  # of a file, unless the caller expects more
MOST_HEADER_BYTES = 2**22
MOST_DIMENSIONS = 8
_KEY = "sparse_rl"  # in the header's metadata; one key, because safetensors writes several in any order
_METADATA = "__metadata__"


class _Entry(NamedTuple):
    """A tensor as the header describes it; it lies at ``start:end`` behind the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor | NDArray[Any]], metadata: Mapping[str, Any] | None = None
) -> None:
    """
    Write tensors into a file, in one step.

    :param path: the file, by convention ``*.safetensors``
    :param tensors: truth values, integers or floating-point numbers, of any shape, by name; no two may share memory
    :param metadata: anything that JSON can say, NaN and infinities excluded
    :raises ValueError: if a dtype is of another kind, or the metadata are not JSON or too large to be read again
    :raises OSError: if the file cannot be written
    """
    ready = {name: _ready(name, tensor) for name, tensor in tensors.items()}
    text = json.dumps(metadata or {}, allow_nan=False, sort_keys=True)
    checksum = _Checksum(text)
    for name in sorted(ready):
        checksum.add(name, ready[name])
    content = safetensors.torch.save(ready, {_KEY: json.dumps({"checksum": checksum.text(), "metadata": text})})
    if int.from_bytes(content[:8], "little") > MOST_HEADER_BYTES:
        raise ValueError(f"The header would have more than {MOST_HEADER_BYTES:,} bytes: give fewer metadata.")
    write_atomically(path, lambda file: file.write(content))


def load_tensors(path: Path, max_bytes: int = MOST_BYTES) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Read tensors from a file, of :func:`save_tensors` or of anybody else.

    Memory is taken for what the file holds, and only once its header has been checked.

    :param path: the file
    :param max_bytes: how large it may be
    :return: the tensors by name, on the CPU, each with memory of its own; and the metadata, empty if somebody else
        wrote the file
    :raises StorageError: if it is a symbolic link, no regular file, too large, no safetensors file, or damaged
    :raises OSError: if it cannot be read
    """
    where = repr(str(path))
    with open_regular(path, max_bytes) as (file, size):
        header, n_bytes = _read_header(file, size, where)
        given = header.pop(_METADATA, {})
        entries = sorted((_entry(name, each, where) for name, each in header.items()), key=lambda e: (e.start, e.end))
        _check_places(entries, n_bytes, where)
        tensors = {entry.name: _read(file, entry, where) for entry in entries}
    return tensors, _checked_metadata(given, tensors, where)


def _read_header(file: BinaryIO, size: int, where: str) -> tuple[dict[str, Any], int]:
    """Read the header, and say how many bytes come after it."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise StorageError(f"{where} is not a safetensors file, or its end is missing.")
    if length > MOST_HEADER_BYTES:
        raise StorageError(f"The header of {where} has {length:,} bytes, more than {MOST_HEADER_BYTES:,}.")
    header = parse_json(file.read(length), f"the header of {where}")
    if not isinstance(header, dict):
        raise StorageError(f"The header of {where} is not a dictionary.")
    return header, size - 8 - length


def _entry(name: str, given: Any, where: str) -> _Entry:
    """Check the description of a tensor for itself."""
    what = f"the tensor {name[:80]!r} of {where}"
    if not isinstance(given, dict) or given.keys() != {"dtype", "shape", "data_offsets"}:
        raise StorageError(f"The header does not give dtype, shape and data_offsets, and only these, of {what}.")
    dtype, shape, place = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise StorageError(f"Unknown dtype {str(dtype)[:80]!r} of {what}. Known: {', '.join(DTYPES)}.")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS or prod(n or 1 for n in shape) >= 2**60:
        raise StorageError(f"Impossible shape {str(shape)[:80]} of {what}.")
    if not _are_counts(place) or len(place) != 2:
        raise StorageError(f"Impossible data_offsets {str(place)[:80]} of {what}.")
    start, end = place
    n_bytes = prod(shape) * DTYPES[dtype].itemsize
    if end - start != n_bytes:
        raise StorageError(f"{dtype} of shape {shape} are {n_bytes:,} bytes, not the {end - start:,} of {what}.")
    return _Entry(name, DTYPES[dtype], tuple(shape), start, end)


def _are_counts(given: Any) -> bool:
    return isinstance(given, list) and all(type(n) is int and 0 <= n < 2**60 for n in given)


def _check_places(entries: list[_Entry], n_bytes: int, where: str) -> None:
    """Check that tensors, in the order of their places, fill the file without holes or overlaps."""
    end = 0
    for entry in entries:
        if entry.start != end:
            raise StorageError(f"There is a hole or an overlap before the tensor {entry.name[:80]!r} of {where}.")
        end = entry.end
    if end != n_bytes:
        raise StorageError(f"The tensors of {where} take {end:,} bytes, but there are {n_bytes:,}: it is damaged.")


def _read(file: BinaryIO, entry: _Entry, where: str) -> Tensor:
    content = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    if file.readinto(content.numpy()) != content.numel():  # type: ignore[attr-defined]
        raise StorageError(f"{where} has become shorter while it was read.")
    if entry.dtype == torch.bool and content.numel() and content.max() > 1:
        raise StorageError(f"The tensor {entry.name[:80]!r} of {where} holds bytes that are neither true nor false.")
    return content.view(entry.dtype).view(entry.shape)


def _checked_metadata(given: Any, tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Read our metadata, if there are any, and compare the checksum."""
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise StorageError(f"The metadata of {where} are not words.")
    if _KEY not in given:
        return {}
    ours = parse_json(given[_KEY], f"the metadata of {where}")
    if not isinstance(ours, dict) or not all(isinstance(ours.get(key), str) for key in ("checksum", "metadata")):
        raise StorageError(f"The metadata of {where} lack a checksum.")
    checksum = _Checksum(ours["metadata"])
    for name in sorted(tensors):
        checksum.add(name, tensors[name])
    if checksum.text() != ours["checksum"]:
        raise StorageError(f"{where} is damaged: its checksum is not that of its content.")
    metadata = parse_json(ours["metadata"], f"the metadata of {where}")
    if not isinstance(metadata, dict):
        raise StorageError(f"The metadata of {where} are not a dictionary.")
    return metadata


class _Checksum:
    """BLAKE2b of the metadata and of each tensor's name, dtype, shape and numbers, wherever it stands in the file."""

    def __init__(self, metadata: str) -> None:
        self._hash = blake2b(metadata.encode(), digest_size=32)

    def add(self, name: str, tensor: Tensor) -> None:
        self._hash.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():  # what is empty cannot always be viewed as bytes
            self._hash.update(tensor.flatten().view(torch.uint8).numpy().data)

    def text(self) -> str:
        return f"blake2b:{self._hash.hexdigest()}"


def _ready(name: str, tensor: Tensor | NDArray[Any]) -> Tensor:
    """Bring a tensor into the form in which it is written: on the CPU, its numbers one after the other."""
    if isinstance(tensor, np.ndarray):
        try:
            tensor = torch.from_numpy(np.require(tensor, requirements=["C", "W"]))
        except TypeError as error:
            raise ValueError(f"{name!r} cannot be stored: it is an array of {tensor.dtype}.") from error
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"{name!r} cannot be stored: it is a tensor of {tensor.dtype}.")
    return tensor.detach().cpu().contiguous()
