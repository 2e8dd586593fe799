"""Episodes in which an agent sees some features as they are, and others as they were at some other time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from sparse_rl.features.actions import as_numbers
from sparse_rl.topology.evidence import MOST_NUMBERS

Act = Callable[[NDArray[Any]], NDArray[Any]]
MakeEnv = Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True)
class Episode:
    """
    An episode to play.

    :param seed: of the environment
    :param resampled: indices of the features that the agent does not see, but their values in one of the observations
        of a pool, another one at each step
    """

    seed: int
    resampled: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


class Pool:
    """
    A fair sample of all observations that are shown to it (algorithm R of Vitter 1985).

    :param n_features: features of an observation
    :param seed: of the sample
    """

    def __init__(self, n_features: int, seed: int) -> None:
        size = min(10_000, max(1000, MOST_NUMBERS // n_features))
        self._kept = np.empty((size, n_features), np.float32)
        self._rng = np.random.default_rng(seed)
        self.seen = 0

    @property
    def observations(self) -> NDArray[np.float32]:
        """What is in the sample: float32 ``(observations, features)``."""
        return self._kept[: self.seen]

    def show(self, observation: NDArray[Any]) -> None:
        """
        Show it an observation.

        :param observation: of shape ``(features,)``
        """
        place = self.seen if self.seen < len(self._kept) else int(self._rng.integers(self.seen + 1))
        if place < len(self._kept):
            self._kept[place] = observation
        self.seen += 1


def most_transitions(n_features: int) -> int:
    """
    Tell how many transitions are kept at most: fewer if observations are very large, but 1000 at least.

    :param n_features: features of an observation
    :return: the number of transitions
    """
    return max(1000, 2 * MOST_NUMBERS // n_features)


def play(
    act: Act,
    make_env: MakeEnv,
    episodes: Sequence[Episode],
    pool: Pool | None = None,
    show: Callable[[NDArray[Any]], None] | None = None,
    tell: Callable[[int], object] = lambda done: None,
    copies: int = 8,
) -> NDArray[np.float64]:
    """
    Play episodes, several at a time, but so that none depends on what is played beside it.

    An agent is asked about ``copies`` observations at a time, however many episodes there are still: dense products
    may be rounded differently in batches of another size, and in chaotic environments that is another episode.

    :param act: chooses actions for a batch of observations
    :param make_env: makes a copy of the environment
    :param episodes: what to play
    :param pool: where the values of resampled features come from
    :param show: is shown every observation that the agent acts on, as it is
    :param tell: is told after each episode how many are done
    :param copies: how many copies of the environment there are at most
    :return: the return of each episode
    """
    waiting = deque(enumerate(episodes))
    returns = np.zeros(len(episodes))
    with _copies(make_env, min(copies, len(episodes))) as envs:
        playing = [_Playing(env, *waiting.popleft(), pool) for env in envs]
        done = 0
        while playing:
            if show is not None:
                for each in playing:
                    show(each.observation)
            observations = [each.seen() for each in playing]
            actions = act(np.stack(observations + observations[:1] * (copies - len(playing))))
            going_on = []
            for each, action in zip(playing, actions[: len(playing)], strict=True):
                reward, is_over = each.step(action)
                returns[each.index] += reward
                if is_over:
                    done += 1
                    tell(done)
                if not is_over:
                    going_on.append(each)
                elif waiting:
                    going_on.append(_Playing(each.env, *waiting.popleft(), pool))
            playing = going_on
    return returns


class _Playing:
    """An episode that is going on."""

    def __init__(self, env: gym.Env[Any, Any], index: int, episode: Episode, pool: Pool | None) -> None:
        self.env, self.index, self._episode = env, index, episode
        self._pool = np.empty((0, 0), np.float32) if pool is None else pool.observations
        # The same moments for the same seed, whatever is resampled: so that episodes differ in that alone.
        self._rng = np.random.default_rng([episode.seed, 1])
        self.observation, _ = env.reset(seed=episode.seed)

    def seen(self) -> NDArray[Any]:
        """Give what the agent sees: features that are resampled come all from the same moment."""
        hidden = self._episode.resampled
        if not len(hidden):
            return np.asarray(self.observation)
        observation = self.observation.copy()
        observation[hidden] = self._pool[self._rng.integers(len(self._pool)), hidden]
        return np.asarray(observation)

    def step(self, action: Any) -> tuple[float, bool]:
        """Take a step; give the reward, and whether the episode is over."""
        self.observation, reward, terminated, truncated, _ = self.env.step(action)
        return float(reward), bool(terminated or truncated)


@dataclass(frozen=True)
class Transitions:
    """
    Transitions whose actions were drawn at random, in the order in which they were made.

    :param before: observations, float32 ``(transitions, features)``
    :param after: next observations
    :param actions: actions as numbers that are not tied to each other, ``(transitions, dimensions)``
    :param rewards: ``(transitions,)``
    """

    before: Tensor
    after: Tensor
    actions: Tensor
    rewards: Tensor


def random_transitions(
    make_env: MakeEnv, count: int, seed: int, tell: Callable[[int], object] = lambda done: None
) -> Transitions:
    """
    Act at random: what depends on such actions, they have caused.

    :param make_env: makes the environment
    :param count: number of transitions
    :param seed: of environment and actions
    :param tell: is told at times how many steps are done
    :return: the transitions
    """
    with _copies(make_env, 1) as (env,):
        n_features = env.observation_space.shape[0]  # type: ignore[index]
        before, after = (np.empty((count, n_features), np.float32) for _ in range(2))
        actions, rewards = [], np.empty(count)
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        for i in range(count):
            action = env.action_space.sample()
            before[i] = observation
            observation, rewards[i], terminated, truncated, _ = env.step(action)
            after[i] = observation
            actions.append(action)
            if terminated or truncated:
                observation, _ = env.reset()
            if (i + 1) % 100 == 0:
                tell(i + 1)
        numbers = as_numbers(torch.as_tensor(np.array(actions)), env.action_space)
        numbers = numbers[:, independent(env.action_space)]
    return Transitions(torch.as_tensor(before), torch.as_tensor(after), numbers, torch.as_tensor(rewards))


def independent(space: spaces.Space[Any]) -> list[int]:
    """
    Find the dimensions of an action that do not follow from the others: of a choice, all indicators but the last.

    :param space: the action space
    :return: indices into what :func:`~sparse_rl.features.actions.as_numbers` gives
    """
    dimensions = as_numbers(torch.as_tensor(np.array([space.sample()])), space).shape[1]
    last: set[int] = set()
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec.ravel())
        last = set((np.cumsum(sizes) - 1).tolist())
    return [i for i in range(dimensions) if i not in last]


@contextmanager
def _copies(make_env: MakeEnv, n: int) -> Iterator[list[gym.Env[Any, Any]]]:
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(n):
            envs.append(make_env())
        yield envs
    finally:
        for env in envs:
            env.close()
