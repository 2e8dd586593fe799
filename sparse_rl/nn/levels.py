"""
One level of a feature-major network: a layer, or several of the same shape that run as one.

Several layers either share their input, as the input layers of two critics do, or each has its own, as their hidden
layers; then inputs and outputs follow each other, and the level is block-diagonal.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sparse_rl import kernels
from sparse_rl.nn.sparse_linear import SparseLinear
from sparse_rl.topology import Topology


class Stack:
    """
    Parameters of several layers as one tensor, of which they become views: what one changes, the others see.

    :param parameters: the parameters, which need not have the same shape
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        self._sizes = [p.numel() for p in parameters]
        self._join()

    def _join(self) -> None:
        if len(self.parameters) == 1:
            self.tensor = self.parameters[0].detach().view(-1)
        else:
            self.tensor = torch.cat([p.detach().flatten() for p in self.parameters])
            for p, part in zip(self.parameters, self.tensor.split(self._sizes), strict=True):
                p.data = part.view_as(p)
        self.gradient = torch.empty_like(self.tensor)
        parts = zip(self.parameters, self.gradient.split(self._sizes), strict=True)
        self._gradients = [part.view_as(p) for p, part in parts]
        self._addresses = [p.data_ptr() for p in self.parameters]

    def has_moved(self) -> bool:
        """Tell whether somebody gave a parameter other memory; if so, join them again."""
        for p, address in zip(self.parameters, self._addresses, strict=True):
            if p.data_ptr() != address:
                self._join()
                return True
        return False

    def show_gradient(self) -> None:
        """Let ``.grad`` of the parameters that want one be views of :attr:`gradient`."""
        for p, gradient in zip(self.parameters, self._gradients, strict=True):
            if p.requires_grad:
                p.grad = gradient

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted for any of the parameters."""
        return any(p.requires_grad for p in self.parameters)


class Level:
    """
    Dense layers.

    :param layers: layers of the same shape
    :param groups: how many groups of inputs they read: 1 if they share their input, else one for each layer
    """

    def __init__(self, layers: Sequence[nn.Linear] | Sequence[SparseLinear], groups: int) -> None:
        self.groups = groups
        self.rows = len(layers) * layers[0].out_features
        self.in_features = layers[0].in_features
        self._weights = Stack([self._weight_of(layer) for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        #: The parameters: those of several layers as one tensor.
        self.stacks = [self._weights, *([Stack(biases)] if biases else [])]

    @staticmethod
    def _weight_of(layer: nn.Linear | SparseLinear) -> nn.Parameter:
        return layer.values if isinstance(layer, SparseLinear) else cast(nn.Parameter, layer.weight)

    def has_changed(self) -> bool:
        """Tell whether what :meth:`describe` said does not hold any longer."""
        return any([stack.has_moved() for stack in self.stacks])

    def describe(self, level: Any, widths: Sequence[int], batch: int) -> list[Any]:
        """
        Fill in the description of this level for the compiled passes.

        :param level: a record of :data:`sparse_rl.kernels.LEVEL`
        :param widths: features of each block of inputs
        :param batch: columns of a batch
        :return: what has to be kept as long as the description is used
        """
        level["groups"], level["rows"], level["inputs"] = self.groups, self.rows, self.in_features
        level["width0"], level["width1"] = widths[0], widths[1] if len(widths) > 1 else 0
        weights, *bias = self.stacks
        level["values"], level["active"] = weights.tensor.data_ptr(), weights.tensor.numel()
        level["d_values"] = weights.gradient.data_ptr() if weights.requires_grad else 0
        if bias:
            level["bias"] = bias[0].tensor.data_ptr()
            level["d_bias"] = bias[0].gradient.data_ptr() if bias[0].requires_grad else 0
        scratch = kernels.empty_activations(batch, max(widths), weights.tensor)
        level["scratch"] = scratch.data_ptr()
        return [scratch]

    def before(self) -> None:
        """Do what is to be done before a pass."""

    def after(self) -> None:
        """Do what is to be done after a backward pass."""
        for stack in self.stacks:
            stack.show_gradient()


class SparseLevel(Level):
    """
    Sparse layers, of which only active weights are touched.

    :param layers: layers of the same shape
    :param groups: see :class:`Level`
    """

    def __init__(self, layers: Sequence[SparseLinear], groups: int) -> None:
        super().__init__(layers, groups)
        self._layers = layers
        self._topologies: list[Topology] = []

    def has_changed(self) -> bool:
        """Tell whether what :meth:`describe` said does not hold any longer."""
        # A layer makes a new `Topology` when it has got another one.
        has_other = any(
            layer.topology is not known for layer, known in zip(self._layers, self._topologies, strict=False)
        )
        return super().has_changed() or has_other

    def describe(self, level: Any, widths: Sequence[int], batch: int) -> list[Any]:
        """Fill in the description of this level for the compiled passes: see :meth:`Level.describe`."""
        super().describe(level, widths, batch)
        self._topologies = topologies = [layer.topology for layer in self._layers]
        lengths = torch.cat([topology.row_ptr.diff() for topology in topologies])
        row_ptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        columns = torch.cat([topology.columns for topology in topologies])
        patterns = kernels.split(row_ptr, columns, self.in_features, widths, self.groups)
        scratch = torch.empty_like(self._weights.tensor)
        level["is_sparse"], level["scratch"] = 1, scratch.data_ptr()
        level["columns"] = _address(patterns[0].columns)
        for index, pattern in enumerate(patterns):
            transposed, order = pattern.transposed
            fields = {"pointers": _address(pattern.pointers), "tiles": len(pattern.pointers) - 1}
            fields |= {"t_pointers": _address(transposed.pointers), "t_tiles": len(transposed.pointers) - 1}
            fields |= {"t_columns": _address(transposed.columns), "t_order": _address(order), "t_active": order.size}
            for name, value in fields.items():
                level[f"{name}{index}"] = value
        return [patterns, scratch]


class ScatteredLevel(Level):
    """
    Sparse layers that are computed as dense ones, from their scattered weights.

    :param layers: layers of the same shape
    :param groups: see :class:`Level`
    """

    def __init__(self, layers: Sequence[SparseLinear], groups: int) -> None:
        super().__init__(layers, groups)
        self._layers = layers
        size = self.rows * self.in_features
        self._dense = torch.empty(size, dtype=self._weights.tensor.dtype)
        self._gradient = torch.empty_like(self._dense)

    def describe(self, level: Any, widths: Sequence[int], batch: int) -> list[Any]:
        """Fill in the description of this level for the compiled passes: see :meth:`Level.describe`."""
        kept = super().describe(level, widths, batch)
        level["values"], level["active"] = self._dense.data_ptr(), self._dense.numel()
        level["d_values"] = self._gradient.data_ptr() if level["d_values"] else 0
        return kept

    def before(self) -> None:
        """Scatter the weights."""
        torch.cat([layer.dense_weight().flatten() for layer in self._layers], out=self._dense)

    def after(self) -> None:
        """Gather the gradients."""
        size = self._dense.numel() // len(self._layers)
        positions = [i * size + layer.topology.positions for i, layer in enumerate(self._layers)]
        torch.index_select(self._gradient, 0, torch.cat(positions), out=self._weights.gradient)
        super().after()


def make_level(layers: Sequence[nn.Module], shares_input: bool) -> Level:
    """
    Make a level of layers.

    :param layers: dense layers, or sparse layers of the same kernel, of the same shape
    :param shares_input: whether they all read the same input; else each reads its part of it
    :return: the level
    """
    groups = 1 if shares_input else len(layers)
    if isinstance(layers[0], SparseLinear):
        sparse = cast(Sequence[SparseLinear], layers)
        kind = SparseLevel if sparse[0].chosen_kernel == "numba" else ScatteredLevel
        return kind(sparse, groups)
    return Level(cast(Sequence[nn.Linear], layers), groups)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.ctypes.data
