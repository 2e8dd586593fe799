"""The curves of the tidy table."""

from collections.abc import Iterable, Sequence

import numpy as np

from _experiment.results import Row
from sparse_rl.plots import curves
from sparse_rl.plots.curves import Agent, Panel, Record


def panels(rows: Sequence[Row]) -> dict[str, Panel]:
    """
    Sort a table into what belongs into one picture: the agents in an environment, and those in it without noise.

    :param rows: the table
    :return: the curves of each environment, in the order of the table
    """
    return curves.panels(_records(rows))


def _records(rows: Iterable[Row]) -> list[Record]:
    runs: dict[tuple[str, Agent, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row.environment, Agent(row.algorithm, row.replay, row.settings), row.run), []).append(row)
    return [_record(*of, sorted(run, key=lambda row: row.step)) for of, run in runs.items()]


def _record(environment: str, agent: Agent, name: str, rows: Sequence[Row]) -> Record:
    steps = np.array([row.step for row in rows])
    returns, seconds = (np.array([getattr(row, each) for row in rows]) for each in ("return_mean", "seconds"))
    unknown = np.full(len(rows), np.nan)
    last = rows[-1]
    return Record(agent, environment, name, steps, returns, seconds, unknown, last.weights, last.training_flops)
