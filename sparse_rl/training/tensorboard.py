"""A run's logs: curves for TensorBoard, which go on in files of their own when a run is continued, and tables."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from sparse_rl.training.run_folder import EVENTS


def open_logger(tensorboard: Path, verbose: int, purge_step: int | None = None) -> Logger:
    """
    Open the logs of a run: TensorBoard's, and tables on the console if wanted.

    :param tensorboard: the folder of TensorBoard's files
    :param verbose: 1 for tables
    :param purge_step: TensorBoard shall forget what it has seen of this step and later ones
    :return: the logger
    :raises OSError: if the file cannot be written
    """
    curves = (
        TensorBoardOutputFormat(str(tensorboard)) if purge_step is None else _ContinuedCurves(tensorboard, purge_step)
    )
    return Logger(str(tensorboard), [curves, *([HumanOutputFormat(sys.stdout)] if verbose else [])])


def keep_curves(tensorboard: Path) -> dict[str, int]:
    """
    Say how far a run's curves have come, once that is on the disk.

    :param tensorboard: the folder of TensorBoard's files
    :return: the files' sizes in bytes by their names
    """
    return {file.name: _flushed_size(file) for file in _files(tensorboard)}


def cut_curves(tensorboard: Path, sizes: Mapping[str, int]) -> None:
    """
    Cut a run's curves off where a checkpoint was taken.

    :param tensorboard: the folder of TensorBoard's files
    :param sizes: what :func:`keep_curves` gave
    :raises OSError: if a file cannot be written
    """
    for file in _files(tensorboard):
        if file.name not in sizes:
            file.unlink()
        elif file.stat().st_size > sizes[file.name]:
            os.truncate(file, sizes[file.name])


def remove_curves(tensorboard: Path) -> None:
    """
    Remove a run's curves: it begins anew.

    :param tensorboard: the folder of TensorBoard's files
    """
    for file in _files(tensorboard):
        file.unlink()


class _ContinuedCurves(TensorBoardOutputFormat):
    """Stable-Baselines3's output to TensorBoard, which cannot say from which step on it replaces another."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        # TensorBoard reads files in the order of their names, in which the second comes first, then the process.
        deadline = time.monotonic() + 2
        while f"{EVENTS}{int(time.time())}" in _seconds_of(folder) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False


def _seconds_of(folder: Path) -> set[str]:
    """Give the names of the files of curves up to the second in which they were begun."""
    return {".".join(file.name.split(".")[:4]) for file in _files(folder)}


def _files(tensorboard: Path) -> list[Path]:
    return sorted(tensorboard.glob(f"{EVENTS}*"))


def _flushed_size(file: Path) -> int:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return file.stat().st_size
