"""Learning curves: runs that differ in nothing but their seed, side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparse_rl.envs import EnvironmentId, EnvironmentIdError
from sparse_rl.plots.intervals import Array, Statistic, interval, iqm

#: What a curve may be drawn over, and what that is called below it.
AXES = {
    "steps": "environment steps",
    "time": "wall-clock seconds, evaluations included",
    "flops": "floating-point operations of training",
}


@dataclass(frozen=True)
class Agent:
    """
    What runs of different seeds have in common.

    :param algorithm: name of the algorithm
    :param replay: how noise was learnt from: ``"redrawn noise"``, ``"observed noise"`` or ``"no noise"``
    :param settings: what else sets them apart from others, for example ``"sparsity 0.9"``
    """

    algorithm: str
    replay: str
    settings: str

    @property
    def label(self) -> str:
        """What it is called in tables and legends."""
        return ", ".join(part for part in (self.algorithm, self.settings, self.replay) if part)

    @property
    def is_dense(self) -> bool:
        """Whether it is a learner by itself: sparse algorithms are called METHOD-LEARNER."""
        return "-" not in self.algorithm


@dataclass(frozen=True)
class Record:
    """
    One run, as far as its curve is concerned. All arrays have the shape ``(points,)``.

    :param agent: what it shares with runs of other seeds
    :param environment: id of the environment
    :param name: what tells it from the others: its folder
    :param steps: environment steps, rising
    :param returns: mean return of episodes there
    :param seconds: wall-clock seconds until there; NaN where unknown
    :param flops: floating-point operations of training until there; NaN where unknown
    :param weights: active weights of the networks; ``None`` if unknown
    :param total_flops: floating-point operations of training of the whole run; ``None`` if unknown
    """

    agent: Agent
    environment: str
    name: str
    steps: NDArray[np.int64]
    returns: Array
    seconds: Array
    flops: Array
    weights: int | None = None
    total_flops: int | None = None


@dataclass(frozen=True)
class Curve:
    """
    The runs of an agent in an environment, at the steps at which there is something to say of all of them.

    :param agent: the agent
    :param steps: environment steps, of shape ``(evaluations,)``
    :param returns: mean return of the episodes, of shape ``(runs, evaluations)``
    :param seconds: wall-clock seconds, of the same shape; NaN where unknown
    :param weights: active weights of the networks; ``None`` if unknown
    :param total_flops: floating-point operations of training of a whole run; ``None`` if unknown
    :param permute: environment steps after which features change places; ``None`` if they never do
    :param flops: floating-point operations of training so far, of the shape of ``returns``; ``None`` if unknown
    :param statistic: what sums runs up
    """

    agent: Agent
    steps: NDArray[np.int64]
    returns: Array
    seconds: Array
    weights: int | None
    total_flops: int | None = None
    permute: int | None = None
    flops: Array | None = None
    statistic: Statistic = iqm

    @cached_property
    def clock(self) -> Array:
        """The runs' median wall-clock time of each evaluation, of shape ``(evaluations,)``."""
        return np.asarray(np.median(self.seconds, axis=0))

    @cached_property
    def work(self) -> Array:
        """The runs' median number of floating-point operations until each evaluation, of shape ``(evaluations,)``."""
        if self.flops is None:
            return np.full(len(self.steps), np.nan)
        return np.asarray(np.median(self.flops, axis=0))

    def along(self, axis: str) -> Array:
        """
        Tell where its points lie.

        :param axis: one of :data:`AXES`
        :return: of shape ``(evaluations,)``
        """
        return {"steps": self.steps.astype(np.float64), "time": self.clock, "flops": self.work}[axis]

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
        Sum the runs up at each evaluation.

        :return: by default their interquartile mean, of shape ``(evaluations,)``
        """
        return self.statistic(self.returns.T)

    def band(self) -> Array:
        """
        Give the 95 % interval of :meth:`middle`.

        :return: lower and upper ends, of shape ``(2, evaluations)``
        """
        return self._band

    @cached_property
    def _band(self) -> Array:  # it takes a while
        return np.array([interval([scores], statistic=self.statistic) for scores in self.returns.T]).reshape(-1, 2).T

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


def panels(records: Iterable[Record], statistic: Statistic = iqm) -> dict[str, Panel]:
    """
    Sort runs into what belongs into one picture: the agents in an environment, and those in it without noise.

    :param records: the runs
    :param statistic: what sums up the runs of an agent
    :return: the curves of each environment, in the order of the runs
    """
    curves: dict[str, Panel] = {}
    for (environment, agent), runs in grouped(records).items():
        curves.setdefault(environment, {})[agent] = _curve(agent, environment, runs, statistic)
    ids = {name: _parsed(name) for name in curves}
    noisy = {name for name, environment in ids.items() if environment and environment.noise is not None}
    result = {}
    for name in curves:
        ceilings = [other for other in ids if other not in noisy and _are_kin(ids[name], ids[other])]
        if name in noisy:
            result[name] = {**curves[name], **{agent: c for other in ceilings for agent, c in curves[other].items()}}
        elif not any(_are_kin(ids[name], ids[other]) for other in noisy):
            result[name] = curves[name]
    return result


def grouped(records: Iterable[Record]) -> dict[tuple[str, Agent], list[Record]]:
    """
    Put runs of different seeds together.

    :param records: the runs
    :return: those of each environment and agent
    """
    groups: dict[tuple[str, Agent], list[Record]] = {}
    for record in records:
        groups.setdefault((record.environment, record.agent), []).append(record)
    return groups


def _parsed(environment: str) -> EnvironmentId | None:
    try:
        return EnvironmentId.parse(environment)
    except EnvironmentIdError:  # rl-baselines3-zoo's file names need not be ids
        return None


def _are_kin(one: EnvironmentId | None, other: EnvironmentId | None) -> bool:
    return one is not None and other is not None and one.base == other.base


def _curve(agent: Agent, environment: str, runs: Sequence[Record], statistic: Statistic) -> Curve:
    steps = sorted(set[int].intersection(*(set(run.steps.tolist()) for run in runs)))
    places = [np.searchsorted(run.steps, steps) for run in runs]
    returns, seconds, flops = (
        np.array([getattr(run, name)[at] for run, at in zip(runs, places, strict=True)])
        for name in ("returns", "seconds", "flops")
    )
    identity = _parsed(environment)
    permute = identity.permute if identity else None
    weights, total = (runs[0].weights, runs[0].total_flops) if steps else (None, None)
    return Curve(agent, np.array(steps), returns, seconds, weights, total, permute, flops, statistic)
