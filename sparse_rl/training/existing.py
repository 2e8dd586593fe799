"""A run that there is already: what it was to do, and whether it may go on."""

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparse_rl.agents.checks import check_recipe
from sparse_rl.agents.recipe import check_algorithm, learner_of
from sparse_rl.inputs import InputError, Number
from sparse_rl.storage import locked, read_yaml
from sparse_rl.training.plan import Plan
from sparse_rl.training.run_folder import CHECKPOINTS, LOCK, SETTINGS, STAGING, SUMMARY, has_results


def read_config(folder: Path) -> dict[str, Any]:
    """
    Read what a run's ``config.yml`` says.

    :param folder: the folder of the run
    :return: its content; of that only ``hyperparameters`` is sure to be there
    :raises ValueError: if there is none, or it does not describe a run
    :raises OSError: if it cannot be read
    """
    file = folder / SETTINGS
    if not file.exists():
        raise InputError(
            f"There is no run in {str(folder)!r}: expected a folder with a {SETTINGS}, such as "
            "runs/anf-sac/HalfCheetah-noise98/1."
        )
    config = read_yaml(file)
    if not isinstance(config, dict) or not isinstance(config.get("hyperparameters"), dict):
        raise InputError(f"{str(file)!r} does not describe a run.")
    return config


def plan_of(config: Mapping[str, Any], folder: Path) -> Plan:
    """
    Find what a run was to do.

    :param config: its configuration
    :param folder: its folder, for messages
    :return: the plan
    :raises InputError: if something is missing or not allowed
    """
    from sparse_rl.agents.build import learner_defaults

    check_algorithm(str(config.get("algo")))
    values = {field.name: config[field.name] for field in fields(Plan) if field.name in config}
    for name in ("algo", "env", "seed"):
        if name not in values:
            raise InputError(f"{str(folder / SETTINGS)!r} does not say {name!r}, so the run cannot be continued.")
    values["hyperparameters"] = check_recipe(config["hyperparameters"], learner_defaults(learner_of(values["algo"])))
    for name, check in (("n_eval_envs", Number(1, whole=True)), ("save_freq", Number(whole=True))):
        if name in values:
            values[name] = check(name, values[name])
    values["notes"] = tuple(values.get("notes", ()))
    return Plan(**values)


def check_unfinished(folder: Path) -> None:
    """
    Check that there is something left to do for a run. If it is finished, what it needs no longer is removed.

    :param folder: its folder
    :raises InputError: if it is finished, or was never to be continued
    """
    summary_file = folder / SUMMARY
    summary = read_yaml(summary_file) if summary_file.exists() else {}
    if isinstance(summary, dict) and summary.get("finished") is True and isinstance(summary.get("steps"), int):
        _tidy(folder)
        raise InputError(
            f"The run in {str(folder)!r} is finished: it has taken all of its {summary['steps']:,} steps. For a longer "
            f"one, start another run with a larger -n; to train its agent further, in a run of its own, give "
            f"--trained-agent {shlex.quote(str(folder))}."
        )
    if not (folder / CHECKPOINTS).is_dir():
        raise InputError(f"The run in {str(folder)!r} has no checkpoints, so it cannot be continued.")


def has_checkpoint(folder: Path) -> bool:
    """
    Tell whether a run has a checkpoint; whether that is whole is not looked at.

    :param folder: its folder
    :return: whether it has
    """
    from sparse_rl.checkpoints import CheckpointFolder

    return bool(CheckpointFolder(folder / CHECKPOINTS).steps)


def can_go_on(folder: Path) -> bool:
    """
    Tell whether a run that is not finished can be continued: from a checkpoint, or from its beginning if that costs
    nothing.

    :param folder: its folder
    :return: whether it can
    """
    return has_checkpoint(folder) or not has_results(folder)


def _tidy(folder: Path) -> None:
    """Remove what a process left that was killed while it tidied up; one that is alive does so itself."""
    with suppress(OSError), locked(folder / CHECKPOINTS / LOCK):
        for leftover in (STAGING, CHECKPOINTS):
            shutil.rmtree(folder / leftover, ignore_errors=True)


def given_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """
    Find the flags that a command line has, defaults left out.

    :param parser: a parser, which is of no use after that
    :param words: the words of the command line
    :return: values by the names that the parser stores them by
    """
    for action in parser._actions:  # there is no public list of flags
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(list(words)))
