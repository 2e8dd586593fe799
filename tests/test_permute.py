"""Permuted features: all of them are there, in an order that changes at resets only, and that everybody agrees on."""

import doctest
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rl.envs import NoiseFeatures, PermuteFeatures, permutation_at, permute


class Counting(gym.Env):
    """Shows (t, t + 0.1, t + 0.2, ...); each episode has 10 steps."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, features=6, dtype=np.float64):
        self.observation_space = gym.spaces.Box(
            np.zeros(features, dtype), np.arange(20, 20 + features, dtype=dtype), dtype=dtype
        )
        self.t = 0

    def observe(self):
        return self.t + np.arange(self.observation_space.shape[0], dtype=self.observation_space.dtype) / 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {"inner": True}

    def step(self, action):
        self.t += 1
        return self.observe(), 0.0, False, self.t == 10, {}


def episode(env):
    """Phases shown in one episode of ten steps."""
    return {env.reset()[1]["phase"]} | {env.step(0)[4]["phase"] for _ in range(10)}


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(2, 100))
@settings(max_examples=100, deadline=None)
def test_orders_are_bijections_and_never_repeat_at_once(seed, phase, n):
    order = permutation_at(seed, phase, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert not np.array_equal(order, permutation_at(seed, phase + 1, n))
    np.testing.assert_array_equal(order, permutation_at(seed, phase, n))


def test_orders_are_varied():
    np.testing.assert_array_equal(permutation_at(3, 0, 50), np.arange(50))
    orders = {permutation_at(seed, phase, 50).tobytes() for seed in range(5) for phase in range(1, 20)}
    assert len(orders) == 5 * 19
    assert {tuple(permutation_at(0, phase, 3)) for phase in range(50)} == {
        (0, 1, 2),
        (1, 2, 0),
        (2, 0, 1),
        (1, 0, 2),
        (0, 2, 1),
        (2, 1, 0),
    }


def test_two_features_swap_and_one_cannot():
    assert [permutation_at(0, phase, 2).tolist() for phase in range(4)] == [[0, 1], [1, 0]] * 2
    assert permutation_at(0, 0, 1).tolist() == [0]
    with pytest.raises(ValueError, match="at least 2 features to re-order, got 1"):
        permutation_at(0, 1, 1)
    with pytest.raises(ValueError, match="a number from 0, got -1"):
        permutation_at(0, -1, 5)


def test_observations_are_the_inner_ones_re_ordered():
    env = PermuteFeatures(Counting(), every=10)
    inner = Counting()
    env.reset(seed=0)
    for _ in range(4):
        observation, info = env.reset()
        expected, _ = inner.reset()
        assert info["inner"]
        np.testing.assert_array_equal(info["permutation"], permutation_at(0, info["phase"], 6))
        np.testing.assert_array_equal(observation, expected.astype(np.float32)[env.permutation])
        for _ in range(10):
            observation, expected = env.step(0)[0], inner.step(0)[0]
            np.testing.assert_array_equal(observation, expected.astype(np.float32)[info["permutation"]])
            assert env.observation_space.contains(observation)
    assert env.phase == 3


def test_phase_changes_at_resets_only():
    env = PermuteFeatures(Counting(), every=25)
    env.reset(seed=0)
    assert [episode(env) for _ in range(8)] == [{0}, {0}, {0}, {1}, {1}, {2}, {2}, {2}]
    assert env.reset(seed=0)[1]["phase"] == 0  # a seeded reset starts the clock again
    assert [episode(env) for _ in range(4)] == [{0}, {0}, {0}, {1}]


def test_without_every_the_order_stays():
    env = PermuteFeatures(Counting())
    assert [episode(env) for _ in range(3)] == [{0}] * 3
    np.testing.assert_array_equal(env.permutation, np.arange(6))


def test_set_phase_holds_from_the_next_reset_on():
    env = PermuteFeatures(Counting(), every=10)
    env.reset(seed=0)
    env.set_phase(7)
    assert env.step(0)[4]["phase"] == 0
    assert [episode(env) for _ in range(4)] == [{7}] * 4
    env.reset(seed=1)
    np.testing.assert_array_equal(env.permutation, permutation_at(0, 7, 6))
    env.set_phase(0)
    assert episode(env) == {0}
    with pytest.raises(ValueError, match="a number from 0, got -1"):
        env.set_phase(-1)


def test_orders_do_not_depend_on_the_reset_seed():
    one, other, third = PermuteFeatures(Counting()), PermuteFeatures(Counting()), PermuteFeatures(Counting(), seed=1)
    for env, seed in ((one, 1), (other, 2), (third, 1)):
        env.set_phase(1)
        env.reset(seed=seed)
    np.testing.assert_array_equal(one.permutation, other.permutation)
    assert not np.array_equal(one.permutation, third.permutation)


def test_arrays_handed_out_are_copies():
    env = PermuteFeatures(Counting(dtype=np.float32))
    observation, info = env.reset(seed=0)
    kept = observation.copy()
    info["permutation"][:] = 0
    env.permutation[:] = 0
    assert not np.shares_memory(observation, env.step(0)[0])
    np.testing.assert_array_equal(observation, kept)
    np.testing.assert_array_equal(env.permutation, np.arange(6))


def test_real_features_move_along():
    env = PermuteFeatures(NoiseFeatures(Counting(), 0.9), every=1)
    env.reset(seed=0)
    env.step(0)
    observation, info = env.reset()
    real = env.get_wrapper_attr("real_features")
    assert info["noise"]["episode"] == info["phase"] == 1
    assert not real[:6].all()
    np.testing.assert_allclose(np.sort(observation[real]), np.arange(6) / 10, rtol=1e-6)
    assert PermuteFeatures(Counting()).real_features.tolist() == [True] * 6


def test_bounds_hold_in_every_phase():
    space = PermuteFeatures(Counting()).observation_space
    assert (space.low == 0).all()
    assert (space.high == 25).all()
    assert space.dtype == np.float32
    assert space.shape == (6,)


def test_arguments_are_recorded_and_survive_json():
    env = PermuteFeatures(gym.make("CartPole-v1"), every=5, seed=3)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec.additional_wrappers[-1].kwargs == {"every": 5, "seed": 3}
    env.action_space.seed(0)
    for e in (env, again):
        e.reset(seed=4)
    for _ in range(100):
        action = env.action_space.sample()
        one, other = env.step(action), again.step(action)
        np.testing.assert_array_equal(one[0], other[0])
        if one[2]:
            np.testing.assert_array_equal(env.reset()[0], again.reset()[0])
    assert env.phase == again.get_wrapper_attr("phase") > 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be a positive number of steps, got 0. For no change give None."),
        ({"every": -5}, ValueError, "positive number of steps, got -5"),
        ({"every": 1e6}, TypeError, "`every` must be a number of steps or None, got 1000000.0"),
        ({"every": True}, TypeError, "got True"),
        ({"seed": -1}, ValueError, "PermuteFeatures expects a seed from 0"),
        ({"seed": None}, TypeError, "PermuteFeatures expects an integer seed, got None"),
        ({"env": Counting(1)}, ValueError, "at least 2 features to re-order, got 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        PermuteFeatures(**{"env": Counting(), **arguments})


def test_examples_in_the_documentation():
    assert doctest.testmod(permute).attempted
    assert doctest.testmod(permute).failed == 0
