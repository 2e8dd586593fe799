"""Checkpoints of a run, and going on from one: between two rollouts, where nothing is half done."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl.checkpoints import (
    CheckpointFolder,
    ReplayLog,
    Tree,
    keep_agent,
    keep_generators,
    restore_agent,
    restore_generators,
)
from sparse_rl.inputs import InputError
from sparse_rl.storage import StorageError
from sparse_rl.training.guard import GuardCallback, TrainingEnded
from sparse_rl.training.tensorboard import cut_curves, keep_curves, open_logger
from sparse_rl.training.vec_envs import check_log, keep, obstacles, put_back

#: Seconds after which there is a checkpoint at the latest.
MOST_SECONDS = 600.0
#: Keys of a configuration that do not say what a run is, but with what it was carried out.
CIRCUMSTANCES = ("versions", "platform", "commit", "num_threads")
_WORDS = ("command", "notes", "tensorboard")


class NotResumedError(InputError):
    """The state of a checkpoint could not be put in place; nothing has been changed on the disk."""


class ResumeCallback(BaseCallback):
    """
    Take checkpoints, and go on from one; goes after all other callbacks.

    A checkpoint is taken at the start of a rollout, after the updates of networks and topologies that fell due there. A
    run that goes on from one begins as any other, and when its first rollout starts, everything is put in place.

    :param checkpoints: where they are
    :param every: environment steps between two checkpoints; 0 or less for none but at a signal
    :param callbacks: the other callbacks: those that have state offer ``keep()`` and ``restore()``
    :param eval_env: the environment of evaluations
    :param folder: the folder of the run
    :param tensorboard: the folder of TensorBoard's files
    :param guard: knows of signals
    :param configuration: what the run is, and with which versions; see :data:`CIRCUMSTANCES`
    :param verbose: 1 if the logs shall be printed as tables
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        every: int,
        callbacks: Iterable[BaseCallback],
        eval_env: VecEnv | None,
        folder: Path,
        tensorboard: Path,
        guard: GuardCallback,
        configuration: Mapping[str, Any],
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.checkpoints = checkpoints
        self.every = every
        self.callbacks = list(callbacks)
        self.eval_env = eval_env
        self.folder = folder
        self.tensorboard = tensorboard
        self.guard = guard
        self.configuration = dict(configuration)
        #: Environment steps of the newest checkpoint; ``None`` if there is none.
        self.newest: int | None = None
        #: Whether the run is where it shall begin: nothing that is saved before that is of the run.
        self.is_in_place = True
        #: What to do then.
        self.when_in_place: Callable[[], None] = lambda: None
        self._loaded: dict[str, Any] | None = None
        self._last_step, self._last_time = 0, time.monotonic()
        self._has_complained = False

    # --- Taking checkpoints ---

    def _on_rollout_start(self) -> None:
        if self._loaded is not None:
            self._put_in_place(self._loaded)
            self._loaded = None
        elif self.guard.signal is not None or self._is_due():
            self.save()
        if self.guard.signal is not None:
            raise TrainingEnded

    def _on_step(self) -> bool:
        return True

    def _is_due(self) -> bool:
        if self.every <= 0:
            return False
        steps, seconds = self.model.num_timesteps - self._last_step, time.monotonic() - self._last_time
        return steps >= self.every or (steps > 0 and seconds >= MOST_SECONDS)

    def save(self) -> None:
        """Take a checkpoint; if that is not possible, say so, and let training go on."""
        self.guard.check_weights()
        steps, log = self.model.num_timesteps, self._log
        try:
            if log is not None:
                log.folder.mkdir(exist_ok=True)
            self.checkpoints.save(steps, self._state())
            self._prune()
            self.newest = steps
        except (OSError, ValueError, TypeError) as error:
            kept = "there is none yet" if self.newest is None else f"the newest one is of step {self.newest:,}"
            reason = getattr(error, "strerror", None) or error
            print(f"Note: the checkpoint of step {steps:,} could not be written ({reason}); {kept}.", flush=True)
        self._last_step, self._last_time = steps, time.monotonic()

    def _state(self) -> dict[str, Tree]:
        rows = self.model.num_timesteps // self.training_env.num_envs
        state = {
            "configuration": self.configuration,
            "agent": keep_agent(self.model),
            "training": keep(self.training_env),
            "evaluation": None if self.eval_env is None else keep(self.eval_env),
            "callbacks": {
                type(callback).__name__: {"n_calls": callback.n_calls, "own": _keep(callback)}
                for callback in self.callbacks
            },
            "generators": keep_generators(),
            "events": keep_curves(self.tensorboard),
            "replay": None if self._log is None else self._log.write(rows),
        }
        if not self._has_complained:
            for sentence in self._inexactness(state):
                print(f"Note: {sentence}", flush=True)
            self._has_complained = True
        return state

    @staticmethod
    def _inexactness(state: Mapping[str, Any]) -> Iterable[str]:
        found = {each for name in ("training", "evaluation") if state[name] for each in obstacles(state[name])}
        if found:
            yield (
                f"this environment's state cannot be kept, because of {', '.join(sorted(found))}. A continued "
                "run begins with a new episode, so it is not the same bit for bit."
            )

    # --- Going on from one ---

    def load(self, model: BaseAlgorithm) -> tuple[int, list[str]]:
        """
        Read the newest checkpoint that is whole, and its replay buffer; the rest is put in place when training begins.

        :param model: the agent, newly built
        :return: environment steps at that checkpoint; and what has changed since about code, versions and machine
        :raises InputError: if none is whole, or it is one of a run with another configuration
        """
        self.model = model
        for steps, state in self.checkpoints.load(_say):
            changes = self._compare(state["configuration"])
            try:
                if self._log is not None:
                    self._log.read(state["replay"])
            except (StorageError, OSError) as error:
                _say(f"The checkpoint of step {steps:,} cannot be used: {error}")
                continue
            self._loaded, self.is_in_place = state, False
            self.newest = steps
            return steps, changes
        raise InputError(
            f"No checkpoint in {str(self.checkpoints.path)!r} is intact, so this run cannot be continued. The agents "
            "and curves in its folder are unchanged."
        )

    def _compare(self, former: Mapping[str, Any]) -> list[str]:
        """Refuse another configuration, and say what else is not as it was."""
        kept, now = (
            {key: value for key, value in each.items() if key not in (*CIRCUMSTANCES, *_WORDS)}
            for each in (former, self.configuration)
        )
        if different := differences(kept, now):
            raise InputError(
                f"config.yml has changed since the checkpoint was taken: {'; '.join(different)}. A run is "
                "continued with the settings that it began with: restore them, or start another run."
            )
        kept, now = ({key: each.get(key) for key in CIRCUMSTANCES} for each in (former, self.configuration))
        changes = differences(kept, now)
        if changes:
            _say(f"the run continues, but may no longer be the same bit for bit, because of {'; '.join(changes)}.")
        return changes

    def _put_in_place(self, state: dict[str, Tree]) -> None:
        model = self.model
        try:
            restore_agent(model, state["agent"])
            if self._log is not None:
                self._log.restore(state["replay"])
            begun = put_back(self.training_env, state["training"])
            if begun and not obstacles(state["training"]):
                _say(
                    "the environment calls other functions or classes than when the checkpoint was taken, which cannot "
                    "be put back. The run begins with a new episode, so it is not the same bit for bit."
                )
            self._begin_episodes(begun)
            if self.eval_env is not None:
                put_back(self.eval_env, state["evaluation"])
            self._continue_files(state)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise NotResumedError(
                f"The checkpoint of step {self.newest:,} does not fit the agent and the environments that this run has "
                f"now: {error}"
            ) from error
        for callback in self.callbacks:
            kept = state["callbacks"].get(type(callback).__name__)
            if kept is None:  # a progress bar that the run had not before
                callback.num_timesteps = model.num_timesteps
                continue
            callback.n_calls, callback.num_timesteps = kept["n_calls"], model.num_timesteps
            _restore(callback, kept["own"])
        restore_generators(state["generators"])  # last of all: whatever came before may have drawn from them
        self.is_in_place = True
        self.when_in_place()
        self._last_step, self._last_time = model.num_timesteps, time.monotonic()

    def _begin_episodes(self, observations: Mapping[int, Any]) -> None:
        """Let some copies begin an episode: the one that was going on has no end, as if for a time limit."""
        model, rows = self.model, self.model.num_timesteps // self.training_env.num_envs
        normalizer = model.get_vec_normalize_env()
        for rank, observation in observations.items():
            if normalizer is not None:
                normalizer.returns[rank] = 0
                if (original := getattr(model, "_last_original_obs", None)) is not None:
                    original[rank] = observation
                observation = normalizer.normalize_obs(observation)
            assert isinstance(model._last_obs, np.ndarray)
            assert model._last_episode_starts is not None
            model._last_obs[rank], model._last_episode_starts[rank] = observation, True
            if self._log is not None and rows:
                self._log.cut_off(rows - 1, rank)

    def _continue_files(self, state: dict[str, Tree]) -> None:
        """Cut off what was written after the checkpoint, and go on writing there."""
        for rank, each in enumerate(state["training"]["envs"]):  # all, before one is cut
            check_log(str(self.folder / str(rank)), each["log"])
        for rank, each in enumerate(state["training"]["envs"]):
            self.training_env.env_method("continue_log", str(self.folder / str(rank)), each["log"], indices=rank)
        cut_curves(self.tensorboard, state["events"])
        self.checkpoints.forget_after(self.model.num_timesteps)
        self._prune()
        silent, logger = self.logger, open_logger(self.tensorboard, self.verbose, self.model.num_timesteps + 1)
        for name in ("name_to_value", "name_to_count", "name_to_excluded"):
            getattr(logger, name).update(getattr(silent, name))
        self.model.set_logger(logger)

    def _prune(self) -> None:
        if self._log is not None:
            self._log.prune(step // self.training_env.num_envs for step in self.checkpoints.steps)

    @cached_property
    def _log(self) -> ReplayLog | None:
        buffer = getattr(self.model, "replay_buffer", None)  # on-policy learners have none
        return None if buffer is None else ReplayLog(self.checkpoints.path / "replay", buffer)


def differences(former: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """
    Say what is not the same, key by key.

    :param former: nested dictionaries of plain values
    :param now: the same, later
    :return: for example ``["hyperparameters.gamma is 0.98 instead of 0.99"]``
    """
    found = []
    for key in [*former, *(key for key in now if key not in former)]:
        a, b = former.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{key}.{each}" for each in differences(a, b)]
        elif a != b:
            found.append(f"{key} is {b!r} instead of {a!r}")
    return found


def _keep(callback: BaseCallback) -> Tree:
    return callback.keep() if hasattr(callback, "keep") else None


def _restore(callback: BaseCallback, state: Tree) -> None:
    if hasattr(callback, "restore"):
        callback.restore(state)
    elif isinstance(callback, ProgressBarCallback):
        callback.pbar.update(callback.num_timesteps)


def _say(sentence: str) -> None:
    print(f"Note: {sentence}", flush=True)
