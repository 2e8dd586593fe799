"""Runs under the names by which rl-baselines3-zoo's own plot scripts find them."""

import os
from collections.abc import Sequence
from pathlib import Path

from sparse_rl.inputs import InputError
from sparse_rl.plots.folders import FoundRun
from sparse_rl.training.run_folder import file_name


def export(runs: Sequence[FoundRun], folder: Path) -> list[Path]:
    """
    Link runs as ``<folder>/<algo>/<env>_<n>``. Nothing is copied, so that a run that goes on is seen as it goes.

    :param runs: the runs
    :param folder: where to; runs that are linked there already stay as they are
    :return: the links, in the order of the runs
    :raises InputError: if the folder is one of those that the runs lie in
    :raises OSError: if a link cannot be made
    """
    target = folder.resolve()
    for run in runs:
        if target == run.path.resolve() or target in run.path.resolve().parents:
            raise InputError(
                f"The run in {str(run.path)!r} lies in {str(folder)!r}: give another, empty folder for the links."
            )
    return [_link(run, folder) for run in runs]


def _link(run: FoundRun, folder: Path) -> Path:
    """Take the run's own number, or the next one that is free: runs of several folders may come together here."""
    parent = folder / file_name(run.algorithm)
    parent.mkdir(parents=True, exist_ok=True)
    number = run.number
    while True:
        link = parent / f"{file_name(run.environment)}_{number}"
        if link.is_symlink() and link.resolve() == run.path.resolve():
            return link
        try:
            os.symlink(run.path.resolve(), link, target_is_directory=True)
        except FileExistsError:
            number += 1
            continue
        return link
