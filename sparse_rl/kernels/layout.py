"""How feature-major matrices lie in memory, so that the caches can be used to the full."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, from_numpy

from sparse_rl.caching import cached_njit

PAIR = 128  # bytes: a cache fetches pairs of lines


@cached_njit()
def padded(columns: int, itemsize: int) -> int:
    """
    Say how far apart the rows of a matrix should be: an odd number of pairs of cache lines.

    Rows that are a power of two apart, as those of a batch of 256 would be, compete for the same few sets of the cache;
    these spread over all of them. Whole pairs, because two threads that write to the two halves of one take it from
    each other all the time.

    :param columns: elements of a row
    :param itemsize: bytes of an element
    :return: elements from one row to the next
    """
    pair = PAIR // itemsize
    return columns if columns < pair else (columns + pair - 1) // pair // 2 * 2 * pair + pair


def empty_rows(rows: int, columns: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """
    Reserve a matrix whose rows lie as is good for the cache: see :func:`padded`.

    :param rows: number of rows
    :param columns: number of columns that are needed
    :param dtype: of its elements
    :return: contiguous array of shape ``(rows, at least columns)``, of arbitrary content
    """
    itemsize = np.dtype(dtype).itemsize
    stride = padded.py_func(columns, itemsize)
    size = rows * stride * itemsize
    memory = np.empty(size + PAIR, np.uint8)
    start = -memory.ctypes.data % PAIR
    return memory[start : start + size].view(dtype).reshape(rows, stride)


def empty_activations(features: int, batch: int, like: Tensor) -> Tensor:
    """
    Reserve feature-major activations on the CPU.

    :param features: number of rows
    :param batch: number of columns
    :param like: a tensor that says the type of their numbers
    :return: tensor of shape ``(features, batch)``, see :func:`empty_rows`
    """
    return from_numpy(empty_rows(features, batch, like.detach().numpy().dtype)[:, :batch])
