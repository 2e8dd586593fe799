"""
The CPU kernel: only active weights are touched, activations are feature-major.

With activations stored as ``(features, batch)``, an active weight is a multiply-add of a contiguous row: SIMD without
gathers (SparseProp, Nikdan et al. 2023). What limits such a kernel is the bandwidth of the cache that the rows come
from, so the work is cut into pieces that stay in the innermost one: a strip of the batch, of the width of eight
registers that hold a row of the result, times a tile of input features (:mod:`sparse_rl.kernels.patterns`), which is
read again for each of the output rows.

Every number is summed by one thread in an order that depends on shapes and on where the weights lie, so that results do
not depend on the number of threads.

Activations are passed as ``address, stride``: of the first element, and from one row to the next, in elements. That
spares Numba a specialisation for each layout, and a microsecond for each array.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit
from sparse_rl.kernels.simd import (
    SUM_FOURS,
    add,
    clip,
    dot,
    fill,
    lanes_of,
    load,
    multiply_add,
    narrow,
    products,
    single,
    store,
    total,
    totals,
    where_positive,
    wide,
    widest,
)

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]
Positions = NDArray[np.int64]


@njit
def _multiply_strips(zero: Any, matrix: Any, activations: Any, result: Any, rows: Any, entry: int, stop: int) -> int:
    """Compute some rows of the result for as many whole strips of the batch as fit, of the width of ``zero``."""
    pointers, columns, values, bias, first_input, group_rows = matrix
    x, x_stride, group_inputs = activations
    y, y_stride, accumulate, relu, mask, mask_stride = result
    last_tile = pointers.shape[0] - 2
    while entry + lanes_of(zero) <= stop:
        for tile in range(last_tile + 1):
            for i in range(rows[0], rows[1]):
                if tile > 0 or accumulate:
                    accumulator = load(zero, y, i * y_stride + entry)
                elif bias.size > 0:
                    accumulator = fill(zero, bias[i])
                else:
                    accumulator = zero
                start = (i // group_rows * group_inputs - first_input) * x_stride + entry
                # Unsigned: an index that might be negative costs a comparison.
                for p in range(np.uint64(pointers[tile, i]), np.uint64(pointers[tile + 1, i])):
                    accumulator = multiply_add(values[p], load(zero, x, start + columns[p] * x_stride), accumulator)
                if tile == last_tile:
                    if relu:
                        accumulator = clip(accumulator)
                    if mask != 0:
                        accumulator = where_positive(load(zero, mask, i * mask_stride + entry), accumulator)
                store(accumulator, y, i * y_stride + entry)
        entry += lanes_of(zero)
    return entry


@cached_njit(parallel=True)
def multiply(
    pointers: Indices,
    columns: Indices,
    first_input: int,
    groups: int,
    values: Floats,
    order: Positions,
    ordered: Floats,
    bias: Floats,
    x: int,
    x_stride: int,
    n_inputs: int,
    y: int,
    y_stride: int,
    n_batch: int,
    accumulate: bool,
    relu: bool,
    mask: int,
    mask_stride: int,
    chunks: int,
) -> None:
    """
    Multiply a sparse matrix with a block of features: ``y = [relu](bias + W x)``, or ``y = [relu](y + W x)``.

    :param pointers: where each row's active weights in each tile of features begin, int32 ``(tiles + 1, rows)``
    :param columns: input feature of each active weight, int32 ``(active,)``
    :param first_input: the feature at which ``x`` begins
    :param groups: the matrix is block-diagonal, of so many equal blocks, from whose first feature the columns count
    :param values: the active weights, ``(active,)``
    :param order: where among the values each active weight is found, ``(active,)``; empty if they are in order
    :param ordered: room for them in order, ``(active,)``; empty if they are
    :param bias: ``(rows,)``; empty for none
    :param x: address of the activations, ``(inputs, batch)``
    :param x_stride: elements between two rows of them
    :param n_inputs: how many rows they have
    :param y: address of the result, ``(rows, batch)``
    :param y_stride: elements between two rows of it
    :param n_batch: how many columns both have
    :param accumulate: add to what the result holds already, instead of to the bias
    :param relu: clip negative results to zero; a NaN stays
    :param mask: address of activations; where they are zero or negative, so is the result. 0 for none
    :param mask_stride: elements between two rows of them
    :param chunks: into how many pieces of work the rows are cut
    """
    n_rows = pointers.shape[1]
    weights = ordered if order.size > 0 else values
    matrix = (pointers, columns, weights, bias, first_input, n_rows // groups)
    activations = (x, x_stride, n_inputs // groups)
    result = (y, y_stride, accumulate, relu, mask, mask_stride)
    # A thread gets whole rows: if two wrote to parts of one, the cache would fetch for the one what the other has.
    for chunk in prange(chunks):
        rows = (n_rows * chunk // chunks, n_rows * (chunk + 1) // chunks)
        if order.size > 0 and rows[0] < rows[1]:
            # Each thread its own: what another has written has to come from that one's cache.
            for p in range(np.uint64(pointers[0, rows[0]]), np.uint64(pointers[-1, rows[1] - 1])):
                ordered[p] = values[order[p]]
        entry = _multiply_strips(wide(values), matrix, activations, result, rows, 0, n_batch)
        tail = n_batch - lanes_of(narrow(values))
        entry = _multiply_strips(narrow(values), matrix, activations, result, rows, entry, n_batch)
        if entry < n_batch and tail >= 0 and not accumulate:
            # What is left is too narrow for a vector: compute some of the entries before once more.
            entry = _multiply_strips(narrow(values), matrix, activations, result, rows, tail, n_batch)
        _multiply_strips(single(values), matrix, activations, result, rows, entry, n_batch)


@cached_njit(fastmath={"contract", "reassoc", "nsz"})
def multiply_vector(
    starts: Indices,
    stops: Indices,
    columns: Indices,
    first_input: int,
    values: Floats,
    x: Floats,
    y: Floats,
    relu: bool,
) -> None:
    """
    Multiply a sparse matrix with a block of one observation: ``y = [relu](y + W x)``, by one thread.

    :param starts: first active weight of each row in this block of features, ``(rows,)``
    :param stops: one past the last, ``(rows,)``
    :param columns: input feature of each active weight, ``(active,)``
    :param first_input: the feature at which ``x`` begins
    :param values: the active weights, ``(active,)``
    :param x: the block's activations, ``(inputs,)``
    :param y: the result, ``(rows,)``
    :param relu: clip negative results to zero; a NaN stays
    """
    zero = y.dtype.type(0)
    for i in range(y.size):
        entry = y[i]
        for p in range(np.uint64(starts[i]), np.uint64(stops[i])):
            entry += values[p] * x[columns[p] - first_input]
        y[i] = zero if relu and entry < zero else entry


@njit
def _sample_strips(
    zero: Any, matrix: Any, gradient: Any, activations: Any, position: Any, entry: int, stop: int
) -> int:
    """Add to the gradients of one row's bias and weights in one tile what whole strips of the batch contribute."""
    columns, dvalues, dbias = matrix
    dy, dy_stride = gradient
    x, x_stride, first_input = activations
    i, begin, end, with_bias = position
    result = dvalues.ctypes.data
    while entry + lanes_of(zero) <= stop:
        row = load(zero, dy, i * dy_stride + entry)
        if with_bias:
            dbias[i] = total(row) if entry == 0 else dbias[i] + total(row)
        start = first_input * x_stride + entry
        rest = begin
        if SUM_FOURS:
            rest = end - (end - begin) % 4
            for p in range(np.uint64(begin), np.uint64(rest), np.uint64(4)):
                sums = totals(
                    products(row, x, start + columns[p] * x_stride),
                    products(row, x, start + columns[p + np.uint64(1)] * x_stride),
                    products(row, x, start + columns[p + np.uint64(2)] * x_stride),
                    products(row, x, start + columns[p + np.uint64(3)] * x_stride),
                )
                place = np.intp(p)
                store(sums if entry == 0 else add(sums, load(sums, result, place)), result, place)
        for p in range(np.uint64(rest), np.uint64(end)):
            product = dot(row, x, start + columns[p] * x_stride)
            dvalues[p] = product if entry == 0 else dvalues[p] + product
        entry += lanes_of(zero)
    return entry


@cached_njit(parallel=True)
def sample(
    pointers: Indices,
    columns: Indices,
    first_input: int,
    groups: int,
    dy: int,
    dy_stride: int,
    x: int,
    x_stride: int,
    n_inputs: int,
    n_batch: int,
    dvalues: Floats,
    dbias: Floats,
    chunks: int,
) -> None:
    """
    Compute the gradient of bias and active weights, the latter a dense product sampled where they are.

    That is ``dvalues[p] = dy[i] . x[j]`` for the active weight ``p`` in row ``i`` and column ``j``.

    :param pointers: where each row's active weights in each tile of features begin, int32 ``(tiles + 1, rows)``
    :param columns: input feature of each active weight, int32 ``(active,)``
    :param first_input: the feature at which ``x`` begins
    :param groups: the matrix is block-diagonal, of so many equal blocks, from whose first feature the columns count
    :param dy: address of the gradient of the result, ``(rows, batch)``
    :param dy_stride: elements between two rows of it
    :param x: address of the activations, ``(inputs, batch)``
    :param x_stride: elements between two rows of them
    :param n_inputs: how many rows they have
    :param n_batch: how many columns both have
    :param dvalues: the result, ``(active,)``; entries of other blocks of features are left alone
    :param dbias: the gradient of the bias, ``(rows,)``; empty for none
    :param chunks: into how many pieces of work the rows are cut
    """
    n_rows = pointers.shape[1]
    group_rows, group_inputs = n_rows // groups, n_inputs // groups
    matrix, gradient = (columns, dvalues, dbias), (dy, dy_stride)
    for chunk in prange(chunks):
        for tile in range(pointers.shape[0] - 1):
            for i in range(n_rows * chunk // chunks, n_rows * (chunk + 1) // chunks):
                position = (i, pointers[tile, i], pointers[tile + 1, i], tile == 0 and dbias.size > 0)
                activations = (x, x_stride, i // group_rows * group_inputs - first_input)
                entry = _sample_strips(widest(dvalues), matrix, gradient, activations, position, 0, n_batch)
                if entry < n_batch:  # for a row of few weights a call in vain takes as long as they do
                    entry = _sample_strips(narrow(dvalues), matrix, gradient, activations, position, entry, n_batch)
                    _sample_strips(single(dvalues), matrix, gradient, activations, position, entry, n_batch)
