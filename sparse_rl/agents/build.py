"""From a recipe to a learner: the one place where hyperparameters meet Stable-Baselines3."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl import topology
from sparse_rl.agents.checks import METHODS, MOMENTS, RUN_KEYS, SPARSE_KEYS
from sparse_rl.agents.classes import POLICY_CLASSES, parameters_of, settings_of
from sparse_rl.agents.learner import FastLearner
from sparse_rl.agents.learners import dense_policy, learner_class
from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer, obstacle
from sparse_rl.agents.replay.callbacks import DynamicCapacityCallback, MultiStepCallback
from sparse_rl.agents.replay.dynamic import (
    DynamicObservedReplayBuffer,
    DynamicRedrawnReplayBuffer,
    DynamicReplayBuffer,
)
from sparse_rl.agents.replay.memory import Footprint, nbytes
from sparse_rl.inputs import InputError, Number, describe, first_line
from sparse_rl.names import find, is_own, unknown
from sparse_rl.nn import SMETAdam
from sparse_rl.sb3 import sparse_policy
from sparse_rl.sb3.steps import minibatches
from sparse_rl.topology import Method

# Constructor arguments that a recipe does not set, or sets by another key.
_NOT_IN_RECIPES = {
    "self", "policy", "env", "action_noise", "replay_buffer_class", "rollout_buffer_class", "tensorboard_log",
    "verbose", "seed", "device", "_init_setup_model",
}  # fmt: skip


def learner_defaults(learner: str) -> dict[str, Any]:
    """
    List the constructor arguments that a recipe may set.

    :param learner: its name, for example ``"sac"``
    :return: their names and Stable-Baselines3's defaults
    :raises InputError: if there is no such learner, or it is in a package that is not installed
    """
    parameters = parameters_of(learner_class(learner))
    return {name: p.default for name, p in parameters.items() if name not in _NOT_IN_RECIPES}


def make_method(description: Mapping[str, Any]) -> Method:
    """
    Make a sparse training method.

    :param description: its ``name`` and its settings, checked already, with all times in gradient steps
    :return: the method
    :raises ValueError: if its settings do not fit together
    """
    settings = {key: value for key, value in description.items() if key != "name"}
    name = description["name"]
    if is_own(name):
        return _own_method(name, settings)
    method: Method = getattr(topology, METHODS[name][0])(**settings)
    return method


def _own_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Make a method of the user's own, if it is one."""
    try:
        method: Method = find("method", name)(**settings)
    except TypeError as error:  # a setting without a default is missing, or it is no class
        raise InputError(f"The method {name!r} cannot be created: {error}.") from error
    for part in ("needs_gradient", "updates_between", "check", "propose"):
        if not hasattr(method, part):
            raise InputError(f"{name!r} is not a method of sparse training: it has no {part!r}. See docs/extending.md.")
    return method


def in_gradient_steps(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """
    Describe a recipe's sparse training method with the times that are fractions of the run turned into gradient steps.

    :param hyperparameters: a complete recipe with a method, checked already
    :return: the description of the method
    :raises ValueError: if there are fractions, but the number of gradient steps depends on how long episodes are
    """
    description = dict(hyperparameters["method"])
    for key in MOMENTS:
        if key in description:
            description[key] = _gradient_step(description[key], hyperparameters)
    return description


def _gradient_step(moment: float, hyperparameters: Mapping[str, Any]) -> int:
    """Turn a time in a run into a gradient step: below 1, or as 1.0, it is a fraction of all."""
    is_fraction = isinstance(moment, float) and 0 < moment <= 1
    return round(moment * gradient_steps_of(hyperparameters)) if is_fraction else int(moment)


def gradient_steps_of(hyperparameters: Mapping[str, Any], rollouts_left: int = 0) -> int:
    """
    Count the gradient steps of a whole run, or those before some rollouts at its end.

    :param hyperparameters: a complete recipe, checked already
    :param rollouts_left: 0 for all; 1 for what is done when the last rollout begins, which is the last time that a
        topology can be updated
    :return: their number, as far as it can be known before
    :raises ValueError: if it depends on how long episodes are
    """
    steps = hyperparameters["n_timesteps"]
    if "learning_starts" not in hyperparameters:  # on-policy
        rollout = hyperparameters["n_steps"] * hyperparameters["n_envs"]
        epochs = hyperparameters.get("n_epochs", hyperparameters.get("n_critic_updates", 1))
        after_each, first = minibatches(rollout, hyperparameters.get("batch_size"), epochs), 0
    else:
        after_each, frequency = hyperparameters["gradient_steps"], hyperparameters["train_freq"]
        length, unit = frequency if isinstance(frequency, list | tuple) else (frequency, "step")
        if unit == "episode":
            if after_each == -1 and not rollouts_left:  # as many as environment steps
                return int(max(0, steps - hyperparameters["learning_starts"]))
            raise InputError(
                "With a train_freq in episodes, the number of gradient steps is not known in advance: give the times "
                "of the method in gradient steps, not as fractions of the run."
            )
        rollout = length * hyperparameters["n_envs"]
        after_each = rollout if after_each == -1 else after_each
        first = hyperparameters["learning_starts"] // rollout  # so many are not learnt from
    rollouts = -(-steps // rollout) - first  # the last one is completed
    return int(max(0, rollouts - rollouts_left) * after_each)


def last_topology_update(hyperparameters: Mapping[str, Any], needs_gradient: bool) -> int:
    """
    Find the last gradient step at which a topology update may fall due and still be made.

    Updates are made when a rollout begins. One that needs a gradient waits for that of the actor, which is trained
    with every ``policy_delay``-th gradient step, and is made at the rollout after: see
    :class:`~sparse_rl.sb3.callbacks.TopologyCallback`.

    :param hyperparameters: a complete recipe, checked already
    :param needs_gradient: whether the method does
    :return: the gradient step, 0 for none
    :raises ValueError: if it depends on how long episodes are
    """
    last = gradient_steps_of(hyperparameters, rollouts_left=1)
    after_each = gradient_steps_of(hyperparameters) - last
    if not needs_gradient or not after_each:
        return last
    delay = hyperparameters.get("policy_delay", 1)
    for due in range(last - after_each, 0, -after_each):
        trained = (due // delay + 1) * delay  # the next step of the actor
        if -(-trained // after_each) * after_each <= last:
            return due
    return 0


def make_model(
    learner: str, hyperparameters: Mapping[str, Any], vec_env: VecEnv, seed: int, device: str
) -> BaseAlgorithm:
    """
    Make an untrained agent.

    :param learner: its name, for example ``"sac"``
    :param hyperparameters: a complete recipe, checked already
    :param vec_env: the environment in which it will learn
    :param seed: the seed of everything that is drawn
    :param device: where the networks live, for example ``"cpu"`` or ``"auto"``
    :return: the agent
    :raises ValueError: if some hyperparameters do not fit together, or not to the environment
    """
    algorithm = learner_class(learner)
    policy, policy_kwargs = _policy_of(learner, hyperparameters)
    arguments = {key: value for key, value in hyperparameters.items() if key not in RUN_KEYS}
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    arguments["policy_kwargs"] = policy_kwargs
    if "noise_type" in hyperparameters:
        if "action_noise" not in parameters_of(algorithm):
            raise InputError(f"{learner} explores without noise on its actions: leave out 'noise_type'.")
        arguments["action_noise"] = _action_noise(hyperparameters, vec_env)
    if issubclass(algorithm, OffPolicyAlgorithm):
        buffer_class, buffer_kwargs = choose_replay(hyperparameters, vec_env, seed)
        arguments |= {"replay_buffer_class": buffer_class, "replay_buffer_kwargs": buffer_kwargs}
        if "n_steps" in arguments:
            arguments["n_steps"] = 1  # the buffer knows it; Stable-Baselines3 would warn that it is ignored
    try:
        th.empty(1, device="cpu" if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        raise InputError(f"There is no device {device!r} here; give cpu or auto.") from error
    with _explained(), warnings.catch_warnings():
        # It looks at the buffer's size, not at what a run will fill; see `Footprint.check`.
        warnings.filterwarnings("ignore", "This system does not have apparently enough memory")
        model = algorithm(policy, vec_env, seed=seed, device=device, **arguments)
    given = (hyperparameters.get("policy_kwargs") or {}).get("optimizer_kwargs") or {}
    for key, value in given.items():
        if model.policy.optimizer_kwargs.get(key) != value:
            raise InputError(
                f"{learner} sets the arguments of its own optimizer, so {key!r} in optimizer_kwargs would have no "
                "effect: choose an 'optimizer_class' in policy_kwargs too, for example Adam."
            )
    return model


def choose_replay(
    hyperparameters: Mapping[str, Any], vec_env: VecEnv, seed: int
) -> tuple[type[ReplayBuffer], dict[str, Any]]:
    """
    Choose the replay buffer: one that draws noise again, where that is possible.

    :param hyperparameters: a complete recipe, checked already
    :param vec_env: the environment
    :param seed: of the noise that will be drawn under the ``redrawn`` protocol
    :return: its class, and its arguments besides those that every replay buffer has
    :raises ValueError: if the ``redrawn`` protocol is asked for where it is not possible
    """
    given = dict(hyperparameters.get("replay_buffer_kwargs") or {})
    n_steps = hyperparameters.get("n_steps", 1)
    is_dynamic = n_steps > 1 or "dynamic_capacity" in hyperparameters
    if is_dynamic:
        given |= {"n_steps": n_steps, "gamma": hyperparameters["gamma"]}
    shares_observations = hyperparameters.get("optimize_memory_usage", False)
    if hyperparameters["replay"] == "redrawn":
        if shares_observations:
            raise InputError("optimize_memory_usage works with `--replay observed` only.")
        redrawn = DynamicRedrawnReplayBuffer if is_dynamic else RedrawnReplayBuffer
        return redrawn, {**given, **redrawn.kwargs_for(vec_env, seed)}
    if not shares_observations and obstacle(vec_env) is None:
        observed = DynamicObservedReplayBuffer if is_dynamic else ObservedReplayBuffer
        return observed, {**given, **observed.kwargs_for(vec_env)}
    return DynamicReplayBuffer if is_dynamic else ReplayBuffer, given


def replay_callbacks(hyperparameters: Mapping[str, Any]) -> list[BaseCallback]:
    """
    Make what changes the replay buffer while the agent learns.

    :param hyperparameters: a complete recipe, checked already
    :return: the callbacks, none for most recipes
    :raises ValueError: if some hyperparameters do not fit together
    """
    callbacks: list[BaseCallback] = []
    if hyperparameters.get("n_steps", 1) > 1 and "n_steps_delay" in hyperparameters:
        delay = _gradient_step(hyperparameters["n_steps_delay"], hyperparameters)
        callbacks.append(MultiStepCallback(hyperparameters["n_steps"], delay))
    if "dynamic_capacity" in hyperparameters:
        capacity = DynamicCapacityCallback(**hyperparameters["dynamic_capacity"])
        n_envs = hyperparameters["n_envs"]
        capacity.check(max(hyperparameters["buffer_size"] // n_envs, 1) * n_envs)
        callbacks.append(capacity)
    return callbacks


def replay_footprint(hyperparameters: Mapping[str, Any], vec_env: VecEnv) -> Footprint:
    """
    Find how much memory the replay buffer will take, without taking it.

    :param hyperparameters: a complete recipe, checked already
    :param vec_env: the environment
    :return: the memory of a full replay buffer
    :raises ValueError: if some hyperparameters do not fit together, or not to the environment
    """
    buffer_class, kwargs = choose_replay(hyperparameters, vec_env, seed=0)
    n_envs = vec_env.num_envs
    with _explained():
        one = buffer_class(
            n_envs, vec_env.observation_space, vec_env.action_space, "cpu", n_envs,
            optimize_memory_usage=hyperparameters.get("optimize_memory_usage", False), **kwargs,
        )  # fmt: skip
    # All arrays of a buffer have a row for each step of all environments, as `one` has one.
    rows = max(hyperparameters["buffer_size"] // n_envs, 1)
    return Footprint(buffer_class, rows * n_envs, rows * nbytes(one))


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what goes wrong while something is built into a sentence for the user."""
    try:
        yield
    except MemoryError as error:
        raise InputError(f"There is not enough memory: {error} Give a smaller --buffer-size.") from error
    except ValueError:  # says what is wrong in a sentence
        raise
    except Exception as error:  # Stable-Baselines3 and PyTorch find what no check here knows
        raise InputError(f"The agent cannot be built from these hyperparameters: {first_line(error)}") from error


def _sparse_kwargs(learner: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a sparse policy takes besides a dense one's arguments."""
    result = {key: hyperparameters[key] for key in SPARSE_KEYS if key in hyperparameters}
    if learner == "trpo":
        if result.get("kernel") == "numba":
            raise InputError(
                "trpo differentiates twice, which the kernel 'numba' does not support: leave it out, or give scatter."
            )
        result["kernel"] = "scatter"
    return result


def _policy_of(learner: str, hyperparameters: Mapping[str, Any]) -> tuple[type[BasePolicy], dict[str, Any]]:
    """Choose the policy's class and its arguments."""
    given = hyperparameters.get("policy_kwargs") or {}
    settings = policy_arguments(learner, given, hyperparameters.get("optimizer"))
    if "method" not in hyperparameters:
        return dense_policy(learner), settings
    return sparse_policy(dense_policy(learner)), settings | _sparse_kwargs(learner, hyperparameters)


def policy_arguments(learner: str, given: Mapping[str, Any], optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Check what stands below ``policy_kwargs``, where YAML names classes: ``activation_fn: Tanh``.

    :param learner: name of the learner
    :param given: what stands there
    :param optimizer: the recipe's optimizer, if it names one
    :return: the arguments of the policy, with classes for their names
    :raises InputError: if a key or a name is not known
    """
    known = settings_of(dense_policy(learner))
    result = dict(given)
    for key in given:
        if key in SPARSE_KEYS:
            raise InputError(f"{key!r} belongs at the top level of a recipe, not in policy_kwargs.")
        if key not in known:
            raise InputError(unknown("key of policy_kwargs", key, known))
    _check_sizes(given)
    if "optimizer_class" not in given:
        result |= _optimizer(learner, optimizer, given.get("optimizer_kwargs") or {})
    elif optimizer is not None and optimizer["name"] != "adam":
        raise InputError(
            f"The recipe asks for two optimizers, {optimizer['name']!r} and {given['optimizer_class']!r}: leave out "
            "'optimizer', or 'optimizer_class' in policy_kwargs."
        )
    for key, classes in POLICY_CLASSES.items():
        if key in given:
            if not isinstance(given[key], str) or given[key] not in classes:
                raise InputError(unknown(key, given[key], classes))
            result[key] = classes[given[key]]
    return result


def _check_sizes(given: Mapping[str, Any]) -> None:
    """Check what Stable-Baselines3 and PyTorch would answer with an error of their own."""
    if not isinstance(given.get("optimizer_kwargs", {}), Mapping):
        raise InputError(f"optimizer_kwargs must hold keys and values, not {describe(given['optimizer_kwargs'])}.")
    Number(1, whole=True)("n_critics", given.get("n_critics", 1))
    parts = given.get("net_arch") or []
    for part in parts.values() if isinstance(parts, Mapping) else [parts]:
        if not isinstance(part, list):
            raise InputError(f"net_arch must hold numbers of units, such as [256, 256], not {describe(part)}.")
        for units in part:
            Number(1, whole=True)("each number of units in net_arch", units)


def _optimizer(learner: str, optimizer: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Name the optimizer's class, and give its arguments: by the recipe's key, and what stands below policy_kwargs."""
    if optimizer is None or optimizer["name"] == "adam":
        if issubclass(learner_class(learner), FastLearner):
            # Adam in one kernel: the same arithmetic, up to rounding, in a fraction of its default's time on the CPU.
            return {"optimizer_kwargs": {"fused": True, **given}}
        # What a learner or its policy has of its own (RMSprop, another epsilon) goes with their default only.
        return {} if optimizer is None else {"optimizer_class": th.optim.Adam, "optimizer_kwargs": dict(given)}
    settings = {key: value for key, value in optimizer.items() if key != "name"}
    return {"optimizer_class": SMETAdam, "optimizer_kwargs": {**settings, **given}}


def _action_noise(hyperparameters: Mapping[str, Any], vec_env: VecEnv) -> ActionNoise:
    kind = hyperparameters["noise_type"]
    mean = np.zeros(vec_env.action_space.shape or ())
    std = np.full_like(mean, hyperparameters.get("noise_std", 0.1))
    return NormalActionNoise(mean, std) if kind == "normal" else OrnsteinUhlenbeckActionNoise(mean, std)
