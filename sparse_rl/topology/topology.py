"""Which weights of a layer exist: a fixed set of positions in compressed sparse row (CSR) order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Topology:
    """
    The positions of a layer's active weights, as an immutable value.

    A position ``(row, column)`` connects input feature ``column`` to output neuron ``row``, as in
    ``torch.nn.Linear.weight``. Positions are unique and sorted by row, then by column.

    :param shape: ``(out_features, in_features)`` of the layer
    :param row_ptr: int32 tensor of shape ``(out_features + 1,)``: row ``i`` owns the active weights
        ``row_ptr[i]:row_ptr[i + 1]``
    :param columns: int32 tensor of shape ``(active,)``: the input feature of each active weight
    """

    shape: tuple[int, int]
    row_ptr: Tensor
    columns: Tensor

    @classmethod
    def from_positions(cls, shape: Sequence[int], positions: Tensor) -> "Topology":
        """
        Build a topology from flat positions.

        :param shape: ``(out_features, in_features)``
        :param positions: int64 tensor of ``row * in_features + column``, in any order, without duplicates
        :return: the topology with exactly these positions
        :raises ValueError: if a position is out of range or occurs twice
        """
        n_rows, n_columns = _checked_shape(shape)
        positions = positions.to(torch.int64).sort().values
        if positions.numel() and (positions[0] < 0 or positions[-1] >= n_rows * n_columns):
            raise ValueError(
                f"Positions must lie in [0, {n_rows * n_columns}) for a layer of shape {n_rows, n_columns}."
            )
        if positions.numel() > 1 and bool((positions[1:] == positions[:-1]).any()):
            raise ValueError("Positions must be unique, but at least one occurs twice.")
        starts = torch.arange(n_rows + 1, dtype=torch.int64, device=positions.device) * n_columns
        row_ptr = torch.searchsorted(positions, starts).to(torch.int32)
        return cls((n_rows, n_columns), row_ptr, (positions % n_columns).to(torch.int32))

    @classmethod
    def from_mask(cls, mask: Tensor) -> "Topology":
        """
        Build a topology from a dense mask.

        :param mask: tensor of shape ``(out_features, in_features)``; non-zero entries are active
        :return: the topology of the mask
        """
        return cls.from_positions(mask.shape, mask.flatten().nonzero().flatten())

    @classmethod
    def random(cls, shape: Sequence[int], active: int, generator: torch.Generator | None = None) -> "Topology":
        """
        Draw ``active`` positions uniformly at random, without replacement (as ANF and SET initialise).

        :param shape: ``(out_features, in_features)``
        :param active: the number of active weights, exactly
        :param generator: source of randomness; PyTorch's global generator if ``None``
        :return: a random topology
        :raises ValueError: if the layer cannot hold ``active`` weights, or would keep fewer than one
        """
        n_rows, n_columns = _checked_shape(shape)
        size = n_rows * n_columns
        if not 1 <= active <= size:
            raise ValueError(
                f"A layer of shape {n_rows, n_columns} can keep between 1 and {size} weights, not {active}: "
                "choose another sparsity."
            )
        return cls.from_positions(shape, sample_distinct(size, active, generator))

    @property
    def active(self) -> int:
        """The number of active weights."""
        return self.columns.numel()

    @property
    def size(self) -> int:
        """The number of weights that a dense layer of this shape would have."""
        return self.shape[0] * self.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self.columns.device

    @property
    def density(self) -> float:
        """The fraction of weights that are active, in (0, 1]."""
        return self.active / self.size

    @cached_property
    def rows(self) -> Tensor:
        """The output neuron of each active weight, int64 of shape ``(active,)``."""
        lengths = self.row_ptr.diff().to(torch.int64)
        return torch.repeat_interleave(torch.arange(self.shape[0], device=self.device), lengths)

    @cached_property
    def positions(self) -> Tensor:
        """The sorted flat positions ``row * in_features + column``, int64 of shape ``(active,)``."""
        return self.rows * self.shape[1] + self.columns

    def mask(self) -> Tensor:
        """
        Show the topology as a dense mask.

        :return: bool tensor of shape ``(out_features, in_features)``
        """
        mask = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        mask[self.positions] = True
        return mask.view(self.shape)

    def validate(self) -> None:
        """
        Check what kernels rely on: a kernel given an invalid topology would read out of bounds.

        :raises ValueError: if the row pointers do not partition the columns, or the columns of a row are out of range,
            unsorted or duplicated
        """
        n_rows, n_columns = self.shape
        if any(tensor.dtype != torch.int32 or tensor.dim() != 1 for tensor in (self.row_ptr, self.columns)):
            raise ValueError("Row pointers and columns must be vectors of int32.")
        lengths = self.row_ptr.to(torch.int64).diff()  # differences of int32 can overflow, and look positive
        if self.row_ptr.shape != (n_rows + 1,) or self.row_ptr[0] != 0 or self.row_ptr[-1] != self.active:
            raise ValueError(f"Row pointers must run from 0 to {self.active} in {n_rows + 1} steps.")
        if bool((lengths < 0).any()):
            raise ValueError("Row pointers must not decrease.")
        if self.active and (self.columns.min() < 0 or self.columns.max() >= n_columns):
            raise ValueError(f"Columns must lie in [0, {n_columns}).")
        if bool((self.positions.diff() <= 0).any()):
            raise ValueError("The columns of a row must be strictly increasing.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        return self.shape == other.shape and torch.equal(self.positions, other.positions)

    __hash__ = None  # type: ignore[assignment]  # compares tensors, so it cannot be a dictionary key

    def __repr__(self) -> str:
        return f"Topology(shape={self.shape}, active={self.active}, density={self.density:.4g})"


def sample_distinct(population: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """
    Draw ``count`` distinct integers uniformly from ``[0, population)``, in the order in which they were drawn.

    Memory stays proportional to ``count``, not to ``population``, unless most of the population is wanted.

    :param population: how many integers there are to choose from
    :param count: how many to draw, at most ``population``
    :param generator: source of randomness; PyTorch's global generator if ``None``
    :return: int64 tensor of shape ``(count,)``
    """
    if count > population // 2:
        return torch.randperm(population, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.int64)
    while drawn.numel() < count:
        more = torch.randint(population, (count - drawn.numel() + 8,), generator=generator)
        drawn = _first_occurrences(torch.cat([drawn, more]))
    return drawn[:count]


def _first_occurrences(values: Tensor) -> Tensor:
    """Drop repeated values, keeping the first of each, in order."""
    ordered, order = values.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return values[order[is_first].sort().values]


def _checked_shape(shape: Sequence[int]) -> tuple[int, int]:
    n_rows, n_columns = (int(n) for n in shape)
    if n_rows < 1 or n_columns < 1:
        raise ValueError(f"A layer needs at least one output and one input, not shape {n_rows, n_columns}.")
    return n_rows, n_columns
