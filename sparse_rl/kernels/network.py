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

_LEVEL_FIELDS = (
    "is_sparse", "groups", "rows", "inputs", "first", "active", "relu",
    "values", "bias", "d_values", "d_bias", "pointers", "tiles", "columns", "scratch",
    "t_pointers", "t_tiles", "t_columns", "t_order", "t_active",
    "out", "out_stride", "d_out", "d_out_stride",
    "scattered", "scattered_values", "scattered_gradient", "positions",
)  # fmt: skip
#: What a pass has to know of a level; all counts and addresses. What begins with ``t_`` describes the transposed
#: matrix, without the inputs before ``first``, whose gradient nobody wants. A level whose active weights are scattered
#: into a dense matrix says where they come from, and where in the matrix they go.
LEVEL = np.dtype([(name, np.int64) for name in _LEVEL_FIELDS])

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
def _apply(level: Any, x: int, stride: int, n_batch: int, threads: int, like: Any) -> None:
    none, one, no, _ = _constants()
    bias, relu, groups = _bias_of(level, like), level.relu != 0, level.groups
    if level.is_sparse:
        sparse.multiply(
            array_at(level.pointers, (level.tiles + 1, level.rows), _INDICES),
            array_at(level.columns, level.active, _INDICES), none, groups,
            array_at(level.values, level.active, like), _POSITIONS, like, bias, x, stride, level.inputs * groups,
            level.out, level.out_stride, n_batch, no, relu, none, none, threads,
        )  # fmt: skip
    else:
        rows = level.rows // groups
        dense.multiply(
            level.values, level.inputs, one, rows * level.inputs, groups, bias, x, stride, level.inputs,
            level.out, level.out_stride, rows, n_batch, relu, none, none, threads,
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
        pointers = array_at(level.pointers, (level.tiles + 1, level.rows), _INDICES)
        sparse.multiply_vector(
            pointers[0], pointers[level.tiles], array_at(level.columns, level.active, _INDICES), _constants()[0],
            array_at(level.values, level.active, like), array_at(x, level.inputs, like), y, relu,
        )  # fmt: skip
    else:
        if bias.size == 0:
            array_at(level.out, level.rows, like)[:] = 0
        dense.multiply_vector(level.values, level.inputs, bias, x, level.out, level.rows, level.inputs, relu, like)


@cached_njit()
def forward(levels: Any, x: int, stride: int, n_batch: int, threads: int, like: Floats) -> None:
    """
    Compute the outputs of all levels.

    :param levels: their descriptions, of dtype :data:`LEVEL`
    :param x: address of the inputs, feature-major
    :param stride: elements between two rows of them
    :param n_batch: columns of the inputs
    :param threads: how many threads share the work
    :param like: an empty array of the element type
    """
    for index in range(levels.size):
        if levels[index].scattered:
            _scatter(levels[index], like)
        if n_batch == 1 and stride == 1 and levels[index].groups == 1:
            _apply_to_vector(levels[index], x, like)
        else:
            _apply(levels[index], x, stride, n_batch, threads, like)
        x, stride = levels[index].out, levels[index].out_stride


@njit
def _differentiate(level: Any, x: int, stride: int, n_batch: int, threads: int, like: Any) -> None:
    """Write the gradients of a level's parameters."""
    none = _constants()[0]
    dy, dy_stride = level.d_out, level.d_out_stride
    d_bias = array_at(level.d_bias, level.rows if level.d_bias != 0 else 0, like)
    if n_batch == 0:  # the kernels have nothing to add up
        d_bias[:] = 0
        if level.d_values != 0:
            array_at(level.d_values, level.active, like)[:] = 0
            if level.scattered:
                _gather(level, like)
        return
    if level.is_sparse and level.d_values != 0:
        sparse.sample(
            array_at(level.pointers, (level.tiles + 1, level.rows), _INDICES),
            array_at(level.columns, level.active, _INDICES), none, level.groups,
            dy, dy_stride, x, stride, level.inputs * level.groups, n_batch,
            array_at(level.d_values, level.active, like), d_bias, threads,
        )  # fmt: skip
        return
    if level.d_bias != 0:
        dense.sum_rows(dy, dy_stride, n_batch, d_bias, threads)
    if level.d_values != 0:
        _differentiate_dense(level, x, stride, n_batch, threads, like)
        if level.scattered:
            _gather(level, like)


@njit
def _differentiate_dense(level: Any, x: int, x_stride: int, n_batch: int, threads: int, like: Any) -> None:
    """Multiply the gradient of the output with the transposed inputs, group by group."""
    none, one, no, _ = _constants()
    rows, width, size = level.rows // level.groups, level.inputs, like.itemsize
    stride = padded(width, size)
    for group in range(level.groups):
        dy, inputs = level.d_out + group * rows * level.d_out_stride * size, x + group * width * x_stride * size
        out = level.d_values + group * rows * width * size
        if width < _FEW:
            dense.multiply_transposed(
                dy, level.d_out_stride, inputs, x_stride, out, width, rows, width, n_batch, like
            )  # fmt: skip
            continue
        dense.transpose(inputs, x_stride, width, n_batch, level.scratch, stride, like)
        dense.multiply(
            dy, level.d_out_stride, one, none, one, like, level.scratch, stride, n_batch, out, width,
            rows, width, no, none, none, threads,
        )  # fmt: skip


@njit
def _pull_back(
    level: Any, dx: int, dx_stride: int, mask: int, mask_stride: int, n_batch: int, threads: int, like: Any
) -> None:
    """Compute the gradient of a level's inputs from its first on; it is zero where a mask is zero or negative."""
    none, one, no, _ = _constants()
    dy, dy_stride, groups, width = level.d_out, level.d_out_stride, level.groups, level.inputs - level.first
    if level.is_sparse:
        sparse.multiply(
            array_at(level.t_pointers, (level.t_tiles + 1, groups * width), _INDICES),
            array_at(level.t_columns, level.t_active, _INDICES), none, groups,
            array_at(level.values, level.active, like), array_at(level.t_order, level.t_active, _POSITIONS),
            array_at(level.scratch, level.t_active, like), like, dy, dy_stride, level.rows,
            dx, dx_stride, n_batch, no, no, mask, mask_stride, threads,
        )  # fmt: skip
    else:
        rows = level.rows // groups
        dense.multiply(
            level.values + level.first * like.itemsize, one, level.inputs, rows * level.inputs, groups, like,
            dy, dy_stride, rows, dx, dx_stride, width, n_batch, no, mask, mask_stride, threads,
        )  # fmt: skip


@cached_njit()
def backward(
    levels: Any, x: int, stride: int, n_batch: int, parameters: bool, dx: int, dx_stride: int, threads: int,
    like: Floats,
) -> None:  # fmt: skip
    """
    Compute gradients; that of the last level's output, after its ReLU if it has one, is in its ``d_out``.

    :param levels: descriptions of all levels, of dtype :data:`LEVEL`
    :param x: address of the inputs of the forward pass
    :param stride: elements between two rows of them
    :param n_batch: columns of the gradient; those of the forward pass may be more
    :param parameters: whether to write the gradients of the parameters
    :param dx: address of the gradient of the inputs, from the first level's ``first`` on; 0 for none
    :param dx_stride: elements between two rows of it
    :param threads: how many threads share the work
    :param like: an empty array of the element type
    """
    none = _constants()[0]
    for index in range(levels.size - 1, -1, -1):
        level = levels[index]
        if index > 0:
            below = levels[index - 1]
            if parameters:
                _differentiate(level, below.out, below.out_stride, n_batch, threads, like)
            mask = below.out if below.relu else none
            _pull_back(level, below.d_out, below.d_out_stride, mask, below.out_stride, n_batch, threads, like)
        else:
            if parameters:
                _differentiate(level, x, stride, n_batch, threads, like)
            if dx != 0:
                _pull_back(level, dx, dx_stride, none, none, n_batch, threads, like)
