"""The curves of the tidy table, and what its other tables say of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from _experiment.results import Row
from sparse_rl.plots import curves
from sparse_rl.plots.curves import Agent, Curve, Panel, Record
from sparse_rl.plots.intervals import Array


def panels(rows: Sequence[Row]) -> dict[str, Panel]:
    """
    Sort a table into what belongs into one picture: the agents in an environment, and those in it without noise.

    :param rows: the table
    :return: the curves of each environment, in the order of the table
    """
    return curves.panels(_records(rows))


def costs(rows: Iterable[Row]) -> dict[tuple[str, Agent], tuple[int | None, int | None]]:
    """
    Give what an agent costs, as its first run in the table says.

    :param rows: the table
    :return: active weights, and floating-point operations of training of a whole run, by environment and agent;
        ``None`` where unknown
    """
    found: dict[tuple[str, Agent], tuple[int | None, int | None]] = {}
    for row in rows:
        found.setdefault((row.environment, _agent(row)), (row.weights, row.training_flops))
    return found


def scores(curve: Curve, last: int) -> Array:
    """
    Give each run's score.

    :param curve: the runs of an agent
    :param last: how many evaluations at the end make it
    :return: their mean return, of shape ``(runs,)``
    """
    return np.asarray(curve.returns[:, -last:].mean(axis=1))


def reach(curve: Curve, target: float) -> tuple[Array, Array]:
    """
    Tell when each run first had an evaluation of at least some return.

    :param curve: the runs of an agent
    :param target: the return
    :return: environment steps and wall-clock seconds, of shape ``(runs,)`` both; infinite for runs that never did
    """
    first = np.argmax(curve.returns >= target, axis=1)
    reached = (curve.returns >= target).any(axis=1)
    steps, seconds = curve.steps[first], curve.seconds[np.arange(len(first)), first]
    return np.where(reached, steps, np.inf), np.where(reached, seconds, np.inf)


def _agent(row: Row) -> Agent:
    return Agent(row.algorithm, row.replay, row.settings)


def _records(rows: Iterable[Row]) -> list[Record]:
    runs: dict[tuple[str, Agent, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row.environment, _agent(row), row.run), []).append(row)
    return [_record(*of, sorted(run, key=lambda row: row.step)) for of, run in runs.items()]


def _record(environment: str, agent: Agent, name: str, rows: Sequence[Row]) -> Record:
    steps = np.array([row.step for row in rows])
    returns, seconds = (np.array([getattr(row, each) for row in rows]) for each in ("return_mean", "seconds"))
    unknown = np.full(len(rows), np.nan)
    return Record(agent, environment, name, steps, returns, seconds, unknown)
