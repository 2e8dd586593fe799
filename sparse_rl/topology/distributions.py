"""How a network's sparsity is shared out among its layers."""

from collections.abc import Callable, Collection, Sequence
from math import floor

from sparse_rl.names import unknown

Shape = tuple[int, ...]


def uniform(shapes: Sequence[Shape], sparsity: float, dense: Collection[int] = ()) -> list[int]:
    """
    Give every layer the same sparsity.

    :param shapes: weight shape of each layer, ``(out_features, in_features, ...)``
    :param sparsity: fraction of weights that are absent, in [0, 1), over all layers: what the layers in ``dense`` keep
        too much, the others give up
    :param dense: indices of the layers that stay dense
    :return: the number of active weights of each layer
    :raises ValueError: if the sparsity is out of range or cannot be reached
    """
    return _share_out(shapes, sparsity, dense, lambda shape: 1.0)


def erdos_renyi(shapes: Sequence[Shape], sparsity: float, dense: Collection[int] = ()) -> list[int]:
    """
    Give each layer a density proportional to ``(n_in + n_out) / (n_in * n_out)`` (SET, Mocanu et al. 2018).

    A layer whose density would exceed 1 becomes dense, and the others share what is left.

    :param shapes: weight shape of each layer, ``(out_features, in_features, ...)``; kernel dimensions are not counted
    :param sparsity: fraction of weights that are absent over all layers, in [0, 1)
    :param dense: indices of the layers that stay dense
    :return: the number of active weights of each layer
    :raises ValueError: if the sparsity is out of range or cannot be reached
    """
    return _share_out(shapes, sparsity, dense, lambda shape: sum(shape[:2]) / (shape[0] * shape[1]))


def erk(shapes: Sequence[Shape], sparsity: float, dense: Collection[int] = ()) -> list[int]:
    """
    Share out as :func:`erdos_renyi` does, counting kernel dimensions too (RigL, Evci et al. 2020).

    For fully connected layers both are the same.

    :param shapes: weight shape of each layer, ``(out_features, in_features, *kernel)``
    :param sparsity: fraction of weights that are absent over all layers, in [0, 1)
    :param dense: indices of the layers that stay dense
    :return: the number of active weights of each layer
    :raises ValueError: if the sparsity is out of range or cannot be reached
    """
    return _share_out(shapes, sparsity, dense, lambda shape: sum(shape) / _size(shape))


def erdos_renyi_by_lambda(shapes: Sequence[Shape], lambdas: Sequence[float]) -> list[int]:
    """
    Give each layer ``lambda * (n_in + n_out)`` weights, with a lambda of its own (DS, Sokar et al. 2022).

    SET (Mocanu et al. 2018) calls it epsilon. A layer that cannot hold so many becomes dense; the total is what it is.

    :param shapes: weight shape of each layer, ``(out_features, in_features)``
    :param lambdas: the lambda of each of the first layers; the layers after them stay dense
    :return: the number of active weights of each layer, rounded
    :raises ValueError: if a lambda is not above 0, or there are more of them than layers
    """
    if len(lambdas) > len(shapes):
        raise ValueError(f"There are {len(lambdas)} lambdas for {len(shapes)} layers: give at most one for each.")
    if not lambdas or not all(0 < each < float("inf") for each in lambdas):
        raise ValueError(f"`lambdas` must be numbers above 0, one for each of the first layers, not {list(lambdas)}.")
    counts = [_size(shape) for shape in shapes]
    for index, (shape, each) in enumerate(zip(shapes, lambdas, strict=False)):
        counts[index] = min(max(1, round(each * sum(shape))), counts[index])
    return counts


def input_layer(shapes: Sequence[Shape], sparsity: float, dense: Collection[int] = ()) -> list[int]:
    """
    Make the first layer sparse and leave the others dense (ANF, Grooten et al. 2023).

    :param shapes: weight shape of each layer, the input layer first
    :param sparsity: fraction of the *input layer's* weights that are absent, in [0, 1)
    :param dense: indices of the layers that stay dense; the input layer cannot be one of them
    :return: the number of active weights of each layer
    :raises ValueError: if the sparsity is out of range
    """
    if 0 in dense:
        raise ValueError("The input layer cannot be both the only sparse layer and dense.")
    return _share_out(shapes[:1], sparsity, (), lambda shape: 1.0) + [_size(shape) for shape in shapes[1:]]


Distribution = Callable[[Sequence[Shape], float, Collection[int]], list[int]]
DISTRIBUTIONS: dict[str, Distribution] = {
    "input": input_layer,
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erk": erk,
}


def distribution(name: str) -> Distribution:
    """
    Look a distribution up by its name.

    :param name: ``"input"``, ``"uniform"``, ``"erdos_renyi"`` or ``"erk"``
    :return: the function that shares out the sparsity
    :raises ValueError: if there is no such distribution
    """
    if name not in DISTRIBUTIONS:
        raise ValueError(unknown("sparsity distribution", name, DISTRIBUTIONS))
    return DISTRIBUTIONS[name]


def _size(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _share_out(
    shapes: Sequence[Shape], sparsity: float, dense: Collection[int], raw_density: Callable[[Shape], float]
) -> list[int]:
    """Scale the raw densities by one factor, to the weight; a layer that would exceed 1 becomes dense."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"Sparsity must lie in [0, 1), not {sparsity}: it is the fraction of weights that are absent.")
    sizes = [_size(shape) for shape in shapes]
    budget = (1 - sparsity) * sum(sizes)
    full = set(dense)
    while True:
        free = [i for i in range(len(shapes)) if i not in full]
        left = budget - sum(sizes[i] for i in full)
        if full and left < (0.5 if free else -0.5):
            raise ValueError(
                f"Sparsity {sparsity} cannot be reached: the layers that stay dense already hold "
                f"{sum(sizes[i] for i in full)} of {sum(sizes)} weights. Lower it, or keep fewer layers dense."
            )
        factor = left / sum(raw_density(shapes[i]) * sizes[i] for i in free) if free else 0.0
        overfull = {i for i in free if factor * raw_density(shapes[i]) > 1 + 1e-12}
        if not overfull:
            break
        full |= overfull
    counts = [sizes[i] if i in full else 0 for i in range(len(shapes))]
    shares = _whole_numbers([factor * raw_density(shapes[i]) * sizes[i] for i in free])
    for i, count in zip(free, shares, strict=True):
        counts[i] = count
    for shape, count in zip(shapes, counts, strict=True):
        if count < 1:
            raise ValueError(
                f"Sparsity {sparsity} leaves the layer of shape {shape} without a single weight: lower it."
            )
    return counts


def _whole_numbers(shares: Sequence[float]) -> list[int]:
    """Round shares so that their sum is the rounded sum: up where the fraction is largest, down elsewhere."""
    counts = [floor(share) for share in shares]
    by_fraction = sorted(range(len(shares)), key=lambda i: round(counts[i] - shares[i], 6))  # of equal ones the first
    for i in by_fraction[: round(sum(shares)) - sum(counts)]:
        counts[i] += 1
    return counts
