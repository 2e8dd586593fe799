"""One training run, from a checked plan to a folder that explains itself."""

import importlib.metadata
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch as th
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ProgressBarCallback,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl.agents import save_agent
from sparse_rl.agents.build import (
    make_model,
    replay_footprint,
)
from sparse_rl.agents.description import Description
from sparse_rl.agents.learners import check_actions
from sparse_rl.agents.recipe import learner_of
from sparse_rl.agents.replay.memory import available_memory
from sparse_rl.caching import explaining_delays
from sparse_rl.checkpoints import CheckpointFolder
from sparse_rl.envs import NonFiniteObservationError, has_time_limit
from sparse_rl.metrics import learning_curve_area
from sparse_rl.sb3 import ScreeningCallback
from sparse_rl.training.callbacks import (
    AgentsCallback,
    CurvesPageCallback,
    EvaluationCallback,
    HeartbeatCallback,
    HyperparametersCallback,
    PublishCallback,
    Report,
    ReportCallback,
)
from sparse_rl.training.connectivity import ConnectivityCallback
from sparse_rl.training.film import FilmCallback
from sparse_rl.training.guard import GuardCallback, TrainingEnded, first_not_finite
from sparse_rl.training.making import begin, check_methods, learning_callbacks
from sparse_rl.training.metrics import MetricsCallback
from sparse_rl.training.plan import CHECKPOINT_FREQUENCY, Plan
from sparse_rl.training.resuming import NotResumedError, ResumeCallback
from sparse_rl.training.run_folder import COMMAND, SETTINGS, SUMMARY, RunFolder, agent_folder
from sparse_rl.training.tensorboard import open_logger, remove_curves
from sparse_rl.training.vec_envs import (
    EnvironmentFailedError,
    has_lost_worker,
    make_vec_env,
    phase_of,
    start_logs,
)
from sparse_rl.version import __version__

# Far from the training seeds, also when many environments count up from one of them.
EVALUATION_SEED_OFFSET = 10_000


class Experiment:
    """
    A run, built and ready to start: whatever is wrong with the plan has come to light, and nothing is on the disk yet.

    :param plan: what to do
    :param report: told of each evaluation; see :class:`~sparse_rl.training.callbacks.ReportCallback`
    :param is_continued: whether there is a checkpoint from which the run goes on
    :raises ValueError: if the plan cannot be carried out; the message is for the user
    """

    def __init__(self, plan: Plan, report: Report | None = None, is_continued: bool = False) -> None:
        self.plan = plan
        self.report = report
        self.hyperparameters = plan.hyperparameters
        if plan.num_threads > 0:
            th.set_num_threads(plan.num_threads)
        self.learning_callbacks = learning_callbacks(self.hyperparameters, verbose=1)
        self.guard = GuardCallback()
        self.metrics = MetricsCallback()
        self._is_finished = False
        self._open_envs: list[VecEnv] = []
        self.evaluation: EvaluationCallback | None = None
        self.eval_env: VecEnv | None = None
        learner = learner_of(plan.algo)
        self._explaining = ExitStack()
        try:
            self._explaining.enter_context(explaining_delays(_say_that_it_compiles))
            self.env = self._make_env(self.hyperparameters["n_envs"], plan.seed)
            check_actions(learner, self.env.action_space, plan.env)
            if self.hyperparameters["eval_freq"] > 0 and not self._has_time_limit():
                print(
                    f"Note: {plan.env} has no time limit, and an evaluation lasts until its episodes end. Give one "
                    "with --env-kwargs max_episode_steps:1000, or where the environment is registered.",
                    flush=True,
                )
            if "buffer_size" in self.hyperparameters:
                self._announce_replay()
            self.model: BaseAlgorithm = make_model(learner, self.hyperparameters, self.env, plan.seed, plan.device)
            if not is_continued:
                self._begin()
            Description.of(self.model).to_json()  # or the trained agent could not be saved
            check_methods(self.model, self.learning_callbacks, plan.algo)
            if self.hyperparameters["eval_freq"] > 0:
                self.eval_env = self._make_env(plan.n_eval_envs, plan.seed + EVALUATION_SEED_OFFSET, True)
        except BaseException:
            self.close()
            raise

    def _make_env(self, n_envs: int, seed: int, is_for_evaluation: bool = False) -> VecEnv:
        normalize = self.hyperparameters.get("normalize")
        if normalize is not None and is_for_evaluation:
            # It gets the training environment's statistics before each evaluation, and shows returns as they are.
            normalize = {**normalize, "training": False, "norm_reward": False}
        env = make_vec_env(self.plan.env, n_envs, seed, self.plan.vec_env, self.plan.env_kwargs, normalize)
        self._open_envs.append(env)
        return env

    def _has_time_limit(self) -> bool:
        return "max_episode_steps" in (self.plan.env_kwargs or {}) or has_time_limit(self.plan.env)

    def _announce_replay(self) -> None:
        """Say how much memory the replay buffer takes, or why that is too much, before it is taken."""
        footprint = replay_footprint(self.hyperparameters, self.env)
        footprint.check(self.hyperparameters["n_timesteps"], available_memory())
        print(footprint.describe(self.plan.env, self.env.has_attr("noise_seed")), flush=True)

    def _begin(self) -> None:
        """Begin with the networks of a trained agent, if the plan says so."""
        note, plan = begin(self.plan, self.model), self.plan
        if plan.trained_agent is not None:
            steps = f"after {plan.trained_agent_steps:,} steps"
            print(f"begins with the networks of {plan.trained_agent!r}, {steps}", flush=True)
        if note is not None:
            print(f"Note: {note}", flush=True)

    def close(self) -> None:
        """Close the environments, unless they are; one whose process has died is closed already."""
        self._explaining.close()
        while self._open_envs:
            with suppress(EOFError, ConnectionError):
                self._open_envs.pop(0).close()

    def run(
        self,
        folder: RunFolder,
        command: str,
        tensorboard: Path,
        progress: bool = False,
        verbose: int = 0,
        checkpoint_freq: int = CHECKPOINT_FREQUENCY,
        keep_checkpoints: int = 2,
        former: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Train, and leave a complete folder whichever way training ends; folder and environments are closed then.

        :param folder: the run's folder, newly created or reopened; it is begun once everything stands, right before
            training
        :param command: the command line, for ``command.txt``
        :param tensorboard: folder of TensorBoard's files
        :param progress: whether to show a progress bar
        :param verbose: 0 for a line per evaluation, 1 for Stable-Baselines3's tables too
        :param checkpoint_freq: environment steps between two checkpoints; 0 or less for none but at a signal
        :param keep_checkpoints: how many of them are kept
        :param former: the configuration of the run that is continued; ``None`` for a new run
        :raises InputError: if a run cannot be continued
        :raises OSError: if something cannot be written
        """
        configuration = {**self.describe(), "command": command}
        if tensorboard != folder.path:
            configuration["tensorboard"] = str(tensorboard.absolute())
        text = yaml.safe_dump(configuration, sort_keys=False)
        configuration = yaml.safe_load(text)  # as it will be read again
        callbacks = self._callbacks(folder, text, progress)
        checkpoints = CheckpointFolder(folder.checkpoints, keep_checkpoints)
        self.resume = ResumeCallback(
            checkpoints, checkpoint_freq, callbacks, self.eval_env, folder.path, tensorboard, self.guard,
            configuration, verbose,
        )  # fmt: skip
        # Whatever goes wrong in one of these, the others are done: last come, first served.
        with ExitStack() as at_the_end:
            at_the_end.callback(folder.close)
            at_the_end.callback(self.close)
            at_the_end.callback(self._close_logger)
            if former is not None and checkpoints.steps:
                self._reopen(folder, former, configuration)
            else:
                self._open(folder, configuration, tensorboard, verbose, is_new=former is None)
            at_the_end.push(self._saving(folder))
            self._learn(CallbackList([*callbacks, self.resume]))
        if self._is_finished:
            checkpoints.remove()

    def _open(
        self, folder: RunFolder, configuration: dict[str, Any], tensorboard: Path, verbose: int, is_new: bool
    ) -> None:
        """Write what is known before training, and open the logs; if that fails, the run has not begun."""
        if not is_new:
            folder.begin_anew()
            remove_curves(tensorboard)
            print("There is no checkpoint yet: the run starts from the beginning.", flush=True)
        self.model.set_logger(open_logger(tensorboard, verbose))
        folder.write_yaml(SETTINGS, configuration)
        folder.write_text(COMMAND, configuration["command"] + "\n")
        start_logs(self.env, folder.path)
        folder.begin()

    def _close_logger(self) -> None:
        if hasattr(self.model, "_logger"):  # whichever it has by then
            self.model.logger.close()

    def _reopen(self, folder: RunFolder, former: Mapping[str, Any], configuration: Mapping[str, Any]) -> None:
        """Read the checkpoint from which the run goes on; until it is in place, nothing is logged."""
        steps, changes = self.resume.load(self.model)
        news: dict[str, Any] = {}
        if changes:
            news["resumed"] = [*former.get("resumed", []), {"step": steps, "changes": changes}]
        if configuration["num_threads"] != former.get("num_threads"):
            news["num_threads"] = configuration["num_threads"]
        if configuration.get("tensorboard") != former.get("tensorboard"):  # in a copy of a run
            news["tensorboard"] = configuration["tensorboard"]
        if news:
            self.resume.when_in_place = lambda: folder.write_yaml(SETTINGS, {**former, **news})
        self.model.set_logger(Logger(None, []))
        print(f"continued from step {steps:,}", flush=True)

    def _learn(self, callbacks: CallbackList) -> None:
        steps = self.hyperparameters["n_timesteps"]
        try:
            self.model.learn(steps, callbacks, log_interval=self.plan.log_interval)
            self.guard.check_weights()  # the last updates have had nobody to look at them
            if self.evaluation is None:  # which would have written what was recorded last
                self.model.logger.dump(self.model.num_timesteps)
            evaluated = [steps] if self.evaluation is None else self.evaluation.evaluations_timesteps
            self._is_finished = self.guard.failure is None and evaluated[-1:] >= [steps]
        except TrainingEnded:
            callbacks.on_training_end()
        except NotResumedError:
            raise
        except NonFiniteObservationError as error:
            self._end(callbacks, str(error))
        except (Exception, SystemExit) as error:
            if isinstance(error, EOFError | ConnectionError) and has_lost_worker(self.env, self.eval_env):
                self._end(
                    callbacks,
                    f"The process of an environment died ({type(error).__name__}). Its output is above; with "
                    "`--vec-env dummy` the cause is easier to find.",
                )
                return
            if isinstance(error, OSError) and not isinstance(error, EnvironmentFailedError):
                raise  # a full disk, say: nothing more can be written
            traceback.print_exc()  # it is for whoever wrote the environment
            diverged = first_not_finite(self.model)
            why = "" if diverged is None else f"{diverged} has weights that are NaN or infinite. "
            what = f"{error}" if isinstance(error, EnvironmentFailedError) else f"{type(error).__name__}: {error}"
            self._end(callbacks, f"{why}{what} (see above).")

    def _end(self, callbacks: CallbackList, why: str) -> None:
        if not self.resume.is_in_place:  # callbacks know nothing yet, and would write that over what there is
            raise NotResumedError(f"The run could not be continued, and is unchanged. {why}")
        seed = self.plan.seed
        self.guard.failure = f"Training ended at step {self.model.num_timesteps} (seed {seed}), and is saved. {why}"
        if not hasattr(callbacks, "model"):  # training has not begun
            return
        with suppress(EOFError, ConnectionError):  # what wants to ask an environment whose process has died
            callbacks.on_training_end()

    def _saving(self, folder: RunFolder) -> Callable[..., None]:
        def exit_(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not KeyboardInterrupt:  # which may have struck in the middle of an update
                self._save(folder)

        return exit_

    def _save(self, folder: RunFolder) -> None:
        """Save the agent as it is, and what it cost."""
        if not self.resume.is_in_place:
            return  # the agent that is saved already is the better one
        folder.discard()  # if something was being written when training ended, it is not complete
        self.model.save(folder.staging / folder.model.name)
        folder.publish()
        phase = None
        with suppress(EOFError, ConnectionError):
            phase = phase_of(self.env)
        save_agent(self.model, agent_folder(folder.model), phase=phase)
        folder.write_yaml(SUMMARY, self._summary())  # last, because it says whether the run is finished

    def _callbacks(self, folder: RunFolder, configuration: str, progress: bool) -> list[BaseCallback]:
        hyperparameters = self.hyperparameters
        steps, n_envs = hyperparameters["n_timesteps"], hyperparameters["n_envs"]
        # Every 1000 steps, as ANF's topology updates; at least 50 points for the picture of a short run.
        every = min(1000, max(1, steps // 50))
        connectivity = ConnectivityCallback(folder, every, self.plan.title)
        callbacks: list[BaseCallback] = [self.guard, self.metrics, *self.learning_callbacks]
        callbacks += [connectivity, FilmCallback(folder, every)]
        callbacks += [HyperparametersCallback(self._comparable(), configuration), CurvesPageCallback()]
        if self.plan.save_freq > 0:
            callbacks.append(AgentsCallback(folder, max(1, self.plan.save_freq // n_envs)))
        if self.eval_env is not None:
            frequency, episodes = hyperparameters["eval_freq"], hyperparameters["eval_episodes"]
            self.evaluation = EvaluationCallback(
                self.eval_env, connectivity, self.metrics, folder, frequency, episodes, self.guard
            )
            callbacks.append(self.evaluation)
            if self.report is not None:
                callbacks.append(ReportCallback(self.evaluation, self.report))
        callbacks.append(PublishCallback(folder))
        callbacks.append(ProgressBarCallback() if progress else HeartbeatCallback(steps))
        return callbacks

    def _summary(self) -> dict[str, Any]:
        """Sum the run up in plain numbers: what was learnt, and what that cost."""
        returns = [] if self.evaluation is None else self.evaluation.mean_returns
        steps = self.model.num_timesteps
        seconds = (time.time_ns() - self.model.start_time) / 1e9
        learnt: dict[str, Any] = {"finished": self._is_finished, "steps": steps, "seconds": round(seconds, 1)}
        if returns:
            area = learning_curve_area(returns, steps)
            learnt |= {"last_return": returns[-1], "best_return": max(returns), "learning_curve_area": area}
        for callback in self.learning_callbacks:
            if isinstance(callback, ScreeningCallback) and callback.evidence is not None:
                learnt["features_chosen"] = int(callback.evidence.chosen.sum())
        return {**learnt, **self.metrics.summary(self.model)}

    def _comparable(self) -> dict[str, bool | str | float]:
        """Give what runs can be compared by: plain values, with those of the method and the optimizer one level up."""
        plan = self.plan
        values = {"algo": plan.algo, "env": plan.env, "seed": plan.seed, **self.hyperparameters}
        values["trained_agent_steps"] = plan.trained_agent_steps
        for key, default in (("method", "dense"), ("optimizer", "adam")):
            settings = dict(self.hyperparameters.get(key, {"name": default}))
            values |= {key: settings.pop("name"), **settings}
        return {key: value for key, value in values.items() if isinstance(value, bool | str | int | float)}

    def describe(self) -> dict[str, Any]:
        """
        Describe the run for ``config.yml``.

        :return: the plan, and the versions of what carries it out
        """
        description = {name: value for name, value in vars(self.plan).items() if value is not None}
        description["hyperparameters"] = dict(self.hyperparameters)
        description["num_threads"] = th.get_num_threads()  # another number rounds otherwise
        packages = ["torch", "stable_baselines3", "gymnasium", "mujoco", "numba", "numpy"]
        if (home := type(self.model).__module__.partition(".")[0]) == "sb3_contrib":
            packages.append(home)
        versions = {"sparse_rl": __version__, "python": platform.python_version()}
        versions |= {name: importlib.metadata.version(name) for name in packages}
        return {**description, "versions": versions, "platform": platform.platform(), "commit": commit()}


def commit() -> str | None:
    """
    Name the commit of this code.

    :return: its hash, ``-dirty`` behind it if files differ from it; ``None`` outside a checkout
    """
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:
        # An installed package may lie inside somebody else's repository, which says nothing about it.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--match="]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _say_that_it_compiles() -> None:
    print("compiling kernels for this machine, which are kept: this takes a minute or two", flush=True)
