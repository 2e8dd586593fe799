"""
The CPU kernel: only active weights are touched, activations are feature-major.

With activations stored as ``(features, batch)``, an active weight is one multiply-add of a contiguous batch row: SIMD
without gathers (SparseProp, Nikdan et al. 2023). Eight weights are taken at a time, so that the output row is loaded
and stored once for eight of them. Every output element is summed by one thread in a fixed order, so results do not
depend on the number of threads.

``fastmath`` never includes ``nnan`` or ``ninf``: a NaN must stay visible.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def spmm(starts: Indices, stops: Indices, columns: Indices, offset: int, values: Floats, x: Floats, y: Floats) -> None:
    """
    Add a sparse matrix times a block of features: ``y[i] += sum_p values[p] * x[columns[p] - offset]``.

    :param starts: first active weight of each output neuron in this block of features, ``(out_features,)``
    :param stops: one past the last, ``(out_features,)``
    :param columns: input feature of each active weight, ``(active,)``
    :param offset: the first feature of the block
    :param values: the active weights, ``(active,)``
    :param x: the block's activations, ``(block features, batch)``
    :param y: the result, ``(out_features, batch)``, added to in place
    """
    n_rows, n_batch = y.shape
    for i in prange(n_rows):
        p, stop = starts[i], stops[i]
        if n_batch == 1:
            total = y[i, 0]
            for q in range(p, stop):
                total += values[q] * x[columns[q] - offset, 0]
            y[i, 0] = total
            continue
        row = y[i]
        while p + 8 <= stop:
            w0, w1, w2, w3 = values[p], values[p + 1], values[p + 2], values[p + 3]
            w4, w5, w6, w7 = values[p + 4], values[p + 5], values[p + 6], values[p + 7]
            x0, x1 = x[columns[p] - offset], x[columns[p + 1] - offset]
            x2, x3 = x[columns[p + 2] - offset], x[columns[p + 3] - offset]
            x4, x5 = x[columns[p + 4] - offset], x[columns[p + 5] - offset]
            x6, x7 = x[columns[p + 6] - offset], x[columns[p + 7] - offset]
            for b in range(n_batch):
                row[b] += ((w0 * x0[b] + w1 * x1[b]) + (w2 * x2[b] + w3 * x3[b])) + (
                    (w4 * x4[b] + w5 * x5[b]) + (w6 * x6[b] + w7 * x7[b])
                )
            p += 8
        while p < stop:
            w0, x0 = values[p], x[columns[p] - offset]
            for b in range(n_batch):
                row[b] += w0 * x0[b]
            p += 1


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def sddmm(
    starts: Indices, stops: Indices, columns: Indices, offset: int, dy: Floats, x: Floats, dvalues: Floats
) -> None:
    """
    Compute the gradient of the active weights: ``dvalues[p] = dy[row of p] . x[columns[p] - offset]``.

    :param starts: first active weight of each output neuron in this block of features, ``(out_features,)``
    :param stops: one past the last, ``(out_features,)``
    :param columns: input feature of each active weight, ``(active,)``
    :param offset: the first feature of the block
    :param dy: gradient of the output, ``(out_features, batch)``
    :param x: the block's activations, ``(block features, batch)``
    :param dvalues: the result, ``(active,)``; entries of other blocks are left alone
    """
    n_rows, n_batch = dy.shape
    zero = dvalues.dtype.type(0)
    for i in prange(n_rows):
        row = dy[i]
        p, stop = starts[i], stops[i]
        while p + 4 <= stop:
            x0, x1 = x[columns[p] - offset], x[columns[p + 1] - offset]
            x2, x3 = x[columns[p + 2] - offset], x[columns[p + 3] - offset]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for b in range(n_batch):
                g = row[b]
                s0 += g * x0[b]
                s1 += g * x1[b]
                s2 += g * x2[b]
                s3 += g * x3[b]
            dvalues[p], dvalues[p + 1], dvalues[p + 2], dvalues[p + 3] = s0, s1, s2, s3
            p += 4
        while p < stop:
            x0 = x[columns[p] - offset]
            s0 = zero
            for b in range(n_batch):
                s0 += row[b] * x0[b]
            dvalues[p] = s0
            p += 1


BATCH_TILE = 64  # batch entries that one thread owns in `spmm_transposed`: no two threads write the same element


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def spmm_transposed(
    starts: Indices, stops: Indices, columns: Indices, offset: int, values: Floats, dy: Floats, dx: Floats
) -> None:
    """
    Add the gradient of a block of features: ``dx[columns[p] - offset] += values[p] * dy[row of p]``.

    :param starts: first active weight of each output neuron in this block of features, ``(out_features,)``
    :param stops: one past the last, ``(out_features,)``
    :param columns: input feature of each active weight, ``(active,)``
    :param offset: the first feature of the block
    :param values: the active weights, ``(active,)``
    :param dy: gradient of the output, ``(out_features, batch)``
    :param dx: the result, ``(block features, batch)``, added to in place
    """
    n_rows, n_batch = dy.shape
    for tile in prange((n_batch + BATCH_TILE - 1) // BATCH_TILE):
        first, last = tile * BATCH_TILE, min((tile + 1) * BATCH_TILE, n_batch)
        for i in range(n_rows):
            row = dy[i, first:last]
            for p in range(starts[i], stops[i]):
                w, out = values[p], dx[columns[p] - offset, first:last]
                for b in range(last - first):
                    out[b] += w * row[b]


@njit(cache=True, fastmath={"contract"})
def add_bias_and_clip(y: Floats, bias: Floats, relu: bool) -> None:
    """
    Add the bias and, if wanted, apply ReLU, in one pass over the activations.

    :param y: activations, ``(out_features, batch)``, changed in place
    :param bias: ``(out_features,)``
    :param relu: whether to clip negative activations to zero; a NaN stays
    """
    zero = y.dtype.type(0)
    for i in range(y.shape[0]):
        row, shift = y[i], bias[i]
        if relu:
            for b in range(y.shape[1]):
                shifted = row[b] + shift
                row[b] = zero if shifted < zero else shifted
        else:
            for b in range(y.shape[1]):
                row[b] += shift
