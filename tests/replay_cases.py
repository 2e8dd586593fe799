"""Environments that replay buffers see, and buffers that have seen them."""

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from sparse_rl.agents.replay.buffers import RedrawnReplayBuffer
from sparse_rl.envs import (
    NoiseFeatures,
    NoiseModel,
    Normal,
    PermuteFeatures,
)

REAL, NOISE = 3, 7
FEATURES = REAL + NOISE
ACTION_SPACE = gym.spaces.Box(-1, 1, (2,), np.float32)


class Count(gym.Env):
    """The features count: in step n of all, they are 3n, 3n + 1 and 3n + 2. Episodes are cut off after 4 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (REAL,), np.float32)
    action_space = ACTION_SPACE

    def __init__(self):
        self.n = 0

    def _observe(self):
        self.n += 1
        return (REAL * self.n + np.arange(REAL)).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), float(self.n), False, self.steps == 4, {}


def noisy(permute_every=None, n_envs=1, **kwargs):
    def create():
        env = NoiseFeatures(Count(), 0.7, **kwargs)
        return env if permute_every is None else PermuteFeatures(env, every=permute_every, seed=9)

    vec_env = DummyVecEnv([create] * n_envs)
    vec_env.seed(0)
    return vec_env


def make(distribution=None, n_envs=1, size=400, **kwargs):
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
    model = NoiseModel(REAL, NOISE, Normal() if distribution is None else distribution)
    return RedrawnReplayBuffer(size, space, ACTION_SPACE, "cpu", n_envs, noise_model=model, **kwargs)


def add(buffer, steps=100, **changes):
    """Add transitions; feature j of step t is t + j / 100, and next observations are 1000 more."""
    for step in range(steps):
        observation = np.tile(step + np.arange(FEATURES, dtype=np.float32) / 100, (buffer.n_envs, 1))
        observation += 10_000 * np.arange(buffer.n_envs, dtype=np.float32)[:, None]
        transition = {
            "action": np.full((buffer.n_envs, 2), step, np.float32),
            "reward": np.full(buffer.n_envs, step, np.float32),
            "done": np.zeros(buffer.n_envs),
            "infos": [{}] * buffer.n_envs,
        }
        buffer.add(observation, observation + 1000, **(transition | changes))
    return buffer


def fill(buffer, env, steps=40):
    """Let a buffer see an environment, as Stable-Baselines3 shows it."""
    before = env.reset()
    for _ in range(steps):
        action = np.zeros((env.num_envs, 2), np.float32)
        after, rewards, dones, infos = env.step(action)
        following = after.copy()
        for i in np.flatnonzero(dones):
            following[i] = infos[i]["terminal_observation"]
        buffer.add(before, following, action, rewards, dones, infos)
        before = after
    return buffer


def buffer_for(env, kind=RedrawnReplayBuffer, size=1000, **kwargs):
    return kind(size, *spaces_of(env), "cpu", env.num_envs, **kind.kwargs_for(env, **kwargs))


def spaces_of(env):
    return env.observation_space, env.action_space


def arrays(buffer):
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))


class Fickle(Count):
    """Episodes take some three steps, and half of them end by themselves."""

    def step(self, action):
        ended, cut = self.np_random.random(2) < 0.2
        return self._observe(), float(self.n), bool(ended), bool(cut), {}


class Both:
    def __init__(self, *buffers):
        self.buffers = buffers

    def add(self, *transition):
        for buffer in self.buffers:
            buffer.add(*transition)
