"""
Random numbers as a function: Philox4x32-10, a counter-based generator, in batches.

A counter-based generator has no state. It scrambles a counter under a key, so that any number of any sequence can be
had at any time, in any order, and again later. Here the key is a 64-bit seed and the counter is
``(feature // 4, stream, episode, step)``: four features share a block of four 32-bit words. The value of a feature does
not depend on how many features there are.

Why not :class:`numpy.random.Philox`? It takes microseconds to set up for each key and counter, and draws for one of
them at a time, where a replay buffer needs 512 of them side by side: some 400 thousand normals per gradient step. The
loops below run along the batch and have no branch and no library call in them, so that LLVM turns them into vector
code: a normal takes about a nanosecond on one thread. They use only operations that IEEE 754 rounds exactly (no fused
multiply-add), so every machine computes the same bits, with any number of threads.

A batch is filled by as many threads as Numba may use; a single column, as an environment's step needs it, by the
calling thread alone: no thread pool starts in the processes of a ``SubprocVecEnv``.

Paper: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange, types
from numba.extending import overload
from numpy.typing import NDArray

from sparse_rl.caching import cached_njit

#: One number for all columns, or one per column.
Counters: TypeAlias = int | NDArray[Any]


class Stream(IntEnum):
    """Independent sequences under one seed. The numbers are part of the results: never renumber them."""

    OBSERVED = 0
    PERMUTATION = 1
    REDRAWN = 2
    TIME_CONSTANT = 3
    DISTRACTOR_SEED = 4
    DISTRACTOR_ACTION = 5
    DISTRACTOR_LENGTH = 6


_BITS, _UNIFORM, _NORMAL = 0, 1, 2

# Words live in 64-bit lanes whose upper halves may hold rubbish: that spares all masks but the one in front of each
# multiplication, and there it is free (the vector instruction reads the lower halves only).
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

_f32, _i32, _u32 = np.float32, np.int32, np.uint32


@njit(inline="always")
def _philox(k0: Any, k1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """Ten rounds on one block; all arguments are uint64, the four results uint32."""
    for _ in range(10):
        p0 = _MULTIPLIER_0 * (c0 & _LOW)
        p1 = _MULTIPLIER_1 * (c2 & _LOW)
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1, (p0 >> _HALF) ^ c3 ^ k1, p0
        k0, k1 = k0 + _WEYL_0, k1 + _WEYL_1
    return np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)


def _lane(values: Any, i: int) -> Any:
    """Get a lane's value: its own, or the one of all lanes."""
    raise NotImplementedError  # compiled code only


@overload(_lane, inline="always", strict=False)
def _compiled_lane(values: Any, i: Any) -> Any:
    return (lambda values, i: values[i]) if isinstance(values, types.Array) else (lambda values, i: values)


@cached_njit(nogil=True)
def _block(w0: Any, w1: Any, w2: Any, w3: Any, seeds: Any, blocks: Any, stream: Any, episodes: Any, steps: Any) -> None:
    """
    Write the four words of one Philox block per lane.

    What is the same for all lanes had better be given as a number: LLVM takes its part of the arithmetic out of the
    loop. With one seed, words take half the time.
    """
    for i in range(w0.size):
        seed = _lane(seeds, i)
        w0[i], w1[i], w2[i], w3[i] = _philox(
            seed & _LOW,
            seed >> _HALF,
            np.uint64(_lane(blocks, i)),
            stream,
            np.uint64(_lane(episodes, i)),
            np.uint64(_lane(steps, i)),
        )


@cached_njit(nogil=True)
def _to_uniform(words: Any) -> None:
    """Replace words by the bits of float32 numbers in [0, 1), multiples of 2**-24."""
    for i in range(words.size):
        words[i] = _f32(_f32(_i32(words[i] >> _u32(8))) * _f32(2.0**-24)).view(np.uint32)


@cached_njit(nogil=True)
def _to_normal(radius_words: Any, angle_words: Any) -> None:
    """
    Box-Muller: replace two rows of words by the bits of two rows of independent float32 standard normals.

    The polynomials are those of the Cephes library (logf, sinf, cosf).
    """
    for i in range(radius_words.size):
        # log(u) for u = n / 2**31, n odd, so u > 0: split n into 2**exponent * (1 + x) with 1 + x around 1.
        n = _i32((radius_words[i] >> _u32(1)) | _u32(1))
        bits = _f32(n).view(np.int32)
        exponent = _i32(_i32(bits - _i32(0x3F3504F3)) >> _i32(23))
        x = _i32(bits - _i32(exponent << _i32(23))).view(np.float32) - _f32(1)
        p = _f32(7.0376836292e-2)
        p = p * x - _f32(1.1514610310e-1)
        p = p * x + _f32(1.1676998740e-1)
        p = p * x - _f32(1.2420140846e-1)
        p = p * x + _f32(1.4249322787e-1)
        p = p * x - _f32(1.6668057665e-1)
        p = p * x + _f32(2.0000714765e-1)
        p = p * x - _f32(2.4999993993e-1)
        p = p * x + _f32(3.3333331174e-1)
        xx = x * x
        log = (p * x * xx - _f32(0.5) * xx + x) + _f32(_i32(exponent - _i32(31))) * _f32(0.6931471805599453)
        # Rounding can make log(u) a shade positive where u is nearly 1.
        radius = np.sqrt(max(_f32(-2) * log, _f32(0)))

        # The two upper bits of the other word choose the quadrant, the rest an angle in [-pi/4, pi/4) within it.
        word = _i32(angle_words[i])
        angle = _f32(_i32(word << _i32(2))) * _f32(np.pi / 2**33)
        aa = angle * angle
        sin = ((_f32(-1.9515295891e-4) * aa + _f32(8.3321608736e-3)) * aa - _f32(1.6666654611e-1)) * aa * angle + angle
        cos = (_f32(2.443315711809948e-5) * aa - _f32(1.388731625493765e-3)) * aa + _f32(4.166664568298827e-2)
        cos = cos * aa * aa - _f32(0.5) * aa + _f32(1)
        if _i32(word & _i32(0x40000000)) != 0:
            radius = -radius
        radius_words[i] = _f32(radius * (sin if word < 0 else cos)).view(np.uint32)
        angle_words[i] = _f32(radius * (cos if word < 0 else sin)).view(np.uint32)


@cached_njit(nogil=True)
def _transform(kind: int, w0: Any, w1: Any, w2: Any, w3: Any) -> None:
    if kind == _UNIFORM:
        _to_uniform(w0)
        _to_uniform(w1)
        _to_uniform(w2)
        _to_uniform(w3)
    elif kind == _NORMAL:
        _to_normal(w0, w1)
        _to_normal(w2, w3)


@cached_njit(nogil=True, parallel=True)
def _fill_columns(kind: int, out: Any, seeds: Any, stream: Any, episodes: Any, steps: Any) -> None:
    """Lanes are columns: made for many of them. ``seeds`` may be one number."""
    features, columns = out.shape
    for block in prange((features + 3) // 4):
        first = 4 * block
        complete = first + 4 <= features
        rows = out[first : first + 4] if complete else np.empty((4, columns), np.uint32)
        _block(rows[0], rows[1], rows[2], rows[3], seeds, block, stream, episodes, steps)
        _transform(kind, rows[0], rows[1], rows[2], rows[3])
        if not complete:
            out[first:] = rows[: features - first]


@cached_njit(nogil=True)
def _fill_row(kind: int, out: Any, seed: Any, stream: Any, episode: Any, step: Any) -> None:
    """Lanes are blocks of four features: made for a single column, as an environment step needs it."""
    n = (out.size + 3) // 4
    words = np.empty((4, n), np.uint32)
    _block(words[0], words[1], words[2], words[3], seed, np.arange(n), stream, episode, step)
    _transform(kind, words[0], words[1], words[2], words[3])
    for word in range(4):
        row = words[word]
        for block in range((out.size + 3 - word) // 4):
            out[4 * block + word] = row[block]


@cached_njit(nogil=True)
def _halve(left: Any, right: Any, middle: Any, weights: Any, spreads: Any, is_later: Any) -> None:
    """
    Replace one end of each lane's interval by its middle, so that the lane's moment stays inside.

    :param left: float32, values at the left ends
    :param right: float32, values at the right ends
    :param middle: float32 standard normals, the innovations of the middles
    :param weights: of the sum of both ends in the middle's mean
    :param spreads: standard deviations of the middle, given both ends
    :param is_later: not zero where the moment is in the right half
    """
    for i in range(left.size):
        value = _lane(weights, i) * (left[i] + right[i]) + _lane(spreads, i) * middle[i]
        later = _lane(is_later, i) != 0
        left[i] = value if later else left[i]
        right[i] = right[i] if later else value


@cached_njit(nogil=True, parallel=True)
def _bridge_columns(
    out: Any, seeds: Any, stream: Any, episodes: Any, steps: Any, weights: Any, spreads: Any, levels: int
) -> None:
    """Lanes are columns, see :func:`_fill_columns`. ``weights`` and ``spreads`` have a row for each feature."""
    features, columns = out.shape
    for block in prange((features + 3) // 4):
        ends = np.empty((3, 4, columns), np.uint32)
        floats = ends.view(np.float32)
        starts = (steps >> _u32(levels)) << _u32(levels)
        moments, is_later = np.empty_like(starts), np.empty_like(starts)
        for end in range(2):
            for i in range(columns):
                moments[i] = starts[i] + (_u32(end) << _u32(levels))
            _block(ends[end, 0], ends[end, 1], ends[end, 2], ends[end, 3], seeds, block, stream, episodes, moments)
            _transform(_NORMAL, ends[end, 0], ends[end, 1], ends[end, 2], ends[end, 3])
        for level in range(levels - 1, -1, -1):
            half = _u32(1) << _u32(level)
            for i in range(columns):
                moments[i] = starts[i] + half
                is_later[i] = steps[i] & half
                starts[i] += is_later[i]
            _block(ends[2, 0], ends[2, 1], ends[2, 2], ends[2, 3], seeds, block, stream, episodes, moments)
            _transform(_NORMAL, ends[2, 0], ends[2, 1], ends[2, 2], ends[2, 3])
            for row in range(min(4, features - 4 * block)):
                weight, spread = weights[level, 4 * block + row], spreads[level, 4 * block + row]
                _halve(floats[0, row], floats[1, row], floats[2, row], weight, spread, is_later)
        for row in range(min(4, features - 4 * block)):
            out[4 * block + row] = ends[0, row]


@cached_njit(nogil=True)
def _bridge_row(
    out: Any, seed: Any, stream: Any, episode: Any, step: Any, weights: Any, spreads: Any, levels: int
) -> None:
    """Lanes are features, see :func:`_fill_row`."""
    right, middle = np.empty_like(out), np.empty_like(out)
    start = (step >> _u32(levels)) << _u32(levels)
    _fill_row(_NORMAL, out, seed, stream, episode, start)
    _fill_row(_NORMAL, right, seed, stream, episode, _u32(start + (_u32(1) << _u32(levels))))
    for level in range(levels - 1, -1, -1):
        half = _u32(1) << _u32(level)
        _fill_row(_NORMAL, middle, seed, stream, episode, _u32(start + half))
        start = _u32(start + (step & half))
        floats = out.view(np.float32), right.view(np.float32), middle.view(np.float32)
        _halve(*floats, weights[level], spreads[level], step & half)


def _column(values: Counters, columns: int, dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        if values.shape != (columns,):
            raise ValueError(f"Expected one number or {columns} of them (one per column), got shape {values.shape}.")
        return np.ascontiguousarray(values, dtype)
    return np.full(columns, int(values), dtype)  # a Python number: NumPy's would wrap around where it is negative


def _arguments(out: NDArray[Any], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> tuple[Any, ...]:
    """Check and convert what the fillers of columns take; ``seeds`` become one number where they are all the same."""
    if out.ndim != 2 or out.itemsize != 4 or not out.flags.c_contiguous:
        raise ValueError(
            f"Expected a C-contiguous array (features, columns) of 32-bit numbers to fill, got {out.dtype} {out.shape}."
        )
    columns = out.shape[1]
    is_one = not isinstance(seeds, np.ndarray)
    keys = _column(seeds, 1 if is_one else columns, np.uint64)
    # The seed of one environment's noise, or those of several.
    key = keys[0] if is_one or (columns > 0 and (keys == keys[0]).all()) else keys
    counters = (_column(each, columns, np.uint32) for each in (episodes, steps))
    return out.view(np.uint32), key, np.uint64(stream), *counters


def _fill(kind: int, out: NDArray[Any], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
    words, key, sequence, c2, c3 = _arguments(out, stream, seeds, episodes, steps)
    if out.shape[1] == 1:
        _fill_row(kind, words[:, 0], key, sequence, c2[0], c3[0])
    elif out.size:
        _fill_columns(kind, words, key, sequence, c2, c3)


def random_bits(key: tuple[int, int], counter: tuple[int, int, int, int]) -> NDArray[np.uint32]:
    """
    Compute one Philox4x32-10 block, as Random123 defines it.

    :param key: two 32-bit words
    :param counter: four 32-bit words
    :return: the four random words, uint32 ``(4,)``
    """
    words = np.empty((4, 1), np.uint32)
    seed = np.array([key[0] | key[1] << 32], np.uint64)
    block, stream, episode, step = counter
    lanes = [np.array([value], np.uint32) for value in (block, episode, step)]
    _block(words[0], words[1], words[2], words[3], seed, lanes[0], np.uint64(stream), lanes[1], lanes[2])
    return words[:, 0]


def fill_bits(out: NDArray[np.uint32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
    """
    Fill ``out`` with random 32-bit words; ``out[j, b]`` is a function of stream, j, and column b's counters.

    :param out: uint32 ``(features, columns)``, C-contiguous
    :param stream: which of the independent sequences under a seed, see :class:`Stream`
    :param seeds: 64-bit seed, one for all columns or uint64 ``(columns,)``
    :param episodes: 32-bit counter, one for all columns or ``(columns,)``
    :param steps: 32-bit counter, one for all columns or ``(columns,)``
    :raises ValueError: if an array has another shape, layout or item size
    :raises OverflowError: if a single number is negative or has too many bits
    """
    _fill(_BITS, out, stream, seeds, episodes, steps)


def fill_uniform(out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
    """
    Fill ``out`` with uniform numbers in [0, 1), multiples of 2**-24.

    :param out: float32 ``(features, columns)``, C-contiguous
    :param stream: see :func:`fill_bits`, as for the other arguments and errors
    :param seeds: 64-bit seeds
    :param episodes: 32-bit counters
    :param steps: 32-bit counters
    """
    _fill(_UNIFORM, out, stream, seeds, episodes, steps)


def fill_normal(out: NDArray[np.float32], stream: int, seeds: Counters, episodes: Counters, steps: Counters) -> None:
    """
    Fill ``out`` with standard normal numbers (of magnitude 6.6 at most: uniforms have 31 bits).

    :param out: float32 ``(features, columns)``, C-contiguous
    :param stream: see :func:`fill_bits`, as for the other arguments and errors
    :param seeds: 64-bit seeds
    :param episodes: 32-bit counters
    :param steps: 32-bit counters
    """
    _fill(_NORMAL, out, stream, seeds, episodes, steps)


def fill_bridged(
    out: NDArray[np.float32],
    stream: int,
    seeds: Counters,
    episodes: Counters,
    steps: Counters,
    weights: NDArray[np.float32],
    spreads: NDArray[np.float32],
) -> None:
    """
    Fill ``out`` with standard normal numbers that remember: feature j is a process in time, looked up at ``steps``.

    What happens at a moment starts from its normal number, that of :func:`fill_normal`. At multiples of ``2**levels``
    this number is the process. In between, the process at the middle of an interval is the weighted sum of its ends
    plus that number times a standard deviation, and so on in the half where the wanted moment lies: Lévy's midpoint
    construction. So any moment is had from ``levels + 2`` normals, with nothing remembered from one call to the next.

    :param out: float32 ``(features, columns)``, C-contiguous
    :param stream: see :func:`fill_bits`, as for the other arguments and errors
    :param seeds: 64-bit seeds
    :param episodes: 32-bit counters
    :param steps: 32-bit counters
    :param weights: float32 ``(levels, features)``: row k is for middles at a distance of ``2**k`` from both ends
    :param spreads: float32 ``(levels, features)``: standard deviation of a middle when both ends are known
    """
    words, key, sequence, c2, c3 = _arguments(out, stream, seeds, episodes, steps)
    if out.shape[1] == 1:
        _bridge_row(words[:, 0], key, sequence, c2[0], c3[0], weights, spreads, len(weights))
    elif out.size:
        _bridge_columns(words, key, sequence, c2, c3, weights, spreads, len(weights))


def permutation(seed: int, phase: int, n: int) -> NDArray[np.int64]:
    """
    Draw a random order as a function of seed and phase.

    :param seed: 64-bit seed
    :param phase: 32-bit counter
    :param n: number of elements
    :return: int64 ``(n,)``, each of 0..n-1 once
    """
    words = np.empty((2 * n, 1), np.uint32)
    fill_bits(words, Stream.PERMUTATION, seed, phase, 0)
    high, low = words.reshape(n, 2).astype(np.uint64).T
    # Sorting 64-bit keys: two of 1000 are equal once in 10**13 permutations, and then the stable sort decides.
    return np.argsort(high << np.uint64(32) | low, kind="stable").astype(np.int64, copy=False)
