"""Batches for the learners, feature-major: one array for observations and next observations, written in one pass."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.agents.gather import gather
from sparse_rl.agents.replay import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.kernels import empty_activations, follow_torch


class Batch(NamedTuple):
    """
    Transitions, side by side.

    :param observations: float32 ``(features, 2 * batch)``: observations in the first ``batch`` columns, next
        observations in the others
    :param actions: float32 ``(action dimensions, batch)``, contiguous
    :param rewards: ``(1, batch)``
    :param dones: ``(1, batch)``: whether an episode ended for another reason than a time limit
    :param discounts: of the next observations' values: ``(1, batch)``, or one for all of them, ``(1, 1)``
    """

    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    discounts: th.Tensor

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """What the compiled passes want to know besides the observations: actions, rewards, dones, discounts."""
        return self.actions.numpy(), self.rewards.numpy(), self.dones.numpy(), self.discounts.numpy()


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
    if isinstance(buffer, RedrawnReplayBuffer | ObservedReplayBuffer):
        observations = buffer.feature_major(indices, copies, env)
    else:
        observations = _gathered(buffer, indices * buffer.n_envs + copies)
    rewards = buffer.rewards[indices, copies][None]
    if env is not None:
        rewards = env.normalize_reward(rewards).astype(np.float32)
    dones = (buffer.dones[indices, copies] * (1 - buffer.timeouts[indices, copies]))[None]
    actions = np.ascontiguousarray(buffer.actions[indices, copies].T, np.float32)
    return Batch(
        observations,
        buffer.to_torch(actions, copy=False),
        buffer.to_torch(rewards, copy=False),
        buffer.to_torch(dones, copy=False),
        th.full((1, 1), gamma),
    )


def _can_gather(buffer: ReplayBuffer, env: VecNormalize | None) -> bool:
    """Tell whether observations can be taken straight from the memory of Stable-Baselines3's own buffer."""
    return (
        type(buffer) is ReplayBuffer
        and env is None
        and not buffer.optimize_memory_usage
        and buffer.device.type == "cpu"
        and buffer.observations.ndim == 3
        and buffer.observations.dtype in (np.float32, np.float64)
    )


def _gathered(buffer: ReplayBuffer, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> th.Tensor:
    follow_torch()
    features = buffer.observations.shape[-1]
    out = empty_activations(features, 2 * len(rows), th.empty(0))
    before, after = (memory.reshape(-1, features) for memory in (buffer.observations, buffer.next_observations))
    gather(before, after, rows, out.numpy())
    return out


def _turned(batch: ReplayBufferSamples, gamma: float) -> Batch:
    n, features = batch.observations.shape
    observations = th.empty(features, 2 * n, device=batch.observations.device)
    observations[:, :n] = batch.observations.t()
    observations[:, n:] = batch.next_observations.t()
    return Batch(
        observations,
        batch.actions.t().float().contiguous(),
        batch.rewards.t().float(),
        batch.dones.t().float(),
        th.full((1, 1), gamma) if batch.discounts is None else batch.discounts.t().float(),
    )
