"""Batches are feature-major, memory is not: the passes over memory that turn one into the other."""

from typing import Any

import numpy as np
from numba import prange

from sparse_rl.caching import cached_njit

# 16 floats are a cache line. A tile's lines, on either side, stay in the first-level cache.
_ROWS, _FEATURES = 32, 16


@cached_njit(parallel=True)
def gather(first: Any, second: Any, rows: Any, out: Any) -> None:
    """
    Turn rows of two arrays into columns of one: ``out[:, b] = first[rows[b]]``, ``out[:, n + b] = second[rows[b]]``.

    A thread takes some rows at a time and walks along them, as the hardware likes to fetch them.

    :param first: ``(size, features)``
    :param second: of the same shape and type
    :param rows: which rows, ``(n,)``
    :param out: float32 ``(features, at least 2 * n)``
    """
    features, n = len(out), len(rows)
    groups = (n + _ROWS - 1) // _ROWS
    for group in prange(2 * groups):
        source, offset = (first, 0) if group < groups else (second, n)
        start = _ROWS * (group % groups)
        for left in range(0, features, _FEATURES):
            right = min(left + _FEATURES, features)
            for b in range(start, min(start + _ROWS, n)):
                row, column = source[rows[b], left:right], out[left:right, offset + b]
                for feature in range(right - left):
                    column[feature] = row[feature]


@cached_njit()
def pick(
    actions: Any, rewards: Any, dones: Any, timeouts: Any, indices: Any, copies: Any,
    out_actions: Any, out_rewards: Any, out_dones: Any,
) -> None:  # fmt: skip
    """
    Take what a replay knows of some transitions besides the observations.

    :param actions: ``(size, environments, action dimensions)``
    :param rewards: ``(size, environments)``
    :param dones: whether episodes ended, of the same shape
    :param timeouts: whether that was for a time limit, of the same shape
    :param indices: which transitions, ``(n,)``
    :param copies: of which environments, ``(n,)``
    :param out_actions: ``(action dimensions, n)``
    :param out_rewards: ``(n,)``
    :param out_dones: ``(n,)``: episodes that ended for another reason
    """
    for b in range(len(indices)):
        i, e = indices[b], copies[b]
        for k in range(len(out_actions)):
            out_actions[k, b] = actions[i, e, k]
        out_rewards[b] = rewards[i, e]
        out_dones[b] = dones[i, e] * (1 - timeouts[i, e])


@cached_njit(parallel=True)
def reorder(features: Any, orders: Any, which: Any, out: Any) -> None:
    """
    Put the features of each column into its own order: ``out[k, b] = features[orders[which[b], k], b]``.

    :param features: ``(features, columns)``
    :param orders: ``(orders, features)``
    :param which: order of each column, ``(columns,)``
    :param out: of the shape of ``features``, of which as many columns are written
    """
    for k in prange(len(out)):
        if len(orders) == 1:
            out[k] = features[orders[0, k]]
        else:
            for b in range(len(which)):
                out[k, b] = features[orders[which[b], k], b]


@cached_njit(parallel=True)
def normalize(features: Any, means: Any, deviations: Any, clip: Any) -> None:
    """
    Normalize observations in place, as Stable-Baselines3's ``VecNormalize`` does, to the bit.

    :param features: float32 ``(features, columns)``
    :param means: float64 ``(features,)``
    :param deviations: float64, standard deviations, of the same shape
    :param clip: the largest magnitude of what comes out
    """
    for k in prange(len(features)):
        row, mean, deviation = features[k], means[k], deviations[k]
        for b in range(len(row)):
            value = (np.float64(row[b]) - mean) / deviation
            # NaN is neither, and stays.
            if value > clip:
                value = clip
            elif value < -clip:
                value = -clip
            row[b] = value
