"""
A study on the disk: all trials so far, in a file to which Optuna appends a line of JSON for each thing that happens.

Of Optuna's storages this is the one that needs no database and unpickles nothing (``JournalStorage`` pickles snapshots
only for backends that have them, which files have not). One process writes to it, :mod:`sparse_rl.tuning.tuner`; it
holds a lock, and the processes of its trials speak to it, not to the file.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from sparse_rl.inputs import InputError
from sparse_rl.training.plan import Plan
from sparse_rl.training.resuming import differences
from sparse_rl.tuning.space import Space, Value

JOURNAL = "journal.jsonl"
_NAME = "sparse-rl"
_SUBJECT = "subject"  # the study's attribute that says what is tuned
#: Attributes of a trial: the folder of its run, why it failed, and whether it was told not to go on.
RUN, WHY, PRUNED = "run", "why", "pruned"
# What may differ between two calls: it does not decide what is learnt.
_CIRCUMSTANCES = ("notes", "device", "save_freq", "log_interval", "trained_agent", "trained_agent_steps")
STARTUP_TRIALS = 10  # drawn at random, before there is something to learn from
_SEEN_BEFORE_PRUNING = 5  # trials that pruning compares with, at least


def subject_of(plan: Plan, space: Space) -> dict[str, Any]:
    """
    Say what a study is about: whatever would make its trials incomparable if it changed.

    :param plan: a run with the recipe as it is
    :param space: what is varied
    :return: plain values
    """
    subject = {field.name: getattr(plan, field.name) for field in fields(Plan) if field.name not in _CIRCUMSTANCES}
    subject["hyperparameters"] = dict(plan.hyperparameters)
    subject["space"] = {name: {**vars(entry), "kind": type(entry).__name__} for name, entry in space.items()}
    plain: dict[str, Any] = json.loads(json.dumps(subject))
    return plain


def open_study(folder: Path, subject: Mapping[str, Any], n_timesteps: int) -> optuna.Study:
    """
    Open a study, or begin it. The caller holds the folder's lock.

    :param folder: its folder
    :param subject: what :func:`subject_of` gave
    :param n_timesteps: environment steps of a trial; in the first third of them none is pruned
    :return: the study
    :raises InputError: if it is about something else, or damaged
    :raises OSError: if it cannot be read or written
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say, we say
    file = (folder / JOURNAL).absolute()
    _repair(file)
    try:
        storage = JournalStorage(JournalFileBackend(str(file)))
        if _NAME not in optuna.get_all_study_names(storage):
            optuna.create_study(storage=storage, study_name=_NAME, direction="maximize")
        pruner = MedianPruner(n_startup_trials=_SEEN_BEFORE_PRUNING, n_warmup_steps=n_timesteps // 3)
        study = optuna.load_study(study_name=_NAME, storage=storage, pruner=pruner)
        former = study.user_attrs.get(_SUBJECT)
        trials = study.get_trials(deepcopy=False)
    except (ValueError, KeyError, TypeError, AssertionError, IndexError) as error:
        raise InputError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}): move it away, or give another --out."
        ) from error
    if former is None and not trials:
        study.set_user_attr(_SUBJECT, dict(subject))
    elif former != subject:
        different = differences(former or {}, subject)
        raise InputError(
            f"{str(folder)!r} is the study of something else: {'; '.join(different[:8])}. Returns of the two cannot be "
            "compared: leave that as it was, or give another --out."
        )
    return study


def _repair(file: Path) -> None:
    """Remove what a killed process left: half a line at the end, and Optuna's own lock; we hold another."""
    Path(f"{file}.lock").unlink(missing_ok=True)
    if not file.exists():
        return
    with file.open("r+b") as stream:
        content = stream.read()
        if not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)
            os.fsync(stream.fileno())


def ask(study: optuna.Study, space: Space, seed: int, first: Mapping[str, Value] | None) -> Trial:
    """
    Have Optuna choose the parameters of a new trial.

    What is drawn is a function of the seed, the trial's number and the trials that are known by then; so a study that
    was interrupted goes on as if it had not been, and does not draw its first points again.

    :param study: the study
    :param space: what is varied
    :param seed: the study's seed
    :param first: the parameters of trial 0, if they are not to be drawn
    :return: the trial, with all its parameters
    """
    trials = study.get_trials(deepcopy=False)
    if first is not None and not trials:
        study.enqueue_trial(dict(first))
        number = 0
    else:
        number = len(trials)
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study.sampler = TPESampler(n_startup_trials=STARTUP_TRIALS, seed=drawn)
    trial = study.ask()
    suggest(trial, space)
    return trial


def suggest(trial: Trial, space: Space) -> dict[str, Value]:
    """
    Give a trial's parameters; those that it has not yet are drawn.

    :param trial: the trial
    :param space: what is varied
    :return: values by name
    """
    return {name: entry.suggest(name, trial) for name, entry in space.items()}


def cut_off(study: optuna.Study) -> list[Trial]:
    """
    Find the trials that were going on when the study was interrupted.

    :param study: the study, which nobody else works on
    :return: these trials
    """
    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    return [Trial(study, trial._trial_id) for trial in running]


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """
    List the trials that are done, one way or another.

    :param study: the study
    :return: completed, pruned and failed trials
    """
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """
    Find the trial with the highest return in its last evaluation.

    :param study: the study
    :return: a completed trial; ``None`` if there is none
    """
    done = [trial for trial in ended(study) if trial.state == TrialState.COMPLETE and trial.value is not None]
    return max(done, key=lambda trial: (trial.value or 0.0, -trial.number)) if done else None
