"""Extremely noisy environments whose noise is alive: the states of other copies of the environment."""

from collections.abc import Sequence
from math import ceil
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from sparse_rl.envs.appended import AppendFeatures
from sparse_rl.envs.checks import json_of_copy
from sparse_rl.envs.philox import Stream, fill_bits, fill_uniform

__all__ = ["Distractor", "DistractorFeatures"]


class DistractorFeatures(AppendFeatures):
    """
    Append the observations of other copies of the environment, which act at random, instead of noise.

    Such features have the marginals, correlations and dynamics of real ones under a random policy; only, nothing that
    the agent does moves them, and they tell nothing about its reward. There are as many copies as it takes,
    ``ceil(n_noise / n_real)``, and of the last one only the first features are shown. See :class:`Distractor` for what
    a copy does.

    The copies begin with each seeded reset, ``reset(seed=s)``, and take one step with each step of the environment.
    Other resets leave them alone. So what they show is a function of the seed and of the number of steps since, in an
    environment whose episodes are functions of reset seed and actions, as MuJoCo's are; and the environment moves as
    it does without them, to the bit. A step takes one simulation for each copy, and the environment's own.

    A replay buffer cannot draw these features again: it has to store them.

    Paper: Liu et al., "Discovering What You Can Control: Interventional Boundary Discovery for Reinforcement Learning",
    arXiv 2603.18257, on distractors that mimic the state. The rules here are our own.

    :param env: an environment whose observations are vectors, with bounded or discrete actions, made with
        :func:`gymnasium.make`
    :param fraction: fraction of all features that are not the environment's own, in [0, 1); see
        :func:`~sparse_rl.envs.appended.total_features`
    :param seed: the copies' seed until the first seeded reset; by default one from the operating system
    :raises TypeError: if an argument has the wrong type, or the observation space is no Box
    :raises ValueError: if an argument is out of range, observations are not one-dimensional, or there is no telling
        what a random action is
    :raises gymnasium.error.Error: if the environment cannot be made again from its spec

    >>> import gymnasium as gym
    >>> env = DistractorFeatures(gym.make("CartPole-v1"), fraction=0.7)
    >>> observation, info = env.reset(seed=42)
    >>> observation.shape, len(env.distractors)
    ((14,), 3)
    """

    #: See :class:`sparse_rl.envs.state.KeepsItself`.
    kept_by_itself = frozenset({"distractors"})

    def __init__(self, env: gym.Env[Any, Any], fraction: float, seed: int | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, fraction=fraction, seed=seed)
        super().__init__(env, fraction, seed)
        spec = EnvSpec.from_json(json_of_copy(env.spec, type(self).__name__, "use NoiseFeatures"))
        #: The copies, in the order of their features.
        self.distractors = tuple(Distractor(spec, index) for index in range(ceil(self.n_noise / self.n_real)))

    @property
    def distractor_counters(self) -> list[tuple[int, int, int]]:
        """The present state of all copies, together with :attr:`noise_seed`: see :attr:`Distractor.counters`."""
        return [distractor.counters for distractor in self.distractors]

    def restore_distractors(self, seed: int, counters: Sequence[tuple[int, int, int]]) -> None:
        """
        Put all copies into a former state, by taking the steps of their present episodes again.

        :param seed: the ``noise_seed`` of then
        :param counters: the :attr:`distractor_counters` of then
        :raises ValueError: if they are those of more or fewer copies
        """
        if len(counters) != len(self.distractors):
            raise ValueError(f"Expected the counters of {len(self.distractors)} copies, got those of {len(counters)}.")
        for distractor, its_counters in zip(self.distractors, counters, strict=True):
            distractor.restore(seed, its_counters)

    def own_state(self) -> list[tuple[int, int, int]]:
        """Give what has to be kept of the copies, see :class:`sparse_rl.envs.state.KeepsItself`."""
        return self.distractor_counters

    def restore_own_state(self, state: Sequence[tuple[int, int, int]]) -> None:
        """
        Put the copies back into the state that :meth:`own_state` gave.

        :param state: the state
        """
        self.restore_distractors(self.noise_seed, state)

    def step(self, action: Any) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Take a step, and let each copy take one.

        :param action: action for the environment
        :return: observation, float32 ``(features,)``, reward, terminated, truncated and info
        :raises NonFiniteObservationError: if the environment's observation is not finite
        """
        for distractor in self.distractors:
            distractor.advance()
        return super().step(action)

    def close(self) -> None:
        """Close the environment and all copies."""
        for distractor in self.distractors:
            distractor.env.close()
        super().close()

    def _noise_bounds(
        self, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.resize(low, self.n_noise), np.resize(high, self.n_noise)

    def _fill(self, out: NDArray[np.float32]) -> None:
        if (self.episode, self.step_in_episode) == (0, 0):
            self.restore_distractors(self.noise_seed, [(0, 0, 0)] * len(self.distractors))
        for first, distractor in zip(range(0, self.n_noise, self.n_real), self.distractors, strict=True):
            out[first : first + self.n_real] = distractor.observation[: self.n_noise - first]


class Distractor:
    """
    A copy of an environment that acts at random, and lives on a clock of its own.

    All that happens to it is a function of seed, index and clock, from counters:

    - each step takes a new action, uniform over the action space;
    - each episode is reset with a seed of its own, see :meth:`reset_seed`;
    - an episode ends where the environment says so, or diverges. If there is a time limit, the first one ends at the
      latest after a number of steps that is uniform up to it: otherwise all copies would start their next episodes
      together, and with the agent's;
    - the step that ends an episode shows the first observation of the next one.

    So three numbers, :attr:`counters`, are its whole state, and :meth:`restore` gets back to it by taking the present
    episode's steps again.

    :param spec: the environment's spec
    :param index: which of the copies it is, from 0
    :raises ValueError: if actions are neither discrete nor in a bounded Box
    """

    def __init__(self, spec: EnvSpec, index: int) -> None:
        self.env: gym.Env[Any, Any] = gym.make(spec, disable_env_checker=True)
        space = self.env.action_space
        if not isinstance(space, gym.spaces.Discrete) and not (
            isinstance(space, gym.spaces.Box) and np.isfinite([space.low, space.high]).all()
        ):
            raise ValueError(
                f"DistractorFeatures knows random actions of bounded Box and Discrete spaces, not {space}."
            )
        self.index = index
        self.time_limit = spec.max_episode_steps
        self.seed = self.episode = self.began = self.clock = 0
        #: What is seen now; nothing before the first :meth:`restore`.
        self.observation: NDArray[Any] = np.empty(0)

    @property
    def counters(self) -> tuple[int, int, int]:
        """Present episode, from 0; steps before it; steps since the beginning."""
        return self.episode, self.began, self.clock

    def advance(self) -> None:
        """Take a random action, and start the next episode if it ends this one."""
        self.observation, _, terminated, truncated, _ = self.env.step(self.random_action())
        self.clock += 1
        diverged = not np.isfinite(self.observation).all()
        is_cut = self.episode == 0 and self.clock == self._end_of_first_episode
        if terminated or truncated or diverged or is_cut:
            self._start_episode(self.episode + 1)

    def restore(self, seed: int, counters: tuple[int, int, int]) -> None:
        """
        Get to where a copy with these counters is, by taking the steps of its episode again.

        :param seed: 63-bit seed, the same for all copies
        :param counters: see :attr:`counters`; ``(0, 0, 0)`` is the beginning
        """
        episode, self.clock, clock = counters
        self.seed = seed
        self._end_of_first_episode = None if self.time_limit is None else self._first_length(self.time_limit)
        self._start_episode(episode)
        while self.clock < clock:
            self.advance()

    def reset_seed(self, episode: int) -> int:
        """
        Look up with which seed the environment is reset for an episode.

        :param episode: from 0
        :return: 31-bit seed
        """
        return self._word(Stream.DISTRACTOR_SEED, episode) >> 1

    def random_action(self) -> Any:
        """
        Look up the present step's action.

        :return: an element of the action space
        """
        space = self.env.action_space
        uniform = np.empty((int(np.prod(space.shape or ())), 1), np.float32)
        fill_uniform(uniform, Stream.DISTRACTOR_ACTION, self.seed, self.index, self.clock)
        if isinstance(space, gym.spaces.Discrete):
            return space.start + np.int64(uniform[0, 0] * space.n)
        assert isinstance(space, gym.spaces.Box)
        shares = uniform.reshape(space.shape)
        if np.issubdtype(space.dtype, np.integer):
            low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
            return np.minimum(low + np.floor(shares * (high - low + 1)), high).astype(space.dtype)
        return (space.low + shares * (space.high - space.low)).astype(space.dtype)

    def _start_episode(self, episode: int) -> None:
        self.episode, self.began = episode, self.clock
        self.observation, _ = self.env.reset(seed=self.reset_seed(episode))

    def _first_length(self, time_limit: int) -> int:
        return 1 + self._word(Stream.DISTRACTOR_LENGTH, 0) * time_limit // 2**32

    def _word(self, stream: Stream, step: int) -> int:
        word = np.empty((1, 1), np.uint32)
        fill_bits(word, stream, self.seed, self.index, step)
        return int(word[0, 0])
