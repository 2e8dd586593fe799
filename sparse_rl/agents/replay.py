"""A replay buffer for extremely noisy environments: it keeps the real features and redraws the noise."""

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

from sparse_rl.envs import NoiseModel, Stream, permutation_at


class RedrawnReplayBuffer(ReplayBuffer):
    """
    Replay under the ``redrawn`` protocol: fresh noise, in the present order, each time a transition is used.

    This is what the published ANF code does (Grooten et al. 2023): there noise is drawn inside the networks' forward
    pass, so an agent never learns from the same noise twice. Here a batch's noise is drawn once and shared by actor and
    critics; in the authors' code each of them draws its own. Only real features are stored, so the memory does not
    grow with the noise.

    Noise is a function of the seed, the number of batches drawn so far and the row, so it needs no generator state.
    Batches are feature-major tensors seen from the other side: of shape ``(batch, features)``, with contiguous
    columns, ready for the sparse kernels.

    :param buffer_size: maximum number of transitions
    :param observation_space: the noisy environment's
    :param action_space: the environment's
    :param device: where batches go
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: not supported, as in Stable-Baselines3 together with the next one
    :param handle_timeout_termination: bootstrap at time limits
    :param noise_model: how noise is drawn, and how many features are real
    :param permutation_seed: seed of the environment's :class:`~sparse_rl.envs.PermuteFeatures`; ``None`` if it has none
    :param seed: of the noise that this buffer draws
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
        seed: int = 0,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("RedrawnReplayBuffer stores real features only: it has no `optimize_memory_usage`.")
        self.noise_model = noise_model
        self.n_features = noise_model.n_real + noise_model.n_noise
        if observation_space.shape != (self.n_features,):
            raise ValueError(
                f"The noise model makes {self.n_features} features, but observations have shape "
                f"{observation_space.shape}: give the noise model of this very environment."
            )
        real = spaces.Box(-np.inf, np.inf, (noise_model.n_real,), np.float32)
        super().__init__(
            buffer_size, real, action_space, device, n_envs, handle_timeout_termination=handle_timeout_termination
        )
        self.permutation_seed = permutation_seed
        self.seed_of_noise = seed
        self.phase = 0
        self.batches_drawn = 0

    @staticmethod
    def kwargs_for(env: VecEnv, seed: int = 0) -> dict[str, Any]:
        """
        Find the arguments that fit an environment.

        :param env: vectorised environment whose copies have :class:`~sparse_rl.envs.NoiseFeatures`
        :param seed: of the noise that the buffer will draw
        :return: ``replay_buffer_kwargs`` for a Stable-Baselines3 algorithm
        :raises ValueError: if the environment has no noise features, or changes them in a way that cannot be redrawn
        """
        if not env.has_attr("noise_model"):
            raise ValueError(
                "Noise can be redrawn only in environments with noise features, such as HalfCheetah-noise98: "
                "use the `observed` protocol (Stable-Baselines3's own ReplayBuffer) here."
            )
        _check_order(env.get_attr("spec", 0)[0])
        permuted = env.has_attr("permutation_seed")
        return {
            "noise_model": env.get_attr("noise_model", 0)[0],
            "permutation_seed": env.get_attr("permutation_seed", 0)[0] if permuted else None,
            "seed": seed,
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
        :param infos: one for each environment; ``"phase"`` says in which order its features are
        """
        phases = [self._phase_of(info) for info in infos]
        # Copies of an environment reach a new phase one after the other; the newest is the one to learn for.
        self.phase = max(phases)
        real = np.stack([self._positions_of_real_features(phase) for phase in phases])
        super().add(
            np.take_along_axis(obs, real, axis=1),
            np.take_along_axis(next_obs, real, axis=1),
            action,
            reward,
            done,
            infos,
        )

    def _phase_of(self, info: dict[str, Any]) -> int:
        # Without a permutation, a "phase" is somebody else's.
        return 0 if self.permutation_seed is None else int(info["phase"])

    def _positions_of_real_features(self, phase: int) -> NDArray[np.int64]:
        """Find where the real features stand in an observation of this phase."""
        return _inverse_permutation(self.permutation_seed, phase, self.n_features)[: self.noise_model.n_real]

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        rows = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        observations, next_observations = self._with_noise(
            self.observations[batch_inds, rows], self.next_observations[batch_inds, rows]
        )
        not_timeout = 1 - self.timeouts[batch_inds, rows]
        dones = (self.dones[batch_inds, rows] * not_timeout).reshape(-1, 1)
        rewards = self._normalize_reward(self.rewards[batch_inds, rows].reshape(-1, 1), env)
        return ReplayBufferSamples(
            self._observations(observations, env),
            self.to_torch(self.actions[batch_inds, rows]),
            self._observations(next_observations, env),
            self.to_torch(dones),
            self.to_torch(rewards),
        )

    def _with_noise(self, *batches: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Turn real features ``(batch, n_real)`` into observations, feature-major: ``(features, batch)``."""
        n_real = self.noise_model.n_real
        noisy = []
        for index, real in enumerate(batches):
            out = np.empty((self.n_features, len(real)), np.float32)
            out[:n_real] = real.T
            steps = np.arange(index * len(real), (index + 1) * len(real))
            self.noise_model.draw(self.seed_of_noise, self.batches_drawn, steps, out[n_real:], Stream.REDRAWN)
            if self.phase:
                out = out[_permutation(self.permutation_seed, self.phase, self.n_features)]
            noisy.append(out)
        self.batches_drawn += 1
        return noisy

    def _observations(self, feature_major: NDArray[np.float32], env: VecNormalize | None) -> th.Tensor:
        if env is not None:
            normalized = self._normalize_obs(feature_major.T, env)
            assert isinstance(normalized, np.ndarray)
            feature_major = np.ascontiguousarray(normalized.T, np.float32)
        return self.to_torch(feature_major, copy=False).t()


# Wrappers that may lie above the noise: they leave observations alone.
_HARMLESS = {
    "Monitor",
    "RunMonitor",
    "TimeLimit",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
}


def _check_order(spec: EnvSpec | None) -> None:
    """Check that what lies above the noise is at most one permutation, and wrappers that leave observations alone."""
    if spec is None:  # made without an id: there is nothing to check it by
        return
    wrappers = [wrapper.name for wrapper in spec.additional_wrappers]
    above = wrappers[wrappers.index("NoiseFeatures") + 1 :]
    changing = [name for name in above if name not in _HARMLESS]
    if changing not in ([], ["PermuteFeatures"]):
        raise ValueError(
            f"Redrawn noise would miss what {changing[-1]} does to observations above NoiseFeatures: put it below, or "
            "use the `observed` protocol (Stable-Baselines3's own ReplayBuffer)."
        )
    if "PermuteFeatures" in wrappers[: wrappers.index("NoiseFeatures")]:
        raise ValueError("Redrawn noise needs PermuteFeatures above NoiseFeatures: swap the two wrappers.")


@lru_cache(maxsize=4)
def _permutation(seed: int | None, phase: int, n: int) -> NDArray[np.int64]:
    return permutation_at(seed or 0, phase, n)


@lru_cache(maxsize=4)
def _inverse_permutation(seed: int | None, phase: int, n: int) -> NDArray[np.int64]:
    return np.argsort(_permutation(seed, phase, n))
