"""
An agent without its weights: a description that JSON can say, and from which the agent can be built.

It names an algorithm, a policy, their arguments and the two spaces. Classes are names of
:mod:`sparse_rl.agents.classes`; sizes are bounded before anything is built.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatdim
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, TrainFreq

from sparse_rl.agents.acting import WHY, is_acting_only, leave_out
from sparse_rl.agents.classes import POLICY_CLASSES, known_classes, parameters_of, policies, settings_of
from sparse_rl.agents.spaces import describe_space, make_space
from sparse_rl.inputs import first_line
from sparse_rl.names import unknown
from sparse_rl.storage import StorageError

FORMAT = 1
MOST_WEIGHTS = 2**27  # of all networks, if they were dense
MOST_LAYERS = 64
MOST_UNITS = 2**16
# Constructor arguments that say where and how an agent learns, not what it is, or that are no plain values.
_NOT_STORED = {
    "self", "policy", "env", "policy_kwargs", "verbose", "tensorboard_log", "seed", "device", "_init_setup_model",
    "action_noise", "replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs",
    "stats_window_size", "monitor_wrapper",
}  # fmt: skip

_TO_ACT = {"buffer_size": 1, "optimize_memory_usage": False}


class _Nowhere(gymnasium.Env[Any, Any]):
    """An environment that only has spaces: by it Stable-Baselines3 sees whether an algorithm can act in them."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


@dataclass(frozen=True)
class Description:
    """
    What an agent is built from.

    :param algorithm: class of the algorithm
    :param policy: class of the policy
    :param observation_space: what it sees
    :param action_space: what it does
    :param policy_kwargs: arguments of the policy; classes by their names
    :param arguments: arguments of the algorithm, plain values only
    :param acting_only: whether what it takes to learn, but not to act, is left out
    """

    algorithm: type[BaseAlgorithm]
    policy: type[BasePolicy]
    observation_space: Space[Any]
    action_space: Space[Any]
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    acting_only: bool = False

    @classmethod
    def of(cls, model: BaseAlgorithm) -> "Description":
        """
        Describe an agent.

        A schedule, such as a learning rate that decays, is described by the value with which it begins.

        :param model: the agent
        :return: its description
        :raises ValueError: if it is of a class, or has an argument, that cannot be described
        """
        return cls(
            type(model), model.policy_class, model.observation_space, model.action_space,
            {key: _plain_setting(key, value) for key, value in (model.policy_kwargs or {}).items()},
            {name: _plain_argument(name, getattr(model, name)) for name in arguments_of(type(model), model)},
            is_acting_only(model.policy),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """
        Put the description into words.

        :return: dictionaries, lists, strings, numbers
        :raises ValueError: if it names a class that :mod:`sparse_rl.agents.classes` does not know
        """
        names = {c: name for name, c in known_classes().items()}
        if self.algorithm not in names:
            raise ValueError(
                f"There is no description for agents of {self.algorithm}. Known: {', '.join(known_classes())}."
            )
        if self.policy not in policies(self.algorithm).values():
            raise ValueError(
                unknown(f"policy of {names[self.algorithm]}", self.policy.__name__, policies(self.algorithm))
            )
        return {
            "format": FORMAT,
            "algorithm": names[self.algorithm],
            "arguments": self.arguments,
            "policy": self.policy.__name__,
            "policy_kwargs": self.policy_kwargs,
            "observation_space": describe_space(self.observation_space),
            "action_space": describe_space(self.action_space),
            **({"acting_only": True} if self.acting_only else {}),
        }

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Description":
        """
        Understand a description.

        :param given: what :meth:`to_json` returned, or a stranger claims it did
        :param where: what is read, for error messages
        :return: the description, of which :meth:`check` has been called
        :raises StorageError: if it is not one
        """
        keys = ("format", "algorithm", "arguments", "policy", "policy_kwargs", "observation_space", "action_space")
        if not isinstance(given, dict) or given.get("format") != FORMAT:
            raise StorageError(f"{where} does not describe an agent in the format {FORMAT}.")
        for key in given:
            if key not in keys and key != "acting_only":
                raise StorageError(f"{unknown('key', key[:80], (*keys, 'acting_only'))} ({where})")
        for key in keys:
            if key not in given:
                raise StorageError(f"{where} lacks the key {key!r}.")
        acting_only = given.get("acting_only", False)
        if not isinstance(acting_only, bool):
            raise StorageError(f"acting_only in {where} must be true or false, not {str(acting_only)[:80]!r}.")
        algorithm = _look_up("algorithm", given["algorithm"], known_classes(), where)
        policy = _look_up(f"policy of {given['algorithm']}", given["policy"], policies(algorithm), where)
        observations, actions = (
            make_space(given[key], f"{key} in {where}") for key in ("observation_space", "action_space")
        )
        description = cls(
            algorithm, policy, observations, actions, given["policy_kwargs"], given["arguments"], acting_only
        )
        description.check(where)
        return description

    def check(self, where: str) -> None:
        """
        Check names and sizes, before anything is built.

        :param where: what is read, for error messages
        :raises StorageError: if a name is not known, or the networks would be too large
        """
        for title, given, known in (
            ("policy_kwargs", self.policy_kwargs, settings_of(self.policy)),
            ("arguments", self.arguments, arguments_of(self.algorithm)),
        ):
            if not isinstance(given, dict):
                raise StorageError(f"{title} in {where} must be a dictionary.")
            for key in given:
                if key not in known:
                    raise StorageError(f"{unknown(f'key of {title}', key[:80], known)} ({where})")
        for key, value in self.arguments.items():
            _check_argument(key, value, parameters_of(self.algorithm)[key].default, where)
        for key, classes in POLICY_CLASSES.items():
            if key in self.policy_kwargs:
                _look_up(key, self.policy_kwargs[key], classes, where)
        _check_sizes({key: value for key, value in self.policy_kwargs.items() if key != "optimizer_kwargs"}, where)
        if self._most_weights(where) > MOST_WEIGHTS:
            raise StorageError(f"The networks that {where} describes would have more than {MOST_WEIGHTS:,} weights.")

    def _most_weights(self, where: str) -> int:
        """Give an upper bound of the number of weights, were all networks dense."""
        settings = self.policy_kwargs
        extractor = settings.get("features_extractor_kwargs") or {}
        if not isinstance(extractor, dict):
            raise StorageError(f"features_extractor_kwargs in {where} must be a dictionary.")
        pixels, features = flatdim(self.observation_space), _number_of("features_dim", extractor, 512, where)
        is_plain = settings.get("features_extractor_class", "FlattenExtractor") == "FlattenExtractor"
        is_plain &= "Cnn" not in self.policy.__name__ and "MultiInput" not in self.policy.__name__
        inputs = pixels if is_plain else max(pixels, features)
        actions = flatdim(self.action_space)
        outputs = max(1, actions) * _number_of("n_quantiles", settings, 200, where)
        chains = list(_chains(settings.get("net_arch"))) or [[400, 400]]
        weights = sum(a * b for chain in chains for a, b in pairwise([inputs + actions, *chain, outputs]))
        weights += 0 if is_plain else pixels * features
        return weights * (2 * _number_of("n_critics", settings, 2, where) + 2)

    def build(self, env: GymEnv | None, device: str, where: str, **changes: Any) -> BaseAlgorithm:
        """
        Build the agent, with weights that are drawn anew.

        :param env: where it will learn; ``None`` if it shall act only: then it gets no memory to speak of
        :param device: where the networks live
        :param where: what is read, for error messages
        :param changes: arguments of the algorithm that go before the described ones
        :return: the agent
        :raises StorageError: if it cannot be built, ``env`` has other spaces, or the agent can act only
        """
        if self.acting_only and env is not None:
            raise StorageError(f"{WHY} Leave out env, and give its observations to predict(). ({where})")
        arguments = {**self.arguments, **changes}
        if isinstance(arguments.get("train_freq"), list):
            arguments["train_freq"] = tuple(arguments["train_freq"])
        if env is None:
            arguments |= {key: value for key, value in _TO_ACT.items() if key in arguments_of(self.algorithm)}
        settings = {
            key: POLICY_CLASSES[key][value] if key in POLICY_CLASSES else value
            for key, value in self.policy_kwargs.items()
        }
        if "use_rms_prop" in parameters_of(self.algorithm) and "optimizer_class" not in settings:
            # A2C does not keep this argument, but what came of it: with it, there would be an optimizer's class.
            arguments.setdefault("use_rms_prop", False)
        place = _Nowhere(self.observation_space, self.action_space) if env is None else env
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "You have specified a mini-batch size")  # of no concern to who acts
                model = self.algorithm(
                    self.policy, place, policy_kwargs=settings, device=device, _init_setup_model=False, **arguments
                )  # type: ignore[call-arg]
            self._check_spaces(model, where)
            model._setup_model()
        except StorageError:
            raise
        except Exception as error:  # Stable-Baselines3 and PyTorch find what no check here knows
            raise StorageError(f"The agent that {where} describes cannot be built: {first_line(error)}") from error
        if self.acting_only:
            leave_out(model)
        if env is None:
            model.env = None
            if "buffer_size" in arguments:  # what it got to be built has room for one transition
                model.replay_buffer = None  # type: ignore[attr-defined]
                default = parameters_of(self.algorithm)["buffer_size"].default
                model.buffer_size = self.arguments.get("buffer_size", default)  # type: ignore[attr-defined]
        return model

    def _check_spaces(self, model: BaseAlgorithm, where: str) -> None:
        for name in ("observation_space", "action_space"):
            mine, given = getattr(self, name), getattr(model, name)
            if given != mine:
                raise StorageError(
                    f"{where} describes an agent whose {name} is {mine}, but the environment's is {given}."
                )


def arguments_of(algorithm: type[BaseAlgorithm], model: BaseAlgorithm | None = None) -> list[str]:
    """
    List the arguments that are described.

    :param algorithm: class of the algorithm
    :param model: an agent of it; then only those that it still knows
    :return: their names
    """
    names = [name for name in parameters_of(algorithm) if name not in _NOT_STORED]
    return [name for name in names if model is None or hasattr(model, name)]


def _plain_argument(name: str, value: Any) -> Any:
    """Describe an argument of an algorithm."""
    if isinstance(value, TrainFreq):
        return [value.frequency, value.unit.value]
    return float(value(1.0)) if callable(value) else _plain(name, value)  # 1: all of the run is still to come


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(name, each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name} is {value!r}, for which there is no description. Save the agent as a zip file.")


def _plain_setting(key: str, value: Any) -> Any:
    """Describe a value of ``policy_kwargs``."""
    if key not in POLICY_CLASSES:
        return _plain(key, value)
    if value not in POLICY_CLASSES[key].values():
        raise ValueError(unknown(key, getattr(value, "__name__", value), POLICY_CLASSES[key]))
    return value.__name__


def _look_up(kind: str, name: Any, known: Any, where: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise StorageError(f"{unknown(kind, str(name)[:80], known)} ({where})")
    return known[name]


def _check_argument(key: str, value: Any, default: Any, where: str) -> None:
    """Check that an argument is of the kind of its default; what its value means is the algorithm's business."""
    if key == "train_freq" and isinstance(value, list):
        fits = len(value) == 2 and type(value[0]) is int and value[1] in ("step", "episode")
    elif isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, int | float):
        fits = isinstance(value, int | float)
    else:
        fits = value is None or isinstance(value, int | float | str)
    if not fits:
        raise StorageError(f"{key} in {where} cannot be {str(value)[:80]!r}; its default is {default!r}.")


def _number_of(key: str, settings: dict[str, Any], default: int, where: str) -> int:
    value = settings.get(key, default)
    if type(value) is not int or value < 1:
        raise StorageError(f"{key} in {where} must be a whole number of at least 1, not {str(value)[:80]!r}.")
    return value


def _check_sizes(value: Any, where: str) -> None:
    """Check that no number is larger, and no list longer, than networks have a use for."""
    if isinstance(value, dict | list):
        if len(value) > MOST_LAYERS:
            raise StorageError(f"There is a list of {len(value):,} entries in policy_kwargs of {where}.")
        for each in value.values() if isinstance(value, dict) else value:
            _check_sizes(each, where)
    elif isinstance(value, int) and abs(value) > MOST_UNITS:
        raise StorageError(f"{value:.3g} in policy_kwargs of {where} is more than {MOST_UNITS:,}.")


def _chains(net_arch: Any) -> Iterator[list[int]]:
    """Find the lists of widths in ``net_arch``, each for one network."""
    if isinstance(net_arch, dict):
        for each in net_arch.values():
            yield from _chains(each)
    elif isinstance(net_arch, list):
        yield [abs(each) for each in net_arch if isinstance(each, int)]
        for each in net_arch:
            yield from _chains(each)
