"""One look at the input layers of an agent: how many connections lead to real features, and to noise."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sparse_rl.metrics import connections_per_feature
from sparse_rl.nn import SparseLinear
from sparse_rl.sb3.networks import networks_of
from sparse_rl.training.groups import groups_of


@dataclass(frozen=True)
class Measurement:
    """
    The input layer of one network at one time; a figure that does not exist is ``None``.

    :param step: environment steps so far
    :param network: ``"actor"``, ``"qf0"``, ``"qf1"``; see :func:`~sparse_rl.sb3.networks.networks_of`
    :param real: active weights per real feature
    :param noise: active weights per noise feature
    :param action: active weights per action entry, which only critics of continuous actions have
    :param real_abs: mean magnitude of the active weights at real features
    :param noise_abs: the same at noise features
    :param action_abs: the same at action entries
    """

    step: int
    network: str
    real: float | None
    noise: float | None
    action: float | None
    real_abs: float | None
    noise_abs: float | None
    action_abs: float | None


FIGURES = [field.name for field in fields(Measurement)][2:]


def networks(model: BaseAlgorithm) -> Mapping[str, nn.Module]:
    """
    Find an agent's networks, without its target networks.

    :param model: an agent
    :return: the one that acts, then the others: ``{"actor": ..., "qf0": ..., "qf1": ...}``, or as
        :func:`~sparse_rl.sb3.networks.networks_of` names them
    """
    return {name: network.module(model.policy) for name, network in networks_of(model.policy).items()}


def measure(step: int, network: str, layer: SparseLinear | nn.Linear, real: NDArray[np.bool_]) -> Measurement:
    """
    Measure one input layer. Its inputs are ``[observation]`` or, in a critic, ``[observation | action]``.

    :param step: environment steps so far
    :param network: name of the network
    :param layer: its input layer
    :param real: which entries of the observation are real
    :return: the measurement
    """
    counts, strengths = connections_per_feature(layer)
    values: dict[str, float | None] = {}
    for name, group in groups_of(real, len(counts)).items():
        present = bool(group.any())
        values[name] = float(counts[group].mean()) if present else None
        values[f"{name}_abs"] = float(strengths[group].sum() / max(counts[group].sum(), 1)) if present else None
    return Measurement(step, network, **values)
