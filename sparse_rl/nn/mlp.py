"""
A multi-layer perceptron in feature-major layout, with a hand-written backward pass.

For networks as small as those of continuous control, automatic differentiation and layout changes cost as much as the
arithmetic. Here activations are ``(features, batch)`` throughout, as the sparse kernels want them; gradients are
computed for what is asked for and nothing else; and they are written to ``.grad``, where any optimizer finds them.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sparse_rl import kernels
from sparse_rl.nn.sparse_linear import SparseLinear


class FeatureMajorMLP:
    """
    Run the layers of an existing network forward and backward, sharing its parameters.

    :param layers: alternating linear layers (dense or sparse) and ``nn.ReLU``, with or without a ReLU at the end
    :raises ValueError: if there is another kind of layer among them; see :meth:`supports`
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        if not self.supports(layers):
            raise ValueError(
                f"Expected linear layers with ReLU between them, not {[type(m).__name__ for m in layers]}."
            )
        self._layers = [_wrap(layer) for layer in layers[::2]]
        self._relu_last = len(layers) % 2 == 0
        self._activations: list[Sequence[Tensor]] = []

    @staticmethod
    def supports(layers: Sequence[nn.Module]) -> bool:
        """
        Tell whether these layers can be run here.

        :param layers: the layers of a network, in order
        :return: whether they are linear layers on the CPU with ReLU between them
        """
        # Not their subclasses: these may compute something else.
        linear = all(type(layer) in (nn.Linear, SparseLinear) for layer in layers[::2])
        relu = all(type(layer) is nn.ReLU for layer in layers[1::2])
        on_cpu = all(p.device.type == "cpu" for layer in layers for p in layer.parameters())
        return bool(layers) and linear and relu and on_cpu

    @torch.no_grad()
    def forward(self, *inputs: Tensor, remember: bool = True) -> Tensor:
        """
        Compute the output.

        :param inputs: blocks of input features, each contiguous, of shape ``(width, batch)``
        :param remember: keep the activations for :meth:`backward`
        :return: tensor of shape ``(out_features, batch)``
        :raises ValueError: if the blocks have several batch sizes
        """
        if len({x.shape[1] for x in inputs}) != 1:
            raise ValueError(f"Expected blocks with one batch size, not {[tuple(x.shape) for x in inputs]}.")
        activations: list[Sequence[Tensor]] = []
        x: Sequence[Tensor] = inputs
        for index, layer in enumerate(self._layers):
            activations.append(x)
            x = (layer.forward(x, relu=index < len(self._layers) - 1 or self._relu_last),)
        if remember:
            self._activations = [*activations, x]
        return x[0]

    @torch.no_grad()
    def backward(self, dy: Tensor) -> None:
        """
        Write the gradients of the parameters, at the last remembered forward pass, to their ``.grad``.

        Parameters that do not require a gradient are left alone. Hooks of the layers are not called.

        :param dy: gradient of the output, contiguous, of shape ``(out_features, batch)``
        :raises ValueError: if it has another shape
        """
        for layer, inputs, gradient in self._descend(dy):
            layer.backward_parameters(gradient, inputs)

    @torch.no_grad()
    def input_gradient(self, dy: Tensor, block: int = 0) -> Tensor:
        """
        Compute the gradient of one input block, at the last remembered forward pass, and no other.

        :param dy: gradient of the output, contiguous, of shape ``(out_features, batch)``
        :param block: which of the inputs
        :return: tensor of shape ``(width, batch)``
        :raises ValueError: if ``dy`` has another shape
        """
        *_, (first, inputs, gradient) = self._descend(dy)
        return first.backward_input(gradient, inputs, block)

    def _descend(self, dy: Tensor) -> Iterator[tuple["_Layer", Sequence[Tensor], Tensor]]:
        """Visit the layers from the last to the first, each with its inputs and the gradient of its output."""
        if dy.shape != self._activations[-1][0].shape:
            raise ValueError(
                f"Expected the gradient of an output of shape {tuple(self._activations[-1][0].shape)}, "
                f"not one of shape {tuple(dy.shape)}."
            )
        if self._relu_last:
            dy = _relu_backward(dy, self._activations[-1][0])
        for index in reversed(range(len(self._layers))):
            layer, inputs = self._layers[index], self._activations[index]
            yield layer, inputs, dy
            if index > 0:
                dy = _relu_backward(layer.backward_input(dy, inputs, 0), inputs[0])


def _relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, output, 0)  # type: ignore[no-any-return]


class _Layer(Protocol):
    def forward(self, inputs: Sequence[Tensor], relu: bool) -> Tensor: ...

    def backward_parameters(self, dy: Tensor, inputs: Sequence[Tensor]) -> None: ...

    def backward_input(self, dy: Tensor, inputs: Sequence[Tensor], wanted: int) -> Tensor: ...


def _wrap(layer: nn.Module) -> _Layer:
    if isinstance(layer, SparseLinear):
        return _Sparse(layer) if layer.chosen_kernel == "numba" else _Scattered(layer)
    assert isinstance(layer, nn.Linear)
    return _Dense(layer)


def _gradient_of(parameter: Tensor) -> Tensor:
    """Give the tensor to write a parameter's gradient to: the present ``.grad``, overwritten, or a new one."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def _write_bias_gradient(bias: Tensor | None, dy: Tensor) -> None:
    if bias is not None and bias.requires_grad:
        torch.sum(dy, 1, out=_gradient_of(bias))


def _split(weight: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split a dense weight matrix, or its gradient, into the columns of each input block."""
    return (weight,) if len(inputs) == 1 else weight.split([x.shape[0] for x in inputs], dim=1)


class _Sparse:
    def __init__(self, layer: SparseLinear) -> None:
        self.layer = layer

    def forward(self, inputs: Sequence[Tensor], relu: bool) -> Tensor:
        layer = self.layer
        return kernels.spmm(inputs, layer.values, layer.bias, layer.columns, self._blocks(inputs), relu)

    def backward_parameters(self, dy: Tensor, inputs: Sequence[Tensor]) -> None:
        layer = self.layer
        if layer.values.requires_grad:
            layer.values.grad = kernels.sddmm(dy, inputs, layer.values, layer.columns, self._blocks(inputs))
        _write_bias_gradient(layer.bias, dy)

    def backward_input(self, dy: Tensor, inputs: Sequence[Tensor], wanted: int) -> Tensor:
        layer = self.layer
        return kernels.spmm_transposed(dy, layer.values, layer.columns, self._blocks(inputs)[wanted])

    def _blocks(self, inputs: Sequence[Tensor]) -> tuple[kernels.Block, ...]:
        return self.layer.split([x.shape[0] for x in inputs])


class _Dense:
    def __init__(self, layer: nn.Linear | SparseLinear) -> None:
        self.bias: Tensor | None = layer.bias
        self.layer = layer

    def weight(self) -> Tensor:
        assert isinstance(self.layer, nn.Linear)
        return self.layer.weight

    def forward(self, inputs: Sequence[Tensor], relu: bool) -> Tensor:
        blocks = _split(self.weight(), inputs)
        y = torch.mm(blocks[0], inputs[0])
        for block, x in zip(blocks[1:], inputs[1:], strict=True):
            y.addmm_(block, x)
        return kernels.finish(y, self.bias, relu)

    def backward_parameters(self, dy: Tensor, inputs: Sequence[Tensor]) -> None:
        if self.weight().requires_grad:
            gradients = _split(_gradient_of(self.weight()), inputs)
            for gradient, x in zip(gradients, inputs, strict=True):
                torch.mm(dy, x.t(), out=gradient)
        _write_bias_gradient(self.bias, dy)

    def backward_input(self, dy: Tensor, inputs: Sequence[Tensor], wanted: int) -> Tensor:
        return _split(self.weight(), inputs)[wanted].t() @ dy


class _Scattered(_Dense):
    """A sparse layer whose kernel is the dense product with its scattered weights."""

    layer: SparseLinear

    def weight(self) -> Tensor:
        return self.layer.dense_weight()

    def backward_parameters(self, dy: Tensor, inputs: Sequence[Tensor]) -> None:
        if self.layer.values.requires_grad:
            dense = torch.mm(dy, torch.cat(tuple(inputs)).t())
            self.layer.values.grad = dense.flatten()[self.layer.topology.positions]
        _write_bias_gradient(self.bias, dy)
