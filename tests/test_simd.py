"""Vectors that Numba keeps in registers: sums over their lanes, which kernels use or not, as wide as registers are."""

from typing import Any

import numpy as np
import pytest
from numba import njit

from sparse_rl.kernels.simd import lanes_of, load, narrow, products, single, store, total, totals, wide


@pytest.mark.parametrize("width", [wide, narrow, single])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_products(width: Any, dtype: type[np.floating[Any]]) -> None:
    @njit
    def compute(one: Any, others: Any, sums: Any, alone: Any) -> int:
        zero, x = width(one), others.ctypes.data
        vector, stride = load(zero, one.ctypes.data, 0), others.shape[1]
        a, b = products(vector, x, 0), products(vector, x, stride)
        c, d = products(vector, x, 2 * stride), products(vector, x, 3 * stride)
        store(totals(a, b, c, d), sums.ctypes.data, 0)
        alone[:] = total(a), total(b), total(c), total(d)
        return lanes_of(zero)

    generator = np.random.default_rng(0)
    one, others = generator.normal(size=512).astype(dtype), generator.normal(size=(4, 512)).astype(dtype)
    sums, alone = np.zeros(5, dtype), np.zeros(4, dtype)
    lanes = compute(one, others, sums, alone)
    expected = others[:, :lanes].astype(np.float64) @ one[:lanes]
    assert np.abs(sums[:4] - expected).max() < 100 * np.finfo(dtype).eps
    assert np.abs(alone - expected).max() < 100 * np.finfo(dtype).eps
    assert sums[4] == 0  # four and no more are written
