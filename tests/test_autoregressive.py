"""AR(1) noise: every feature is a stationary process with its own time constant, and any moment can be had alone."""

import doctest
import pickle
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rl.envs import NoiseFeatures, NoiseModel, Normal, autoregressive, make, time_constants
from sparse_rl.envs.autoregressive import LEVELS, LONGEST, SHORTEST, Autoregressive, _bridges

SPAN = 2**LEVELS


def draw(features, seeds=0, episodes=0, steps=0, distribution=None):
    return NoiseModel(1, features, distribution or Autoregressive()).draw(seeds, episodes, steps)


def loadings(moment, first, feature=0):
    """On which moments' normal numbers, from ``first`` on, the process depends at a moment: Lévy's construction."""
    weights, spreads = (table[:, feature].astype(np.float64) for table in _bridges(feature + 1))

    def innovation(t):
        return np.eye(1, 2 * SPAN + 1, t - first)[0]

    def between(left, at_left, at_right, level):
        if level < 0:
            return at_left
        half = 2**level
        at_middle = weights[level] * (at_left + at_right) + spreads[level] * innovation(left + half)
        if moment < left + half:
            return between(left, at_left, at_middle, level - 1)
        return between(left + half, at_middle, at_right, level - 1)

    start = moment // SPAN * SPAN
    return between(start, innovation(start), innovation(start + SPAN), LEVELS - 1)


@pytest.mark.parametrize("feature", [0, 2, int(time_constants(1000).argmin()), int(time_constants(1000).argmax())])
def test_covariances_are_those_of_the_stationary_process_at_all_lags(feature):
    # Not an estimate: the process is a linear function of independent normal numbers, so its covariance is exact. The
    # moments lie on both sides of a boundary between two spans.
    moments = np.array([0, 1, 2, 3, 100, 1023, 1024, 1025, 2000, 2045, 2046, 2047, 2048, 2049, 2050, 2111, 4095])
    rows = np.array([loadings(moment, 0, feature) for moment in moments])
    lags = np.abs(moments[:, None] - moments)
    np.testing.assert_allclose(rows @ rows.T, np.exp(-lags / time_constants(feature + 1)[feature]), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**20 - 1))
def test_noise_is_that_function_of_the_normal_noise(seed, episode, step):
    first = step // SPAN * SPAN
    normal = draw(3, seed, episode, first + np.arange(2 * SPAN + 1), Normal()).astype(np.float64)
    expected = [normal[feature] @ loadings(step, first, feature) for feature in range(3)]
    np.testing.assert_allclose(draw(3, seed, episode, step)[:, 0], expected, rtol=0, atol=5e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
        min_size=2,
        max_size=6,
    ),
)
def test_a_batch_is_its_columns_to_the_bit(features, places):
    seeds, episodes, steps = (
        np.array(each, kind) for each, kind in zip(zip(*places, strict=True), ("u8", "u4", "u4"), strict=True)
    )
    batch = draw(features, seeds, episodes, steps)
    for column, place in enumerate(places):
        np.testing.assert_array_equal(batch[:, column], draw(features, *place)[:, 0])
    np.testing.assert_array_equal(draw(9, seeds, episodes, steps)[:features], batch)


def test_golden_bits():
    bits = draw(170, seeds=3, episodes=np.arange(40, dtype=np.uint32), steps=np.arange(0, 4000, 100, dtype=np.uint32))
    assert sha256(bits.tobytes()).hexdigest()[:16] == "228b4a646c27fb74"


def test_time_constants_are_log_uniform_and_belong_to_the_features():
    tau = time_constants(2000)
    assert tau.min() >= SHORTEST
    assert tau.max() <= LONGEST
    ranks = np.sort(np.log(tau / SHORTEST) / np.log(LONGEST / SHORTEST))
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand.
    assert np.abs(ranks - np.linspace(0, 1, 2000)).max() < 1.95 / 2000**0.5
    np.testing.assert_array_equal(time_constants(153), tau[:153])


def test_an_environment_shows_stationary_processes_with_the_stated_autocorrelations():
    episodes, lags = 3000, np.array([0, 1, 5, 20, 80])
    model = make("HalfCheetah-noise90-ar").get_wrapper_attr("noise_model")
    at = [model.draw(11, np.arange(episodes, dtype=np.uint32), int(step)) for step in 900 + lags]
    start = model.draw(11, np.arange(episodes, dtype=np.uint32), 0)
    error = episodes**-0.5  # standard error of a mean; a correlation's is at most 1.5 times as large
    for values in (start, at[0], at[-1]):
        assert np.abs(values.mean(1)).max() < 4.5 * error
        assert np.abs(values.var(1) - 1).max() < 4.5 * 2**0.5 * error
    for lag, values in zip(lags, at, strict=True):
        expected = np.exp(-lag / time_constants(153))
        assert np.abs((at[0] * values).mean(1) - expected).max() < 4.5 * 1.5 * error
    correlations = np.corrcoef(at[0]) - np.eye(153)  # features know nothing of each other; 11,628 pairs
    assert np.abs(correlations).max() < 5.5 * error


def test_processes_are_smooth_within_an_episode_and_new_in_the_next():
    env = make("HalfCheetah-noise90-ar")
    slow = 17 + int(time_constants(153).argmax())
    action = env.action_space.sample() * 0
    shown = [env.reset(seed=1)[0], *(env.step(action)[0] for _ in range(20)), env.reset()[0]]
    feature = np.array(shown)[:, slow]
    assert np.abs(np.diff(feature[:-1])).max() < 0.7 < abs(feature[-1] - feature[-2])
    assert len(set(feature)) == 22


def test_a_model_is_a_value():
    model = NoiseFeatures(make("CartPole-v1"), 0.9, distribution="ar").noise_model
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert hash(again) == hash(model)
    np.testing.assert_array_equal(again.draw(1, 2, 3), model.draw(1, 2, 3))
    assert model != NoiseFeatures(make("CartPole-v1"), 0.9).noise_model


def test_examples_in_the_documentation():
    assert doctest.testmod(autoregressive).attempted
    assert doctest.testmod(autoregressive).failed == 0
