"""From run folders to curves: evaluations as they are, training episodes as a moving average."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_rl.inputs import InputError
from sparse_rl.plots.curves import Agent, Record, grouped
from sparse_rl.plots.files import EVALUATIONS, Episodes, clock, operations, read_episodes, read_evaluations
from sparse_rl.plots.folders import FoundRun, settings_of

#: About as many points has a curve of training episodes.
POINTS = 200


def gather(runs: Sequence[FoundRun], axis: str = "steps", window: int | None = None) -> tuple[list[Record], list[str]]:
    """
    Read what runs have learnt.

    :param runs: the runs
    :param axis: what curves will be drawn over: ``"steps"``, ``"time"`` or ``"flops"``, which takes longer to find out
    :param window: the number of training episodes to average; ``None`` for evaluations
    :return: the runs, as far as there is something to draw; and sentences about what is left out
    :raises InputError: if nothing is left
    """
    read, notes = [], []
    records: list[tuple[Record, int | None]] = []
    for run, settings in zip(runs, settings_of(runs), strict=True):
        try:
            read.append((run, settings, read_episodes(run.path, run.n_envs)))
        except (ValueError, OSError) as error:
            notes.append(f"{str(run.path)!r} does not count: {error}")
    every = _distance([episodes for _, _, episodes in read])
    for run, settings, episodes in read:
        try:
            record = _record(run, settings, episodes, axis, window, every)
            if not np.isfinite(record.seconds if axis == "time" else record.steps).all():
                raise InputError("its monitor files have no episodes, so its wall-clock time is not known.")
            if axis == "flops" and not np.isfinite(record.flops).all():
                raise InputError("its TensorBoard files do not have 'cost/training_flops' up to its last point.")
            records.append((record, run.seed))
        except (ValueError, OSError) as error:
            notes.append(f"{str(run.path)!r} does not count: {error}")
    different, others = _without_repetitions(records)
    notes += others
    drawable, others = _drawable(different)
    notes += others
    if not drawable:
        raise InputError("No run has anything to draw." + "".join(f"\n{note}" for note in notes))
    return drawable, notes


def _without_repetitions(records: Sequence[tuple[Record, int | None]]) -> tuple[list[Record], list[str]]:
    """Of runs that are the same, seed included, keep the one that went furthest: copies say nothing twice."""
    furthest: dict[object, Record] = {}
    notes = []
    for place, (record, seed) in enumerate(records):
        key = place if seed is None else (record.environment, record.agent, seed)
        other = furthest.setdefault(key, record)
        if other is not record:
            kept, left = (other, record) if other.steps[-1] >= record.steps[-1] else (record, other)
            furthest[key] = kept
            notes.append(f"{left.name!r} does not count: {kept.name!r} has the same seed, and went at least as far.")
    return list(furthest.values()), notes


def _distance(runs: Sequence[Episodes]) -> int:
    """Choose the steps between two points of all runs: 1, 2 or 5 times a power of ten, so that they share them."""
    last = max((episodes.steps.max(initial=0) for episodes in runs), default=0)
    wanted = max(1.0, last / POINTS)
    power = 10 ** int(np.log10(wanted))
    return int(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted))


def _record(run: FoundRun, settings: str, episodes: Episodes, axis: str, window: int | None, every: int) -> Record:
    if window is None:
        if not (run.path / EVALUATIONS).exists():
            raise InputError(f"it has no {EVALUATIONS}; with --training its training episodes can be drawn.")
        steps, each = read_evaluations(run.path / EVALUATIONS)
        returns = each.mean(axis=1)
    else:
        steps, returns = moving_average(episodes, window, every)
    flops = operations(run.tensorboard, steps) if axis == "flops" else np.full(len(steps), np.nan)
    agent = Agent(run.algorithm, run.replay, settings)
    return Record(agent, run.environment, str(run.path), steps, returns, clock(episodes, steps), flops, run.n_envs or 1)


def moving_average(episodes: Episodes, window: int, every: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """
    Average the last training episodes that had ended by then, at regular steps.

    :param episodes: a run's training episodes
    :param window: how many; fewer while there are no more
    :param every: environment steps between two points, which are multiples of it
    :return: steps and mean returns, of shape ``(points,)``, from the end of the first episode on
    :raises InputError: if there are no two of them
    """
    if not len(episodes.steps):
        raise InputError("its monitor files have no episodes.")
    steps = np.arange(-(-episodes.steps[0] // every), episodes.steps[-1] // every + 1) * every
    if not len(steps):
        raise InputError(f"its episodes end before step {every:,}, where the first point would be.")
    ended = np.searchsorted(episodes.steps, steps, side="right")
    sums = np.append(0.0, np.cumsum(episodes.returns))
    begun = np.maximum(ended - window, 0)
    return steps, (sums[ended] - sums[begun]) / (ended - begun)


def _drawable(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Leave out runs that have no steps in common; tell so, and which curves end early, as one of their runs does."""
    drawable, notes = [], []
    for (environment, agent), runs in grouped(records).items():
        shared = set[int].intersection(*(set(run.steps.tolist()) for run in runs))
        first, last = (choose(runs, key=lambda run: int(run.steps[-1])) for choose in (min, max))
        if not shared:
            notes.append(
                f"{agent.label} in {environment} is left out: its runs were evaluated at different steps, for example "
                f"{first.name!r} and {last.name!r}, so there is no curve of them all. Draw them one by one."
            )
            continue
        drawable.extend(runs)
        if max(shared) < int(last.steps[-1]):
            notes.append(
                f"the curve of {agent.label} in {environment} ends at step {max(shared):,}, as {first.name!r} does; "
                f"{last.name!r} went on to {int(last.steps[-1]):,}."
            )
    return drawable, notes
