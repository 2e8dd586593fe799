"""What is done to all parameters of a network in one compiled call: a step of Adam, a step of a target towards it."""

from math import sqrt
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit
from sparse_rl.kernels.simd import array_at

#: What Adam has to know of a vector of parameters: the addresses of values, gradients and moments, and its length.
TRAINED = np.dtype([(name, np.int64) for name in ("values", "gradient", "exp_avg", "exp_avg_sq", "size")])

#: What a target has to know of a vector of its parameters: its address, that of the vector it follows, their length.
FOLLOWING = np.dtype([(name, np.int64) for name in ("values", "followed", "size")])


@njit(fastmath={"contract"}, error_model="numpy")
def _step(
    values: Any, gradient: Any, exp_avg: Any, exp_avg_sq: Any, factors: Any, step_size: Any, root: Any, eps: Any
) -> None:
    keep_1, new_1, keep_2, new_2, decay = factors
    for i in range(values.size):
        g = gradient[i] + decay * values[i]
        m = keep_1 * exp_avg[i] + new_1 * g
        v = keep_2 * exp_avg_sq[i] + new_2 * g * g
        exp_avg[i], exp_avg_sq[i] = m, v
        values[i] -= step_size * m / (np.sqrt(v) * root + eps)


@njit
def _part(address: int, size: int, part: int, parts: int, like: Any) -> Any:
    """See one of several equal parts of a vector."""
    start = size * part // parts
    return array_at(address + start * like.itemsize, size * (part + 1) // parts - start, like)


@cached_njit(parallel=True)
def _step_all(
    vectors: Any, factors: Any, step_size: Any, root: Any, eps: Any, threads: int, like: NDArray[np.floating[Any]]
) -> None:
    for part in prange(threads):
        for index in range(vectors.size):
            v = vectors[index]
            _step(
                _part(v.values, v.size, part, threads, like), _part(v.gradient, v.size, part, threads, like),
                _part(v.exp_avg, v.size, part, threads, like), _part(v.exp_avg_sq, v.size, part, threads, like),
                factors, step_size, root, eps,
            )  # fmt: skip


@cached_njit()
def adam(
    vectors: Any,
    steps: NDArray[np.float32],
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    eps: float,
    weight_decay: float,
    threads: int,
    like: NDArray[np.floating[Any]],
) -> None:
    """
    Take a step of Adam, as ``torch.optim.Adam`` does.

    :param vectors: the parameters, of dtype :data:`TRAINED`
    :param steps: how many steps each parameter has taken, all the same, increased by one
    :param learning_rate: the learning rate
    :param beta_1: decay of the first moment
    :param beta_2: decay of the second moment
    :param eps: added to the denominator
    :param weight_decay: L2 penalty
    :param threads: how many threads share the work
    :param like: an array of the element type
    """
    kind = like.dtype.type
    steps += np.float32(1)
    count = np.float64(steps[0])
    factors = (kind(beta_1), kind(1 - beta_1), kind(beta_2), kind(1 - beta_2), kind(weight_decay))
    step_size, root = kind(learning_rate / (1 - beta_1**count)), kind(1 / sqrt(1 - beta_2**count))
    _step_all(vectors, factors, step_size, root, kind(eps), threads, like)


@njit(fastmath={"contract"})
def _follow(values: Any, followed: Any, weight: Any) -> None:
    if weight == 1:  # a copy: neither rounding nor what is not finite shall be left of the former ones
        values[:] = followed
        return
    for i in range(values.size):
        values[i] += weight * (followed[i] - values[i])


@cached_njit(parallel=True)
def follow(vectors: Any, weight: float, threads: int, like: NDArray[np.floating[Any]]) -> None:
    """
    Move target networks a little towards the networks that they follow (Polyak averaging).

    :param vectors: the parameters of the targets, of dtype :data:`FOLLOWING`
    :param weight: how far, in [0, 1]
    :param threads: how many threads share the work
    :param like: an array of the element type
    """
    step = like.dtype.type(weight)
    for part in prange(threads):
        for index in range(vectors.size):
            v = vectors[index]
            _follow(
                _part(v.values, v.size, part, threads, like), _part(v.followed, v.size, part, threads, like), step
            )  # fmt: skip
