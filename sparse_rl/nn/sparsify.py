"""Turn the linear layers of a network into sparse ones, and find them again."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from sparse_rl.names import unknown
from sparse_rl.nn.sparse_linear import SparseLinear
from sparse_rl.topology import Topology, distribution


def sparsify(
    module: nn.Module,
    layers: Sequence[str],
    sparsity: float,
    distribution_name: str = "input",
    dense: Collection[str] = (),
    kernel: str = "auto",
    generator: torch.Generator | None = None,
) -> None:
    """
    Replace linear layers by sparse ones, in place, with random topologies. The surviving weights keep their values.

    Call this before optimizers are made: parameters change.

    :param module: the network
    :param layers: dotted names of its ``nn.Linear`` layers, the input layer first
    :param sparsity: fraction of weights that are absent; what it is a fraction of is the distribution's choice
    :param distribution_name: see :func:`sparse_rl.topology.distribution`
    :param dense: those of ``layers`` that stay dense
    :param kernel: see :class:`SparseLinear`
    :param generator: source of randomness; PyTorch's global generator if ``None``
    :raises ValueError: if sparsity, distribution, kernel or a name are invalid, or a layer would keep no weight
    """
    linears = [_linear(module, name) for name in layers]
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    for name in dense:
        if name not in layers:
            raise ValueError(unknown("layer to stay dense", name, layers))
    stay_dense = [i for i, name in enumerate(layers) if name in dense]
    counts = distribution(distribution_name)(shapes, sparsity, stay_dense)
    for name, linear, shape, count in zip(layers, linears, shapes, counts, strict=True):
        if count == linear.weight.numel():
            continue
        topology = Topology.random(shape, count, generator)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, SparseLinear.from_dense(linear, topology, kernel))


def sparse_layers(module: nn.Module) -> dict[str, SparseLinear]:
    """
    Find the sparse layers of a network.

    :param module: the network
    :return: the layers by dotted name, in the order of ``module.named_modules()``
    """
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, SparseLinear)}


def _linear(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"Only linear layers can be made sparse, but {name!r} is a {type(layer).__name__}.")
    return layer
