"""What a network costs: how many weights it stores."""

from torch import nn

from sparse_rl.nn import SparseLinear


def count_weights(module: nn.Module) -> int:
    """
    Count the weights of all linear layers: active ones of sparse layers, all of dense ones; biases are not counted.

    :param module: the network, or a part of it
    :return: the number of weights
    """
    sparse = sum(layer.values.numel() for layer in module.modules() if isinstance(layer, SparseLinear))
    return sparse + sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
