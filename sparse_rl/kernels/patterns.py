"""Where the active weights of a matrix lie: in each block of input features, and in tiles that fit the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparse_rl.kernels.simd import WIDE_BYTES

# A strip of the batch (512 bytes wide with AVX-512, 256 with AVX2) times a tile of this many features, 48 KB, stays in
# or near the L1 cache. But the loop over a row's weights in a tile has a cost of its own, so there should be some, and
# the more the narrower a strip is; and beyond a thousand features a strip leaves the L2 cache. (benchmarks/kernels.py)
_SMALLEST_TILE, _WEIGHTS_PER_TILE, _LARGEST_TILE = 48 * 1024 // WIDE_BYTES, 5 * 1024 // WIDE_BYTES, 1024


@dataclass(frozen=True, eq=False)
class Pattern:
    """
    The active weights of one block of a matrix's columns, that is, of one block of input features.

    A stack of matrices is a matrix too. If they share their inputs, their rows follow each other. If each has inputs of
    its own, the stack is block-diagonal: ``groups`` says so, and columns count from each group's first input.

    :param groups: number of diagonal blocks; 1 for an ordinary matrix
    :param offset: the block's first input feature
    :param width: how many features it has, in each group
    :param pointers: where each row's weights in each tile of features begin, int32 of shape ``(tiles + 1, rows)``
    :param columns: input feature of each active weight of the whole matrix, int32 of shape ``(active,)``
    """

    groups: int
    offset: int
    width: int
    pointers: NDArray[np.int32]
    columns: NDArray[np.int32]

    @property
    def rows(self) -> int:
        """The number of output neurons."""
        return int(self.pointers.shape[1])

    @cached_property
    def transposed(self) -> tuple["Pattern", NDArray[np.int64]]:
        """The pattern of the transposed block, and where each of its weights stands among the matrix's."""
        starts, stops = self.pointers[0].astype(np.int64), self.pointers[-1].astype(np.int64)
        lengths = stops - starts
        rows = np.repeat(np.arange(self.rows), lengths)
        weights = np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)
        height = self.rows // self.groups
        group, row = np.divmod(rows, height)
        new_rows = group * self.width + self.columns[weights] - self.offset
        order = np.argsort(new_rows, kind="stable")
        row_ptr = np.searchsorted(new_rows[order], np.arange(self.groups * self.width + 1))
        (pattern,) = split(row_ptr, row[order], height, [height], self.groups)
        return pattern, weights[order]


def split(
    row_ptr: Tensor | NDArray[np.integer],
    columns: Tensor | NDArray[np.integer],
    in_features: int,
    widths: Sequence[int],
    groups: int = 1,
) -> tuple[Pattern, ...]:
    """
    Split a CSR matrix into blocks of columns, without moving an active weight.

    :param row_ptr: where each row's weights begin, of shape ``(rows + 1,)``
    :param columns: input feature of each active weight, of shape ``(active,)``, sorted within each row
    :param in_features: the number of columns (of each group)
    :param widths: the number of columns of each block; they must add up to ``in_features``
    :param groups: number of diagonal blocks of the matrix, see :class:`Pattern`
    :return: one :class:`Pattern` for each width
    :raises ValueError: if the widths do not add up
    """
    if sum(widths) != in_features:
        raise ValueError(
            f"Expected {in_features} input features, but got {sum(widths)} "
            f"({' + '.join(str(width) for width in widths)})."
        )
    starts, features = np.asarray(row_ptr, np.int64), np.ascontiguousarray(columns, np.int32)
    n_rows = len(starts) - 1
    keys = np.repeat(np.arange(n_rows), np.diff(starts)) * in_features + features
    firsts = np.arange(n_rows) * in_features
    tile = _tile_width(len(features) / max(1, n_rows * in_features))
    patterns, offset = [], 0
    for width in widths:
        bounds = np.append(np.arange(offset, offset + max(1, width), tile), offset + width)
        pointers = np.searchsorted(keys, bounds[:, None] + firsts).astype(np.int32)
        patterns.append(Pattern(groups, offset, width, pointers, features))
        offset += width
    return tuple(patterns)


def _tile_width(density: float) -> int:
    wanted = _WEIGHTS_PER_TILE / max(density, 1e-9)
    return int(min(max(wanted, _SMALLEST_TILE), _LARGEST_TILE))
