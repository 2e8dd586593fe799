"""Turn the linear layers of a network into sparse ones, and find them again."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from sparse_rl.names import unknown
from sparse_rl.nn.sparse_linear import SparseLinear
from sparse_rl.topology import Topology, distribution

INITIALISATIONS = ("dense", "sparse")


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
    counts = share_out(module, layers, sparsity, distribution_name, dense)
    make_sparse(module, counts, counts, kernel, generator=generator)


def share_out(
    module: nn.Module,
    layers: Sequence[str],
    sparsity: float,
    distribution_name: str = "input",
    dense: Collection[str] = (),
) -> dict[str, int]:
    """
    Share the sparsity of a network out among its layers.

    :param module: the network
    :param layers: see :func:`sparsify`
    :param sparsity: see :func:`sparsify`
    :param distribution_name: see :func:`sparsify`
    :param dense: see :func:`sparsify`
    :return: the number of active weights of each of the layers
    :raises ValueError: see :func:`sparsify`
    """
    for name in dense:
        if name not in layers:
            raise ValueError(unknown("layer to stay dense", name, layers))
    stay_dense = [i for i, name in enumerate(layers) if name in dense]
    shapes = shapes_of(module, layers)
    return dict(zip(layers, distribution(distribution_name)(shapes, sparsity, stay_dense), strict=True))


def shapes_of(module: nn.Module, layers: Sequence[str]) -> list[tuple[int, int]]:
    """
    Find the shapes of linear layers.

    :param module: the network
    :param layers: dotted names of its ``nn.Linear`` layers
    :return: ``(out_features, in_features)`` of each
    :raises ValueError: if one is another kind of layer
    """
    linears = [_linear(module, name) for name in layers]
    return [(linear.out_features, linear.in_features) for linear in linears]


def make_sparse(
    module: nn.Module,
    starts: Mapping[str, int],
    ends: Mapping[str, int],
    kernel: str = "auto",
    initialisation: str = "dense",
    generator: torch.Generator | None = None,
    layer_class: type[SparseLinear] = SparseLinear,
) -> None:
    """
    Replace linear layers by sparse ones, in place, with random topologies of given sizes.

    A layer that starts and ends with all of its weights stays dense.

    :param module: the network
    :param starts: the number of active weights with which each layer starts, by dotted name
    :param ends: the number of active weights that each is to have in the end: see :class:`~sparse_rl.topology.Budget`
    :param kernel: see :class:`SparseLinear`
    :param initialisation: ``"dense"`` to leave the surviving weights as they were drawn (as ANF does), or ``"sparse"``
        to scale them by the number of active weights: see :meth:`SparseLinear.rescale_to_fan_in`
    :param generator: source of randomness; PyTorch's global generator if ``None``
    :param layer_class: the class of the sparse layers
    :raises ValueError: if a number, a name, the kernel or the initialisation is invalid
    """
    if initialisation not in INITIALISATIONS:
        raise ValueError(unknown("initialisation", initialisation, INITIALISATIONS))
    for name, start in starts.items():
        linear = _linear(module, name)
        if start == ends[name] == linear.weight.numel():
            continue
        topology = Topology.random((linear.out_features, linear.in_features), start, generator)
        layer = layer_class.from_dense(linear, topology, kernel, ends[name])
        if initialisation == "sparse":
            layer.rescale_to_fan_in()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)


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
