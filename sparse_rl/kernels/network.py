"""
Whole passes over a network, compiled: from one level to the next without a step back into Python.

For networks as small as those of continuous control, the arithmetic of a level takes no longer than it takes Python to
ask for it, all the more as a batch of wide observations has driven Python out of the cache.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit
from sparse_rl.kernels import dense, sparse
from sparse_rl.kernels.layout import padded
from sparse_rl.kernels.simd import array_at

Floats = NDArray[np.floating[Any]]

#: What a pass has to know of a block of input features of a level; all counts and addresses.
_BLOCK_FIELDS = ("width", "pointers", "tiles", "t_pointers", "t_tiles", "t_columns", "t_order", "t_active")

#: What it has to know of a level. A level has one or two blocks of inputs; of the second, the width may be 0. One whose
#: active weights are scattered into a dense matrix says where they come from, and where in the matrix they go.
LEVEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("is_sparse", "groups", "rows", "inputs", "active", "relu"),
            *("values", "bias", "d_values", "d_bias", "columns", "scratch"),
            *("out", "out_stride", "d_out", "d_out_stride"),
            *("scattered", "scattered_values", "scattered_gradient", "positions"),
            *(f"{field}{block}" for block in (0, 1) for field in _BLOCK_FIELDS),
        )
    ]
)

_INDICES = np.empty(0, np.int32)
_POSITIONS = np.empty(0, np.int64)


#: An empty array of each element type that the passes know.
LIKE: dict[torch.dtype, Any] = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}

_FEW = 32  # columns that are not worth a transposition


@njit
def _constants() -> Any:
    # Numba compiles a function anew for each literal that it is called with; these are not literals.
    return np.int64(0), np.int64(1), np.bool_(False), np.bool_(True)


@njit
def _bias_of(level: Any, like: Any) -> Any:
    return array_at(level.bias, level.rows if level.bias != 0 else 0, like)


@njit
def _scatter(level: Any, like: Any) -> None:
    """Write active weights to their places in the dense matrix, whose other entries are zero already."""
    dense_values, values = (
        array_at(level.values, level.active, like),
        array_at(level.scattered_values, level.scattered, like),
    )
    positions = array_at(level.positions, level.scattered, _POSITIONS)
    for p in range(level.scattered):
        dense_values[positions[p]] = values[p]


@njit
def _gather(level: Any, like: Any) -> None:
    """Read the gradients of active weights from that of the dense matrix."""
    dense_gradient = array_at(level.d_values, level.active, like)
    gradient = array_at(level.scattered_gradient, level.scattered, like)
    positions = array_at(level.positions, level.scattered, _POSITIONS)
    for p in range(level.scattered):
        gradient[p] = dense_gradient[positions[p]]


@njit
def _apply(level: Any, inputs: Any, n_batch: int, chunks: int, like: Any) -> None:
    none, one, no, yes = _constants()
    x0, stride0, x1, stride1 = inputs
    bias, relu, out, stride = _bias_of(level, like), level.relu != 0, level.out, level.out_stride
    groups, width = level.groups, level.width0 * level.groups
    is_last = level.width1 == 0
    if level.is_sparse:
        values, columns = array_at(level.values, level.active, like), array_at(level.columns, level.active, _INDICES)
        pointers = array_at(level.pointers0, (level.tiles0 + 1, level.rows), _INDICES)
        sparse.multiply(
            pointers, columns, none, groups, values, bias, x0, stride0, width,
            out, stride, n_batch, no, relu and is_last, none, none, chunks,
        )  # fmt: skip
        if not is_last:
            pointers = array_at(level.pointers1, (level.tiles1 + 1, level.rows), _INDICES)
            sparse.multiply(
                pointers, columns, level.width0, groups, values, bias, x1, stride1, level.width1,
                out, stride, n_batch, yes, relu, none, none, chunks,
            )  # fmt: skip
    else:
        rows, size = level.rows // groups, like.itemsize
        dense.multiply(
            level.values, level.inputs, one, rows * level.inputs, groups, bias, x0, stride0, level.width0,
            out, stride, rows, n_batch, no, relu and is_last, none, none, chunks,
        )  # fmt: skip
        if not is_last:
            dense.multiply(
                level.values + level.width0 * size, level.inputs, one, rows * level.inputs, groups, bias,
                x1, stride1, level.width1, out, stride, rows, n_batch, yes, relu, none, none, chunks,
            )  # fmt: skip


@njit
def _apply_to_vector(level: Any, x: int, like: Any) -> None:
    """Compute a level's output for a batch of one: not worth a second thread."""
    bias, relu = _bias_of(level, like), level.relu != 0
    if level.is_sparse:
        y = array_at(level.out, level.rows, like)
        if bias.size > 0:
            y[:] = bias
        else:
            y[:] = 0
        pointers = array_at(level.pointers0, (level.tiles0 + 1, level.rows), _INDICES)
        sparse.multiply_vector(
            pointers[0], pointers[level.tiles0], array_at(level.columns, level.active, _INDICES), _constants()[0],
            array_at(level.values, level.active, like), array_at(x, level.width0, like), y, relu,
        )  # fmt: skip
    else:
        if bias.size == 0:
            array_at(level.out, level.rows, like)[:] = 0
        dense.multiply_vector(level.values, level.inputs, bias, x, level.out, level.rows, level.inputs, relu, like)


@cached_njit()
def forward(levels: Any, x0: int, stride0: int, x1: int, stride1: int, n_batch: int, chunks: int, like: Floats) -> None:
    """
    Compute the outputs of all levels.

    :param levels: their descriptions, of dtype :data:`LEVEL`
    :param x0: address of the first block of inputs, feature-major
    :param stride0: elements between two rows of it
    :param x1: address of the second block, if there is one
    :param stride1: elements between two rows of it
    :param n_batch: columns of the inputs
    :param chunks: threads
    :param like: an empty array of the element type
    """
    for index in range(levels.size):
        if levels[index].scattered:
            _scatter(levels[index], like)
        if n_batch == 1 and stride0 == 1 and levels[index].groups == 1 and levels[index].width1 == 0:
            _apply_to_vector(levels[index], x0, like)
        else:
            _apply(levels[index], (x0, stride0, x1, stride1), n_batch, chunks, like)
        x0, stride0 = levels[index].out, levels[index].out_stride


@njit
def _differentiate(level: Any, inputs: Any, n_batch: int, chunks: int, like: Any) -> None:
    """Write the gradients of a level's parameters."""
    none = _constants()[0]
    x0, stride0, x1, stride1 = inputs
    dy, dy_stride, groups = level.d_out, level.d_out_stride, level.groups
    if level.d_bias != 0:
        dense.sum_rows(dy, dy_stride, n_batch, array_at(level.d_bias, level.rows, like), chunks)
    if level.d_values == 0:
        return
    if level.is_sparse:
        d_values = array_at(level.d_values, level.active, like)
        columns = array_at(level.columns, level.active, _INDICES)
        pointers = array_at(level.pointers0, (level.tiles0 + 1, level.rows), _INDICES)
        width = level.width0 * groups
        sparse.sample(pointers, columns, none, groups, dy, dy_stride, x0, stride0, width, n_batch, d_values, chunks)
        if level.width1:
            pointers = array_at(level.pointers1, (level.tiles1 + 1, level.rows), _INDICES)
            sparse.sample(
                pointers, columns, level.width0, groups,
                dy, dy_stride, x1, stride1, level.width1, n_batch, d_values, chunks,
            )  # fmt: skip
    else:
        _differentiate_dense(level, x0, stride0, level.width0, level.d_values, n_batch, chunks, like)
        if level.width1:
            start = level.d_values + level.width0 * like.itemsize
            _differentiate_dense(level, x1, stride1, level.width1, start, n_batch, chunks, like)
        if level.scattered:
            _gather(level, like)


@njit
def _differentiate_dense(
    level: Any, x: int, x_stride: int, width: int, out: int, n_batch: int, chunks: int, like: Any
) -> None:
    """Multiply the gradient of the output with the transposed inputs, group by group."""
    none, one, no = _constants()[:3]
    rows, size = level.rows // level.groups, like.itemsize
    stride = padded(width, size)
    for group in range(level.groups):
        if width < _FEW:
            dense.multiply_transposed(
                level.d_out + group * rows * level.d_out_stride * size, level.d_out_stride,
                x + group * width * x_stride * size, x_stride, out + group * rows * level.inputs * size, level.inputs,
                rows, width, n_batch, like,
            )  # fmt: skip
            continue
        dense.transpose(x + group * width * x_stride * size, x_stride, width, n_batch, level.scratch, stride, like)
        dense.multiply(
            level.d_out + group * rows * level.d_out_stride * size, level.d_out_stride, one, none, one, like,
            level.scratch, stride, n_batch, out + group * rows * level.inputs * size, level.inputs,
            rows, width, no, no, none, none, chunks,
        )  # fmt: skip


@njit
def _pull_back(
    level: Any, block: int, dx: int, dx_stride: int, mask: int, mask_stride: int, n_batch: int, chunks: int, like: Any
) -> None:
    """Compute the gradient of a block of a level's inputs; it is zero where a mask is zero or negative."""
    none, one, no = _constants()[:3]
    dy, dy_stride, groups = level.d_out, level.d_out_stride, level.groups
    width = level.width0 if block == 0 else level.width1
    if level.is_sparse:
        if block == 0:
            pointers, tiles, columns, order, active = (
                level.t_pointers0, level.t_tiles0, level.t_columns0, level.t_order0, level.t_active0,
            )  # fmt: skip
        else:
            pointers, tiles, columns, order, active = (
                level.t_pointers1, level.t_tiles1, level.t_columns1, level.t_order1, level.t_active1,
            )  # fmt: skip
        values, positions = array_at(level.values, level.active, like), array_at(order, active, _POSITIONS)
        taken = array_at(level.scratch, active, like)
        for p in range(active):
            taken[p] = values[positions[p]]
        sparse.multiply(
            array_at(pointers, (tiles + 1, groups * width), _INDICES), array_at(columns, active, _INDICES),
            none, groups, taken, like, dy, dy_stride, level.rows,
            dx, dx_stride, n_batch, no, no, mask, mask_stride, chunks,
        )  # fmt: skip
    else:
        rows, start = level.rows // groups, 0 if block == 0 else level.width0 * like.itemsize
        dense.multiply(
            level.values + start, one, level.inputs, rows * level.inputs, groups, like, dy, dy_stride, rows,
            dx, dx_stride, width, n_batch, no, no, mask, mask_stride, chunks,
        )  # fmt: skip


@cached_njit()
def backward(
    levels: Any,
    x0: int,
    stride0: int,
    x1: int,
    stride1: int,
    n_batch: int,
    parameters: bool,
    block: int,
    dx: int,
    dx_stride: int,
    chunks: int,
    like: Floats,
) -> None:
    """
    Compute gradients; that of the last level's output, after its ReLU if it has one, is in its ``d_out``.

    :param levels: descriptions of all levels, of dtype :data:`LEVEL`
    :param x0: address of the first block of inputs of the forward pass
    :param stride0: elements between two rows of it
    :param x1: address of the second block, if there is one
    :param stride1: elements between two rows of it
    :param n_batch: columns of the gradient; those of the forward pass may be more
    :param parameters: whether to write the gradients of the parameters
    :param block: of which block of inputs to compute the gradient, 0 or 1; -1 for none
    :param dx: address of the result
    :param dx_stride: elements between two rows of it
    :param chunks: threads
    :param like: an empty array of the element type
    """
    none = _constants()[0]
    for index in range(levels.size - 1, -1, -1):
        level = levels[index]
        if index > 0:
            below = levels[index - 1]
            if parameters:
                _differentiate(level, (below.out, below.out_stride, none, none), n_batch, chunks, like)
            mask = below.out if below.relu else none
            _pull_back(level, none, below.d_out, below.d_out_stride, mask, below.out_stride, n_batch, chunks, like)
        else:
            if parameters:
                _differentiate(level, (x0, stride0, x1, stride1), n_batch, chunks, like)
            if block >= 0:
                _pull_back(level, block, dx, dx_stride, none, none, n_batch, chunks, like)
