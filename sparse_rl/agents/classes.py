"""The classes that a description of an agent may name. Nothing is ever imported because a file says so."""

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import stable_baselines3
import torch as th
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.nn.modules import activation

import sparse_rl.agents
from sparse_rl.nn import SMETAdam
from sparse_rl.sb3 import sparse_policy

_STOCK = ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")
_CONTRIB = ("CrossQ", "QRDQN", "TQC", "TRPO")


def _subclasses(module: object, base: type) -> dict[str, type]:
    """Find the subclasses of ``base`` among the names of a module."""
    return {name: c for name, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base) and c is not base}


#: What the keys of ``policy_kwargs`` that hold classes may hold, by name.
POLICY_CLASSES: Mapping[str, Mapping[str, type]] = {
    "activation_fn": {name: getattr(activation, name) for name in activation.__all__},
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


def algorithms() -> Mapping[str, type[BaseAlgorithm]]:
    """
    List the algorithms whose agents can be described.

    :return: the classes by name, for example ``"stable_baselines3.PPO"``; those of sb3-contrib only if it is installed;
        those that were registered
    """
    return {**_known(), **_registered}


@cache
def _known() -> Mapping[str, type[BaseAlgorithm]]:
    ours = {f"sparse_rl.agents.{name}": getattr(sparse_rl.agents, name) for name in ("SAC", "TD3")}
    stock = {f"stable_baselines3.{name}": getattr(stable_baselines3, name) for name in _STOCK}
    contrib = import_module("sb3_contrib") if find_spec("sb3_contrib") else None
    return {**ours, **stock, **{f"sb3_contrib.{name}": getattr(contrib, name) for name in _CONTRIB if contrib}}


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
