"""Three answers to the question which inputs matter, side by side, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_rl.features.statistics import area_under_curve, precision_and_recall, ranks, sign_flip_test
from sparse_rl.topology import benjamini_hochberg

Numbers = NDArray[np.float64]
METHODS = ("connections", "ablation", "intervention")


@dataclass(frozen=True)
class Connections:
    """
    How the network that acts is wired to each feature.

    :param count: active weights of the input layer at the feature, int64 ``(features,)``
    :param strength: sum of their magnitudes
    """

    count: NDArray[np.int64]
    strength: Numbers


@dataclass(frozen=True)
class Ablation:
    """
    What becomes of the agent when a feature has the values of other moments.

    :param action_change: the share of the actions' variance that goes with each feature, ``(features,)``; see
        :func:`~sparse_rl.features.statistics.total_effect`
    :param return_drop: by how much the return falls on average; NaN for features that were not tried
    :param p_value: of the hypothesis that it does not fall; NaN for features that were not tried
    """

    action_change: Numbers
    return_drop: Numbers
    p_value: Numbers


@dataclass(frozen=True)
class Intervention:
    """
    What the environment says about each feature when actions are random: p-values of hypotheses, ``(features,)`` each.

    :param responds: that the feature does not respond to the action
    :param pays: that the reward does not depend on it
    :param predicts: that it does not help to predict what the first two have found
    :param p_value: that all three are so: it does not bear on the task
    :param transitions: of how many transitions this was found out; ``None`` if unknown
    """

    responds: Numbers
    pays: Numbers
    predicts: Numbers
    p_value: Numbers
    transitions: int | None = None


@dataclass(frozen=True)
class Confirmation:
    """
    Returns of fresh episodes, which begin alike, ``(episodes,)`` each.

    :param intact: the agent sees everything
    :param kept_only: all features but the kept ones have the values of other moments
    :param kept_hidden: the kept ones have
    """

    intact: Numbers
    kept_only: Numbers
    kept_hidden: Numbers

    def lacks_something(self, level: float) -> bool:
        """
        Tell whether the return with the kept features alone is lower.

        :param level: the probability of saying so although it is not
        :return: whether a sign-flip test says so
        """
        return sign_flip_test(self.intact - self.kept_only) <= level


@dataclass(frozen=True)
class Agreement:
    """
    How a ranking, or a list, agrees with which features are known to be real.

    :param area: the probability that a real feature ranks above another; ``None`` for a list
    :param chosen: the number of features that are looked at: of a list all, of a ranking as many as are real
    :param precision: the share of these that is real
    :param recall: the share of the real ones that is among them
    """

    area: float | None
    chosen: int
    precision: float
    recall: float


@dataclass(frozen=True)
class FeatureRanking:
    """
    Which inputs of an agent matter, by up to three methods; what was not asked for is ``None``.

    :param names: names of the features, in the order of the observation
    :param real: which are real, bool ``(features,)``; ``None`` where the environment does not know
    :param level: the expected fraction of false discoveries among the kept features
    :param connections: by how the agent is wired
    :param ablation: by what the agent does without
    :param intervention: by what the environment says
    :param confirmation: what the agent achieves with the kept features alone, and without them
    """

    names: tuple[str, ...]
    real: NDArray[np.bool_] | None
    level: float
    connections: Connections | None = None
    ablation: Ablation | None = None
    intervention: Intervention | None = None
    confirmation: Confirmation | None = None

    @cached_property
    def discoveries(self) -> Mapping[str, NDArray[np.bool_]]:
        """
        The features that each method with p-values finds, by Benjamini and Hochberg's procedure.

        Each method has its share of :attr:`level`. So what they find together has, too: the fraction of false ones in
        a union is at most the sum of the fractions.
        """
        found = {
            name: part for name, part in (("ablation", self.ablation), ("intervention", self.intervention)) if part
        }
        lists = {}
        for name, part in found.items():
            tried = ~np.isnan(part.p_value)
            lists[name] = np.zeros(len(tried), dtype=bool)
            if tried.any():
                chosen = benjamini_hochberg(torch.as_tensor(part.p_value[tried]), self.level / len(found))
                lists[name][tried] = chosen.numpy()
        return lists

    @property
    def keep(self) -> NDArray[np.bool_] | None:
        """The recommendation: what any of the methods has found; ``None`` if only connections were looked at."""
        return np.logical_or.reduce(list(self.discoveries.values())) if self.discoveries else None

    @property
    def scores(self) -> Mapping[str, Numbers]:
        """The number by which each method ranks, the higher the better."""
        scores = {}
        if self.connections is not None:
            scores["connections"] = self.connections.strength
        if self.ablation is not None:
            scores["ablation"] = self.ablation.action_change
        if self.intervention is not None:
            scores["intervention"] = -self.intervention.p_value
        return scores

    @property
    def order(self) -> NDArray[np.int64]:
        """All features, the best first: kept ones before others, then by ablation, connections, intervention."""
        keys: list[NDArray[Any]] = [
            -self.scores[name] for name in ("intervention", "connections", "ablation") if name in self.scores
        ]
        if self.keep is not None:
            keys.append(~self.keep)
        return np.lexsort(keys).astype(np.int64)  # the last key counts most

    @property
    def agreement(self) -> Mapping[str, Agreement]:
        """How rankings and lists agree with the real features; empty where these, or others, are not known."""
        if self.real is None or self.real.all() or not self.real.any():
            return {}
        n_real = int(self.real.sum())
        found = {}
        for name, score in self.scores.items():
            first = np.zeros(len(score), dtype=bool)
            first[np.argsort(-score, kind="stable")[:n_real]] = True
            found[name] = Agreement(area_under_curve(score, self.real), n_real, *precision_and_recall(first, self.real))
        lists = {f"{name}, tested": chosen for name, chosen in self.discoveries.items()}
        if self.keep is not None:
            lists["keep"] = self.keep
        for name, chosen in lists.items():
            found[name] = Agreement(None, int(chosen.sum()), *precision_and_recall(chosen, self.real))
        return found

    def columns(self) -> dict[str, NDArray[Any]]:
        """
        Give everything as columns with an entry for each feature, in the order of the observation.

        :return: arrays by name; docs/features.md says what each means
        """
        columns: dict[str, NDArray[Any]] = {"feature": np.arange(len(self.names)), "name": np.array(self.names)}
        for name, flags in (("real", self.real), ("keep", self.keep)):
            if flags is not None:
                columns[name] = flags.astype(np.int64)
        if self.connections is not None:
            columns |= {"connections": self.connections.count, "strength": self.connections.strength}
        if self.ablation is not None:
            a = self.ablation
            columns |= {"action_change": a.action_change, "return_drop": a.return_drop, "return_p": a.p_value}
        if self.intervention is not None:
            i = self.intervention
            columns |= {"response_p": i.responds, "reward_p": i.pays, "prediction_p": i.predicts}
            columns["intervention_p"] = i.p_value
        return columns | {f"rank_{name}": ranks(score) for name, score in self.scores.items()}
