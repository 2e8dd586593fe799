"""Random numbers are a function of seed and counters: the published one, the same in batches, and well distributed."""

import subprocess
import sys
from hashlib import sha256
from math import erf, sqrt

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rl.envs import Autoregressive, Histograms
from sparse_rl.envs.philox import Stream, fill_bits, fill_normal, fill_uniform, permutation, random_bits

ONES = 2**32 - 1


def normals(features, seeds=0, episodes=0, steps=0, stream=0, columns=1):
    out = np.empty((features, columns), np.float32)
    fill_normal(out, stream, seeds, episodes, steps)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, words):
    assert [f"{word:08x}" for word in random_bits(key, counter)] == words.split()


def test_bits_are_philox_blocks_of_four_features():
    out = np.empty((10, 3), np.uint32)
    fill_bits(out, stream=7, seeds=5 + (6 << 32), episodes=np.array([1, 2, 3]), steps=9)
    for block in range(3):
        expected = random_bits(key=(5, 6), counter=(block, 7, 2, 9))
        np.testing.assert_array_equal(out[4 * block : 4 * block + 4, 1], expected[: 10 - 4 * block])


def test_uniform_and_normal_are_computed_from_the_bits():
    bits, uniform, normal = np.empty((4096, 2), np.uint32), np.empty((4096, 2), np.float32), normals(4096, 3, columns=2)
    fill_bits(bits, 0, 3, 0, 0)
    fill_uniform(uniform, 0, 3, 0, 0)
    np.testing.assert_array_equal(uniform, (bits >> 8) * 2.0**-24)
    # Box-Muller in double precision.
    radius = np.sqrt(-2 * np.log((bits[0::2] >> 1 | 1) / 2.0**31))
    radius = np.where(bits[1::2] & 0x40000000, -radius, radius)
    angle = np.pi / 2**33 * np.left_shift(bits[1::2], 2).view(np.int32)
    swap = bits[1::2] >= 2**31
    first = radius * np.where(swap, np.sin(angle), np.cos(angle))
    second = radius * np.where(swap, np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(normal[0::2], first, rtol=0, atol=1e-6)
    np.testing.assert_allclose(normal[1::2], second, rtol=0, atol=1e-6)


def test_every_machine_computes_these_bits():
    drawn = normals(10_000, seeds=2**63 - 1, episodes=12, steps=345)
    assert [x.hex() for x in drawn[:2, 0].tolist()] == ["-0x1.740a140000000p-4", "0x1.b9dae80000000p-1"]
    digest = sha256(drawn.astype("<f4").tobytes()).hexdigest()
    assert digest == "5ef552fd467cf7b02c20022f704f16c5a86f513474e80ffabd79dc416867ae2d"


@pytest.mark.parametrize("fill", [fill_normal, fill_uniform, fill_bits])
@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 833])
def test_a_batch_has_the_bits_of_its_columns(fill, features):
    rng = np.random.default_rng(0)
    columns = 37
    seeds = rng.integers(2**64, size=columns, dtype=np.uint64)
    episodes, steps = rng.integers(2**32, size=(2, columns), dtype=np.uint32)
    batch = np.empty((features, columns), np.float32 if fill is not fill_bits else np.uint32)
    fill(batch, Stream.OBSERVED, seeds, episodes, steps)
    for b in range(columns):
        single = np.empty((features, 1), batch.dtype)
        fill(single, Stream.OBSERVED, int(seeds[b]), int(episodes[b]), int(steps[b]))
        np.testing.assert_array_equal(single[:, 0].view(np.uint32), batch[:, b].view(np.uint32))


@pytest.mark.parametrize("seeds", [3, np.arange(50, dtype=np.uint64)], ids=["one seed", "many seeds"])
def test_any_number_of_threads_computes_the_same_bits(seeds):
    histograms, autoregressive = Histograms.of(np.random.default_rng(0).normal(size=(500, 3))), Autoregressive()
    before, drawn = numba.get_num_threads(), {}
    try:
        for threads in {1, numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(threads)
            for fill in (fill_normal, fill_uniform, histograms.fill, autoregressive.fill):
                out = np.empty((203, 50), np.float32)
                fill(out, Stream.OBSERVED, seeds, 1, np.arange(50))
                np.testing.assert_array_equal(drawn.setdefault(fill, out), out)
    finally:
        numba.set_num_threads(before)


def test_one_seed_for_all_columns_is_as_good_as_one_for_each():
    same = normals(203, np.full(50, 3), 1, np.arange(50), columns=50)
    np.testing.assert_array_equal(same, normals(203, 3, 1, np.arange(50), columns=50))
    others = np.r_[3, np.arange(49)]
    np.testing.assert_array_equal(same[:, 0], normals(203, others, 1, np.arange(50), columns=50)[:, 0])


def test_an_environments_step_starts_no_threads():
    code = (
        "import numpy as np\nfrom numba.np.ufunc import parallel\n"
        "from sparse_rl.envs import make, Histograms, NoiseModel\n"
        "for name in ('CartPole-noise50', 'CartPole-noise50-ar', 'CartPole-noise80-other'):\n"
        "    env = make(name)\n    env.reset(seed=0)\n    env.step(0)\n"
        "model = NoiseModel(2, 5, Histograms.of(np.eye(2)))\nmodel.draw(0, 0, 0)\n"
        "assert not parallel._is_initialized\n"
        "model.draw(0, 0, np.arange(9))\nassert parallel._is_initialized\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1), st.integers(0, ONES), st.integers(0, ONES))
@settings(max_examples=50, deadline=None)
def test_fewer_features_are_a_prefix_of_more(few, more, seed, episode, step):
    few, more = sorted((few, more))
    np.testing.assert_array_equal(normals(few, seed, episode, step), normals(more, seed, episode, step)[:few])


def test_seed_stream_episode_and_step_all_matter():
    same = [normals(64, 1, 2, 3, 0) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    others = [(0, 2, 3, 0), (1 + 2**32, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 3, 2, 0), (1, 2, 3, 1)]
    for counters in others:
        assert np.abs(np.corrcoef(same[0][:, 0], normals(64, *counters)[:, 0])[0, 1]) < 0.5, counters


@pytest.fixture(scope="module")
def sample():
    return normals(
        1000, seeds=20, episodes=np.repeat(np.arange(10), 200), steps=np.tile(np.arange(200), 10), columns=2000
    )


def test_normal_moments_and_distance(sample):
    x = np.sort(sample.ravel().astype(np.float64))
    n = x.size
    assert abs(x.mean()) < 4 / sqrt(n)
    assert abs(x.var() - 1) < 4 * sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * sqrt(96 / n)
    some = slice(0, n, 997)  # the exact distribution function at every 997th order statistic
    exact = np.array([(1 + erf(value / sqrt(2))) / 2 for value in x[some]])
    assert np.abs(exact - np.arange(n)[some] / n).max() < 1.95 / sqrt(n)  # Kolmogorov-Smirnov at 0.1 %


def test_normal_has_tails(sample):
    for threshold, probability in [(3, 2.6998e-3), (4, 6.3342e-5), (4.75, 2.0342e-6)]:
        expected = probability * sample.size
        assert abs((np.abs(sample) > threshold).sum() - expected) < 4 * sqrt(expected)
    assert np.abs(sample).max() < 6.6


def test_neighbours_are_uncorrelated(sample):
    for a, b in [
        (sample[:-1], sample[1:]),  # neighbouring features
        (sample[0::2], sample[1::2]),  # partners in a Box-Muller pair
        (sample[:, :-1], sample[:, 1:]),  # consecutive steps
        (sample[:, :200], sample[:, 200:400]),  # consecutive episodes
    ]:
        for f in (np.asarray, np.abs):
            assert abs(np.corrcoef(f(a).ravel(), f(b).ravel())[0, 1]) < 4 / sqrt(a.size)


@pytest.mark.parametrize(
    ("out", "seeds", "error", "match"),
    [
        (np.empty(4, np.float32), 0, ValueError, r"C-contiguous array \(features, columns\)"),
        (np.empty((4, 2)), 0, ValueError, "32-bit numbers to fill, got float64"),
        (np.empty((2, 4), np.float32).T, 0, ValueError, "C-contiguous"),
        (np.empty((4, 2), np.float32), np.zeros(3, np.uint64), ValueError, r"2 of them .* got shape \(3,\)"),
        (np.empty((4, 2), np.float32), -1, OverflowError, None),
    ],
)
def test_bad_arrays_are_refused(out, seeds, error, match):
    with pytest.raises(error, match=match):
        fill_normal(out, 0, seeds, 0, 0)


@given(st.integers(0, 2**63 - 1), st.integers(1, ONES), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_permutation_is_a_bijection(seed, phase, n):
    order = permutation(seed, phase, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_permutations_are_equally_likely():
    counts = np.zeros((4, 4))
    for phase in range(2000):
        counts[np.arange(4), permutation(0, phase, 4)] += 1
    assert np.abs(counts - 500).max() < 4 * sqrt(2000 * 3 / 16)
