"""The sparse affine map ``y = x W^T + b`` for the two kernels, with gradients for active weights only."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_rl.kernels import numba_kernel
from sparse_rl.kernels.blocks import Block
from sparse_rl.kernels.threads import follow_torch


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


def numba_linear(
    inputs: Sequence[Tensor], values: Tensor, bias: Tensor | None, columns: Tensor, blocks: Sequence[Block]
) -> Tensor:
    """
    Multiply with the active weights only, on the CPU.

    Inputs may have any strides, but a feature-major one (``x.t()`` contiguous) is used as it is, and any other is
    copied into that layout first. The result is feature-major, as the next sparse layer wants it; matrix products of
    dense layers take either layout.

    :param inputs: blocks of input features, each of shape ``(batch, width)``, in the order of the columns
    :param values: the active weights, of shape ``(active,)``
    :param bias: of shape ``(out_features,)``, or ``None``
    :param columns: input feature of each active weight, int32 of shape ``(active,)``
    :param blocks: where each block's weights lie, see :func:`sparse_rl.kernels.blocks.split`
    :return: tensor of shape ``(batch, out_features)``
    """
    return _NumbaLinear.apply(values, bias, columns, tuple(blocks), *inputs)  # type: ignore[no-any-return, no-untyped-call]


class _NumbaLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, bias: Tensor | None, columns: Tensor, blocks: tuple[Block, ...], *inputs: Tensor
    ) -> Tensor:
        feature_major = [x.detach().t().contiguous() for x in inputs]
        ctx.blocks = blocks
        ctx.save_for_backward(values, columns, *feature_major)
        return spmm(feature_major, values, bias, columns, blocks).t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, columns, *inputs = ctx.saved_tensors
        needs_values, needs_bias, _, _, *needs_inputs = ctx.needs_input_grad
        dy = grad.t().contiguous()
        return (
            sddmm(dy, inputs, values, columns, ctx.blocks) if needs_values else None,
            dy.sum(1) if needs_bias else None,
            None,
            None,
            *(
                spmm_transposed(dy, values, columns, block).t() if needed else None
                for block, needed in zip(ctx.blocks, needs_inputs, strict=True)
            ),
        )


def spmm(
    inputs: Sequence[Tensor],
    values: Tensor,
    bias: Tensor | None,
    columns: Tensor,
    blocks: Sequence[Block],
    relu: bool = False,
) -> Tensor:
    """
    Compute ``W x + b``, or its positive part, with feature-major activations.

    :param inputs: blocks of input features, each contiguous, of shape ``(width, batch)``
    :param values: the active weights, of shape ``(active,)``
    :param bias: of shape ``(out_features,)``, or ``None``
    :param columns: input feature of each active weight, int32 of shape ``(active,)``
    :param blocks: where each block's weights lie
    :param relu: whether to apply ReLU
    :return: tensor of shape ``(out_features, batch)``
    """
    follow_torch()
    y = values.new_zeros(blocks[0].starts.size, inputs[0].shape[1])
    weights = values.detach().numpy()
    for block, x in zip(blocks, inputs, strict=True):
        numba_kernel.spmm(block.starts, block.stops, columns.numpy(), block.offset, weights, x.numpy(), y.numpy())
    return finish(y, bias, relu)


def finish(y: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """
    Add the bias and apply ReLU, in place.

    :param y: feature-major activations on the CPU, contiguous, of shape ``(out_features, batch)``
    :param bias: of shape ``(out_features,)``, or ``None``
    :param relu: whether to apply ReLU
    :return: ``y``
    """
    if bias is not None:
        numba_kernel.add_bias_and_clip(y.numpy(), bias.detach().numpy(), relu)
    elif relu:
        y.clamp_(min=0)
    return y


def sddmm(dy: Tensor, inputs: Sequence[Tensor], values: Tensor, columns: Tensor, blocks: Sequence[Block]) -> Tensor:
    """
    Compute the gradient of the active weights, and of no others.

    :param dy: gradient of the output, contiguous, of shape ``(out_features, batch)``
    :param inputs: the blocks of input features of the forward pass, each of shape ``(width, batch)``
    :param values: the active weights: shape and dtype of the result
    :param columns: input feature of each active weight, int32 of shape ``(active,)``
    :param blocks: where each block's weights lie
    :return: tensor of shape ``(active,)``
    """
    follow_torch()
    gradient = torch.empty_like(values, requires_grad=False)
    for block, x in zip(blocks, inputs, strict=True):
        numba_kernel.sddmm(
            block.starts, block.stops, columns.numpy(), block.offset, dy.numpy(), x.numpy(), gradient.numpy()
        )
    return gradient


def spmm_transposed(dy: Tensor, values: Tensor, columns: Tensor, block: Block) -> Tensor:
    """
    Compute the gradient of one block of input features.

    :param dy: gradient of the output, contiguous, of shape ``(out_features, batch)``
    :param values: the active weights, of shape ``(active,)``
    :param columns: input feature of each active weight, int32 of shape ``(active,)``
    :param block: where the block's weights lie
    :return: tensor of shape ``(width, batch)``
    """
    follow_torch()
    dx = dy.new_zeros(block.width, dy.shape[1])
    weights = values.detach().numpy()
    numba_kernel.spmm_transposed(
        block.starts, block.stops, columns.numpy(), block.offset, weights, dy.numpy(), dx.numpy()
    )
    return dx
