"""The sparse affine map ``y = x W^T + b`` for the two kernels, with gradients for active weights only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_rl.kernels import sparse
from sparse_rl.kernels.layout import empty_activations
from sparse_rl.kernels.patterns import Pattern
from sparse_rl.kernels.threads import follow_torch

_IN_ORDER = np.empty(0, np.int64)


def scatter_linear(
    inputs: Sequence[Tensor], values: Tensor, bias: Tensor | None, positions: Tensor, shape: tuple[int, int]
) -> Tensor:
    """
    Scatter the active weights into a dense matrix and multiply: plain PyTorch, any device, the reference.

    :param inputs: blocks of input features, each of shape ``(batch, width)``, in the order of the columns
    :param values: the active weights, of shape ``(active,)``
    :param bias: of shape ``(out_features,)``, or ``None``
    :param positions: flat positions of the active weights, int64 of shape ``(active,)``
    :param shape: ``(out_features, in_features)``
    :return: tensor of shape ``(batch, out_features)``
    """
    weight = values.new_zeros(shape[0] * shape[1]).scatter(0, positions, values).view(shape)
    blocks = weight.split([x.shape[-1] for x in inputs], dim=1)
    y = F.linear(inputs[0], blocks[0], bias)
    for x, block in zip(inputs[1:], blocks[1:], strict=True):
        y = y + F.linear(x, block)
    return y


def numba_linear(inputs: Sequence[Tensor], values: Tensor, bias: Tensor | None, patterns: Sequence[Pattern]) -> Tensor:
    """
    Multiply with the active weights only, on the CPU.

    Inputs may have any strides, but a feature-major one (the columns of ``x`` contiguous) is used as it is, and any
    other is copied into that layout first. The result is feature-major, as the next sparse layer wants it; matrix
    products of dense layers take either layout.

    :param inputs: blocks of input features, each of shape ``(batch, width)``, in the order of the columns
    :param values: the active weights, of shape ``(active,)``
    :param bias: of shape ``(out_features,)``, or ``None``
    :param patterns: where each block's weights lie, see :func:`sparse_rl.kernels.split`
    :return: tensor of shape ``(batch, out_features)``
    """
    return _NumbaLinear.apply(values, bias, tuple(patterns), *inputs)  # type: ignore[no-any-return, no-untyped-call]


class _NumbaLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, bias: Tensor | None, patterns: tuple[Pattern, ...], *inputs: Tensor
    ) -> Tensor:
        feature_major = [with_contiguous_rows(x.detach().t()) for x in inputs]
        ctx.patterns = patterns
        ctx.save_for_backward(values, *feature_major)
        return spmm(feature_major, values, bias, patterns).t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, *inputs = ctx.saved_tensors
        needs_values, needs_bias, _, *needs_inputs = ctx.needs_input_grad
        dy = with_contiguous_rows(grad.t())
        return (
            sddmm(dy, inputs, torch.empty_like(values), ctx.patterns) if needs_values else None,
            dy.sum(1) if needs_bias else None,
            None,
            *(
                spmm_transposed(dy, values, pattern).t() if needed else None
                for pattern, needed in zip(ctx.patterns, needs_inputs, strict=True)
            ),
        )


def _weights(values: Tensor, patterns: Sequence[Pattern]) -> Any:
    if values.numel() != patterns[0].columns.size:
        raise ValueError(f"Expected {patterns[0].columns.size} active weights, not {values.numel()}.")
    return values.detach().contiguous().numpy()


def spmm(
    inputs: Sequence[Tensor],
    values: Tensor,
    bias: Tensor | None,
    patterns: Sequence[Pattern],
    relu: bool = False,
) -> Tensor:
    """
    Compute ``W x + b``, or its positive part, with feature-major activations.

    :param inputs: blocks of input features, each of shape ``(groups * width, batch)``; rows that are not contiguous
        are copied
    :param values: the active weights, of shape ``(active,)``
    :param bias: of shape ``(rows,)``, or ``None``
    :param patterns: where each block's weights lie
    :param relu: whether to apply ReLU
    :return: tensor of shape ``(rows, batch)``
    """
    weights = _weights(values, patterns)
    shift = weights[:0] if bias is None else bias.detach().numpy()
    n_rows, n_batch = patterns[0].rows, inputs[0].shape[1]
    if bias is not None and bias.shape != (n_rows,):
        raise ValueError(f"Expected a bias of shape {(n_rows,)}, not {tuple(bias.shape)}.")
    if n_batch == 1 and patterns[0].groups == 1:
        return _spmv(inputs, weights, bias, patterns, relu)
    y = empty_activations(n_rows, n_batch, values)
    for index, (pattern, x) in enumerate(zip(patterns, inputs, strict=True)):
        is_last = index == len(patterns) - 1
        _multiply(pattern, weights, shift, x, y, add=index > 0, relu=relu and is_last)
    return y


def _spmv(
    inputs: Sequence[Tensor], weights: Any, bias: Tensor | None, patterns: Sequence[Pattern], relu: bool
) -> Tensor:
    """Multiply with a batch of one: not worth a second thread."""
    zeros = torch.from_numpy(np.zeros((patterns[0].rows, 1), weights.dtype))
    y = zeros if bias is None else bias.detach().clone()[:, None]
    for index, (pattern, x) in enumerate(zip(patterns, inputs, strict=True)):
        _check(pattern, x, y)
        is_last = index == len(patterns) - 1
        sparse.multiply_vector(
            pattern.pointers[0], pattern.pointers[-1], pattern.columns, pattern.offset, weights,
            x.flatten().numpy(), y.view(-1).numpy(), relu and is_last,
        )  # fmt: skip
    return y


def _multiply(
    pattern: Pattern,
    weights: Any,
    bias: Any,
    x: Tensor,
    y: Tensor,
    add: bool = False,
    relu: bool = False,
    order: Any = _IN_ORDER,
) -> None:
    _check(pattern, x, y)
    ordered = np.empty(order.size, weights.dtype)
    x = with_contiguous_rows(x)
    sparse.multiply(
        pattern.pointers, pattern.columns, pattern.offset, pattern.groups, weights, order, ordered, bias,
        x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), y.shape[1], add, relu, 0, 0, follow_torch(),
    )  # fmt: skip


def sddmm(dy: Tensor, inputs: Sequence[Tensor], out: Tensor, patterns: Sequence[Pattern]) -> Tensor:
    """
    Compute the gradient of the active weights, and of no others.

    :param dy: gradient of the output, of shape ``(rows, batch)``
    :param inputs: the blocks of input features of the forward pass, each of shape ``(groups * width, batch)``
    :param out: where to write it, contiguous, of shape ``(active,)``
    :param patterns: where each block's weights lie
    :return: ``out``
    """
    if dy.shape[1] == 0:
        return out.zero_()
    threads, no_bias = follow_torch(), out[:0].numpy()
    dy = with_contiguous_rows(dy)
    for pattern, x in zip(patterns, inputs, strict=True):
        _check(pattern, x, dy)
        x = with_contiguous_rows(x)
        sparse.sample(
            pattern.pointers, pattern.columns, pattern.offset, pattern.groups,
            dy.data_ptr(), dy.stride(0), x.data_ptr(), x.stride(0), x.shape[0], x.shape[1],
            out.numpy(), no_bias, threads,
        )  # fmt: skip
    return out


def spmm_transposed(dy: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
    """
    Compute the gradient of one block of input features.

    :param dy: gradient of the output, of shape ``(rows, batch)``
    :param values: the active weights, of shape ``(active,)``
    :param pattern: where the block's weights lie
    :return: tensor of shape ``(groups * width, batch)``
    """
    transposed, order = pattern.transposed
    weights = _weights(values, [pattern])
    dx = empty_activations(transposed.rows, dy.shape[1], values)
    _multiply(transposed, weights, weights[:0], dy, dx, order=order)
    return dx


def _check(pattern: Pattern, x: Tensor, y: Tensor) -> None:
    """Check what the kernels rely on: with other shapes they would read out of bounds."""
    expected = (pattern.groups * pattern.width, y.shape[1])
    if x.shape != expected or y.shape[0] != pattern.rows or x.dtype != y.dtype:
        raise ValueError(
            f"Expected {expected[0]} inputs and {pattern.rows} outputs of one batch size and dtype, "
            f"not {tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}."
        )


def with_contiguous_rows(x: Tensor) -> Tensor:
    """
    Give activations in the layout of the kernels, copied only if they are in another.

    :param x: activations, of shape ``(features, batch)``
    :return: the same, each row contiguous
    """
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return empty_activations(x.shape[0], x.shape[1], x).copy_(x)
