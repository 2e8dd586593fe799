"""Replay buffers for extremely noisy environments: they keep the real features and draw the noise again."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sparse_rl.agents.replay.gather import gather, reorder
from sparse_rl.agents.replay.normalization import normalize_rows
from sparse_rl.envs import NoiseModel, Stream, permutation_at
from sparse_rl.kernels import empty_rows, follow_torch


class CompactReplayBuffer(ReplayBuffer, ABC):
    """
    Replay that stores real features only, so that its memory does not grow with the noise.

    Noise is a function of counters, and is drawn for each batch; which counters, the protocols decide: see
    :class:`RedrawnReplayBuffer` and :class:`ObservedReplayBuffer`. Transitions are sampled as Stable-Baselines3 does,
    with the same random numbers.

    A batch is one feature-major array, :meth:`feature_major`. What :meth:`sample` returns are views of it, of shape
    ``(batch, features)``.

    :param buffer_size: maximum number of transitions
    :param observation_space: the noisy environment's
    :param action_space: the environment's
    :param device: where batches go
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: not supported, as in Stable-Baselines3 together with the next one
    :param handle_timeout_termination: bootstrap at time limits
    :param noise_model: how noise is drawn, and how many features are real
    :param permutation_seed: seed of the environment's :class:`~sparse_rl.envs.PermuteFeatures`; ``None`` if it has none
    :raises ValueError: if the observation space does not fit the noise model, or memory optimisation is asked for
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        noise_model: NoiseModel,
        permutation_seed: int | None = None,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(f"{type(self).__name__} stores real features only: it has no `optimize_memory_usage`.")
        self.noise_model = noise_model
        self.n_features = noise_model.n_real + noise_model.n_noise
        if observation_space.shape != (self.n_features,):
            raise ValueError(
                f"The noise model makes {self.n_features} features, but observations have shape "
                f"{observation_space.shape}: give the noise model of this environment."
            )
        real = spaces.Box(-np.inf, np.inf, (noise_model.n_real,), np.float32)
        super().__init__(
            buffer_size, real, action_space, device, n_envs, handle_timeout_termination=handle_timeout_termination
        )
        self.permutation_seed = permutation_seed

    @classmethod
    def kwargs_for(cls, env: VecEnv) -> dict[str, Any]:
        """
        Find the arguments that fit an environment.

        :param env: vectorised environment whose copies have :class:`~sparse_rl.envs.NoiseFeatures`
        :return: ``replay_buffer_kwargs`` for a Stable-Baselines3 algorithm
        :raises TypeError: if it is not vectorised
        :raises ValueError: if the environment has no noise features, or changes them in a way that cannot be drawn
            again
        """
        if not isinstance(env, VecEnv):
            raise TypeError(
                f"Expected a vectorised environment, not {type(env).__name__}: give DummyVecEnv([lambda: env]), or a "
                "model's get_env()."
            )
        reason = obstacle(env)
        if reason is not None:
            raise ValueError(reason)
        permuted = env.has_attr("permutation_seed")
        return {
            "noise_model": env.get_attr("noise_model", 0)[0],
            "permutation_seed": env.get_attr("permutation_seed", 0)[0] if permuted else None,
        }

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
        Store the real features of a transition.

        :param obs: observations, of shape ``(n_envs, features)``
        :param next_obs: next observations of the same episodes, of the same shape
        :param action: of shape ``(n_envs, action dimensions)``
        :param reward: of shape ``(n_envs,)``
        :param done: of shape ``(n_envs,)``
        :param infos: one for each environment, of the step that led to ``next_obs``; ``"phase"`` says in which order
            its features are, ``"noise"`` where their noise comes from
        :raises ValueError: if this is the first transition, or an episode begins, and its noise is not what the noise
            model draws
        """
        if self.permutation_seed is not None and any("phase" not in info for info in infos):
            raise ValueError(self._another_environment())
        # Without a permutation, a "phase" is somebody else's.
        phases = [0 if self.permutation_seed is None else int(info["phase"]) for info in infos]
        is_first = self.pos == 0 and not self.full
        for copy, info in enumerate(infos):
            # A model may be given another environment, and not all wrappers have a name to know them by.
            if "noise" in info and (is_first or info["noise"]["step"] == 1):
                self._check(obs[copy], None if done[copy] else next_obs[copy], info["noise"], phases[copy])
        self._remember(infos, phases)
        real = np.stack([self._positions(phase)[: self.noise_model.n_real] for phase in phases])
        super().add(
            np.take_along_axis(obs, real, axis=1),
            np.take_along_axis(next_obs, real, axis=1),
            action,
            reward,
            done,
            infos,
        )

    def _check(self, obs: NDArray[Any], next_obs: NDArray[Any] | None, place: dict[str, int], phase: int) -> None:
        """Check the noise of a transition; ``None`` for a last observation, which may have been rounded."""
        noise = self.noise_model.draw(place["seed"], place["episode"], np.arange(place["step"] - 1, place["step"] + 1))
        positions = self._positions(phase)[self.noise_model.n_real :]
        for drawn, seen in zip(noise.T, (obs, next_obs), strict=True):
            if seen is not None and not np.array_equal(drawn, seen[positions].astype(np.float32)):
                raise ValueError(self._another_environment())

    def _another_environment(self) -> str:
        return (
            "The noise that was observed is not what the noise model draws: this is another environment than the one "
            "whose replay_buffer_kwargs the buffer was made with, or its copies differ, or something above "
            f"NoiseFeatures changes observations. Give {type(self).__name__}.kwargs_for() of this environment, or use "
            "Stable-Baselines3's own ReplayBuffer."
        )

    @abstractmethod
    def _remember(self, infos: list[dict[str, Any]], phases: list[int]) -> None:
        """Note what it will take to draw noise for the transition that is about to be stored at ``self.pos``."""

    @abstractmethod
    def _draw_noise(self, rows: NDArray[np.int64], last: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """
        Draw noise, feature-major: for observations in ``rows``, then for next observations in ``last``.

        What it writes to further columns does not matter.
        """

    @abstractmethod
    def _phases(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Tell the phase in whose order each of these transitions is to be shown."""

    def _positions(self, phase: int) -> NDArray[np.int64]:
        """Find where the features, real ones first, stand in an observation of this phase."""
        return _inverse_permutation(self.permutation_seed, phase, self.n_features)

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        copies = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        both = th.from_numpy(self.feature_major(batch_inds, copies, env)).t().to(self.device)
        observations, next_observations = both.split(len(batch_inds))
        dones = self.dones[batch_inds, copies] * (1 - self.timeouts[batch_inds, copies])
        rewards = self._normalize_reward(self.rewards[batch_inds, copies].reshape(-1, 1), env)
        return ReplayBufferSamples(
            observations,
            self.to_torch(self.actions[batch_inds, copies]),
            next_observations,
            self.to_torch(dones.reshape(-1, 1)),
            self.to_torch(rewards),
        )

    def feature_major(
        self,
        indices: NDArray[np.int64],
        copies: NDArray[np.int64],
        env: VecNormalize | None = None,
        last: NDArray[np.int64] | None = None,
        spare: int = 0,
    ) -> NDArray[np.float32]:
        """
        Give observations and next observations of transitions.

        :param indices: which transitions, ``(batch,)``
        :param copies: of which environment, ``(batch,)``
        :param env: normalizes them
        :param last: whose next observations to give instead: later transitions of the same episodes, ``(batch,)``
        :param spare: rows below them, for the caller
        :return: of shape ``(features + spare, 2 * batch)`` with contiguous rows, observations first
        """
        ends = None if last is None else last * self.n_envs + copies
        shown = self._with_noise(indices * self.n_envs + copies, ends, spare)
        if env is not None:
            normalize_rows(shown[: self.n_features], env)
        return shown

    def show(
        self, indices: NDArray[np.int64], copies: NDArray[np.int64], env: VecNormalize | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """
        Show transitions, without leaving a trace of that in what will be drawn.

        :param indices: which transitions, ``(n,)``
        :param copies: of which environment, ``(n,)``
        :param env: normalizes them
        :return: observations and next observations, ``(n, features)`` each
        """
        both = self.feature_major(indices, copies, env).T
        return both[: len(indices)], both[len(indices) :]

    def _with_noise(
        self, rows: NDArray[np.int64], last: NDArray[np.int64] | None = None, spare: int = 0
    ) -> NDArray[np.float32]:
        """Give observations in rows of memory and next observations in the last ones: see :meth:`feature_major`."""
        follow_torch()  # the kernels below do not know PyTorch
        n_real, n_columns = self.noise_model.n_real, 2 * len(rows)
        memory = empty_rows(self.n_features + spare, n_columns)
        before, after = (stored.reshape(-1, n_real) for stored in (self.observations, self.next_observations))
        gather(before, after, rows, memory[:n_real])
        if last is not None:
            memory[:n_real, len(rows) : n_columns] = after[last].T
        # The columns between the rows get noise too: the generator wants one contiguous array.
        self._draw_noise(rows, rows if last is None else last, memory[n_real : self.n_features])
        if self.permutation_seed is not None:
            phases, which = np.unique(self._phases(rows), return_inverse=True)
            if phases.any():
                orders = [_permutation(self.permutation_seed, int(phase), self.n_features) for phase in phases]
                shown = empty_rows(self.n_features + spare, n_columns)
                reorder(memory, np.stack(orders), np.tile(which, 2), shown[: self.n_features])
                memory = shown
        return memory[:, :n_columns]


class RedrawnReplayBuffer(CompactReplayBuffer):
    """
    Replay under the ``redrawn`` protocol: fresh noise, and the present order, each time a transition is used.

    This is what the published ANF code does (Grooten et al. 2023): there noise is drawn inside the networks' forward
    pass, so an agent never learns from the same noise twice. Here a batch's noise is drawn once and shared by actor and
    critics; in the authors' code each of them draws its own.

    Noise is a function of the seed, the number of batches drawn so far and the column, so it needs no generator state.
    Where noise has a memory (AR(1) processes), each use of a transition has new processes, of which observation and
    next observation show consecutive steps.

    :param args: see :class:`CompactReplayBuffer`
    :param seed: of the noise that this buffer draws
    :param keep_order: whether each transition stays in the order in which it was seen, as it must where nobody can tell
        that, and how, features have changed places
    :param kwargs: see :class:`CompactReplayBuffer`
    :raises ValueError: if the order is to be kept where it never changes
    """

    def __init__(self, *args: Any, seed: int = 0, keep_order: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if keep_order and self.permutation_seed is None:
            raise ValueError("`keep_order` is for environments whose features change places, with `-permute<N>`.")
        self.seed_of_noise = seed
        self.phase = 0
        self.phases = np.zeros((self.buffer_size if keep_order else 0, self.n_envs), np.uint32)
        self.batches_drawn = 0

    @classmethod
    def kwargs_for(cls, env: VecEnv, seed: int = 0) -> dict[str, Any]:
        """
        Find the arguments that fit an environment.

        :param env: see :meth:`CompactReplayBuffer.kwargs_for`
        :param seed: of the noise that the buffer will draw
        :return: ``replay_buffer_kwargs`` for a Stable-Baselines3 algorithm
        """
        return {**super().kwargs_for(env), "seed": seed}

    def show(self, *args: Any, **kwargs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Show transitions: see :meth:`CompactReplayBuffer.show`."""
        drawn = self.batches_drawn
        shown = super().show(*args, **kwargs)
        self.batches_drawn = drawn
        return shown

    def _remember(self, infos: list[dict[str, Any]], phases: list[int]) -> None:
        # Copies of an environment reach a new phase one after the other; the newest is the one to learn for.
        self.phase = max(phases)
        if len(self.phases):
            self.phases[self.pos] = phases

    def _draw_noise(self, rows: NDArray[np.int64], last: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        n, columns, memory = len(rows), out.shape[1], self.noise_model.distribution.memory
        steps = np.arange(columns)
        if memory > 1:
            # A process for each transition, at its first step and as many steps later as the transition takes.
            later = (last - rows) // self.n_envs % self.buffer_size + 1
            steps = np.resize(memory * np.arange(n), columns)
            steps[n : 2 * n] += later
        self.noise_model.draw(self.seed_of_noise, self.batches_drawn, steps, out=out, stream=Stream.REDRAWN)
        self.batches_drawn += 1

    def _phases(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.phases.ravel()[rows] if len(self.phases) else np.full(len(rows), self.phase)


class ObservedReplayBuffer(CompactReplayBuffer):
    """
    Replay under the ``observed`` protocol: the noise that was seen, in the order in which it was seen, bit for bit.

    Batches are those of Stable-Baselines3's ``ReplayBuffer``, which stores all features. This one stores where each
    observation's noise comes from, ``info["noise"]`` and ``info["phase"]``, and draws it again. (Stable-Baselines3
    gives the last observation of an episode in :class:`VecNormalize` back after a detour, through normalization and its
    inverse, which its own buffer stores rounded and clipped; here its noise is exact.)

    :param args: see :class:`CompactReplayBuffer`
    :param kwargs: see :class:`CompactReplayBuffer`
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = (self.buffer_size, self.n_envs)
        self.noise_seeds = np.zeros(shape, np.uint64)
        self.episodes = np.zeros(shape, np.uint32)
        self.steps = np.zeros(shape, np.uint32)
        self.phases = np.zeros(shape if self.permutation_seed is not None else (0, self.n_envs), np.uint32)

    def _remember(self, infos: list[dict[str, Any]], phases: list[int]) -> None:
        places = [info["noise"] for info in infos]
        self.noise_seeds[self.pos] = [place["seed"] for place in places]
        self.episodes[self.pos] = [place["episode"] for place in places]
        self.steps[self.pos] = [place["step"] for place in places]
        if self.permutation_seed is not None:
            self.phases[self.pos] = phases

    def _draw_noise(self, rows: NDArray[np.int64], last: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        # A transition lies within one episode.
        seeds, episodes, steps = (each.ravel()[rows] for each in (self.noise_seeds, self.episodes, self.steps))
        before_and_after = np.concatenate([steps - np.uint32(1), self.steps.ravel()[last]])
        columns = out.shape[1]
        self.noise_model.draw(
            np.resize(seeds, columns), np.resize(episodes, columns), np.resize(before_and_after, columns), out=out
        )

    def _phases(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        phases: NDArray[Any] = self.phases.ravel()[rows]
        return phases


# Wrappers that may lie above the noise: they leave observations alone.
_HARMLESS = {
    "Monitor",
    "RunMonitor",
    "TimeLimit",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    # what changes actions or rewards
    "ClipAction",
    "RescaleAction",
    "StickyAction",
    "TransformAction",
    "ClipReward",
    "NormalizeReward",
    "TransformReward",
}


def obstacle(env: VecEnv) -> str | None:
    """
    Tell what keeps an environment's noise from being drawn again.

    :param env: vectorised environment
    :return: a sentence for the user; ``None`` if a :class:`CompactReplayBuffer` can be used
    """
    if env.has_attr("distractor_counters"):
        return (
            "What other copies of the environment show cannot be drawn again: use the `observed` protocol, with "
            "Stable-Baselines3's own ReplayBuffer."
        )
    if not env.has_attr("noise_model"):
        return (
            "Noise can be drawn again only in environments with noise features, such as HalfCheetah-noise98: use the "
            "`observed` protocol, with Stable-Baselines3's own ReplayBuffer, here."
        )
    model: NoiseModel = env.get_attr("noise_model", 0)[0]
    if env.observation_space.shape != (model.n_real + model.n_noise,):
        return (
            f"The noise model makes {model.n_real + model.n_noise} features, but observations have shape "
            f"{env.observation_space.shape}: what is above NoiseFeatures must leave observations alone."
        )
    return _obstacle_in(env.get_attr("spec", 0)[0])


def _obstacle_in(spec: EnvSpec | None) -> str | None:
    """Check that what lies above the noise is at most one permutation, and wrappers that leave observations alone."""
    if spec is None:  # made without an id: there is nothing to check it by
        return None
    wrappers = [wrapper.name for wrapper in spec.additional_wrappers]
    if "NoiseFeatures" not in wrappers:
        return (
            f"Noise can be drawn again only if NoiseFeatures makes it; here the wrappers are {', '.join(wrappers)}: "
            "use the `observed` protocol, with Stable-Baselines3's own ReplayBuffer."
        )
    above = wrappers[wrappers.index("NoiseFeatures") + 1 :]
    changing = [name for name in above if name not in _HARMLESS]
    if changing not in ([], ["PermuteFeatures"]):
        return (
            f"Noise that is drawn again would miss what {changing[-1]} does to observations above NoiseFeatures: put "
            "it below, or use the `observed` protocol, with Stable-Baselines3's own ReplayBuffer."
        )
    if "PermuteFeatures" in wrappers[: wrappers.index("NoiseFeatures")]:
        return "To draw noise again, PermuteFeatures must be above NoiseFeatures: swap the two wrappers."
    return None


# The observed protocol needs the orders of all phases that are in memory.
@lru_cache(maxsize=1024)
def _permutation(seed: int | None, phase: int, n: int) -> NDArray[np.int64]:
    return permutation_at(seed or 0, phase, n)


@lru_cache(maxsize=16)
def _inverse_permutation(seed: int | None, phase: int, n: int) -> NDArray[np.int64]:
    return np.argsort(_permutation(seed, phase, n))
