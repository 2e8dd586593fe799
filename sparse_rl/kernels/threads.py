"""
Numba and PyTorch share the cores: one thread count, PyTorch's, governs both.

Both start threads that wait for work by spinning. That is right as long as they are the same threads. But current
wheels of Numba and PyTorch each bring an OpenMP runtime of their own into the process, and while the threads of one
compute, those of the other spin on the same cores: everything takes twice as long. So only one of them uses more than
one thread at a time: Numba in whole passes over a network (:func:`kernels_only`), PyTorch otherwise.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
import torch
from numba.core import config
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit

_given_to_kernels = 0
_lost_in_fork = False


def _after_fork() -> None:
    global _lost_in_fork
    _lost_in_fork = start_threads.cache_info().currsize > 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cached_njit(parallel=True)
def _touch(a: NDArray[np.float64]) -> None:
    for i in numba.prange(a.size):
        a[i] += 1


@functools.cache
def start_threads() -> None:
    """
    Start Numba's threads, and leave PyTorch's count alone.

    Before any compiled function that calls parallel ones: Numba does so itself where it compiles one or loads a
    parallel one from the disk, but not where it loads one that only calls them, which then ends the process.
    """
    # Numba's first parallel launch calls omp_set_num_threads() with its own count, and PyTorch, if it uses the same
    # OpenMP runtime, would follow it (https://github.com/numba/numba/issues/9387).
    count = torch.get_num_threads()
    _touch(np.zeros(2))
    torch.set_num_threads(count)


@functools.cache
def _share_a_runtime() -> bool:
    """Tell whether Numba's threads are PyTorch's; where that cannot be found out, it is taken that they are not."""
    maps = Path("/proc/self/maps")
    # Both are public, but Numba's annotations do not export what vars() finds here and below.
    if vars(numba)["threading_layer"]() != "omp" or not maps.exists():
        return False
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    return sum("libgomp" in Path(path).name or "libiomp" in Path(path).name for path in paths) == 1


@contextmanager
def kernels_only() -> Iterator[None]:
    """Give PyTorch's threads to the kernels, and leave one to PyTorch's own operators."""
    global _given_to_kernels
    if _given_to_kernels:
        yield
        return
    start_threads()
    threads = torch.get_num_threads()
    try:
        _given_to_kernels = _set(threads)
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
        _given_to_kernels = 0


def follow_torch() -> int:
    """
    Let numba kernels use as many threads as ``torch.get_num_threads()`` allows, and leave PyTorch's count alone.

    Among PyTorch's own operators that is one thread, unless both use the same ones; within :func:`kernels_only` it is
    all of them.

    :return: how many these are
    :raises RuntimeError: in a process that was forked after the first call
    """
    if _given_to_kernels and not _lost_in_fork:
        return _given_to_kernels
    start_threads()
    return _set(torch.get_num_threads() if _share_a_runtime() else 1)


def _set(wanted: int) -> int:
    if _lost_in_fork:  # the runtime would end the process without a word of ours
        raise RuntimeError(
            "This process was forked from one whose kernels had started threads, which do not survive a fork: start "
            "processes with the methods 'spawn' or 'forkserver' of multiprocessing."
        )
    count: int = min(wanted, vars(config)["NUMBA_NUM_THREADS"])
    if numba.get_num_threads() != count:
        numba.set_num_threads(count)
    return count
