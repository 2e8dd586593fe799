"""The files in which Stable-Baselines3 and rl-baselines3-zoo keep what a run has learnt, and ours like theirs."""

import csv
import io
import stat
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_rl.inputs import InputError
from sparse_rl.plots.intervals import Array
from sparse_rl.storage import open_regular
from sparse_rl.training.returns import MOST, MOST_STEPS
from sparse_rl.training.returns import read_evaluations as read_evaluations
from sparse_rl.training.run_folder import EVALUATIONS as EVALUATIONS

MONITORS = "*.monitor.csv"
MOST_MONITOR_BYTES = 2**26  # of all files of a run together: some millions of episodes
_COLUMNS = ("r", "l", "t")
_FLOPS = "cost/training_flops"


class Episodes(NamedTuple):
    """
    Training episodes in the order in which they ended, of all copies of the environment. Of shape ``(episodes,)`` all.

    :param steps: environment steps of all copies together when it ended
    :param returns: its return
    :param seconds: wall-clock seconds since the environments were made
    """

    steps: NDArray[np.int64]
    returns: Array
    seconds: Array


def read_episodes(folder: Path, n_envs: int | None = None) -> Episodes:
    """
    Read the files of a run's monitors. Copies of the environment take their steps together.

    :param folder: the run's folder
    :param n_envs: how many copies there are; ``None`` for as many as there are files
    :return: its training episodes; none if there is no file
    :raises ValueError: if a file is damaged, too large or no regular file
    :raises OSError: if one cannot be read
    """
    tables, left = [], MOST_MONITOR_BYTES
    for file in sorted(folder.glob(MONITORS)):
        with open_regular(file, left) as (stream, size):
            left -= size
            try:
                with io.TextIOWrapper(stream, encoding="utf-8", newline="") as lines:
                    tables.append(_monitor(lines))
            except UnicodeDecodeError as error:
                raise InputError(f"{str(file)!r} is damaged: it is not text.") from error
            except (ValueError, csv.Error) as error:
                raise InputError(f"{str(file)!r} is damaged: {error}.") from error
    if not tables:
        return Episodes(np.empty(0, np.int64), np.empty(0), np.empty(0))
    copies = n_envs or len(tables)
    if max(table[:, 1].sum() for table in tables) * copies > MOST_STEPS:
        raise InputError(f"the episodes in its monitor files have more than {MOST_STEPS:,} steps.")
    every = np.concatenate([np.cumsum(table[:, 1]).astype(np.int64) * copies for table in tables])
    joined = np.concatenate(tables)
    order = np.argsort(every, kind="stable")
    return Episodes(every[order], joined[order, 0], joined[order, 2])


def _monitor(lines: io.TextIOWrapper) -> Array:
    """Read the columns ``r``, ``l`` and ``t``, of shape ``(episodes, 3)``; errors have no full stop."""
    next(lines, None)  # a comment
    rows = csv.reader(lines)
    header = next(rows, None)
    if header is None:  # the run has just begun
        return np.empty((0, 3))
    if missing := [name for name in _COLUMNS if name not in header]:
        raise ValueError(f"it has no column {missing[0]!r}")
    places = [header.index(name) for name in _COLUMNS]
    values = array("d")  # a list of lists would take twenty times as much memory
    for row in rows:
        if row:
            values.extend(_numbers(row, places, rows.line_num + 1))
    return np.array(values).reshape(-1, 3)


def _numbers(row: list[str], places: list[int], line: int) -> list[float]:
    try:
        numbers = [float(row[place]) for place in places]
    except IndexError as error:
        raise ValueError(f"line {line} has {len(row)} values, fewer than there are columns") from error
    except ValueError as error:
        raise ValueError(f"line {line} has something else than numbers") from error
    if not all(abs(number) < MOST for number in numbers):
        raise ValueError(f"line {line} has a number that is NaN or infinite, or nearly so")
    if numbers[1] < 1 or numbers[1] != int(numbers[1]):
        raise ValueError(f"line {line} has an episode of {numbers[1]:g} steps; expected a whole number of at least 1")
    return numbers


def clock(episodes: Episodes, steps: NDArray[np.int64]) -> Array:
    """
    Tell the wall-clock time at some steps, evaluations before them included.

    Monitors have a clock, at the end of each episode; between two of them time is interpolated.

    :param episodes: a run's training episodes
    :param steps: environment steps, rising
    :return: seconds since the environments were made, of the shape of ``steps``; NaN if no episode has ended
    """
    if not len(episodes.steps):
        return np.full(len(steps), np.nan)
    at, times = np.append(0, episodes.steps), np.append(0.0, episodes.seconds)
    if steps[-1] > at[-1]:  # the last episode was not over
        times = np.append(times, times[-1] * steps[-1] / at[-1])
        at = np.append(at, steps[-1])
    return np.asarray(np.interp(steps, at, times))


def operations(tensorboard: Path, steps: NDArray[np.int64]) -> Array:
    """
    Tell what training had cost at some steps, from TensorBoard's files, which have it at each evaluation.

    :param tensorboard: the folder of the files
    :param steps: environment steps, rising
    :return: floating-point operations, of the shape of ``steps``, interpolated between evaluations; NaN where unknown
    :raises InputError: if the files are damaged
    """
    if not tensorboard.is_dir():  # it may have been elsewhere, and is gone
        return np.full(len(steps), np.nan)
    # Of any name that TensorBoard would read, a stranger's too.
    if not all(stat.S_ISREG(file.stat().st_mode) for file in tensorboard.glob("*tfevents*")):
        raise InputError(f"{str(tensorboard)!r} has events in something else than a regular file.")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    try:
        events = EventAccumulator(str(tensorboard), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
        known = events.Scalars(_FLOPS) if _FLOPS in events.Tags()["scalars"] else []
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"TensorBoard's files in {str(tensorboard)!r} are damaged: {error}.") from error
    if not known:
        return np.full(len(steps), np.nan)
    at = [0, *(event.step for event in known)]
    return np.asarray(np.interp(steps, at, [0.0, *(event.value for event in known)], right=np.nan))
