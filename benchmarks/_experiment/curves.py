"""The curves of the tidy table: runs that differ in nothing but their seed, side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from _experiment.intervals import interval, iqm
from _experiment.results import Row
from sparse_rl.envs import EnvironmentId

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agent:
    """
    What runs of different seeds have in common.

    :param algorithm: name of the algorithm
    :param replay: how noise was learnt from
    :param settings: what the grid set besides
    """

    algorithm: str
    replay: str
    settings: str

    @property
    def label(self) -> str:
        """What it is called in tables and legends."""
        return ", ".join(part for part in (self.algorithm, self.settings, self.replay) if part)


@dataclass(frozen=True)
class Curve:
    """
    The runs of an agent in an environment, at the steps at which all of them were evaluated.

    :param agent: the agent
    :param steps: environment steps, of shape ``(evaluations,)``
    :param returns: mean return of the episodes, of shape ``(runs, evaluations)``
    :param seconds: wall-clock seconds, of the same shape; NaN where unknown
    :param weights: active weights of the networks; ``None`` if unknown
    :param flops: floating-point operations of a whole run; ``None`` if unknown
    :param permute: environment steps after which features change places; ``None`` if they never do
    """

    agent: Agent
    steps: NDArray[np.int64]
    returns: Array
    seconds: Array
    weights: int | None
    flops: int | None = None
    permute: int | None = None

    @cached_property
    def clock(self) -> Array:
        """The runs' median wall-clock time of each evaluation, of shape ``(evaluations,)``."""
        return np.asarray(np.median(self.seconds, axis=0))

    @property
    def shifts(self) -> range:
        """The environment steps at which features change places, as far as there are later evaluations."""
        return range(self.permute, int(self.steps[-1]), self.permute) if self.permute and len(self.steps) else range(0)

    def scores(self, last: int) -> Array:
        """
        Give each run's score.

        :param last: how many evaluations at the end make it
        :return: their mean return, of shape ``(runs,)``
        """
        return np.asarray(self.returns[:, -last:].mean(axis=1))

    def middle(self) -> Array:
        """
        Give the interquartile mean over runs at each evaluation.

        :return: of shape ``(evaluations,)``
        """
        return iqm(self.returns.T)

    def band(self) -> Array:
        """
        Give the 95 % interval of :meth:`middle`.

        :return: lower and upper ends, of shape ``(2, evaluations)``
        """
        return np.array([interval([scores]) for scores in self.returns.T]).T

    def reach(self, target: float) -> tuple[Array, Array]:
        """
        Tell when each run first had an evaluation of at least some return.

        :param target: the return
        :return: environment steps and wall-clock seconds, of shape ``(runs,)`` both; infinite for runs that never did
        """
        first = np.argmax(self.returns >= target, axis=1)
        reached = (self.returns >= target).any(axis=1)
        steps, seconds = self.steps[first], self.seconds[np.arange(len(first)), first]
        return np.where(reached, steps, np.inf), np.where(reached, seconds, np.inf)


Panel = dict[Agent, Curve]


def panels(rows: Sequence[Row]) -> dict[str, Panel]:
    """
    Sort a table into what belongs into one picture: the agents in an environment, and those in it without noise.

    :param rows: the table
    :return: the curves of each environment, in the order of the table
    """
    curves = {name: _curves(row for row in rows if row.environment == name) for name in _unique(rows)}
    ids = {name: EnvironmentId.parse(name) for name in curves}
    noisy = {name for name, environment in ids.items() if environment.noise is not None}
    bases = {ids[name].base for name in noisy}
    result = {}
    for name, environment in ids.items():
        ceilings = [other for other in ids if other not in noisy and ids[other].base == environment.base]
        if name in noisy:
            result[name] = {**curves[name], **{agent: c for other in ceilings for agent, c in curves[other].items()}}
        elif environment.base not in bases:
            result[name] = curves[name]
    return result


def _unique(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.environment for row in rows))


def _curves(rows: Iterable[Row]) -> Panel:
    agents: dict[Agent, dict[str, dict[int, Row]]] = {}
    for row in rows:
        runs = agents.setdefault(Agent(row.algorithm, row.replay, row.settings), {})
        runs.setdefault(row.run, {})[row.step] = row
    return {agent: _curve(agent, list(runs.values())) for agent, runs in agents.items()}


def _curve(agent: Agent, runs: Sequence[dict[int, Row]]) -> Curve:
    steps = sorted(set[int].intersection(*(set(run) for run in runs)))
    table = [[run[step] for step in steps] for run in runs]
    returns = np.array([[row.return_mean for row in run] for run in table])
    seconds = np.array([[row.seconds for row in run] for run in table])
    permute = EnvironmentId.parse(next(iter(runs[0].values())).environment).permute
    weights, flops = (table[0][-1].weights, table[0][-1].training_flops) if steps else (None, None)
    return Curve(agent, np.array(steps), returns, seconds, weights, flops, permute)
