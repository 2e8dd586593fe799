"""Replay buffers whose transitions reach over several steps, and whose oldest transitions can be dropped."""

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.agents.replay.buffers import CompactReplayBuffer, ObservedReplayBuffer, RedrawnReplayBuffer


class DynamicReplayBuffer(ReplayBuffer):
    """
    Replay for multi-step targets and a capacity that falls: both may change while an agent learns.

    What is sampled are transitions over up to :attr:`n_steps` steps: the rewards on the way, discounted and added up,
    the observation at its end, and the discount of the value there. The way ends earlier where the episode ends, for
    whatever reason, and at the newest transition. The numbers are those of Stable-Baselines3's ``NStepReplayBuffer``.

    :meth:`drop_oldest` gives up the oldest transitions; after that the buffer fills again, up to its size.

    As in Stable-Baselines3, a second ``learn()`` that resets the environment in the middle of an episode goes
    unnoticed: a few transitions then reach from the one episode into the other.

    :param args: those of Stable-Baselines3's ``ReplayBuffer``
    :param n_steps: over how many steps a transition reaches; may be set at any time
    :param gamma: the discount
    :param kwargs: those of Stable-Baselines3's ``ReplayBuffer``
    :raises ValueError: if ``n_steps`` or ``gamma`` is out of range, or memory optimisation is asked for
    """

    def __init__(self, *args: Any, n_steps: int = 1, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError(f"{type(self).__name__} has no `optimize_memory_usage`: leave it out, or take n_steps 1.")
        if n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1, not {n_steps}: with 1, targets look one step ahead.")
        if not 0 <= gamma <= 1:
            raise ValueError(f"`gamma` must lie in [0, 1], not {gamma}.")
        self.n_steps = n_steps
        self.gamma = gamma
        self._kept = 0

    def size(self) -> int:
        """
        Count what is in the buffer.

        :return: steps, each of all environments
        """
        return self._kept

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._kept = 0

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store a step, which is then the newest.

        :param obs: see Stable-Baselines3's ``ReplayBuffer``, as for the other arguments
        :param next_obs: next observations
        :param action: actions
        :param reward: rewards
        :param done: whether episodes ended
        :param infos: what the environments said
        """
        super().add(obs, next_obs, action, reward, done, infos)
        self._kept = min(self._kept + 1, self.buffer_size)

    def drop_oldest(self, count: int) -> None:
        """
        Drop the oldest transitions.

        :param count: how many, rounded down to whole steps of all environments
        :raises ValueError: if it is negative, or nothing would be left
        """
        steps = count // self.n_envs
        if not 0 <= steps < max(self._kept, 1):
            raise ValueError(f"Cannot drop {count} of {self._kept * self.n_envs} transitions: one must be left.")
        self._kept -= steps

    def oldest(self, count: int, env: VecNormalize | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """
        Show the oldest transitions.

        :param count: how many, rounded up to whole steps of all environments; at most all
        :param env: normalizes observations
        :return: observations, of shape ``(count, ...)``, and actions ``(count, action dimensions)`` as they are stored
        """
        steps = min(-(-count // self.n_envs), self._kept)
        rows = np.repeat(self._rows(np.arange(steps)), self.n_envs)
        copies = np.tile(np.arange(self.n_envs), steps)
        observations, _ = self._observations(rows, rows, copies, env)
        return observations.cpu().numpy(), self.actions[rows, copies]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Sample transitions.

        :param batch_size: how many
        :param env: normalizes observations and rewards
        :return: the batch, with ``discounts``
        """
        return self._get_samples(self._rows(np.random.randint(0, self._kept, size=batch_size)), env)

    def _rows(self, ages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find where steps are stored; 0 is the oldest."""
        return (self.pos - self._kept + ages) % self.buffer_size

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        copies = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        last, returns, discounts = self._look_ahead(batch_inds, copies, env)
        observations, next_observations = self._observations(batch_inds, last, copies, env)
        dones = self.dones[last, copies] * (1 - self.timeouts[last, copies])
        return ReplayBufferSamples(
            observations,
            self.to_torch(self.actions[batch_inds, copies]),
            next_observations,
            self.to_torch(dones.reshape(-1, 1)),
            self.to_torch(returns),
            self.to_torch(discounts),
        )

    def _look_ahead(
        self, rows: NDArray[np.int64], copies: NDArray[np.int64], env: VecNormalize | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Find the last step of each transition, its return, and the discount after that, ``(batch, 1)`` both."""
        ahead = np.arange(self.n_steps)
        window = (rows[:, None] + ahead) % self.buffer_size, copies[:, None]
        newest = (self.pos - 1) % self.buffer_size
        ends = (self.dones[window] != 0) | (self.timeouts[window] != 0) | (window[0] == newest)
        ends[:, -1] = True
        steps = ends.argmax(axis=1)  # to the first end
        rewards = self._normalize_reward(self.rewards[window], env)
        powers = self.gamma ** np.arange(self.n_steps + 1, dtype=np.float32)
        returns = (rewards * powers[:-1] * (ahead <= steps[:, None])).sum(axis=1, keepdims=True)
        return (rows + steps) % self.buffer_size, returns, powers[steps + 1].reshape(-1, 1)

    def _observations(
        self, first: NDArray[np.int64], last: NDArray[np.int64], copies: NDArray[np.int64], env: VecNormalize | None
    ) -> tuple[th.Tensor, th.Tensor]:
        """Give the observations before the first steps, and those after the last ones."""
        before = self._normalize_obs(self.observations[first, copies], env)
        after = self._normalize_obs(self.next_observations[last, copies], env)
        assert isinstance(before, np.ndarray)
        assert isinstance(after, np.ndarray)
        return self.to_torch(before), self.to_torch(after)


class _DynamicCompactReplayBuffer(DynamicReplayBuffer, CompactReplayBuffer):
    """The same, without storing noise."""

    def _observations(
        self, first: NDArray[np.int64], last: NDArray[np.int64], copies: NDArray[np.int64], env: VecNormalize | None
    ) -> tuple[th.Tensor, th.Tensor]:
        both = th.from_numpy(self.feature_major(first, copies, env, last)).t().to(self.device)
        before, after = both.split(len(first))
        return before, after


class DynamicRedrawnReplayBuffer(_DynamicCompactReplayBuffer, RedrawnReplayBuffer):
    """A :class:`DynamicReplayBuffer` that draws noise anew, as ``RedrawnReplayBuffer``."""


class DynamicObservedReplayBuffer(_DynamicCompactReplayBuffer, ObservedReplayBuffer):
    """A :class:`DynamicReplayBuffer` that draws the noise that was seen, as ``ObservedReplayBuffer``."""
