"""What the neurons of a network do with a batch: how many sleep, and how many directions the others span."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_rl.metrics.counts import linear_layers
from sparse_rl.nn import SparseLinear


@dataclass(frozen=True)
class Passage:
    """
    What went through a linear layer.

    :param layer: the layer
    :param inputs: of shape ``(batch, in_features)``
    :param outputs: of shape ``(batch, out_features)``, with their place in the graph if gradients are on
    """

    layer: SparseLinear | nn.Linear
    inputs: Tensor
    outputs: Tensor


def passages(network: nn.Module, run: Callable[[], object]) -> list[Passage]:
    """
    Run a network and note what goes through its linear layers. The network is left as it was.

    :param network: the network
    :param run: runs it on some batch
    :return: what went through each linear layer, in the order of computation
    """
    seen: list[Passage] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        assert isinstance(layer, SparseLinear | nn.Linear)
        seen.append(Passage(layer, inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1), outputs))

    with _hooked(network, note):
        run()
    return seen


@contextmanager
def _hooked(network: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_hook(note) for layer in linear_layers(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_activations(seen: Sequence[Passage]) -> list[Tensor]:
    """
    Give the activations of each hidden layer: what a later linear layer reads. Outputs of the network are none.

    :param seen: what :func:`passages` gave
    :return: tensors of shape ``(batch, neurons)``, the last one being the features that the output layer reads
    """
    hidden: list[Tensor] = []
    for passage in seen[1:]:
        # SAC's two output layers read the same activations; of several networks in one, each reads the inputs.
        if not any(passage.inputs is known for known in (seen[0].inputs, *hidden)):
            hidden.append(passage.inputs)
    return [activations.detach() for activations in hidden]


def dormant_ratio(activations: Sequence[Tensor], tau: float = 0.1) -> float:
    """
    Give the fraction of hidden neurons that are tau-dormant (Sokar et al. 2023, arXiv 2302.12902).

    A neuron's score is its mean magnitude over the batch, divided by the mean of that over its layer; it is dormant if
    the score is at most ``tau``. (The paper's text has the scores of a layer add up to 1; its code divides by the mean,
    and so do we.)

    :param activations: of each hidden layer, ``(batch, neurons)``; see :func:`hidden_activations`
    :param tau: the threshold; at 0 a neuron is dormant if it never fires. The authors take 0.1, and 0.025 for their
        default setting
    :return: the fraction over all layers together, in [0, 1]
    :raises ValueError: if ``tau`` is negative, or there is no neuron
    """
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, not {tau}.")
    neurons = sum(layer.shape[1] for layer in activations)
    if not neurons:
        raise ValueError("There is no hidden neuron whose activity could be judged.")
    dormant = 0
    for layer in activations:
        magnitude = layer.abs().mean(dim=0)
        score = magnitude / (magnitude.mean() + 1e-9)  # nothing fires in a layer that is all dead
        dormant += int((score <= tau).sum())
    return dormant / neurons


def srank(features: Tensor, delta: float = 0.01) -> int:
    """
    Give the effective rank of Kumar et al. (2021, arXiv 2010.14498): directions that hold nearly all of a batch.

    It is the least number of singular values that make up a share of ``1 - delta`` of the sum of all.

    :param features: of shape ``(batch, neurons)``: what the output layer reads
    :param delta: the share that may be missing, in [0, 1)
    :return: the rank, from 0 (all features are zero) to ``min(batch, neurons)``
    :raises ValueError: if ``delta`` is out of range, or a feature is not finite
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta must lie in [0, 1), not {delta}.")
    sums = _singular_values(features).cumsum(0)
    return int((sums < (1 - delta) * sums[-1]).sum()) + 1 if sums[-1] > 0 else 0


def effective_rank(features: Tensor) -> float:
    """
    Give the effective rank of Roy & Vetterli (2007): the exponential of the entropy of the singular values.

    Where :func:`srank` counts, this one weighs: ``k`` equal singular values give ``k`` in both.

    :param features: of shape ``(batch, neurons)``: what the output layer reads
    :return: the rank, from 1 to ``min(batch, neurons)``; 0 if all features are zero
    :raises ValueError: if a feature is not finite
    """
    values = _singular_values(features)
    if not values.any():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def _singular_values(features: Tensor) -> Tensor:
    """Give the singular values, the largest first; those that are rounding only are zero."""
    if features.dim() != 2 or 0 in features.shape:
        raise ValueError(f"Expected features of shape (batch, neurons), not {tuple(features.shape)}.")
    if not features.isfinite().all():
        raise ValueError("Features that are infinite or not a number have no rank.")
    values: Tensor = torch.linalg.svdvals(features.double())
    negligible = values[0] * max(features.shape) * torch.finfo(features.dtype).eps
    return values.where(values > negligible, 0.0)
