"""Apply a change of topology to everything that has one entry per active weight."""

from collections.abc import Iterable

import torch

from sparse_rl.nn.sparse_linear import SparseLinear
from sparse_rl.topology import Rewiring


def rewire_layer(
    layer: SparseLinear,
    rewiring: Rewiring,
    optimizer: torch.optim.Optimizer | None = None,
    followers: Iterable[SparseLinear] = (),
) -> None:
    """
    Rewire a layer, its optimizer state, and the layers that share its topology.

    The number of active weights may change; the layer's parameter stays the same object, and its optimizer the same.
    Weights that are kept keep value and optimizer state bit for bit; new ones start from zero in both. (In the state of
    Adagrad and RMSpropTFLike they start where these do.) Followers (target networks) keep their own values, which are
    Polyak averages, and take the same positions.

    :param layer: the layer whose topology changes
    :param rewiring: the change
    :param optimizer: the optimizer that trains the layer; ``None`` if there is none
    :param followers: layers of the same topology
    :raises ValueError: if the rewiring does not belong to one of the layers
    """
    layers = (layer, *followers)
    for each in layers:  # before anything has changed
        each.check(rewiring)
    for each in layers:
        each.rewire(rewiring)
        each.values.grad = None  # a gradient of the old positions
    if optimizer is None:
        return
    # Adam's `step` is one number for the whole vector and stays: a new weight joins at the layer's age, as in ANF.
    # SMETAdam has an age for each weight too, which starts from zero like all that is carried.
    state = optimizer.state.get(layer.values, {})
    for name, vector in state.items():
        if isinstance(vector, torch.Tensor) and vector.shape == (rewiring.before.active,):
            carried = rewiring.carry(vector, _beginning(optimizer, name))
            # In place while that is possible: it may be a view of something larger.
            state[name] = vector.copy_(carried) if carried.shape == vector.shape else carried


def _beginning(optimizer: torch.optim.Optimizer, name: str) -> float:
    """Give the value with which an optimizer's state of a new weight begins; a larger one means smaller first steps."""
    if name == "sum":
        return float(optimizer.defaults.get("initial_accumulator_value", 0.0))  # Adagrad
    # TensorFlow's kind of RMSprop, as Stable-Baselines3 has it.
    return 1.0 if name == "square_avg" and type(optimizer).__name__ == "RMSpropTFLike" else 0.0
