"""Batches are feature-major, memory is not: the passes over memory that turn one into the other."""

from typing import Any

from numba import njit, prange

# A tile's 16 floats are a cache line on either side, the one that is read and the one that is written.
_TILE = 16


@njit(parallel=True, cache=True)
def gather(first: Any, second: Any, rows: Any, out: Any) -> None:
    """
    Turn rows of two arrays into columns of one: ``out[:, b] = first[rows[b]]``, ``out[:, n + b] = second[rows[b]]``.

    A thread takes 16 rows at a time and walks along them, as the hardware likes to fetch them.

    :param first: ``(size, features)``
    :param second: of the same shape and type
    :param rows: which rows, ``(n,)``
    :param out: float32 ``(features, 2 * n)``
    """
    features, n = len(out), len(rows)
    tiles = (n + _TILE - 1) // _TILE
    for tile in prange(2 * tiles):
        source, offset = (first, 0) if tile < tiles else (second, n)
        start = _TILE * (tile % tiles)
        stop = min(start + _TILE, n)
        for block in range(0, features, _TILE):
            for feature in range(block, min(block + _TILE, features)):
                for b in range(start, stop):
                    out[feature, offset + b] = source[rows[b], feature]


@njit(parallel=True, cache=True)
def reorder(features: Any, orders: Any, which: Any, out: Any) -> None:
    """
    Put the features of each column into its own order: ``out[k, b] = features[orders[which[b], k], b]``.

    :param features: ``(features, columns)``
    :param orders: ``(orders, features)``
    :param which: order of each column, ``(columns,)``
    :param out: of the shape of ``features``
    """
    for k in prange(len(out)):
        if len(orders) == 1:
            out[k] = features[orders[0, k]]
        else:
            for b in range(len(which)):
                out[k, b] = features[orders[which[b], k], b]
