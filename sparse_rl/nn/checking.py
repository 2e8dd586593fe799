"""Check the state of a network that comes from outside, before any of it is copied."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparse_rl.nn.sparsify import sparse_layers
from sparse_rl.topology import Topology

_OF_ANY_LENGTH = ("values", "columns")  # of a sparse layer: methods that grow or prune change it


def check_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """
    Check that a state is one that a network can have: its names, shapes and dtypes, its topologies, its numbers.

    The network stays as it is. A sparse layer may have any number of weights in ``state``, at any valid places.

    :param module: the network
    :param state: what may become its ``state_dict()``
    :raises ValueError: if a tensor is missing, not known, of another shape or dtype, or not finite, or if the topology
        of a sparse layer is not valid
    """
    expected = module.state_dict()
    for problem, names in (("lacks", expected.keys() - state.keys()), ("should not have", state.keys() - expected)):
        if names:
            raise ValueError(f"It {problem} the tensor {min(names)[:80]!r}, and {len(names) - 1} more.")
    layers = sparse_layers(module)
    free = {f"{layer}.{name}" for layer in layers for name in _OF_ANY_LENGTH}
    for name, tensor in expected.items():
        given = state[name]
        if given.dtype != tensor.dtype:
            raise ValueError(f"{name!r} is {given.dtype}, but should be {tensor.dtype}.")
        if name not in free and given.shape != tensor.shape:
            raise ValueError(f"{name!r} has the shape {tuple(given.shape)}, but should have {tuple(tensor.shape)}.")
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise ValueError(f"{name!r} holds NaN or infinity.")
    for name, layer in layers.items():
        values, columns, row_ptr = (state[f"{name}.{part}"] for part in ("values", "columns", "row_ptr"))
        if values.shape != columns.shape or not values.numel():
            raise ValueError(
                f"The sparse layer {name!r} has values of shape {tuple(values.shape)} and columns of shape "
                f"{tuple(columns.shape)}; there should be as many, and at least one."
            )
        try:
            # A kernel would follow a bad index out of bounds.
            Topology((layer.out_features, layer.in_features), row_ptr, columns).validate()
        except ValueError as error:
            raise ValueError(f"The topology of the sparse layer {name!r} is not valid: {error}") from error
