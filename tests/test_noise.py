"""Noise features are a function of (seed, episode, step), and leave the environment as it was."""

import doctest
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from sparse_rl.envs import (
    Histograms,
    NoiseFeatures,
    NoiseModel,
    NonFiniteObservationError,
    Normal,
    PermuteFeatures,
    Stream,
    appended,
    make,
    noise,
    total_features,
)

INF = float("inf")


class Fixed(gym.Env):
    """Shows what it is told to show."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space=None, observation=(0.0, 0.0, 0.0)):
        self.observation_space = gym.spaces.Box(-1, 1, (3,)) if space is None else space
        self.value = np.array(observation)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.value.copy(), {}

    def step(self, action):
        return self.value.copy(), 0.0, False, False, {}


def rollout(env, steps, seed=1):
    """Observations, rewards and ends under the same random actions."""
    env.reset(seed=seed)
    env.action_space.seed(0)
    observations, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            observations.append(env.reset()[0])
    return np.array(observations), rewards, ends


@pytest.mark.parametrize(
    ("n_real", "fraction", "total"),
    [
        (17, 0, 17),
        (17, 0.5, 34),
        (17, 0.8, 85),
        (17, 0.9, 170),
        (17, 0.95, 340),
        (17, 0.98, 850),
        (17, 0.99, 1700),
        (17, 0.995, 3400),
        (11, 0.8, 55),
        (11, 0.9, 110),
        (11, 0.98, 550),
        (105, 0.98, 5250),
        (348, 0.9, 3480),
        (348, 0.98, 17400),
        (10, 0.3, 15),
        (17, np.float32(0.98), 850),
        (17, 1e-9, 18),
    ],
)
def test_sizes_are_exact(n_real, fraction, total):
    assert total_features(n_real, fraction) == total


@pytest.mark.parametrize("base", ["Hopper-v5", "Walker2d-v5"])
def test_base_trajectory_is_the_same_at_every_noise_level(base):
    plain, rewards, ends = rollout(make(base), 300)
    assert any(terminated for terminated, _ in ends)
    for fraction in (0.0, 0.5, 0.98):
        noisy, noisy_rewards, noisy_ends = rollout(NoiseFeatures(make(base), fraction), 300)
        np.testing.assert_array_equal(noisy[:, : plain.shape[1]], plain.astype(np.float32))
        assert noisy_rewards == rewards
        assert noisy_ends == ends
    permuted = PermuteFeatures(NoiseFeatures(make(base), 0.5), every=50)
    _, permuted_rewards, permuted_ends = rollout(permuted, 300)
    assert permuted.phase > 0
    assert permuted_rewards == rewards
    assert permuted_ends == ends


def test_less_noise_is_a_prefix_of_more_noise():
    few, *_ = rollout(NoiseFeatures(gym.make("CartPole-v1"), 0.9), 60)
    many, *_ = rollout(NoiseFeatures(gym.make("CartPole-v1"), 0.98), 60)
    np.testing.assert_array_equal(few, many[:, :40])


def test_same_seed_same_observations():
    env = NoiseFeatures(gym.make("CartPole-v1"), 0.9)
    first, *_ = rollout(env, 60)
    for other in (env, env, NoiseFeatures(gym.make("CartPole-v1"), 0.9, seed=77)):
        np.testing.assert_array_equal(rollout(other, 60)[0], first)
    assert not np.array_equal(rollout(env, 60, seed=2)[0][:, 4:], first[:, 4:])


def test_noise_differs_between_steps_and_episodes():
    env = NoiseFeatures(Fixed(), 0.9)
    shown = [env.reset(seed=0)[0], env.step(0)[0], env.step(0)[0], env.reset()[0], env.step(0)[0]]
    assert len({observation[3:].tobytes() for observation in shown}) == len(shown)


def test_counters_and_info_say_where_the_noise_came_from():
    env = NoiseFeatures(Fixed(), 0.9, seed=5)
    assert env.noise_seed == 5
    infos = [env.reset()[1], env.step(0)[4], env.reset()[1], env.reset(seed=9)[1], env.step(0)[4], env.reset()[1]]
    places = [(5, 0, 0), (5, 0, 1), (5, 1, 0), (9, 0, 0), (9, 0, 1), (9, 1, 0)]
    assert [info["noise"] for info in infos] == [dict(zip(("seed", "episode", "step"), p, strict=True)) for p in places]
    assert {type(value) for value in infos[0]["noise"].values()} == {int}
    assert [env.get_wrapper_attr(name) for name in ("noise_seed", "episode", "step_in_episode")] == [9, 1, 0]


def test_without_a_seed_noise_differs_from_env_to_env():
    one, other = NoiseFeatures(Fixed(), 0.9), NoiseFeatures(Fixed(), 0.9)
    assert not np.array_equal(one.reset()[0], other.reset()[0])


def test_large_reset_seeds_are_cut_to_63_bits():
    env = NoiseFeatures(Fixed(), 0.9)
    env.reset(seed=2**64 + 2**63 + 3)
    assert env.noise_seed == 3


def test_noise_model_draws_what_was_seen():
    env = gym.vector.SyncVectorEnv([lambda: NoiseFeatures(gym.make("CartPole-v1"), 0.9, std=4.0)] * 3)
    model = pickle.loads(pickle.dumps(env.envs[0].get_wrapper_attr("noise_model")))
    assert model == NoiseModel(4, 36, Normal(4.0))
    env.reset(seed=3)
    for _ in range(30):
        observations, _, _, _, info = env.step(env.action_space.sample())
        where = info["noise"]
        drawn = model.draw(where["seed"], where["episode"], where["step"])
        np.testing.assert_array_equal(drawn.T, observations[:, 4:])
    assert where["episode"].max() > 0


def test_redrawn_noise_is_independent_of_the_observed():
    model = NoiseModel(1, 5000, Normal())
    observed, redrawn = (model.draw(1, 2, 3, stream=stream)[:, 0] for stream in (Stream.OBSERVED, Stream.REDRAWN))
    assert abs(np.corrcoef(observed, redrawn)[0, 1]) < 0.06


def test_draw_fills_the_array_it_is_given():
    batch = np.zeros((17 + 833, 8), np.float32)
    model = NoiseModel(17, 833, Normal())
    model.draw(1, np.arange(8), 3, out=batch[17:])
    assert (batch[:17] == 0).all()
    np.testing.assert_array_equal(batch[17:], model.draw(1, np.arange(8), 3))
    with pytest.raises(ValueError, match=r"Expected 833 rows .* got shape \(850, 8\)"):
        model.draw(1, np.arange(8), 3, out=batch)


def test_observations_are_new_float32_arrays():
    env = NoiseFeatures(Fixed(), 0.5)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(0)[0]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    assert first.dtype == second.dtype == np.float32
    assert env.observation_space.contains(first)


def test_observation_space_and_real_features():
    env = NoiseFeatures(Fixed(gym.spaces.Box(np.array([-1.0, -2.0]), np.array([3.0, 1e300]), dtype=np.float64)), 0.5)
    np.testing.assert_array_equal(env.observation_space.low, [-1, -2, -INF, -INF])
    np.testing.assert_array_equal(env.observation_space.high, [3, INF, INF, INF])
    assert env.observation_space.dtype == np.float32
    np.testing.assert_array_equal(env.get_wrapper_attr("real_features"), [True, True, False, False])


def test_std_scales_the_noise():
    one, four = (NoiseModel(1, 1000, Normal(std)).draw(1, 2, 3) for std in (1.0, 4.0))
    np.testing.assert_array_equal(four, 4 * one)


def test_arguments_are_recorded_and_survive_json():
    env = gym.make("CartPole-v1")
    env = NoiseFeatures(env, 0.9, distribution="normal", std=2.0, seed=5)
    assert env.spec.additional_wrappers[-1].kwargs == {
        "fraction": 0.9,
        "distribution": "normal",
        "std": 2.0,
        "seed": 5,
    }
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(again.reset()[0][4:], env.reset()[0][4:])


def test_histograms_have_the_quantiles_of_their_samples():
    rng = np.random.default_rng(0)
    samples = np.stack([rng.normal(3, 2, 20_000), rng.exponential(5, 20_000), np.full(20_000, 1.25)], axis=1)
    drawn = NoiseModel(3, 6, Histograms.of(samples)).draw(
        1, np.repeat(np.arange(20), 1000), np.tile(np.arange(1000), 20)
    )
    levels = np.linspace(0, 1, 51)
    for i, row in enumerate(drawn):
        bin_width = np.ptp(samples[:, i % 3]) / 100
        off = np.abs(np.quantile(row, levels) - np.quantile(samples[:, i % 3], levels))
        assert off[1:-1].max() <= 2 * bin_width
        assert row.min() >= samples[:, i % 3].min() - 1e-5
        assert row.max() <= samples[:, i % 3].max() + 1e-5
    assert abs(np.corrcoef(drawn[0], drawn[3])[0, 1]) < 0.03  # alike, but independent


def test_histogram_rows_equal_columns():
    model = NoiseModel(2, 7, Histograms.of(np.random.default_rng(0).normal(size=(500, 2))))
    batch = model.draw(np.arange(5), 1, np.arange(5))
    for b in range(5):
        np.testing.assert_array_equal(model.draw(b, 1, b)[:, 0], batch[:, b])


def test_real_noise_looks_like_the_random_policys_observations():
    env = NoiseFeatures(gym.make("CartPole-v1"), 0.8, distribution="real")
    seen, *_ = rollout(env, 1500)
    for noise_feature, real in zip(seen[:, 4:8].T, seen[:, :4].T, strict=True):
        assert abs(noise_feature.mean() - real.mean()) < 0.3 * real.std()
        assert noise_feature.std() == pytest.approx(real.std(), rel=0.2)
    again = NoiseFeatures(gym.make("CartPole-v1", render_mode="rgb_array"), 0.8, distribution="real")
    assert again.noise_model == env.noise_model
    assert pickle.loads(pickle.dumps(env.noise_model)) == env.noise_model
    assert hash(again.noise_model) == hash(env.noise_model)
    assert env.noise_model.distribution != "real"


def test_real_noise_needs_an_environment_that_can_be_made_again():
    with pytest.raises(gym.error.Error, match=r"without a spec\. Make it with gym\.make"):
        NoiseFeatures(Fixed(), 0.5, distribution="real")
    env = gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda x: x, None)
    with pytest.raises(gym.error.Error, match=r"CartPole-v1, whose spec is not JSON: .*choose distribution='normal'"):
        NoiseFeatures(env, 0.5, distribution="real")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fraction": 1.0}, ValueError, "must be in [0, 1), got 1.0. For 98 % noise give 0.98."),
        ({"fraction": 98}, ValueError, "must be in [0, 1), got 98"),
        ({"fraction": -0.1}, ValueError, "must be in [0, 1), got -0.1"),
        ({"fraction": float("nan")}, ValueError, "must be in [0, 1), got nan"),
        ({"fraction": "0.98"}, TypeError, "must be a number in [0, 1), got '0.98'"),
        ({"fraction": True}, TypeError, "must be a number in [0, 1), got True"),
        ({"distribution": "norml"}, ValueError, "Unknown noise distribution 'norml'. Did you mean 'normal'?"),
        ({"std": 0.0}, ValueError, "`std` must be positive and finite, got 0.0"),
        ({"std": INF}, ValueError, "`std` must be positive and finite, got inf"),
        ({"std": "4"}, TypeError, "`std` must be a number, got '4'"),
        ({"std": 4.0, "distribution": "real"}, ValueError, "`std` is for distribution='normal' only, got std=4.0"),
        ({"seed": -1}, ValueError, "expects a seed from 0 to 2**63 - 1, got -1"),
        ({"seed": 1.5}, TypeError, "expects an integer seed, got 1.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        NoiseFeatures(Fixed(), **{"fraction": 0.5, **arguments})


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        (gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), ValueError, "observations of one dimension, got shape (8, 8, 3)"),
        (gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (2,))), TypeError, "expects a Box observation space"),
        (gym.spaces.Discrete(5), TypeError, "got Discrete(5)"),
    ],
)
@pytest.mark.parametrize("wrapper", [NoiseFeatures, PermuteFeatures])
def test_other_observation_spaces_are_refused_with_advice(space, error, message, wrapper):
    arguments = {"fraction": 0.5} if wrapper is NoiseFeatures else {}
    with pytest.raises(error, match=re.escape(message)) as caught:
        wrapper(Fixed(space), **arguments)
    assert f"gymnasium.wrappers.FlattenObservation before {wrapper.__name__}" in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), INF, -1e39])
def test_observations_that_are_not_finite_are_reported(bad):
    env = NoiseFeatures(Fixed(), 0.5)
    env.reset(seed=3)
    env.reset()
    env.step(0)
    env.unwrapped.value[1] = bad
    with pytest.raises(NonFiniteObservationError, match=r"Feature 1 .* is .* at step 2 of episode 1 \(seed 3\)"):
        env.step(0)
    with pytest.raises(ValueError, match="at step 0 of episode 0"):
        env.reset(seed=4)


def test_examples_in_the_documentation():
    for module in (appended, noise):
        assert doctest.testmod(module).attempted
        assert doctest.testmod(module).failed == 0
