"""What a study comes to: a table of its trials, a recipe with the best parameters, a picture."""

import csv
import io
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sparse_rl.colors import BLUE, GREY, VERMILION
from sparse_rl.inputs import InputError
from sparse_rl.storage import read_yaml, write_atomically
from sparse_rl.training.run_folder import SUMMARY
from sparse_rl.tuning.space import Choices, Range, Space, words_of
from sparse_rl.tuning.study import RUN, WHY, best_of, ended

TABLE, RECIPE, PICTURE = "trials.csv", "best.yml", "tuning.png"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_DONE, _PRUNED, _BEST = BLUE, GREY, VERMILION
# How long a run is and how it is measured does not belong into a recipe for longer runs.
_NOT_IN_RECIPE = ("n_timesteps", "eval_freq", "eval_episodes")
_ENOUGH_FOR_IMPORTANCE = 10  # completed trials


def describe_trial(trial: FrozenTrial) -> str:
    """
    Put a trial that has ended into a line.

    :param trial: the trial
    :return: the line
    """
    name = f"trial {trial.number:>3}"
    if trial.state == TrialState.FAIL:
        return f"{name}: failed: {trial.user_attrs.get(WHY, 'for a reason that is not known')}"
    parameters = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    steps, value = _last(trial)
    if trial.state == TrialState.PRUNED:
        return f"{name}: pruned at step {steps:,} with {value:.1f}  {parameters}"
    return f"{name}: {value:.1f}  {parameters}"


class Report:
    """
    The files of a study, written anew whenever a trial has ended.

    :param study: the study
    :param space: what is varied
    :param folder: where to write them
    :param title: title of the picture
    :param variant: the variant of the recipe
    :param train_words: the words of ``train.py`` that all trials have, the last ones after ``-params``
    :param lasting_words: those of them that are neither in the recipe nor about how long a trial is and how it is seen
    :param changes: gives what a recipe has otherwise than the built-in one, with these words after ``-params``
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        folder: Path,
        title: str,
        variant: str | None,
        train_words: Sequence[str],
        lasting_words: Sequence[str],
        changes: Callable[[Sequence[str]], dict[str, Any]],
    ) -> None:
        self.study = study
        self.space = space
        self.folder = folder
        self.title = title
        self.variant = variant
        self.train_words = list(train_words)
        self.lasting_words = list(lasting_words)
        self.changes = changes
        self._complaint = ""

    def write(self) -> None:
        """
        Write all that there is something to write for. A picture that cannot be drawn does not end a study.

        :raises OSError: if the table or the recipe cannot be written
        """
        self._write_table()
        best = best_of(self.study)
        if best is not None:
            self._write_recipe(best)
        if _groups(self.study):
            self._draw()

    def _draw(self) -> None:
        try:
            write_picture(self.study, self.space, self.folder / PICTURE, self.title)
        except Exception as error:  # of packages that only draw and compute importances, or a disk
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            complaint = f"{PICTURE} could not be drawn, the study goes on: {reason}"
            if complaint != self._complaint:  # once is enough
                print(f"Note: {complaint}", flush=True)
            self._complaint = complaint

    def command(self, trial: FrozenTrial) -> str:
        """
        Give the command that makes a trial's run again.

        :param trial: the trial
        :return: the command
        """
        return shlex.join(["python", "train.py", *self.train_words, *words_of(trial.params)])

    @property
    def short_command(self) -> str:
        """The command that trains, for as long as is usual, with the recipe of the best trial."""
        return shlex.join(["python", "train.py", *self.lasting_words, "--conf-file", str(self.folder / RECIPE)])

    def _write_table(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "state", "step", "return", *self.space, "seconds", "run", "why"])
        for trial in ended(self.study):
            steps, value = _last(trial)
            run = trial.user_attrs.get(RUN, "")
            values = [trial.params.get(name, "") for name in self.space]
            row = [trial.number, _STATES[trial.state], steps or "", "" if value is None else value, *values]
            writer.writerow([*row, _seconds(self.folder / run) if run else "", run, trial.user_attrs.get(WHY, "")])
        write_atomically(self.folder / TABLE, lambda file: file.write(text.getvalue().encode()))

    def _write_recipe(self, best: FrozenTrial) -> None:
        changes = {
            key: value for key, value in self.changes(words_of(best.params)).items() if key not in _NOT_IN_RECIPE
        }
        # A variant's section goes on top of all others, so there the differences have to stand.
        document = {"default": changes} if self.variant is None else {"variants": {self.variant: changes}}
        steps, value = _last(best)
        comments = (
            f"Trial {best.number} of {len(ended(self.study))} of {self.title}:",
            f"return {value:.1f} in the evaluation at step {steps:,}. Its run again:",
            self.command(best),
        )
        text = "".join(f"# {line}\n" for line in comments) + yaml.safe_dump(document, sort_keys=False, width=120)
        write_atomically(self.folder / RECIPE, lambda file: file.write(text.encode()))


def write_picture(study: optuna.Study, space: Space, file: Path, title: str) -> None:
    """
    Draw the history of a study, and its returns over each parameter.

    :param study: the study, with at least one trial that was evaluated
    :param space: what is varied
    :param file: where to write it
    :param title: title of the picture
    :raises OSError: if it cannot be written
    """
    # On a bare figure, and by our own hand: Optuna's plots use pyplot, and warn that they are experimental.
    n_panels = 1 + len(space)
    columns = min(3, n_panels)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[n_panels:]:
        panel.set_visible(False)
    _draw_history(panels[0], study)
    weights = _importances(study)
    for panel, (name, entry) in zip(panels[1:], space.items(), strict=False):
        _draw_parameter(panel, study, name, entry.values if isinstance(entry, Choices) else None)
        if isinstance(entry, Range):
            _show_range(panel, entry)
        panel.set_xlabel(f"{name} (importance {weights[name]:.0%})" if name in weights else name)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=110))


def _draw_history(panel: Axes, study: optuna.Study) -> None:
    for trials, colour, label in _groups(study):
        panel.scatter([t.number for t in trials], [_last(t)[1] for t in trials], s=18, color=colour, label=label)
    complete = [trial for trial in ended(study) if trial.state == TrialState.COMPLETE]
    if complete:
        best = np.maximum.accumulate([_last(trial)[1] for trial in complete])
        panel.step([t.number for t in complete], best, where="post", color=_BEST, label="best so far")
    panel.set_xlabel("trial")
    panel.set_ylabel("mean return of the last evaluation")
    panel.legend(fontsize="small")


def _draw_parameter(panel: Axes, study: optuna.Study, name: str, choices: Sequence[Any] | None) -> None:
    for trials, colour, _ in _groups(study):
        where = [trial.params[name] for trial in trials]
        if choices is not None:
            where = [choices.index(value) for value in where]
        panel.scatter(where, [_last(trial)[1] for trial in trials], s=18, color=colour)
    best = best_of(study)
    if best is not None and best.value is not None:
        value = best.params[name] if choices is None else choices.index(best.params[name])
        panel.scatter([value], [best.value], s=70, facecolors="none", edgecolors=_BEST, linewidths=2)
    if choices is not None:
        panel.set_xticks(range(len(choices)), [str(value) for value in choices])


def _show_range(panel: Axes, entry: Range) -> None:
    """Show all of a range, with numbers as people write them."""
    if entry.log:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlim(entry.low / 1.1, entry.high * 1.1)
    else:
        margin = 0.03 * (entry.high - entry.low)
        panel.set_xlim(entry.low - margin, entry.high + margin)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _groups(study: optuna.Study) -> list[tuple[list[FrozenTrial], str, str]]:
    groups = []
    for state, colour in ((TrialState.PRUNED, _PRUNED), (TrialState.COMPLETE, _DONE)):
        trials = [trial for trial in ended(study) if trial.state == state and _last(trial)[1] is not None]
        if trials:
            groups.append((trials, colour, _STATES[state]))
    return groups


def _importances(study: optuna.Study) -> dict[str, float]:
    """Estimate by PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) how much of the differences a parameter makes."""
    complete = [trial for trial in ended(study) if trial.state == TrialState.COMPLETE]
    if len(complete) < _ENOUGH_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # before Optuna 5, whose default was another evaluator
        evaluator = PedAnovaImportanceEvaluator()
    return get_param_importances(study, evaluator=evaluator)


def _last(trial: FrozenTrial) -> tuple[int, Any]:
    if not trial.intermediate_values:
        return 0, None
    steps = max(trial.intermediate_values)
    return steps, trial.intermediate_values[steps]


def _seconds(run: Path) -> Any:
    try:
        summary = read_yaml(run / SUMMARY)
    except (InputError, OSError):
        return ""
    return summary.get("seconds", "") if isinstance(summary, dict) else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
