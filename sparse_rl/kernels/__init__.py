"""The arithmetic on active weights: one storage (CSR), several kernels that agree with each other."""

import torch

from sparse_rl.kernels.layout import empty_activations, empty_rows
from sparse_rl.kernels.linear import (
    numba_linear,
    scatter_linear,
    sddmm,
    spmm,
    spmm_transposed,
    with_contiguous_rows,
)
from sparse_rl.kernels.network import LEVEL, LIKE, backward, forward
from sparse_rl.kernels.patterns import Pattern, split
from sparse_rl.kernels.threads import follow_torch, kernels_only, start_threads
from sparse_rl.names import unknown

__all__ = [
    "KERNELS",
    "LEVEL",
    "LIKE",
    "Pattern",
    "backward",
    "check",
    "choose",
    "empty_activations",
    "empty_rows",
    "follow_torch",
    "forward",
    "kernels_only",
    "numba_linear",
    "scatter_linear",
    "sddmm",
    "split",
    "spmm",
    "spmm_transposed",
    "start_threads",
    "with_contiguous_rows",
]

KERNELS = ("numba", "scatter")

# Up to this density the numba kernel was faster than a dense product, forward and backward, with one thread or two
# (benchmarks/kernels.py: 256 x 850, batch 256, AVX-512).
CROSSOVER_DENSITY = 0.5


def check(kernel: str) -> None:
    """
    Check the name of a kernel.

    :param kernel: ``"numba"``, ``"scatter"`` or ``"auto"``
    :raises ValueError: if there is no such kernel
    """
    if kernel not in ("auto", *KERNELS):
        raise ValueError(unknown("kernel", kernel, ("auto", *KERNELS)))


def choose(kernel: str, density: float, device: torch.device) -> str:
    """
    Decide which kernel a layer uses.

    :param kernel: ``"numba"``, ``"scatter"`` or ``"auto"``
    :param density: fraction of the layer's weights that are active
    :param device: where the layer lives
    :return: ``"numba"`` or ``"scatter"``; with ``"auto"`` the numba kernel on the CPU up to :data:`CROSSOVER_DENSITY`
    :raises ValueError: if there is no such kernel, or the numba kernel is asked for on another device than the CPU
    """
    check(kernel)
    if kernel == "numba" and device.type != "cpu":
        raise ValueError(
            f"The numba kernel computes on the CPU, but the layer is on {device}: use 'scatter' or 'auto'."
        )
    if kernel == "auto":
        return "numba" if device.type == "cpu" and density <= CROSSOVER_DENSITY else "scatter"
    return kernel
