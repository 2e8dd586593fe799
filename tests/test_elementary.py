"""The elementary functions of the compiled passes are as exact as float32 allows, and let NaN through."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from sparse_rl.kernels import elementary


def compiled(function: Any) -> Callable[[np.ndarray], np.ndarray]:
    @njit(error_model="numpy")
    def apply(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def call(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        apply(x, y)
        return y

    return call


exp, log, tanh = (compiled(f) for f in (elementary.exp, elementary.log, elementary.tanh))
WIDE = np.linspace(-86, 87, 100_001).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "exact", "x"),
    [
        (exp, np.exp, WIDE),
        (log, np.log, np.exp(WIDE)),
        (log, np.log, np.linspace(0.5, 2, 100_001).astype(np.float32)),
        (tanh, np.tanh, WIDE / 8),
        (tanh, np.tanh, np.logspace(-30, 0, 10_001).astype(np.float32)),
    ],
    ids=["exp", "log", "log near 1", "tanh", "tanh near 0"],
)
def test_they_are_exact_to_two_units_in_the_last_place(ours, exact, x):
    expected = exact(x.astype(np.float64))
    unit = np.spacing(np.abs(expected).astype(np.float32))
    assert np.all(np.abs(ours(x) - expected) <= 2 * unit)


def test_a_nan_stays_and_the_ends_are_finite_or_right():
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert np.isnan([exp(x)[0], log(x)[0], tanh(x)[0]]).all()
    assert exp(x)[1] > 1e38
    assert 0 <= exp(x)[2] < 2e-38
    assert tanh(x)[1:].tolist() == [1, -1]


def test_they_are_vector_code():
    dispatcher = njit(error_model="numpy")(_many)
    dispatcher(np.zeros(64, np.float32), np.zeros(64, np.float32))
    (assembly,) = dispatcher.inspect_llvm().values()
    assert "x float>" in assembly


def _many(x, y):
    for i in range(x.size):
        y[i] = elementary.tanh(x[i]) + elementary.log(elementary.exp(x[i]))
