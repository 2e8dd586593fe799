"""Batches for the learners, feature-major: one array for observations and next observations, written in one pass."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.replay.gather import gather, pick
from sparse_rl.agents.replay.normalization import normalize_rows
from sparse_rl.kernels import empty_rows, follow_torch

Floats = NDArray[np.float32]


class Batch(NamedTuple):
    """
    Transitions, side by side.

    :param inputs: float32 ``(features + action dimensions, 2 * batch)``, its rows contiguous: observations in the first
        ``batch`` columns and below them the actions; next observations in the others, and below them room for what
        would be done next
    :param n_actions: action dimensions
    :param rewards: float32 ``(1, batch)``, contiguous as all that follow
    :param dones: float32 ``(1, batch)``: whether an episode ended for another reason than a time limit
    :param discounts: float32, of the next observations' values: ``(1, batch)``, or one for all of them, ``(1, 1)``
    """

    inputs: Floats
    n_actions: int
    rewards: Floats
    dones: Floats
    discounts: Floats

    @property
    def place(self) -> tuple[int, int]:
        """Where the inputs lie: their address, and how many elements from one row to the next."""
        return self.inputs.ctypes.data, self.inputs.strides[0] // self.inputs.itemsize


def sample(buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None, gamma: float) -> Batch:
    """
    Sample what ``buffer.sample(batch_size, env=env)`` would, with the same random numbers.

    :param buffer: any replay buffer whose observations are vectors
    :param batch_size: number of transitions
    :param env: normalizes observations and rewards
    :param gamma: the discount, where the buffer gives none
    :return: the batch
    """
    # A subclass may do something else.
    is_compact = type(buffer) in (RedrawnReplayBuffer, ObservedReplayBuffer)
    if not (is_compact or _can_gather(buffer, env)):
        return _turned(buffer.sample(batch_size, env=env), gamma)
    # These two draws are Stable-Baselines3's, in `BaseBuffer.sample` and in `ReplayBuffer._get_samples`.
    indices = np.random.randint(0, buffer.buffer_size if buffer.full else buffer.pos, size=batch_size)
    copies = np.random.randint(0, high=buffer.n_envs, size=(batch_size,))
    n_actions = buffer.action_dim
    if isinstance(buffer, RedrawnReplayBuffer | ObservedReplayBuffer):
        inputs = buffer.feature_major(indices, copies, env, spare=n_actions)
    else:
        inputs = _gathered(buffer, indices * buffer.n_envs + copies)
        if env is not None:
            normalize_rows(inputs[:-n_actions], env)
    actions = inputs[-n_actions:, :batch_size]
    rewards, dones = np.empty((2, 1, batch_size), np.float32)
    pick(buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts, indices, copies, actions, rewards[0], dones[0])
    if env is not None:
        rewards = env.normalize_reward(rewards)
    return Batch(inputs, n_actions, rewards, dones, np.full((1, 1), gamma, np.float32))


def _can_gather(buffer: ReplayBuffer, env: VecNormalize | None) -> bool:
    """Tell whether observations can be taken straight from the memory of Stable-Baselines3's own buffer."""
    return (
        type(buffer) is ReplayBuffer
        and not buffer.optimize_memory_usage
        and buffer.device.type == "cpu"
        and buffer.observations.ndim == 3
        # Stable-Baselines3 normalizes what is stored, before it becomes 32 bits.
        and buffer.observations.dtype in ((np.float32, np.float64) if env is None else (np.float32,))
    )


def _gathered(buffer: ReplayBuffer, rows: NDArray[np.int64]) -> Floats:
    follow_torch()
    features = buffer.observations.shape[-1]
    out = empty_rows(features + buffer.action_dim, 2 * len(rows))
    before, after = (memory.reshape(-1, features) for memory in (buffer.observations, buffer.next_observations))
    gather(before, after, rows, out[:features])
    return out[:, : 2 * len(rows)]


def _turned(batch: ReplayBufferSamples, gamma: float) -> Batch:
    (n, features), n_actions = batch.observations.shape, batch.actions.shape[1]
    inputs = empty_rows(features + n_actions, 2 * n)[:, : 2 * n]
    inputs[:features, :n] = batch.observations.t().cpu()
    inputs[:features, n:] = batch.next_observations.t().cpu()
    inputs[features:, :n] = batch.actions.t().cpu()
    rewards, dones = (np.ascontiguousarray(x.t().cpu(), np.float32) for x in (batch.rewards, batch.dones))
    discounts = [[gamma]] if batch.discounts is None else batch.discounts.t().cpu()
    return Batch(inputs, n_actions, rewards, dones, np.ascontiguousarray(discounts, np.float32))
