"""Numba and PyTorch share the cores: one thread count, PyTorch's, governs both."""

import functools

import numba
import numpy as np
import torch
from numba.core import config
from numpy.typing import NDArray


@numba.njit(parallel=True, cache=True)
def _touch(a: NDArray[np.float64]) -> None:
    for i in numba.prange(a.size):
        a[i] += 1


@functools.cache
def _start_thread_pool() -> None:
    # Numba's first parallel launch calls omp_set_num_threads() with its own count, and PyTorch, which uses the same
    # OpenMP runtime, would follow it (https://github.com/numba/numba/issues/9387).
    count = torch.get_num_threads()
    _touch(np.zeros(2))
    torch.set_num_threads(count)


def follow_torch() -> None:
    """Let numba kernels use as many threads as ``torch.get_num_threads()`` allows, and leave PyTorch's count alone."""
    _start_thread_pool()
    count = min(torch.get_num_threads(), vars(config)["NUMBA_NUM_THREADS"])
    if numba.get_num_threads() != count:
        numba.set_num_threads(count)
