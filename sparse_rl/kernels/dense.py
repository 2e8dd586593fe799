"""
Dense products on feature-major activations, for the dense layers among sparse ones.

A library's product is no faster for matrices of this size (benchmarks/kernels.py), and each call of one from Python
costs as much as a tenth of it: here it is part of a pass over the whole network.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit
from sparse_rl.kernels.simd import (
    array_at,
    block,
    clip,
    dot,
    fill,
    lanes_of,
    load,
    load_scalar,
    multiply_add,
    narrow,
    single,
    store,
    where_positive,
    wide,
)

Floats = NDArray[np.floating[Any]]


@njit
def _finish(zero: Any, accumulator: Any, result: Any, i: int, entry: int) -> None:
    y, y_stride, relu, mask, mask_stride = result
    if relu:
        accumulator = clip(accumulator)
    if mask != 0:
        accumulator = where_positive(load(zero, mask, i * mask_stride + entry), accumulator)
    store(accumulator, y, i * y_stride + entry)


@njit
def _start(zero: Any, bias: Any, i: int) -> Any:
    return fill(zero, bias[i]) if bias.size > 0 else zero


@njit
def _multiply_strips(zero: Any, matrix: Any, activations: Any, result: Any, rows: Any, entry: int, stop: int) -> int:
    """Compute some rows of the result for as many whole strips of the batch as fit, of the width of ``zero``."""
    w, row_stride, column_stride, bias = matrix
    x, x_stride, n_inputs = activations
    while entry + lanes_of(zero) <= stop:
        i = rows[0]
        while i + 6 <= rows[1]:  # six rows share the loads of the activations
            a0 = _start(zero, bias, i + 0)
            a1 = _start(zero, bias, i + 1)
            a2 = _start(zero, bias, i + 2)
            a3 = _start(zero, bias, i + 3)
            a4 = _start(zero, bias, i + 4)
            a5 = _start(zero, bias, i + 5)
            p = i * row_stride
            for j in range(n_inputs):
                v = load(zero, x, j * x_stride + entry)
                a0 = multiply_add(load_scalar(zero, w, p), v, a0)
                a1 = multiply_add(load_scalar(zero, w, p + row_stride), v, a1)
                a2 = multiply_add(load_scalar(zero, w, p + 2 * row_stride), v, a2)
                a3 = multiply_add(load_scalar(zero, w, p + 3 * row_stride), v, a3)
                a4 = multiply_add(load_scalar(zero, w, p + 4 * row_stride), v, a4)
                a5 = multiply_add(load_scalar(zero, w, p + 5 * row_stride), v, a5)
                p += column_stride
            _finish(zero, a0, result, i + 0, entry)
            _finish(zero, a1, result, i + 1, entry)
            _finish(zero, a2, result, i + 2, entry)
            _finish(zero, a3, result, i + 3, entry)
            _finish(zero, a4, result, i + 4, entry)
            _finish(zero, a5, result, i + 5, entry)
            i += 6
        while i < rows[1]:
            a0 = _start(zero, bias, i)
            p = i * row_stride
            for j in range(n_inputs):
                a0 = multiply_add(load_scalar(zero, w, p), load(zero, x, j * x_stride + entry), a0)
                p += column_stride
            _finish(zero, a0, result, i, entry)
            i += 1
        entry += lanes_of(zero)
    return entry


@cached_njit(parallel=True)
def multiply(
    w: int,
    row_stride: int,
    column_stride: int,
    group_stride: int,
    groups: int,
    bias: Floats,
    x: int,
    x_stride: int,
    n_inputs: int,
    y: int,
    y_stride: int,
    n_rows: int,
    n_batch: int,
    relu: bool,
    mask: int,
    mask_stride: int,
    chunks: int,
) -> None:
    """
    Multiply a matrix with activations: ``y = [relu](bias + W x)``.

    :param w: address of the matrix, or of the first of several of the same shape, each with inputs of its own
    :param row_stride: elements between two rows of it
    :param column_stride: elements between two columns of it
    :param group_stride: elements between two matrices
    :param groups: how many matrices there are
    :param bias: ``(groups * rows,)``; empty for none, but of the element type of everything here
    :param x: address of the activations, ``(groups * inputs, batch)``
    :param x_stride: elements between two rows of them
    :param n_inputs: columns of a matrix
    :param y: address of the result, ``(groups * rows, batch)``
    :param y_stride: elements between two rows of it
    :param n_rows: rows of a matrix
    :param n_batch: columns of activations and result
    :param relu: clip negative results to zero; a NaN stays
    :param mask: address of activations; where they are zero or negative, so is the result. 0 for none
    :param mask_stride: elements between two rows of them
    :param chunks: into how many pieces of work the rows of a matrix are cut
    """
    width, size = lanes_of(block(bias)), bias.itemsize
    strips = (n_batch + width - 1) // width
    # Whole groups of six rows in each piece.
    sixes = (n_rows + 5) // 6
    # A thread gets whole rows: see :func:`sparse_rl.kernels.sparse.multiply`.
    for job in prange(groups * chunks * strips):
        group, chunk, entry = job // (chunks * strips), job // strips % chunks, job % strips * width
        stop = min(entry + width, n_batch)
        rows = (sixes * chunk // chunks * 6, min(sixes * (chunk + 1) // chunks * 6, n_rows))
        own = bias[group * n_rows : (group + 1) * n_rows]
        matrix = (w + group * group_stride * size, row_stride, column_stride, own)
        activations = (x + group * n_inputs * x_stride * size, x_stride, n_inputs)
        shown = mask + group * n_rows * mask_stride * size if mask != 0 else 0
        result = (y + group * n_rows * y_stride * size, y_stride, relu, shown, mask_stride)
        entry = _multiply_strips(block(bias), matrix, activations, result, rows, entry, stop)
        entry = _multiply_strips(narrow(bias), matrix, activations, result, rows, entry, stop)
        tail = stop - lanes_of(narrow(bias))
        if entry < stop and tail >= 0:
            # What is left is too narrow for a vector: compute some of the entries before once more.
            entry = _multiply_strips(narrow(bias), matrix, activations, result, rows, tail, stop)
        _multiply_strips(single(bias), matrix, activations, result, rows, entry, stop)


@cached_njit()
def multiply_vector(
    w: int, row_stride: int, bias: Floats, x: int, y: int, n_rows: int, n_inputs: int, relu: bool, like: Floats
) -> None:
    """
    Multiply a matrix with one observation: ``y = [relu](bias + W x)``, by one thread.

    :param w: address of the matrix, whose rows are contiguous
    :param row_stride: elements between two rows of it
    :param bias: ``(rows,)``; empty to add to what the result holds already
    :param x: address of the observation, ``(inputs,)``
    :param y: address of the result, ``(rows,)``
    :param n_rows: how many rows
    :param n_inputs: how many columns
    :param relu: clip negative results to zero; a NaN stays
    :param like: an array of the element type
    """
    out = array_at(y, n_rows, like)
    zero = out.dtype.type(0)
    for i in range(n_rows):
        total = bias[i] if bias.size > 0 else out[i]
        total, entry = _dot_strips(wide(like), total, x, w, i * row_stride, 0, n_inputs)
        total, entry = _dot_strips(narrow(like), total, x, w, i * row_stride, entry, n_inputs)
        total, entry = _dot_strips(single(like), total, x, w, i * row_stride, entry, n_inputs)
        out[i] = zero if relu and total < zero else total


@njit
def _dot_strips(zero: Any, total: Any, x: int, w: int, row: int, entry: int, stop: int) -> tuple[Any, int]:
    while entry + lanes_of(zero) <= stop:
        total += dot(load(zero, x, entry), w, row + entry)
        entry += lanes_of(zero)
    return total, entry


_TILE = 32


@cached_njit(parallel=True)
def transpose(x: int, x_stride: int, n_rows: int, n_columns: int, y: int, y_stride: int, like: Floats) -> None:
    """
    Transpose a matrix, tile by tile, so that both sides stay in the cache.

    :param x: address of the matrix, ``(rows, columns)``
    :param x_stride: elements between two rows of it
    :param n_rows: how many rows it has
    :param n_columns: how many columns it has
    :param y: address of the result, ``(columns, rows)``
    :param y_stride: elements between two rows of it
    :param like: an array of their element type
    """
    one = single(like)
    for tile in prange((n_rows + _TILE - 1) // _TILE):
        first, last = tile * _TILE, min((tile + 1) * _TILE, n_rows)
        for start in range(0, n_columns, _TILE):
            for j in range(start, min(start + _TILE, n_columns)):
                for i in range(first, last):
                    store(load(one, x, i * x_stride + j), y, j * y_stride + i)


@cached_njit(parallel=True)
def multiply_transposed(
    dy: int,
    dy_stride: int,
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    n_rows: int,
    n_columns: int,
    n_batch: int,
    like: Floats,
) -> None:
    """
    Multiply a matrix with a transposed one of few rows: ``y[i, j] = dy[i] . x[j]``.

    :param dy: address of the matrix, ``(rows, batch)``
    :param dy_stride: elements between two rows of it
    :param x: address of the other, ``(columns, batch)``
    :param x_stride: elements between two rows of it
    :param y: address of the result, ``(rows, columns)``
    :param y_stride: elements between two rows of it
    :param n_rows: rows of the result
    :param n_columns: columns of the result
    :param n_batch: columns of the two matrices
    :param like: an array of their element type
    """
    for i in prange(n_rows):
        row = array_at(y + i * y_stride * like.itemsize, n_columns, like)
        shifted = dy + i * dy_stride * like.itemsize
        for j in range(n_columns):
            total = like.dtype.type(0)
            total, entry = _dot_strips(wide(like), total, shifted, x, j * x_stride, 0, n_batch)
            total, entry = _dot_strips(narrow(like), total, shifted, x, j * x_stride, entry, n_batch)
            row[j], entry = _dot_strips(single(like), total, shifted, x, j * x_stride, entry, n_batch)


@njit
def _sum_strips(zero: Any, total: Any, dy: int, entry: int, stop: int) -> tuple[Any, int]:
    one = fill(zero, 1)
    while entry + lanes_of(zero) <= stop:
        total += dot(one, dy, entry)
        entry += lanes_of(zero)
    return total, entry


@njit
def _sum_some_rows(dy: int, dy_stride: int, n_batch: int, out: Any, first: int, last: int) -> None:
    """Sum the rows from ``first`` to before ``last``: see :func:`sum_rows`."""
    for i in range(first, last):
        total, start, stop = out.dtype.type(0), i * dy_stride, i * dy_stride + n_batch
        total, start = _sum_strips(wide(out), total, dy, start, stop)
        total, start = _sum_strips(narrow(out), total, dy, start, stop)
        total, start = _sum_strips(single(out), total, dy, start, stop)
        out[i] = total


@cached_njit(parallel=True)
def sum_rows(dy: int, dy_stride: int, n_batch: int, out: Floats, chunks: int) -> None:
    """
    Sum each row of a matrix: the gradient of a bias.

    :param dy: address of the matrix, ``(rows, batch)``
    :param dy_stride: elements between two rows of it
    :param n_batch: how many columns it has
    :param out: the result, ``(rows,)``
    :param chunks: into how many pieces of work the rows are cut
    """
    for chunk in prange(chunks):
        # The rows that this thread has written: to fetch one from another core takes longer than to sum it.
        _sum_some_rows(dy, dy_stride, n_batch, out, out.size * chunk // chunks, out.size * (chunk + 1) // chunks)
