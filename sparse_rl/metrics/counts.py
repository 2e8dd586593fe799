"""What a network costs: how many weights it stores, and the arithmetic that they stand for."""

from torch import nn

from sparse_rl.nn import SparseLinear


def linear_layers(module: nn.Module) -> list[SparseLinear | nn.Linear]:
    """
    Find the linear layers of a network, sparse and dense.

    :param module: the network
    :return: the layers, each once, in the order of ``module.modules()``
    """
    return [layer for layer in module.modules() if isinstance(layer, SparseLinear | nn.Linear)]


def count_weights(module: nn.Module) -> int:
    """
    Count the weights of all linear layers: active ones of sparse layers, all of dense ones; biases are not counted.

    :param module: the network, or a part of it
    :return: the number of weights
    """
    return sum(map(weights_of, linear_layers(module)))


def weights_of(layer: SparseLinear | nn.Linear) -> int:
    """
    Count the weights of a layer: the active ones if it is sparse.

    :param layer: the layer
    :return: the number of weights
    """
    return (layer.values if isinstance(layer, SparseLinear) else layer.weight).numel()


def count_dense_weights(module: nn.Module) -> int:
    """
    Count the weights that a network would have if all of its linear layers were dense.

    :param module: the network, or a part of it
    :return: the number of weights
    """
    # Stable-Baselines3 makes layers whose size is one of NumPy's numbers.
    return sum(int(layer.out_features) * int(layer.in_features) for layer in linear_layers(module))


def inference_flops(weights: int, batch_size: int = 1) -> int:
    """
    Count the floating-point operations of a forward pass: a multiplication and an addition for each weight.

    :param weights: the number of weights; see :func:`count_weights`
    :param batch_size: the number of inputs
    :return: the number of operations
    """
    return 2 * weights * batch_size


def training_flops(weights: int, batch_size: int, updates: int) -> int:
    """
    Count the floating-point operations of training, as the papers do (RigL, Evci et al. 2020; Sokar et al. 2022).

    A gradient step counts as three forward passes: one forward, two backward. Biases, activation functions, target
    networks, the passes through a critic for the actor's sake, the optimizer and topology updates are not counted. What
    an agent costs is the sum over its networks, each with the updates that it gets: TD3's actor gets every second one.

    :param weights: the number of weights; see :func:`count_weights`
    :param batch_size: transitions in a batch
    :param updates: gradient steps of this network
    :return: the number of operations
    """
    return 3 * inference_flops(weights, batch_size) * updates
