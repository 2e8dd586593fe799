"""Replay that stores real features only, and draws noise anew; what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from replay_cases import (
    ACTION_SPACE,
    FEATURES,
    NOISE,
    REAL,
    Count,
    add,
    buffer_for,
    fill,
    make,
    noisy,
)
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.sac import SAC
from sparse_rl.envs import (
    Autoregressive,
    Histograms,
    NoiseFeatures,
    NoiseModel,
    Normal,
    PermuteFeatures,
    permutation_at,
    time_constants,
)
from sparse_rl.envs import make as make_env
from sparse_rl.sb3 import SparseSACPolicy

# What is kept


def test_memory_is_for_real_features_only():
    buffer = make(size=400)
    assert buffer.observations.shape == buffer.next_observations.shape == (400, 1, REAL)
    assert buffer.observations.dtype == np.float32


def test_real_features_come_back_to_the_bit_with_what_belongs_to_them():
    batch = add(make()).sample(64)
    step = batch.rewards
    expected = step + th.arange(REAL) / 100
    assert th.equal(batch.observations[:, :REAL], expected)
    th.testing.assert_close(batch.next_observations[:, :REAL], expected + 1000)
    assert th.equal(batch.actions, step.expand(-1, 2))


def test_batches_have_shapes_and_types_of_stable_baselines3s_buffer():
    ours = add(make()).sample(16)
    theirs = add(ReplayBuffer(400, gym.spaces.Box(-1, 1, (FEATURES,)), ACTION_SPACE, "cpu")).sample(16)
    for a, b in zip(ours, theirs, strict=True):
        assert a is b is None or (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def test_observations_are_feature_major():
    batch = add(make()).sample(16)
    assert batch.observations.stride(0) == 1
    assert batch.next_observations.stride(0) == 1


@pytest.mark.parametrize("handle", [True, False])
def test_time_limits_are_no_ends_unless_asked_to_be(handle):
    infos = [{"TimeLimit.truncated": True}]
    cut = add(make(handle_timeout_termination=handle), done=np.ones(1), infos=infos).sample(16)
    assert th.equal(cut.dones, th.full((16, 1), float(not handle)))
    ended = add(make(handle_timeout_termination=handle), done=np.ones(1)).sample(16)
    assert ended.dones.all()


def test_an_old_transition_makes_way_for_a_new_one():
    batch = add(make(size=10), steps=25).sample(64)
    assert batch.rewards.min() >= 15


def test_transitions_of_several_environments_are_kept_apart():
    batch = add(make(n_envs=3, size=300)).sample(128)
    rank = (batch.observations[:, 0] / 10_000).floor()
    assert set(rank.tolist()) == {0, 1, 2}
    th.testing.assert_close(batch.observations[:, 0] - 10_000 * rank, batch.rewards[:, 0], rtol=0, atol=1e-2)
    th.testing.assert_close(batch.next_observations[:, 0] - batch.observations[:, 0], th.full((128,), 1000.0))


# What is drawn


def test_a_transition_has_other_noise_each_time_it_is_used():
    buffer = add(make(), steps=1)
    first, second = buffer.sample(2), buffer.sample(2)
    noise = th.cat([o[:, REAL:] for b in (first, second) for o in (b.observations, b.next_observations)])
    assert noise.unique().numel() == noise.numel() == 2 * 2 * 2 * NOISE


@pytest.mark.parametrize("std", [1.0, 4.0])
def test_normal_noise_has_mean_and_standard_deviation_of_its_model(std):
    buffer = add(make(Normal(std)))
    batch = buffer.sample(20_000)
    for observations in (batch.observations, batch.next_observations):
        noise = observations[:, REAL:] / std
        assert noise.mean(0).abs().max() < 5 / 20_000**0.5
        assert (noise.std(0) - 1).abs().max() < 0.03
        assert (th.corrcoef(noise.t()) - th.eye(NOISE)).abs().max() < 0.04


@pytest.mark.parametrize("use", [1, 2])
def test_noise_with_a_memory_is_redrawn_for_both_steps_of_a_transition(use):
    buffer = add(make(Autoregressive()))
    for _ in range(use):
        batch = buffer.sample(5_000)
    before, after = (each[:, REAL:].double().numpy() for each in (batch.observations, batch.next_observations))
    error = 5 / 5_000**0.5
    assert abs(before.var(0) - 1).max() < 2**0.5 * error
    np.testing.assert_allclose((before * after).mean(0), np.exp(-1 / time_constants(NOISE)), atol=1.5 * error)
    for lag in (1, 2):  # transitions that are neighbours in the batch
        assert abs((before[lag:] * before[:-lag]).mean(0)).max() < error
        assert abs((after[lag:] * before[:-lag]).mean(0)).max() < error
    again = buffer.sample(5_000).observations[:, REAL:].double().numpy()
    assert abs((again * before).mean(0)).max() < error


def test_noise_can_imitate_the_real_features():
    samples = np.random.default_rng(0).uniform([0, 10, 100], [1, 20, 101], size=(5000, REAL))
    noise = add(make(Histograms.of(samples))).sample(5000).observations[:, REAL:].numpy()
    for column, values in enumerate(noise.T):
        low, high = [(0, 1), (10, 20), (100, 101)][column % REAL]
        assert low - 1e-3 <= values.min() < values.max() <= high + 1e-3
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_an_environment_with_realistic_noise_is_served():
    env = DummyVecEnv([lambda: make_env("Pendulum-noise50-real")])
    noise = buffer_for(env).noise_model
    assert isinstance(noise.distribution, Histograms)
    model = SAC(
        SparseSACPolicy, env, 1e-3, 100, 5, 8, replay_buffer_class=RedrawnReplayBuffer,
        replay_buffer_kwargs=RedrawnReplayBuffer.kwargs_for(env), policy_kwargs={"net_arch": [8]}, device="cpu",
    )  # fmt: skip
    model.learn(15)
    batch = model.replay_buffer.sample(8)
    assert batch.observations.shape == (8, 6)
    assert th.isfinite(batch.observations).all()


def test_same_seed_gives_the_same_batches():
    batches = []
    for seed in (1, 1, 2):
        np.random.seed(0)
        batches.append(add(make(seed=seed)).sample(16))
    first, second, other = batches
    assert th.equal(first.observations, second.observations)
    assert th.equal(first.next_observations, second.next_observations)
    assert th.equal(first.observations[:, :REAL], other.observations[:, :REAL])
    assert not th.isin(first.observations[:, REAL:], other.observations[:, REAL:]).any()


def test_redrawn_noise_is_not_the_noise_that_was_seen():
    env = noisy()
    seen = np.concatenate([env.reset()[:, REAL:], *(env.step(np.zeros((1, 2)))[0][:, REAL:] for _ in range(30))])
    drawn = fill(buffer_for(env, seed=0), env).sample(32).observations[:, REAL:].numpy()
    assert not np.isin(drawn, seen).any()


# In which order


def expected_real(batch):
    """Count shows 3n, 3n + 1, 3n + 2, where n is told by the reward: the one of the next observation."""
    return batch.rewards * REAL + th.arange(REAL)


def test_without_permutation_an_environments_real_features_come_first():
    env = noisy()
    batch = fill(buffer_for(env), env).sample(64)
    assert th.equal(batch.next_observations[:, :REAL], expected_real(batch))
    assert th.equal(batch.observations[:, :REAL], expected_real(batch) - REAL)


def test_all_transitions_are_shown_in_the_present_order_as_in_the_published_code():
    env = noisy(permute_every=20)
    buffer = fill(buffer_for(env), env, steps=58)  # the present episode began in phase 2
    assert buffer.phase == 2
    order = permutation_at(9, 2, FEATURES)
    batch = buffer.sample(200)
    assert batch.rewards.min() < 20  # from the first phase
    assert batch.rewards.max() > 60  # and from the last
    positions = np.argsort(order)[:REAL]
    assert th.equal(batch.next_observations[:, positions], expected_real(batch))
    assert th.equal(batch.observations[:, positions], expected_real(batch) - REAL)
    assert batch.observations.stride(0) == 1
    np.testing.assert_array_equal(env.get_attr("permutation")[0], order)


def test_with_several_environments_the_newest_order_counts():
    env = noisy(permute_every=20, n_envs=2)
    env.env_method("set_phase", 5, indices=1)
    buffer = fill(buffer_for(env), env, steps=10)
    assert buffer.phase == 5
    batch = buffer.sample(100)
    positions = np.argsort(permutation_at(9, 5, FEATURES))[:REAL]
    assert th.equal(batch.next_observations[:, positions], expected_real(batch))


def test_somebody_elses_phase_is_not_taken_for_a_permutation():
    batch = add(make(), infos=[{"phase": 3}]).sample(16)
    np.testing.assert_array_equal(batch.observations[:, 0], batch.rewards[:, 0])
    add(make(), steps=1, infos=[{"phase": "full moon"}])


# With Stable-Baselines3


@pytest.mark.parametrize("algorithm", [SAC, stable_baselines3.SAC], ids=["ours", "theirs"])
def test_an_agent_learns_from_it_also_when_observations_are_normalized(algorithm):
    env = VecNormalize(noisy(permute_every=20), clip_obs=5.0)
    model = algorithm(
        SparseSACPolicy, env, learning_starts=10, buffer_size=1000, batch_size=16, seed=0, device="cpu",
        replay_buffer_class=RedrawnReplayBuffer, replay_buffer_kwargs=RedrawnReplayBuffer.kwargs_for(env, seed=0),
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    model.learn(50)
    buffer = model.replay_buffer
    assert buffer.observations.max() > 100  # kept as it was
    env.training = False
    np.random.seed(0)
    state = buffer.batches_drawn
    normalized = buffer.sample(64, env=env)
    np.random.seed(0)
    buffer.batches_drawn = state
    raw = buffer.sample(64)
    np.testing.assert_allclose(normalized.observations, env.normalize_obs(raw.observations.numpy()), rtol=1e-6)
    np.testing.assert_allclose(normalized.rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-6)
    assert normalized.observations.dtype == th.float32
    assert normalized.observations.stride(0) == 1
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def test_a_saved_buffer_continues_with_the_same_batches(tmp_path):
    env = noisy()
    settings = {
        "buffer_size": 100, "policy_kwargs": {"net_arch": [8]}, "device": "cpu",
        "replay_buffer_class": RedrawnReplayBuffer, "replay_buffer_kwargs": RedrawnReplayBuffer.kwargs_for(env),
    }  # fmt: skip
    model = SAC(SparseSACPolicy, env, learning_starts=5, batch_size=8, **settings)
    model.learn(20)
    model.save_replay_buffer(tmp_path / "buffer")
    other = SAC(SparseSACPolicy, env, **settings)
    other.load_replay_buffer(tmp_path / "buffer")
    batches = []
    for each in (model, other):
        np.random.seed(0)
        batches.append(each.replay_buffer.sample(16))
    assert th.equal(batches[0].observations, batches[1].observations)


# What is refused


def test_an_ordinary_environment_has_no_noise_to_redraw():
    with pytest.raises(ValueError, match="only in environments with noise features, such as HalfCheetah-noise98"):
        RedrawnReplayBuffer.kwargs_for(DummyVecEnv([Count]))


def test_other_copies_of_the_environment_cannot_be_drawn_again():
    for text in ("Pendulum-noise50-other", "Pendulum-noise50-other-permute10"):
        env = DummyVecEnv([lambda text=text: make_env(text)])
        for kind in (RedrawnReplayBuffer, ObservedReplayBuffer):
            with pytest.raises(
                ValueError, match="What other copies of the environment show cannot be drawn again: use"
            ):
                kind.kwargs_for(env)


def test_noise_above_a_permutation_cannot_be_redrawn():
    env = DummyVecEnv([lambda: NoiseFeatures(PermuteFeatures(gym.make("Pendulum-v1"), every=10), 0.5)])
    with pytest.raises(ValueError, match="PermuteFeatures must be above NoiseFeatures: swap"):
        RedrawnReplayBuffer.kwargs_for(env)


def test_observations_changed_above_the_noise_cannot_be_redrawn():
    def louder():
        env = make_env("Pendulum-noise50")
        return gym.wrappers.TransformObservation(env, lambda observation: 100 * observation, env.observation_space)

    with pytest.raises(ValueError, match="what TransformObservation does to observations"):
        RedrawnReplayBuffer.kwargs_for(DummyVecEnv([louder]))


def test_what_changes_actions_or_rewards_is_no_obstacle():
    def bounded():
        env = gym.wrappers.ClipAction(make_env("Pendulum-noise50"))
        return gym.wrappers.TransformReward(env, lambda reward: reward / 10)

    assert RedrawnReplayBuffer.kwargs_for(DummyVecEnv([bounded]))["noise_model"].n_noise == 3


class OwnNoise(NoiseFeatures):
    pass


def test_noise_of_ones_own_cannot_be_redrawn():
    env = DummyVecEnv([lambda: OwnNoise(gym.make("Pendulum-v1"), 0.5)])
    with pytest.raises(ValueError, match="only if NoiseFeatures makes it; here the wrappers are OwnNoise: use"):
        RedrawnReplayBuffer.kwargs_for(env)


def test_the_noise_model_must_fit_the_observations():
    with pytest.raises(ValueError, match=r"makes 10 features, but observations have shape \(9,\)"):
        RedrawnReplayBuffer(
            10, gym.spaces.Box(-1, 1, (9,)), ACTION_SPACE, noise_model=NoiseModel(REAL, NOISE, Normal())
        )


def test_there_is_no_memory_to_optimise():
    with pytest.raises(ValueError, match="has no `optimize_memory_usage`"):
        make(optimize_memory_usage=True)
