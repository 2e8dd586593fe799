"""
The learners by name, and the classes that a description of an agent may name.

Nothing is ever imported because a file says so.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.nn.modules import activation

from sparse_rl.nn import SMETAdam
from sparse_rl.sb3 import sparse_policy

_BOX, _DISCRETE = (spaces.Box,), (spaces.Discrete,)
#: All kinds of actions that any learner can choose.
ANY_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
#: The learners by name: the class of each, as files name it too, and the kinds of actions that it can choose.
LEARNERS: Mapping[str, tuple[str, tuple[type[spaces.Space[Any]], ...]]] = {
    "sac": ("sparse_rl.agents.SAC", _BOX),
    "td3": ("sparse_rl.agents.TD3", _BOX),
    "a2c": ("stable_baselines3.A2C", ANY_ACTIONS),
    "ddpg": ("stable_baselines3.DDPG", _BOX),
    "dqn": ("stable_baselines3.DQN", _DISCRETE),
    "ppo": ("stable_baselines3.PPO", ANY_ACTIONS),
    "crossq": ("sb3_contrib.CrossQ", _BOX),
    "qrdqn": ("sb3_contrib.QRDQN", _DISCRETE),
    "tqc": ("sb3_contrib.TQC", _BOX),
    "trpo": ("sb3_contrib.TRPO", ANY_ACTIONS),
}
# No learners here, because there are faster ones, but agents of theirs can be described.
_BESIDES = ("stable_baselines3.SAC", "stable_baselines3.TD3")


def _subclasses(module: object, base: type) -> dict[str, type]:
    """Find the subclasses of ``base`` among the names of a module."""
    return {name: c for name, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base) and c is not base}


# They need arguments, or give something of another shape than they get.
_NO_ACTIVATIONS = ("GLU", "MultiheadAttention", "Softmax2d", "Threshold")
#: What the keys of ``policy_kwargs`` that hold classes may hold, by name.
POLICY_CLASSES: Mapping[str, Mapping[str, type]] = {
    "activation_fn": {name: getattr(activation, name) for name in activation.__all__ if name not in _NO_ACTIVATIONS},
    "optimizer_class": {
        **_subclasses(th.optim, th.optim.Optimizer),
        "SMETAdam": SMETAdam,
        "RMSpropTFLike": RMSpropTFLike,
    },
    "features_extractor_class": _subclasses(torch_layers, torch_layers.BaseFeaturesExtractor),
}


_registered: dict[str, type[BaseAlgorithm]] = {}


def register(algorithm: type[BaseAlgorithm], name: str | None = None) -> None:
    """
    Let agents of an algorithm of your own be saved and loaded safely: a file may name it from now on.

    :param algorithm: the class, whose constructor takes plain values
    :param name: its name in files; ``module:Class`` if ``None``
    """
    _registered[name or f"{algorithm.__module__}:{algorithm.__qualname__}"] = algorithm


def known_classes() -> Mapping[str, type[BaseAlgorithm]]:
    """
    List the classes whose agents can be described.

    :return: the classes by name, for example ``"stable_baselines3.PPO"``; those of sb3-contrib only if it is installed;
        those that were registered
    """
    return {**_known(), **_registered}


@cache
def _known() -> Mapping[str, type[BaseAlgorithm]]:
    names = (*(name for name, _ in LEARNERS.values()), *_BESIDES)
    classes = {name: class_of(name) for name in names}
    return {name: found for name, found in classes.items() if found is not None}


def class_of(name: str) -> type[BaseAlgorithm] | None:
    """
    Import the class of an algorithm.

    :param name: its name in :data:`LEARNERS`, for example ``"sb3_contrib.TQC"``
    :return: the class; ``None`` if its package is not installed
    """
    package, _, attribute = name.rpartition(".")
    if find_spec(package) is None:
        return None
    found: type[BaseAlgorithm] = getattr(import_module(package), attribute)
    return found


def parameters_of(algorithm: type[BaseAlgorithm]) -> dict[str, inspect.Parameter]:
    """
    List the arguments of an algorithm's constructor, those included that ``**kwargs`` hands on to the class above.

    :param algorithm: the class
    :return: the parameters by name
    """
    found: dict[str, inspect.Parameter] = {}
    for c in algorithm.__mro__:
        if "__init__" in vars(c):
            own = inspect.signature(vars(c)["__init__"]).parameters
            named = {name: p for name, p in own.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            found = {**named, **found}
            if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
                break
    return found


def policies(algorithm: type[BaseAlgorithm]) -> dict[str, type[BasePolicy]]:
    """
    List the policies of an algorithm.

    :param algorithm: one of :func:`algorithms`
    :return: its own policies, and this project's sparse forms of them, by the name of the class
    """
    stock = set(algorithm.policy_aliases.values())
    return {policy.__name__: policy for policy in stock | {sparse_policy(policy) for policy in stock}}


def settings_of(policy: type[BasePolicy]) -> set[str]:
    """
    List what may stand in ``policy_kwargs``.

    :param policy: class of the policy
    :return: the names of the arguments of its constructor that an algorithm does not give
    """
    names = {
        name
        for c in policy.__mro__
        if "__init__" in vars(c) and issubclass(c, BasePolicy)
        for name, p in inspect.signature(c).parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return names - {"observation_space", "action_space", "lr_schedule", "features_extractor"}
