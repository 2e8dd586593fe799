"""
Elementary functions that LLVM can turn into vector code: no branches, no calls into a library.

For float32, to within two units in the last place of what they should be, or 1e-7 where that is more; NaN stays NaN.
The polynomials are those of the Cephes library (expf, logf, tanhf).
"""

from typing import Any

import numpy as np
from numba import njit

_f32, _i32 = np.float32, np.int32
_LOG_2_HIGH, _LOG_2_LOW = _f32(0.693359375), _f32(-2.12194440e-4)


@njit(inline="always")
def exp(x: Any) -> Any:
    """
    Compute the exponential function.

    :param x: a float32 number; below -87 it counts as -87, above 88 as 88
    :return: float32
    """
    # Written so that a NaN stays: the comparisons are false for it.
    x = _f32(-87) if x < _f32(-87) else x
    x = _f32(88) if x > _f32(88) else x
    n = np.floor(x * _f32(1.44269504088896341) + _f32(0.5))
    r = x - n * _LOG_2_HIGH - n * _LOG_2_LOW
    p = _f32(1.9875691500e-4)
    p = p * r + _f32(1.3981999507e-3)
    p = p * r + _f32(8.3334519073e-3)
    p = p * r + _f32(4.1665795894e-2)
    p = p * r + _f32(1.6666665459e-1)
    p = p * r + _f32(5.0000001201e-1)
    value = p * r * r + r + _f32(1)
    # A NaN has no exponent to speak of, and what it is converted to does not matter.
    power = _i32(_i32(n if n == n else _f32(0)) + _i32(127)) << _i32(23)
    return value * _i32(power).view(np.float32)


@njit(inline="always")
def log(x: Any) -> Any:
    """
    Compute the natural logarithm.

    :param x: a positive, normal float32 number
    :return: float32
    """
    bits = _f32(x).view(np.int32)
    exponent = _i32(_i32(bits - _i32(0x3F3504F3)) >> _i32(23))
    y = _i32(bits - _i32(exponent << _i32(23))).view(np.float32) - _f32(1)
    p = _f32(7.0376836292e-2)
    p = p * y - _f32(1.1514610310e-1)
    p = p * y + _f32(1.1676998740e-1)
    p = p * y - _f32(1.2420140846e-1)
    p = p * y + _f32(1.4249322787e-1)
    p = p * y - _f32(1.6668057665e-1)
    p = p * y + _f32(2.0000714765e-1)
    p = p * y - _f32(2.4999993993e-1)
    p = p * y + _f32(3.3333331174e-1)
    square = y * y
    value = p * y * square - _f32(0.5) * square + y + _f32(exponent) * _f32(0.6931471805599453)
    return value if x == x else x


@njit(inline="always")
def tanh(x: Any) -> Any:
    """
    Compute the hyperbolic tangent.

    :param x: a float32 number
    :return: float32, in [-1, 1]
    """
    square = x * x
    p = _f32(-5.70498872745e-3)
    p = p * square + _f32(2.06390887954e-2)
    p = p * square - _f32(5.37397155531e-2)
    p = p * square + _f32(1.33314422036e-1)
    p = p * square - _f32(3.33332819422e-1)
    near = p * square * x + x
    magnitude = abs(x)
    far = _f32(1) - _f32(2) / (exp(magnitude + magnitude) + _f32(1))
    far = -far if x < _f32(0) else far
    return near if magnitude < _f32(0.625) else far
