"""What gradients are worth: how much of them is signal, and what a step along them brought."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sparse_rl.topology import Topology


def gradient_signal_to_noise(
    inputs: Tensor, output_gradients: Tensor, topology: Topology | None = None, epsilon: float = 1e-10
) -> Tensor:
    """
    Give each weight's ratio of the mean gradient's magnitude to its standard deviation over a batch.

    Graesser et al. (2022, arXiv 2206.10369) log the mean of ``|mean| / (std + 1e-10)`` over the weights. Of one sample
    the gradient of weight ``(i, j)`` is ``output_gradients[i] * inputs[j]``, so that two matrix products give both
    moments exactly, and no gradient of a sample is ever stored.

    :param inputs: what the linear layer read, ``(batch, in_features)``
    :param output_gradients: the gradient of each sample's own loss in the layer's outputs, ``(batch, out_features)``:
        that of the *sum* of the losses, not of their mean
    :param topology: the layer's active weights; ``None`` if all are
    :param epsilon: keeps the ratio of a weight that has no gradient at zero
    :return: of shape ``(active,)``, or ``(out_features * in_features,)``
    :raises ValueError: if the shapes do not fit together
    """
    shape = (output_gradients.shape[-1], inputs.shape[-1])
    if inputs.shape[:-1] != output_gradients.shape[:-1] or inputs.dim() != 2 or not len(inputs):
        raise ValueError(
            f"Inputs of shape {tuple(inputs.shape)} and output gradients of shape {tuple(output_gradients.shape)} are "
            "not of the same batch."
        )
    if topology is not None and topology.shape != shape:
        raise ValueError(f"A topology of shape {topology.shape} does not fit a layer of shape {shape}.")
    x, delta = inputs.double(), output_gradients.double()  # the variance is a difference
    mean = (delta.T @ x).flatten() / len(x)
    square = (delta.square().T @ x.square()).flatten() / len(x)
    if topology is not None:
        mean, square = mean[topology.positions], square[topology.positions]
    variance = square - mean.square()
    # What is within the rounding of the difference is no deviation.
    variance = variance.where(variance > 1e-14 * square, 0.0)
    return mean.abs() / (variance.sqrt() + epsilon)


def loss_change_allocation(
    before: Iterable[Tensor], halfway: Iterable[Tensor], after: Iterable[Tensor], change: Iterable[Tensor]
) -> list[Tensor]:
    """
    Allocate a step's change of the loss to the weights that moved (Lan et al. 2019, arXiv 1909.01440).

    A weight's share is the integral of its gradient over its way, by Simpson's rule, as there: exact for losses that
    are cubic on the way. Shares of many steps add up. A negative share means that the weight's move lowered the loss.

    :param before: the gradients of one and the same loss before the step, for each parameter
    :param halfway: those in the middle between the parameters before and after
    :param after: those after the step
    :param change: how far each parameter moved
    :return: the shares, of the parameters' shapes; their sum is the change of the loss
    """
    each = zip(before, halfway, after, change, strict=True)
    return [torch.mul(first + 4 * middle + last, move) / 6 for first, middle, last, move in each]
