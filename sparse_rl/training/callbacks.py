"""The callbacks of a run: Stable-Baselines3's own wherever they do."""

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl.agents import save_agent
from sparse_rl.metrics import learning_curve_area
from sparse_rl.nn import sparse_layers
from sparse_rl.training.connectivity import NOT_SCALAR, ConnectivityCallback
from sparse_rl.training.guard import GuardCallback
from sparse_rl.training.measurement import networks
from sparse_rl.training.metrics import MetricsCallback
from sparse_rl.training.run_folder import EVALUATIONS, RunFolder, agent_folder
from sparse_rl.training.vec_envs import phase_of, set_phase


class HeartbeatCallback(BaseCallback):
    """
    Say how far training is, and how fast: after half a minute, after twice as long, ..., then every ten minutes.

    :param total: environment steps of the run
    :param first: seconds after which it is said for the first time
    :param most: most seconds between two times
    """

    def __init__(self, total: int, first: float = 30.0, most: float = 600.0) -> None:
        super().__init__()
        self._total, self._wait, self._most = total, first, most
        self._steps = 0
        self._time: float | None = None  # the first step sets both: a run that goes on does not begin at 0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if self._time is None:
            self._steps, self._time = self.num_timesteps, now
        elif now - self._time >= self._wait:
            speed = (self.num_timesteps - self._steps) / (now - self._time)
            print(f"step {self.num_timesteps:9,} of {self._total:,}: {speed:.1f} steps/s", flush=True)
            self._steps, self._time = self.num_timesteps, now
            self._wait = min(2 * self._wait, self._most)
        return True


class _Stopped(Exception):  # noqa: N818 - no error
    """An evaluation ends because training was ended early."""


class PublishCallback(BaseCallback):
    """
    Move what other callbacks have written out of the staging folder; goes after them.

    :param folder: the folder of the run
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        self.folder.publish()
        return True

    def _on_training_end(self) -> None:
        self.folder.publish()


class AgentsCallback(CheckpointCallback):
    """
    Save the agent every so often, in both forms.

    :param folder: the folder of the run
    :param every: calls between two times; each is a step in every environment
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        super().__init__(every, str(folder.staging))
        self.folder = folder

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            file = self.folder.path / Path(self._checkpoint_path(extension="zip")).name
            save_agent(self.model, agent_folder(file), phase=phase_of(self.training_env))
        return super()._on_step()


class HyperparametersCallback(BaseCallback):
    """
    Write what TensorBoard's HPARAMS tab compares, and the whole configuration as text.

    :param hyperparameters: numbers, words and truth values
    :param configuration: the text of ``config.yml``
    """

    def __init__(self, hyperparameters: Mapping[str, bool | str | float], configuration: str) -> None:
        super().__init__()
        self.hyperparameters = dict(hyperparameters)
        self.configuration = configuration

    def _on_training_start(self) -> None:
        # TensorBoard shows a metric only if a scalar of the same name is logged later.
        losses = ["loss"] if hasattr(self.model, "q_net") or hasattr(self.model, "quantile_net") else ["value_loss"]
        if hasattr(self.model, "critic"):
            losses = ["critic_loss", "actor_loss"]
        metrics = ("eval/mean_reward", "rollout/ep_rew_mean", *(f"train/{loss}" for loss in losses))
        hparam = HParam(self.hyperparameters, dict.fromkeys(metrics, 0.0))
        self.logger.record("hparams", hparam, exclude=NOT_SCALAR)
        code = "".join(f"    {line}\n" for line in self.configuration.splitlines())  # Markdown for "as it is"
        self.logger.record("config", code, exclude=NOT_SCALAR)
        # Something for the console too, which warns of an empty table.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _on_step(self) -> bool:
        return True


class CurvesPageCallback(BaseCallback):
    """Lay out TensorBoard's page CUSTOM SCALARS: what is learnt, where networks look, how sparse they are, the cost."""

    def _on_training_start(self) -> None:
        layout = self._layout()
        # A run that is continued logs nothing yet at its start, so there is one layout in its files.
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(layout)
                output.writer.flush()

    def _layout(self) -> dict[str, dict[str, list[Any]]]:
        """Name charts and their curves, by regular expressions."""
        connectivity = {
            f"{name}: connections per feature": [f"^connectivity/{name}_(real|noise|action)$"]
            for name in networks(self.model)
        }
        sparsity = {"density of each layer": ["^sparsity/density/.*"], "active weights": ["^sparsity/active_weights$"]}
        pages = {
            "What it learns": {"return": ["^eval/mean_reward$", "^rollout/ep_rew_mean$"]},
            "Where it looks": connectivity,
            "How sparse it is": sparsity if sparse_layers(self.model.policy) else {},
            "What it costs": {
                "FLOPs of training": ["^cost/training_flops$", "^cost/dense_training_flops$"],
                "weights": ["^cost/weights$", "^cost/dense_weights$"],
            },
        }
        return {
            title: {chart: ["Multiline", tags] for chart, tags in charts.items()}
            for title, charts in pages.items()
            if charts
        }

    def _on_step(self) -> bool:
        return True


_EVALUATED = (
    "evaluations_timesteps", "evaluations_results", "evaluations_length", "evaluations_successes",
    "best_mean_reward", "last_mean_reward", "phase", "_next",
)  # fmt: skip


class EvaluationCallback(EvalCallback):
    """
    Stable-Baselines3's evaluation, which also sees the agent exactly as it is saved at the end.

    :param eval_env: the environment to evaluate in; it follows the training environment's permutation
    :param connectivity: draws a picture at each evaluation
    :param metrics: looks at the networks at each evaluation
    :param folder: the folder of the run
    :param every: environment steps between two evaluations
    :param episodes: episodes of each evaluation
    :param guard: says whether training was ended early; then there is no last evaluation
    """

    def __init__(
        self,
        eval_env: VecEnv,
        connectivity: ConnectivityCallback,
        metrics: MetricsCallback,
        folder: RunFolder,
        every: int,
        episodes: int,
        guard: GuardCallback,
    ) -> None:
        staging = str(folder.staging)
        # The parent evaluates whenever it is called; when that is, is decided here.
        super().__init__(
            eval_env, n_eval_episodes=episodes, eval_freq=1, log_path=staging, best_model_save_path=staging, verbose=0
        )
        self.connectivity = connectivity
        self.metrics = metrics
        self.folder = folder
        self.every = every
        self.phase: int | None = None
        self.guard = guard
        self._next = every

    def _on_step(self) -> bool:
        # The last evaluation waits for the last update.
        if self.num_timesteps < self._next or self.num_timesteps >= self.locals["total_timesteps"]:
            return True
        self._next += self.every
        return self.evaluate()

    def _on_training_end(self) -> None:
        if self.guard.failure is None and self.num_timesteps >= self.locals["total_timesteps"]:
            self.evaluate()

    def keep(self) -> dict[str, Any]:
        """Give what has to be kept in a checkpoint: all evaluations, and the best of them."""
        return {name: getattr(self, name) for name in _EVALUATED}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from where a checkpoint was taken; the file of evaluations forgets those that came after it.

        :param state: what :meth:`keep` gave
        """
        for name, value in state.items():
            setattr(self, name, value)
        arrays = {"timesteps": self.evaluations_timesteps, "results": self.evaluations_results}
        arrays["ep_lengths"] = self.evaluations_length
        if self.evaluations_successes:
            arrays["successes"] = self.evaluations_successes
        if self.evaluations_timesteps:
            np.savez(self.folder.staging / EVALUATIONS, **arrays)  # type: ignore[arg-type]
            self.folder.publish()
        else:
            (self.folder.path / EVALUATIONS).unlink(missing_ok=True)

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        # Called at each step of an evaluation, which may be long.
        if self.guard.is_pressing:
            raise _Stopped
        super()._log_success_callback(locals_, globals_)

    @property
    def mean_returns(self) -> list[float]:
        """The mean return of each evaluation so far."""
        return [float(np.mean(returns)) for returns in self.evaluations_results]

    def evaluate(self) -> bool:
        """
        Evaluate now.

        :return: whether training goes on
        """
        phase = phase_of(self.training_env)
        if phase != self.phase:
            # Who was best when the features stood in another order is of no use in this one.
            self.best_mean_reward = -np.inf
            self.phase = phase
        best = self.best_mean_reward
        set_phase(self.eval_env, phase)
        # The learner logs every few episodes, which may be long: let its curves have a point here too.
        self.model.dump_logs()
        self.connectivity.record_picture()  # goes out with the evaluation's own dump
        self.metrics.record()
        try:
            goes_on = super()._on_step()
        except _Stopped:
            return False
        self.logger.record("eval/learning_curve_area", learning_curve_area(self.mean_returns, self.num_timesteps))
        self.logger.dump(self.num_timesteps)
        # Pictures are made of objects that refer to each other, and Python looks for these the more seldom the older
        # they are: tens of megabytes would lie about.
        gc.collect()
        mean, std = np.mean(self.evaluations_results[-1]), np.std(self.evaluations_results[-1])
        note = ""
        if self.best_mean_reward > best:
            save_agent(self.model, agent_folder(self.folder.best_model), phase=phase)
            note = "  (best in this order of the features)" if phase else "  (best so far)"
        print(f"step {self.num_timesteps:>9,}: return {mean:.1f} +/- {std:.1f}{note}", flush=True)
        return goes_on


#: Takes the environment steps and the mean return of an evaluation; says whether training shall go on.
Report = Callable[[int, float], bool]


class ReportCallback(BaseCallback):
    """
    Tell somebody of each evaluation, who may end training there: this is how :mod:`sparse_rl.tuning` prunes.

    A run that is continued tells of its earlier evaluations again.

    :param evaluation: evaluates, before this callback is called
    :param report: whom to tell
    """

    def __init__(self, evaluation: EvaluationCallback, report: Report) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.report = report
        self._n_reported = 0

    def _on_step(self) -> bool:
        returns, goes_on = self.evaluation.mean_returns, True
        while self._n_reported < len(returns):
            steps = int(self.evaluation.evaluations_timesteps[self._n_reported])
            goes_on = self.report(steps, returns[self._n_reported]) and goes_on
            self._n_reported += 1
        return goes_on

    def _on_training_end(self) -> None:
        self._on_step()  # there is an evaluation after the last update
