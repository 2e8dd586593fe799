"""The vectorised environments of a run."""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sparse_rl.agents.replay.normalization import Normalization
from sparse_rl.envs import make
from sparse_rl.envs.state import StateError, restore, state_of
from sparse_rl.inputs import InputError
from sparse_rl.training.console import forgive_console
from sparse_rl.training.signals import ending_signals

VEC_ENVS: Mapping[str, type[DummyVecEnv] | type[SubprocVecEnv]] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}
_DYING = 5.0  # seconds that a process may take to end once it has closed its pipe


class EnvironmentFailedError(OSError):
    """What an environment raised looks as if a file of the run could not be written, but is the environment's own."""


class RunMonitor(Monitor[Any, Any]):
    """
    Stable-Baselines3's monitor, told only later where to write: a run gets its folder once all else stands.

    As the outermost layer it also keeps the state of the whole environment, for checkpoints, wherever that lives, and
    knows an error of the environment from one of its log.

    :param env: the environment
    :param is_in_worker: whether a process has been made for it alone
    """

    #: See :class:`sparse_rl.envs.state.KeepsItself`.
    kept_by_itself = frozenset({"results_writer", "t_start", "is_in_worker"})

    def __init__(self, env: gym.Env[Any, Any], is_in_worker: bool = False) -> None:
        super().__init__(env)
        self.is_in_worker = is_in_worker

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode.

        :param kwargs: what ``reset`` of the environment takes
        :return: the first observation, and information
        :raises EnvironmentFailedError: if the environment raises an ``OSError``
        """
        try:
            return super().reset(**kwargs)
        except OSError as error:
            raise EnvironmentFailedError(f"{type(error).__name__}: {error}") from error

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Take a step.

        :param action: the action
        :return: observation, reward, whether the episode is over by itself or is cut off, and information
        :raises EnvironmentFailedError: if the environment raises an ``OSError``
        :raises OSError: if the episode that ends here cannot be written into the log
        """
        try:
            return super().step(action)
        except OSError as error:
            if self.needs_reset:  # the episode is over: it is its row that cannot be written
                raise
            raise EnvironmentFailedError(f"{type(error).__name__}: {error}") from error

    def start_log(self, filename: str) -> None:
        """
        Write the episodes from now on to a file.

        :param filename: the file; ``.monitor.csv`` is appended
        """
        header: dict[str, float | str] = {"t_start": self.t_start, "env_id": str(self.spec.id if self.spec else None)}
        self.results_writer = ResultsWriter(filename, header)

    def continue_log(self, filename: str, length: int) -> None:
        """
        Cut a file off where a checkpoint was taken, and go on writing there.

        :param filename: the file; ``.monitor.csv`` is appended
        :param length: its length at that time, in bytes
        :raises StateError: if it is shorter now
        """
        os.truncate(check_log(filename, length), length)
        self.results_writer = ResultsWriter(filename, override_existing=False)

    def own_state(self) -> float:
        """Give the time since the environment was made, in seconds."""
        return time.time() - self.t_start

    def restore_own_state(self, state: float) -> None:
        """
        Let the clock go on from where it was.

        :param state: what :meth:`own_state` gave
        """
        self.t_start = time.time() - state

    def keep_state(self) -> dict[str, Any]:
        """
        Give the state of this environment, and of the process where it lives, if that is its own.

        :return: plain values and arrays
        """
        length = None
        if self.results_writer is not None:
            os.fsync(self.results_writer.file_handler.fileno())  # flushed after each row
            length = os.fstat(self.results_writer.file_handler.fileno()).st_size
        generators = None
        if self.is_in_worker:
            generators = (random.getstate(), np.random.get_state(legacy=False), th.get_rng_state().numpy())
        return {"env": state_of(self), "log": length, "generators": generators}

    def restore_state(self, state: dict[str, Any]) -> NDArray[Any] | None:
        """
        Put this environment into a state, or into the next episode if that is all that can be done.

        :param state: what :meth:`keep_state` gave
        :return: the first observation of that next episode; ``None`` if the state is exactly that of then
        :raises StateError: if it is the state of another environment
        """
        missing = restore(self, state["env"])
        if state["generators"] is not None and self.is_in_worker:
            random.setstate(state["generators"][0])
            np.random.set_state(state["generators"][1])
            for torchs in state["generators"][2:]:  # checkpoints of older versions have none
                th.set_rng_state(th.from_numpy(torchs))
        if not (state["env"]["obstacles"] or missing):
            return None
        observation, _ = self.reset()
        return np.asarray(observation)


def check_log(filename: str, length: int) -> Path:
    """
    Check that there is as much of a monitor file as when a checkpoint was taken.

    :param filename: the file; ``.monitor.csv`` is appended
    :param length: its length at that time, in bytes
    :return: the file
    :raises StateError: if it is shorter now, or gone
    """
    path = Path(f"{filename}.{RunMonitor.EXT}")
    if not path.exists():
        raise StateError(f"{str(path)!r} is missing: it belongs to the run.")
    if path.stat().st_size < length:
        raise StateError(f"{str(path)!r} is shorter than when the checkpoint was taken: it has been changed.")
    return path


def make_vec_env(
    environment: str,
    n_envs: int,
    seed: int,
    kind: str = "dummy",
    env_kwargs: Mapping[str, Any] | None = None,
    normalize: Mapping[str, Any] | None = None,
) -> VecEnv:
    """
    Make the vectorised form of an environment, and check that its observations can be learnt from.

    :param environment: id of the environment
    :param n_envs: number of copies
    :param seed: seed of the first copy; the next one has the next seed
    :param kind: ``"dummy"`` for one process, ``"subproc"`` for one process each
    :param env_kwargs: arguments of the environment
    :param normalize: arguments of ``VecNormalize``; ``None`` for observations and rewards as they are
    :return: the environment, each copy in a :class:`RunMonitor`
    :raises InputError: if observations are not of a kind that can be learnt from
    :raises ValueError: if the environment cannot be made
    """
    is_in_worker = kind == "subproc"

    def factory(rank: int) -> Callable[[], gym.Env[Any, Any]]:
        def create() -> gym.Env[Any, Any]:
            if is_in_worker:  # which the process of a whole run, such as a trial, is not, whoever started that
                forgive_console()
                # A terminal sends Ctrl-C to the workers too, and SIGHUP when it is closed, a scheduler its SIGTERM;
                # the main process still needs them to end cleanly. They end when it closes their pipe.
                for number in ending_signals():
                    signal.signal(number, signal.SIG_IGN)
            env = make(environment, **(env_kwargs or {}))
            env.action_space.seed(seed + rank)
            return RunMonitor(env, is_in_worker)

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
    return vec_env if normalize is None else VecNormalize(vec_env, **normalize)


def has_lost_worker(*vec_envs: VecEnv | None) -> bool:
    """
    Tell whether the process of a copy has died.

    :param vec_envs: what :func:`make_vec_env` returned, or ``None``; such as share the process of training have none
    :return: whether one has, or does just now
    """
    workers = [worker for env in vec_envs if env is not None for worker in getattr(env.unwrapped, "processes", ())]
    return bool(wait([worker.sentinel for worker in workers], _DYING)) if workers else False


def _check(environment: str, env: gym.Env[Any, Any]) -> None:
    if not isinstance(env.observation_space, Box):
        kind = type(env.observation_space).__name__
        raise InputError(
            f"{environment!r} has observations of kind {kind}; the learners here need Box observations: vectors. "
            "Gymnasium's wrapper FlattenObservation turns them into vectors."
        )
    if len(env.observation_space.shape or ()) != 1:
        what = (
            "images, and there are no sparse convolutions here" if is_image_space(env.observation_space) else "arrays"
        )
        raise InputError(
            f"{environment!r} has observations of shape {env.observation_space.shape}, not a vector: {what}. "
            "Gymnasium's wrapper FlattenObservation turns them into a vector."
        )
    if env.observation_space.shape == (0,):
        raise InputError(f"{environment!r} has observations without any features.")
    observation, _ = env.reset(seed=0)
    if np.shape(observation) != env.observation_space.shape:
        raise InputError(
            f"{environment!r} gives observations of shape {np.shape(observation)}, and says that they have the shape "
            f"{env.observation_space.shape}."
        )
    if not np.isfinite(observation).all():
        raise InputError(f"{environment!r} gives NaN or infinite observations, from which nothing can be learnt.")
    env.action_space.seed(0)
    answer = env.step(env.action_space.sample())
    if len(answer) != 5:
        raise InputError(
            f"{environment!r} has a step() that gives {len(answer)} values: expected observation, reward, terminated, "
            "truncated, info."
        )


def start_logs(vec_env: VecEnv, folder: Path) -> None:
    """
    Let every copy write its episodes to ``<rank>.monitor.csv``.

    :param vec_env: what :func:`make_vec_env` returned
    :param folder: the folder of the run
    """
    for rank in range(vec_env.num_envs):
        vec_env.env_method("start_log", str(folder / str(rank)), indices=rank)


def keep(vec_env: VecEnv) -> dict[str, Any]:
    """
    Give the state of all copies.

    :param vec_env: what :func:`make_vec_env` returned
    :return: plain values and arrays
    """
    state: dict[str, Any] = {"envs": vec_env.env_method("keep_state")}
    state["seeds"] = list(vec_env.unwrapped._seeds)  # of a reset that is still to come
    if isinstance(vec_env, VecNormalize):
        state["statistics"] = {**Normalization.of(vec_env).statistics, "returns": vec_env.returns.copy()}
    return state


def put_back(vec_env: VecEnv, state: Mapping[str, Any]) -> dict[int, NDArray[Any]]:
    """
    Put all copies into a state.

    :param vec_env: what :func:`make_vec_env` returned
    :param state: what :func:`keep` gave
    :return: first observations of the copies whose state could not be kept, and which begin a new episode instead
    :raises StateError: if it is the state of other environments
    """
    vec_env.reset()  # some attributes are made there
    begun = {}
    for rank, each in enumerate(state["envs"]):
        (observation,) = vec_env.env_method("restore_state", each, indices=rank)
        if observation is not None:
            begun[rank] = observation
    vec_env.unwrapped._seeds = list(state["seeds"])
    if isinstance(vec_env, VecNormalize):
        Normalization({}, state["statistics"]).put_into(vec_env)
        vec_env.returns = state["statistics"]["returns"]
    return begun


def obstacles(state: Mapping[str, Any]) -> list[str]:
    """
    Say what of the copies could not be kept.

    :param state: what :func:`keep` gave
    :return: attributes and their types, in words; none if everything could
    """
    return sorted({obstacle for each in state["envs"] for obstacle in each["env"]["obstacles"]})


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
    :raises InputError: if the environment's features are not permuted
    """
    if phase is None:
        return
    if not vec_env.has_attr("permutation_seed"):
        raise InputError("A phase was given for an environment whose features are not permuted: leave it out.")
    vec_env.env_method("set_phase", phase)
