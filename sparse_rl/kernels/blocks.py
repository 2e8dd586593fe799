"""Where each block of input features lies within the rows of a CSR matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """
    The active weights of one contiguous block of input features.

    :param offset: the block's first feature
    :param width: how many features it has
    :param starts: first active weight of each output neuron within the block, int32 of shape ``(out_features,)``
    :param stops: one past the last, of the same shape
    """

    offset: int
    width: int
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]


def split(row_ptr: Tensor, columns: Tensor, in_features: int, widths: Sequence[int]) -> tuple[Block, ...]:
    """
    Split a CSR matrix into blocks of columns, without moving an active weight.

    :param row_ptr: int32 tensor of shape ``(out_features + 1,)``
    :param columns: int32 tensor of shape ``(active,)``, sorted within each row
    :param in_features: the number of columns
    :param widths: the number of columns of each block; they must add up to ``in_features``
    :return: one :class:`Block` for each width
    :raises ValueError: if the widths do not add up
    """
    if sum(widths) != in_features:
        raise ValueError(
            f"Expected {in_features} input features, but got {sum(widths)} "
            f"({' + '.join(str(width) for width in widths)})."
        )
    if len(widths) == 1:
        pointers = row_ptr.numpy()
        return (Block(0, in_features, pointers[:-1], pointers[1:]),)
    n_rows = row_ptr.numel() - 1
    rows = torch.arange(n_rows, dtype=torch.int64)
    keys = torch.repeat_interleave(rows, row_ptr.diff().to(torch.int64)) * in_features + columns
    blocks, offset = [], 0
    starts = row_ptr[:-1].numpy()
    for width in widths:
        stops = torch.searchsorted(keys, rows * in_features + offset + width).to(torch.int32).numpy()
        blocks.append(Block(offset, width, starts, stops))
        offset, starts = offset + width, stops
    return tuple(blocks)
