"""The files in which Stable-Baselines3 and rl-baselines3-zoo keep what a run has learnt, and ours like theirs."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_rl.agents.checks import InputError
from sparse_rl.plots.intervals import Array

EVALUATIONS = "evaluations.npz"
MONITORS = "*.monitor.csv"
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


def read_evaluations(file: Path) -> tuple[NDArray[np.int64], Array]:
    """
    Read what an ``EvalCallback`` of Stable-Baselines3 has written.

    :param file: ``evaluations.npz``
    :return: environment steps, of shape ``(evaluations,)``, and returns, of shape ``(evaluations, episodes)``
    :raises InputError: if it is damaged
    :raises OSError: if it cannot be read
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            steps, returns = content["timesteps"], content["results"]
        if steps.ndim != 1 or returns.ndim != 2 or not 0 < len(steps) == len(returns):
            raise ValueError("steps and returns do not belong together")
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"{str(file)!r} is damaged: {error}.") from error
    return steps, returns


def read_episodes(folder: Path, n_envs: int | None = None) -> Episodes:
    """
    Read the files of a run's monitors. Copies of the environment take their steps together.

    :param folder: the run's folder
    :param n_envs: how many copies there are; ``None`` for as many as there are files
    :return: its training episodes; none if there is no file
    :raises InputError: if a file is damaged
    :raises OSError: if one cannot be read
    """
    files = sorted(folder.glob(MONITORS))
    tables = [_monitor(file) for file in files]
    steps = [np.cumsum(table[:, 1]).astype(np.int64) * (n_envs or len(files)) for table in tables]
    if not tables:
        return Episodes(np.empty(0, np.int64), np.empty(0), np.empty(0))
    every, joined = np.concatenate(steps), np.concatenate(tables)
    order = np.argsort(every, kind="stable")
    return Episodes(every[order], joined[order, 0], joined[order, 2])


def _monitor(file: Path) -> Array:
    """Read the columns ``r``, ``l`` and ``t``, of shape ``(episodes, 3)``."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            next(lines, None)  # a comment
            rows = [[float(row[key]) for key in ("r", "l", "t")] for row in csv.DictReader(lines)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{str(file)!r} is damaged: {error}.") from error
    table = np.array(rows).reshape(-1, 3)
    if not (np.isfinite(table[:, 2]).all() and ((table[:, 1] >= 1) & (table[:, 1] < 2**40)).all()):
        raise InputError(f"{str(file)!r} is damaged: an episode has a length or a time that cannot be.")
    return table


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
    """
    if not tensorboard.is_dir():  # it may have been elsewhere, and is gone
        return np.full(len(steps), np.nan)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tensorboard), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
    if _FLOPS not in events.Tags()["scalars"]:
        return np.full(len(steps), np.nan)
    known = events.Scalars(_FLOPS)
    at = [0, *(event.step for event in known)]
    return np.asarray(np.interp(steps, at, [0.0, *(event.value for event in known)], right=np.nan))
