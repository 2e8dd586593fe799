"""Learning curves: runs that differ in nothing but their seed, side by side."""

from collections.abc import Iterable, Mapping, Sequence
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
    :param n_envs: copies of the environment, among which the steps are shared
    """

    agent: Agent
    environment: str
    name: str
    steps: NDArray[np.int64]
    returns: Array
    seconds: Array
    flops: Array
    n_envs: int = 1


@dataclass(frozen=True)
class Curve:
    """
    The runs of an agent in an environment, at the steps at which there is something to say of all of them.

    :param agent: the agent
    :param environment: id of the environment
    :param steps: environment steps, of shape ``(evaluations,)``
    :param returns: mean return of the episodes, of shape ``(runs, evaluations)``
    :param seconds: wall-clock seconds, of the same shape; NaN where unknown
    :param permute: environment steps, of all copies, after which features change places; ``None`` if they never do
    :param flops: floating-point operations of training so far, of the shape of ``returns``; ``None`` if unknown
    :param statistic: what sums runs up
    """

    agent: Agent
    environment: str
    steps: NDArray[np.int64]
    returns: Array
    seconds: Array
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
        """
        The environment steps at which features change places, as far as there are later evaluations.

        None if there are more of them than evaluations, which then tell nothing of a single one.
        """
        if not self.permute or not len(self.steps):
            return range(0)
        shifts = range(self.permute, int(self.steps[-1]), self.permute)
        return shifts if len(shifts) <= len(self.steps) else range(0)

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


#: What belongs into one picture.
Panel = list[Curve]


def panels(records: Iterable[Record], statistic: Statistic = iqm) -> dict[str, Panel]:
    """
    Sort runs into what belongs into one picture: the agents in an environment, and those in it without noise.

    :param records: the runs
    :param statistic: what sums up the runs of an agent
    :return: the curves of each environment, in the order of the runs
    """
    curves: dict[str, Panel] = {}
    for (environment, agent), runs in grouped(records).items():
        curves.setdefault(environment, []).append(_curve(agent, environment, runs, statistic))
    ids = {name: _parsed(name) for name in curves}
    ceilings = {name: [other for other in ids if _is_ceiling(ids[other], ids[name])] for name in ids}
    drawn_elsewhere = {other for others in ceilings.values() for other in others}
    return {
        name: [*panel, *(curve for other in ceilings[name] for curve in curves[other])]
        for name, panel in curves.items()
        if name not in drawn_elsewhere
    }


def all_curves(shown: Mapping[str, Panel]) -> list[Curve]:
    """
    List what is drawn, each curve once: a ceiling may be drawn in several pictures.

    :param shown: what :func:`panels` gave
    :return: the curves
    """
    return list({id(curve): curve for panel in shown.values() for curve in panel}.values())


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
    """Understand an id, and which version it means if it names none, as far as that is known without importing."""
    try:
        found = EnvironmentId.parse(environment)
        return found if found.base_id else None
    except EnvironmentIdError:  # rl-baselines3-zoo's file names need not be ids
        return None


def _is_ceiling(one: EnvironmentId | None, other: EnvironmentId | None) -> bool:
    """Tell whether one environment is the other without its noise: of the same version, and with nothing else to it."""
    if one is None or other is None or other.noise is None or one.noise is not None or one.permute is not None:
        return False
    return one.base == other.base and one.base_id == other.base_id


def _curve(agent: Agent, environment: str, runs: Sequence[Record], statistic: Statistic) -> Curve:
    steps = sorted(set[int].intersection(*(set(run.steps.tolist()) for run in runs)))
    places = [np.searchsorted(run.steps, steps) for run in runs]
    returns, seconds, flops = (
        np.array([getattr(run, name)[at] for run, at in zip(runs, places, strict=True)])
        for name in ("returns", "seconds", "flops")
    )
    identity = _parsed(environment)
    # Each copy of the environment counts its own steps.
    permute = identity.permute * runs[0].n_envs if identity and identity.permute else None
    return Curve(agent, environment, np.array(steps), returns, seconds, permute, flops, statistic)
