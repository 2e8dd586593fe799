"""The learners' batches are those of the buffer's own sample(), turned around, from the same random numbers."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sparse_rl.agents.replay import batches
from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.envs import make

GAMMA = 0.97


class Loud(ReplayBuffer):
    """Somebody's own buffer: rewards are louder."""

    def _get_samples(self, batch_inds, env=None):
        batch = super()._get_samples(batch_inds, env)
        return batch._replace(rewards=10 * batch.rewards)


def fill(buffer, env, steps):
    before = env.reset()
    for _ in range(steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        after, rewards, dones, infos = env.step(actions)
        following = after.copy()
        for i in np.flatnonzero(dones):
            following[i] = infos[i]["terminal_observation"]
        buffer.add(before, following, actions, rewards, dones, infos)
        before = after
    return buffer


def environment(name="Hopper-noise90", n_envs=1, dtype=np.float32):
    def create():
        env = make(name)
        space = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, dtype)
        return env if dtype == np.float32 else gym.wrappers.TransformObservation(env, lambda x: x.astype(dtype), space)

    env = DummyVecEnv([create] * n_envs)
    env.seed(0)
    env.action_space.seed(0)
    return env


def assert_batch_is_the_buffers_own(buffer, batch_size=50, env=None):
    states = []
    counter = getattr(buffer, "batches_drawn", None)
    np.random.seed(1)
    batch = batches.sample(buffer, batch_size, env, GAMMA)
    states.append(np.random.random())
    if counter is not None:
        buffer.batches_drawn = counter
    np.random.seed(1)
    expected = buffer.sample(batch_size, env=env)
    states.append(np.random.random())
    assert states[0] == states[1]

    assert batch.inputs.strides[1] == 4
    assert all(x.flags.c_contiguous for x in batch[2:])
    assert {x.dtype for x in (batch.inputs, *batch[2:])} == {np.dtype(np.float32)}
    observations = th.cat([expected.observations, expected.next_observations]).float()
    features = observations.shape[1]
    np.testing.assert_array_equal(batch.inputs[:features], observations.t())
    np.testing.assert_array_equal(batch.inputs[features:, :batch_size], expected.actions.t())
    assert batch.n_actions == len(batch.inputs) - features
    discounts = th.tensor([[GAMMA]]) if expected.discounts is None else expected.discounts
    for mine, theirs in zip(batch[2:], (expected.rewards, expected.dones, discounts), strict=True):
        np.testing.assert_array_equal(mine, theirs.t())


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 16, 50])
@pytest.mark.parametrize("steps", [1, 60, 150])
def test_from_stable_baselines3s_own_buffer(n_envs, batch_size, steps):
    env = environment(n_envs=n_envs)
    buffer = ReplayBuffer(100 * n_envs, env.observation_space, env.action_space, "cpu", n_envs)
    assert_batch_is_the_buffers_own(fill(buffer, env, steps), batch_size)
    assert buffer.full == (steps > 100)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_numbers_become_floats_of_32_bits(dtype):
    env = environment(dtype=dtype)
    buffer = fill(ReplayBuffer(100, env.observation_space, env.action_space, "cpu"), env, 60)
    assert buffer.observations.dtype == dtype
    assert_batch_is_the_buffers_own(buffer)


@pytest.mark.parametrize("kind", [RedrawnReplayBuffer, ObservedReplayBuffer])
@pytest.mark.parametrize("name", ["Hopper-noise90", "Hopper-noise90-real", "Hopper-noise90-permute20"])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_from_compact_buffers(kind, name, n_envs, normalize):
    env = environment(name, n_envs)
    buffer = kind(100, env.observation_space, env.action_space, "cpu", n_envs, **kind.kwargs_for(env))
    fill(buffer, env, 120)
    normalizer = None
    if normalize:
        normalizer = VecNormalize(env, clip_obs=3.0)
        normalizer.obs_rms.update(buffer.sample(100).observations.numpy())
        normalizer.ret_rms.update(np.arange(9.0))
    assert_batch_is_the_buffers_own(buffer, env=normalizer)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Loud, {}),
        (NStepReplayBuffer, {"n_steps": 3, "gamma": 0.9}),
        (ReplayBuffer, {"optimize_memory_usage": True, "handle_timeout_termination": False}),
        (ReplayBuffer, {}),
    ],
    ids=["subclass", "n-step", "memory", "own"],
)
def test_from_any_other_buffer(kind, arguments, normalize):
    env = environment()
    buffer = fill(kind(100, env.observation_space, env.action_space, "cpu", **arguments), env, 120)
    normalizer = VecNormalize(env, clip_obs=3.0) if normalize else None
    if normalizer is not None:
        normalizer.obs_rms.update(buffer.observations[:, 0])
    assert_batch_is_the_buffers_own(buffer, env=normalizer)


def test_a_batch_is_the_callers_own():
    env = environment()
    buffer = fill(ReplayBuffer(100, env.observation_space, env.action_space, "cpu"), env, 60)
    before = [array.copy() for array in (buffer.observations, buffer.actions, buffer.rewards, buffer.dones)]
    batch = batches.sample(buffer, 1, None, GAMMA)
    for array in (batch.inputs, batch.rewards, batch.dones, batch.discounts):
        array[:] = -7
    for array, copy in zip((buffer.observations, buffer.actions, buffer.rewards, buffer.dones), before, strict=True):
        np.testing.assert_array_equal(array, copy)
