"""A step of Adam over many vectors of parameters, in one compiled call."""

from math import sqrt
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from sparse_rl.kernels.caching import cached_njit
from sparse_rl.kernels.simd import array_at

#: What the step has to know of a vector of parameters: the addresses of values, gradients and moments, and its length.
VECTOR = np.dtype([(name, np.int64) for name in ("values", "gradient", "exp_avg", "exp_avg_sq", "size")])


@cached_njit(parallel=True, fastmath={"contract"}, error_model="numpy")
def _step(
    values: Any, gradient: Any, exp_avg: Any, exp_avg_sq: Any, factors: Any, step_size: Any, root: Any, eps: Any
) -> None:
    keep_1, new_1, keep_2, new_2, decay = factors
    for i in prange(values.size):
        g = gradient[i] + decay * values[i]
        m = keep_1 * exp_avg[i] + new_1 * g
        v = keep_2 * exp_avg_sq[i] + new_2 * g * g
        exp_avg[i], exp_avg_sq[i] = m, v
        values[i] -= step_size * m / (np.sqrt(v) * root + eps)


@cached_njit()
def adam(
    vectors: Any,
    steps: NDArray[np.float32],
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    eps: float,
    weight_decay: float,
    like: NDArray[np.floating[Any]],
) -> None:
    """
    Take a step of Adam, as ``torch.optim.Adam`` does.

    :param vectors: the parameters, of dtype :data:`VECTOR`
    :param steps: how many steps each parameter has taken, all the same, increased by one
    :param learning_rate: the learning rate
    :param beta_1: decay of the first moment
    :param beta_2: decay of the second moment
    :param eps: added to the denominator
    :param weight_decay: L2 penalty
    :param like: an array of the element type
    """
    kind = like.dtype.type
    steps += np.float32(1)
    count = np.float64(steps[0])
    factors = (kind(beta_1), kind(1 - beta_1), kind(beta_2), kind(1 - beta_2), kind(weight_decay))
    step_size, root = kind(learning_rate / (1 - beta_1**count)), kind(1 / sqrt(1 - beta_2**count))
    for index in range(vectors.size):
        v = vectors[index]
        _step(
            array_at(v.values, v.size, like), array_at(v.gradient, v.size, like), array_at(v.exp_avg, v.size, like),
            array_at(v.exp_avg_sq, v.size, like), factors, step_size, root, kind(eps),
        )  # fmt: skip
