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


class Stack:
    """
    Parameters of several layers as one tensor, of which they become views: what one changes, the others see.

    :param parameters: the parameters, which need not have the same shape
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        #: Changes whenever an address taken before does not hold any longer.
        self.version = 0
        self._dtype = parameters[0].dtype
        self._join(parameters)

    @torch.inference_mode(mode=False)  # what is made here outlives the mode in which somebody predicts
    @torch.no_grad()
    def _join(self, parameters: Sequence[torch.Tensor]) -> None:
        self.version += 1
        self._seen: list[tuple[object, ...]] = []
        if any(p.dtype != self._dtype or p.device.type != "cpu" for p in parameters):
            raise ValueError(f"Expected parameters of {self._dtype} on the CPU: make the network anew after moving it.")
        self.parameters = list(parameters)
        sizes = [p.numel() for p in parameters]
        if len(sizes) == 1 and parameters[0].is_contiguous():
            self.tensor = parameters[0].detach().view(-1)
        else:
            self.tensor = torch.cat([p.detach().flatten() for p in parameters])
            for p, part in zip(parameters, self.tensor.split(sizes), strict=True):
                p.data = part.view(p.shape)
        self.gradient = torch.zeros_like(self.tensor)
        parts = zip(parameters, self.gradient.split(sizes), strict=True)
        self._gradients = [part.view(p.shape) for p, part in parts]
        self._seen = self._look(parameters)

    def _look(self, parameters: Sequence[torch.Tensor]) -> list[tuple[object, ...]]:
        """Tell by what a parameter is known: who it is, where it lies and how, and whether it is trained."""
        return [(id(p), p.data_ptr(), p.shape, p.stride(), p.requires_grad) for p in parameters]

    def follow(self, parameters: Sequence[torch.Tensor]) -> None:
        """
        Join the parameters again if somebody moved, replaced, froze or unfroze one of them.

        :param parameters: the layers' present parameters
        :raises ValueError: if they have another type, or are on another device
        """
        if self._look(parameters) != self._seen:
            self._join(parameters)

    def show_gradient(self) -> None:
        """Let ``.grad`` of the parameters that want one be views of :attr:`gradient`; of others it is ``None``."""
        for p, gradient in zip(self.parameters, self._gradients, strict=True):
            p.grad = gradient if p.requires_grad else None

    @property
    def shows_gradient(self) -> bool:
        """Whether nobody has replaced the first parameter's ``.grad`` since: optimizers and rewirings do it to all."""
        first = self.parameters[0]
        return first.grad is self._gradients[0] or not first.requires_grad

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
        self._layers = layers
        self.groups = groups
        self.rows = len(layers) * layers[0].out_features
        self.in_features = layers[0].in_features
        #: The parameters: those of several layers as one tensor.
        self.stacks = [Stack(parameters) for parameters in self._parameters()]

    def _parameters(self) -> list[list[torch.Tensor]]:
        """List weights, and biases if there are any."""
        weights: list[torch.Tensor] = [
            layer.values if isinstance(layer, SparseLinear) else layer.weight for layer in self._layers
        ]
        biases: list[torch.Tensor] = [layer.bias for layer in self._layers if layer.bias is not None]
        return [weights, biases] if biases else [weights]

    def follow(self) -> int:
        """
        Look whether parameters were moved, replaced, frozen or unfrozen, or a topology changed.

        :return: a number that has changed if what :meth:`describe` said does not hold any longer
        """
        for stack, parameters in zip(self.stacks, self._parameters(), strict=True):
            stack.follow(parameters)
        return sum(stack.version for stack in self.stacks)

    def _expected_weights(self) -> int:
        return self.rows * self.in_features

    def describe(self, level: Any, first: int) -> list[Any]:
        """
        Fill in the description of this level for the compiled passes.

        :param level: a record of :data:`sparse_rl.kernels.LEVEL`
        :param first: the first of the inputs whose gradient is wanted; their number for none
        :return: what has to be kept as long as the description is used
        """
        level["groups"], level["rows"], level["inputs"] = self.groups, self.rows, self.in_features
        level["first"] = first
        weights, *bias = self.stacks
        for stack, size in zip(self.stacks, (self._expected_weights(), self.rows), strict=False):
            if stack.tensor.numel() != size:  # a pass would read out of bounds
                raise ValueError(
                    f"Expected {size} parameters in a level of {self.rows} rows, not {stack.tensor.numel()}."
                )
        level["values"], level["active"] = weights.tensor.data_ptr(), weights.tensor.numel()
        level["d_values"] = weights.gradient.data_ptr() if weights.requires_grad else 0
        if bias:
            level["bias"] = bias[0].tensor.data_ptr()
            level["d_bias"] = bias[0].gradient.data_ptr() if bias[0].requires_grad else 0
        return [each for stack in self.stacks for each in (stack.tensor, stack.gradient)]

    def scratch(self, batch: int) -> torch.Tensor:
        """Reserve the memory that a backward pass works in: the transposed inputs of a layer."""
        return kernels.empty_activations(batch, self.in_features, self.stacks[0].tensor)


class SparseLevel(Level):
    """
    Sparse layers, computed by the kernel that suits their density.

    :param layers: layers of the same shape
    :param groups: see :class:`Level`
    """

    _layers: Sequence[SparseLinear]

    def __init__(self, layers: Sequence[SparseLinear], groups: int) -> None:
        super().__init__(layers, groups)
        self._topologies = [layer.topology for layer in layers]
        self._changes = 0

    def follow(self) -> int:
        """Look whether anything has changed: see :meth:`Level.follow`."""
        # A layer makes a new `Topology` when it has got another one; as the old one is kept, none takes its place.
        topologies = [layer.topology for layer in self._layers]
        if any(a is not b for a, b in zip(topologies, self._topologies, strict=True)):
            self._topologies, self._changes = topologies, self._changes + 1
        return super().follow() + self._changes

    def describe(self, level: Any, first: int) -> list[Any]:
        """Fill in the description of this level for the compiled passes: see :meth:`Level.describe`."""
        kept = super().describe(level, first)
        # Here, because pruning and growth change the density, and with it what is faster.
        return [*kept, *(self._describe_active(level, first) if self._is_sparse else self._describe_scattered(level))]

    def _expected_weights(self) -> int:
        return sum(topology.active for topology in self._topologies)

    @property
    def _is_sparse(self) -> bool:
        return self._layers[0].chosen_kernel == "numba"

    def _describe_active(self, level: Any, first: int) -> list[Any]:
        """Say where the active weights are, which are all that is touched."""
        lengths = torch.cat([topology.row_ptr.diff() for topology in self._topologies])
        row_ptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        columns = torch.cat([topology.columns for topology in self._topologies])
        n_inputs = self.in_features
        (pattern,) = kernels.split(row_ptr, columns, n_inputs, [n_inputs], self.groups)
        level["is_sparse"], level["columns"] = 1, _address(pattern.columns)
        level["pointers"], level["tiles"] = _address(pattern.pointers), len(pattern.pointers) - 1
        if first == n_inputs:
            return [pattern]
        *_, wanted = kernels.split(row_ptr, columns, n_inputs, [first, n_inputs - first], self.groups)
        transposed, order = wanted.transposed
        level["t_pointers"], level["t_tiles"] = _address(transposed.pointers), len(transposed.pointers) - 1
        level["t_columns"], level["t_order"] = _address(transposed.columns), _address(order)
        level["t_active"] = order.size
        return [pattern, transposed, order]

    def _describe_scattered(self, level: Any) -> list[Any]:
        """Say how to scatter the active weights into a dense matrix, which is then computed as such."""
        dense = torch.zeros(self.rows * self.in_features, dtype=self.stacks[0].tensor.dtype)
        gradient = torch.empty_like(dense)
        size = dense.numel() // len(self._layers)
        positions = torch.cat([i * size + topology.positions for i, topology in enumerate(self._topologies)])
        level["scattered"], level["positions"] = positions.numel(), positions.data_ptr()
        level["scattered_values"], level["scattered_gradient"] = level["values"], level["d_values"]
        level["values"], level["active"] = dense.data_ptr(), dense.numel()
        level["d_values"] = gradient.data_ptr() if level["d_values"] else 0
        return [dense, gradient, positions]

    def scratch(self, batch: int) -> torch.Tensor:
        """Reserve the memory that a backward pass works in: the weights in the order of the transposed matrix."""
        return torch.empty_like(self.stacks[0].tensor) if self._is_sparse else super().scratch(batch)


def make_level(layers: Sequence[nn.Module], shares_input: bool) -> Level:
    """
    Make a level of layers.

    :param layers: dense layers, or sparse layers, of the same shape
    :param shares_input: whether they all read the same input; else each reads its part of it
    :return: the level
    """
    groups = 1 if shares_input else len(layers)
    if isinstance(layers[0], SparseLinear):
        return SparseLevel(cast(Sequence[SparseLinear], layers), groups)
    return Level(cast(Sequence[nn.Linear], layers), groups)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.ctypes.data
