"""The vectorised environments of a run."""

import multiprocessing
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sparse_rl.agents.checks import InputError
from sparse_rl.envs import make

VEC_ENVS: Mapping[str, type[DummyVecEnv] | type[SubprocVecEnv]] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}


class RunMonitor(Monitor[Any, Any]):
    """Stable-Baselines3's monitor, told only later where to write: a run gets its folder once all else stands."""

    def start_log(self, filename: str) -> None:
        """
        Write the episodes from now on to a file.

        :param filename: the file; ``.monitor.csv`` is appended
        """
        header: dict[str, float | str] = {"t_start": self.t_start, "env_id": str(self.spec.id if self.spec else None)}
        self.results_writer = ResultsWriter(filename, header)


def make_vec_env(
    environment: str, n_envs: int, seed: int, kind: str = "dummy", env_kwargs: Mapping[str, Any] | None = None
) -> VecEnv:
    """
    Make the vectorised form of an environment, and check that its observations can be learnt from.

    :param environment: id of the environment
    :param n_envs: number of copies
    :param seed: seed of the first copy; the next one has the next seed
    :param kind: ``"dummy"`` for one process, ``"subproc"`` for one process each
    :param env_kwargs: arguments of the environment
    :return: the environment, each copy in a :class:`RunMonitor`
    :raises InputError: if observations are not of a kind that can be learnt from
    :raises ValueError: if the environment cannot be made
    """

    def factory(rank: int) -> Callable[[], gym.Env[Any, Any]]:
        def create() -> gym.Env[Any, Any]:
            if multiprocessing.parent_process() is not None:
                # A terminal sends Ctrl-C to the workers too; the main process still needs them to end cleanly.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            env = make(environment, **(env_kwargs or {}))
            env.action_space.seed(seed + rank)
            return RunMonitor(env)

        return create

    # The one environment that is made here shows what is wrong in a sentence, not in a worker's traceback.
    try:
        probe = make(environment, **(env_kwargs or {}))
        try:
            _check(environment, probe)
        finally:
            probe.close()
    except InputError:
        raise
    except Exception as error:  # it is somebody else's code
        raise InputError(
            f"The environment {environment!r} cannot be made and reset: {type(error).__name__}: {error}"
        ) from error
    vec_env = VEC_ENVS[kind]([factory(rank) for rank in range(n_envs)])
    vec_env.seed(seed)
    return vec_env


def _check(environment: str, env: gym.Env[Any, Any]) -> None:
    if not isinstance(env.observation_space, Box):
        kind = type(env.observation_space).__name__
        raise InputError(f"{environment!r} has observations of kind {kind}; the learners here need Box observations.")
    if len(env.observation_space.shape or ()) != 1:
        raise InputError(f"{environment!r} has observations of shape {env.observation_space.shape}, not a vector.")
    observation, _ = env.reset(seed=0)
    if not np.isfinite(observation).all():
        raise InputError(f"{environment!r} gives NaN or infinite observations, from which nothing can be learnt.")


def start_logs(vec_env: VecEnv, folder: Path) -> None:
    """
    Let every copy write its episodes to ``<rank>.monitor.csv``.

    :param vec_env: what :func:`make_vec_env` returned
    :param folder: the folder of the run
    """
    for rank in range(vec_env.num_envs):
        vec_env.env_method("start_log", str(folder / str(rank)), indices=rank)


def real_features(vec_env: VecEnv) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """
    Tell which entries of an observation are real, as they are arranged at present.

    :param vec_env: the environment
    :return: one truth value per entry; all are true where an environment is not one of this project's
    """
    if not vec_env.has_attr("real_features"):
        return np.ones(vec_env.observation_space.shape or (0,), dtype=bool)
    return np.asarray(vec_env.get_attr("real_features", indices=0)[0], dtype=bool)


def phase_of(vec_env: VecEnv) -> int | None:
    """
    Tell the phase of a permuted environment.

    :param vec_env: the environment
    :return: the phase of its first copy; ``None`` if its features are not permuted
    """
    return int(vec_env.get_attr("phase", indices=0)[0]) if vec_env.has_attr("permutation_seed") else None


def set_phase(vec_env: VecEnv, phase: int | None) -> None:
    """
    Put all copies of a permuted environment into a phase, from their next reset on.

    :param vec_env: the environment
    :param phase: the phase; ``None`` to leave the environment as it is
    :raises InputError: if there is a phase to set, but the environment's features are not permuted
    """
    if phase is None:
        return
    if not vec_env.has_attr("permutation_seed"):
        raise InputError("There is a phase for an environment whose features are not permuted: leave it out.")
    vec_env.env_method("set_phase", phase)
