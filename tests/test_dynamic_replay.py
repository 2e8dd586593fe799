"""A replay whose transitions reach over several steps, and that drops its oldest ones: with noise, stored or not."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from replay_cases import ACTION_SPACE, FEATURES, NOISE, REAL, Both, Fickle, add, fill, spaces_of
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_learners import OURS, SPARSE, THEIRS, assert_same, both, updated
from test_learners import make as make_learner

from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.replay.dynamic import (
    DynamicObservedReplayBuffer,
    DynamicRedrawnReplayBuffer,
    DynamicReplayBuffer,
)
from sparse_rl.envs import Autoregressive, NoiseFeatures, NoiseModel, PermuteFeatures, time_constants

LINE = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTION = gym.spaces.Box(-1, 1, (1,), np.float32)


def stored(buffer, steps, ends=(), cuts=()):
    """Step i goes from observation i to 100 + i by action i and gives reward i + 1; copy e adds 1000 e to all."""
    for i in steps:
        copy = 1000 * np.arange(buffer.n_envs, dtype=np.float32)[:, None]
        infos = [{"TimeLimit.truncated": i in cuts}] * buffer.n_envs
        done = np.full(buffer.n_envs, i in ends or i in cuts)
        buffer.add(i + copy, 100 + i + copy, i + copy, i + 1 + copy[:, 0], done, infos)
    return buffer


def fickle(permute_every=None, n_envs=1, distribution="normal"):
    """Episodes of some three steps; half of them end by themselves."""

    def create():
        env = NoiseFeatures(Fickle(), 0.7, distribution)
        return env if permute_every is None else PermuteFeatures(env, every=permute_every, seed=9)

    env = DummyVecEnv([create] * n_envs)
    env.seed(3)
    return env


def dynamic(env, kind, size=30, **settings):
    return kind(size * env.num_envs, *spaces_of(env), "cpu", env.num_envs, **kind.kwargs_for(env), **settings)


def small(size=50, n_envs=1, **kwargs):
    return DynamicReplayBuffer(size, LINE, ACTION, "cpu", n_envs, **kwargs)


def assert_equal_batches(ours, theirs):
    for name, expected in theirs._asdict().items():
        value = getattr(ours, name)
        if expected is not None:  # Stable-Baselines3's one-step buffer gives no discounts
            assert value.dtype == expected.dtype, name
            assert th.equal(value, expected), name


# Several steps


def test_returns_worked_by_hand():
    """Ten steps; the episode terminates in step 3, the next one is cut off in step 6, and the last goes on."""
    buffer = stored(small(n_steps=3, gamma=0.5), range(10), ends={3}, cuts={6})
    batch = buffer._get_samples(np.arange(10))
    expected = [
        # return, last step, terminated, discount
        (1 + 2 / 2 + 3 / 4, 2, 0, 1 / 8),
        (2 + 3 / 2 + 4 / 4, 3, 1, 1 / 8),
        (3 + 4 / 2, 3, 1, 1 / 4),
        (4, 3, 1, 1 / 2),
        (5 + 6 / 2 + 7 / 4, 6, 0, 1 / 8),
        (6 + 7 / 2, 6, 0, 1 / 4),
        (7, 6, 0, 1 / 2),
        (8 + 9 / 2 + 10 / 4, 9, 0, 1 / 8),
        (9 + 10 / 2, 9, 0, 1 / 4),
        (10, 9, 0, 1 / 2),
    ]
    returns, last, terminated, discounts = (th.tensor(column).float() for column in zip(*expected, strict=True))
    assert th.equal(batch.rewards[:, 0], returns)
    assert th.equal(batch.next_observations[:, 0], 100 + last)
    assert th.equal(batch.dones[:, 0], terminated)
    assert th.equal(batch.discounts[:, 0], discounts)
    assert th.equal(batch.observations[:, 0], th.arange(10.0))
    assert th.equal(batch.actions[:, 0], th.arange(10.0))


def test_the_number_of_steps_may_change_at_any_time():
    buffer = stored(small(gamma=0.5), range(10))
    for n_steps, expected in ((1, 1), (3, 2.75), (1, 1), (2, 2)):
        buffer.n_steps = n_steps
        batch = buffer._get_samples(np.array([0]))
        assert batch.rewards.item() == expected
        assert batch.discounts.item() == 0.5**n_steps


@given(
    n_steps=st.integers(1, 6),
    n_envs=st.integers(1, 2),
    steps=st.integers(1, 40),
    ends=st.sets(st.integers(0, 40)),
    cuts=st.sets(st.integers(0, 40)),
)
def test_the_numbers_are_those_of_stable_baselines3(n_steps, n_envs, steps, ends, cuts):
    settings = {"n_steps": n_steps, "gamma": 0.97}
    ours = stored(small(15 * n_envs, n_envs, **settings), range(steps), ends, cuts)
    theirs = NStepReplayBuffer(15 * n_envs, LINE, ACTION, "cpu", n_envs, **settings)
    stored(theirs, range(steps), ends, cuts)
    batches = []
    for buffer in (ours, theirs):
        np.random.seed(0)
        batches.append(buffer._get_samples(np.arange(ours.size())))
        if not buffer.full:
            batches.append(buffer.sample(20))
    half = len(batches) // 2
    for mine, stock in zip(batches[:half], batches[half:], strict=True):
        assert_equal_batches(mine, stock)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("n_steps", [1, 4])
@pytest.mark.parametrize("kind", ["normal", "ar"])
@pytest.mark.parametrize("permute_every", [None, 13])
def test_observed_noise_need_not_be_stored(n_envs, n_steps, kind, permute_every):
    env = fickle(permute_every, n_envs, kind)
    settings = {"n_steps": n_steps, "gamma": 0.9}
    compact = dynamic(env, DynamicObservedReplayBuffer, **settings)
    stock = NStepReplayBuffer(30 * n_envs, *spaces_of(env), "cpu", n_envs, **settings)
    fill(Both(compact, stock), env, steps=47)  # more than they hold
    assert 0 < stock.timeouts.sum() < stock.dones.sum() < stock.dones.size
    assert compact.observations.shape == (30, n_envs, REAL)
    normalizer = VecNormalize(env, clip_obs=2.0)
    normalizer.obs_rms.mean[:], normalizer.ret_rms.var = 0.1, np.array(4.0)
    for normalize in (None, normalizer):
        batches = []
        for buffer in (compact, stock):
            np.random.seed(0)
            batches.append(buffer._get_samples(np.arange(30), normalize))
        assert_equal_batches(*batches)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DynamicReplayBuffer, ReplayBuffer),
        (DynamicRedrawnReplayBuffer, RedrawnReplayBuffer),
        (DynamicObservedReplayBuffer, ObservedReplayBuffer),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "ar"])
def test_with_one_step_it_is_the_buffer_that_it_extends(ours, theirs, kind):
    batches = []
    for buffer_class in (ours, theirs):
        env = fickle(13, distribution=kind)
        kwargs = theirs.kwargs_for(env) if theirs is not ReplayBuffer else {}
        buffer = fill(buffer_class(60, *spaces_of(env), "cpu", **kwargs), env, steps=40)
        np.random.seed(0)
        batches.append([buffer.sample(16) for _ in range(2)])
    for mine, stock in zip(*batches, strict=True):
        assert_equal_batches(mine, stock)
        assert th.equal(mine.discounts, th.full((16, 1), 0.99))


def test_redrawn_noise_with_a_memory_is_as_old_as_the_transition_takes():
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
    model = NoiseModel(REAL, NOISE, Autoregressive())
    buffer = DynamicRedrawnReplayBuffer(100, space, ACTION_SPACE, "cpu", noise_model=model, n_steps=5)
    add(buffer)
    n = 3000
    for age, lag in ((20, 5), (98, 2), (99, 1)):  # the newest transition is number 99
        batch = buffer._get_samples(np.full(n, age))
        before, after = (each[:, REAL:].double().numpy() for each in (batch.observations, batch.next_observations))
        np.testing.assert_allclose((before * after).mean(0), np.exp(-lag / time_constants(NOISE)), atol=8 / n**0.5)


@both
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_fast_learner_agrees_with_stable_baselines3s(learner, n_steps):
    settings = {
        "replay_buffer_class": DynamicReplayBuffer,
        "replay_buffer_kwargs": {"n_steps": n_steps, "gamma": 0.9},
        "gamma": 0.9,
    }
    ours, theirs = (
        updated(make_learner(algorithm[learner], SPARSE[learner], {"sparsity": 0.6}, **settings), 40)
        for algorithm in (OURS, THEIRS)
    )
    assert ours._follow()
    assert_same(ours, theirs)


# Dropping the oldest


def test_what_is_dropped_is_gone():
    buffer = stored(small(10), range(8))
    buffer.drop_oldest(3)
    assert buffer.size() == 5
    assert set(buffer.sample(200).rewards.flatten().tolist()) == {4, 5, 6, 7, 8}
    stored(buffer, range(8, 15))  # it fills again, and goes round
    assert buffer.size() == 10
    assert set(buffer.sample(500).rewards.flatten().tolist()) == set(range(6, 16))
    buffer.reset()
    assert buffer.size() == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12))), st.integers(1, 2))
def test_it_holds_what_a_queue_would(changes, n_envs):
    buffer, queue, step = small(10 * n_envs, n_envs), deque(maxlen=10), 0
    for added, dropped in changes:
        stored(buffer, range(step, step + added))
        queue.extend(range(step, step + added))
        step += added
        if dropped < len(queue):
            buffer.drop_oldest(dropped * n_envs)
            queue = deque(list(queue)[dropped:], maxlen=10)
        assert buffer.size() == len(queue)
        observations, actions = buffer.oldest(4 * n_envs)
        expected = np.array(list(queue)[:4])[:, None] + 1000 * np.arange(n_envs)
        assert observations.flatten().tolist() == actions.flatten().tolist() == expected.flatten().tolist()
        sampled = buffer.sample(30).observations.flatten().numpy() % 1000
        assert set(sampled.tolist()) <= set(queue)


def test_more_than_there_is_cannot_be_shown_or_dropped():
    buffer = stored(small(10, n_envs=2), range(3))
    assert len(buffer.oldest(100)[0]) == 6
    assert len(buffer.oldest(3)[0]) == 4  # whole steps of both environments
    for count in (6, 100, -2):
        with pytest.raises(ValueError, match=f"Cannot drop {count} of 6 transitions: one must be left"):
            buffer.drop_oldest(count)
    assert buffer.size() == 3


@pytest.mark.parametrize("kind", [DynamicRedrawnReplayBuffer, DynamicObservedReplayBuffer])
def test_the_oldest_are_shown_with_their_noise(kind):
    env = fickle(n_envs=2)
    buffer = fill(dynamic(env, kind), env, steps=40)
    observations, actions = buffer.oldest(10)
    assert observations.shape == (10, FEATURES)
    assert actions.shape == (10, 2)
    np.testing.assert_array_equal(observations[::2, :REAL], buffer.observations[(buffer.pos + np.arange(5)) % 30, 0])
    if kind is DynamicObservedReplayBuffer:
        np.testing.assert_array_equal(observations, buffer.oldest(10)[0])
    else:
        assert not np.isin(observations[:, REAL:], buffer.oldest(10)[0][:, REAL:]).any()


def test_the_oldest_are_normalized_as_batches_are():
    env = fickle()
    buffer = fill(dynamic(env, DynamicObservedReplayBuffer), env)
    normalizer = VecNormalize(env)
    normalizer.obs_rms.mean[:] = 7
    np.testing.assert_allclose(buffer.oldest(3, normalizer)[0], np.clip(buffer.oldest(3)[0] - 7, -10, 10), rtol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "`n_steps` must be at least 1, not 0"),
        ({"n_steps": -3}, "not -3"),
        ({"gamma": 1.5}, r"`gamma` must lie in \[0, 1\], not 1.5"),
        ({"optimize_memory_usage": True, "handle_timeout_termination": False}, "no `optimize_memory_usage`"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


@pytest.mark.parametrize("kind", [DynamicRedrawnReplayBuffer, DynamicObservedReplayBuffer])
def test_environments_without_noise_have_no_noise_to_draw(kind):
    with pytest.raises(ValueError, match="only in environments with noise features"):
        kind.kwargs_for(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
