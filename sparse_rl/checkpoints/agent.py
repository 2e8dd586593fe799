"""The state of an agent of Stable-Baselines3: networks, optimizers, counters, what it is about to log."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr

from sparse_rl.checkpoints.trees import Tree

_ATTRIBUTES = (  # as far as an algorithm has them
    "num_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_current_progress_remaining",
    "_last_obs", "_last_episode_starts", "_last_original_obs", "ep_info_buffer", "ep_success_buffer",
    "_n_calls", "exploration_rate",
)  # fmt: skip
_LOGGED = ("name_to_value", "name_to_count", "name_to_excluded")
_EXPLORATION = ("exploration_mat", "exploration_matrices")  # of state-dependent exploration (gSDE)


def keep_agent(model: BaseAlgorithm) -> dict[str, Tree]:
    """
    Give the state of an agent, without its replay buffer. That of rollouts (PPO, A2C) is empty between two of them.

    :param model: the agent, between two rollouts
    :return: plain values, arrays and tensors; the tensors are the agent's own, not copies
    """
    names, variables = model._get_torch_save_params()
    return {
        "modules": {name: recursive_getattr(model, name).state_dict() for name in names},
        "variables": {name: recursive_getattr(model, name).detach() for name in variables},
        "attributes": {name: getattr(model, name) for name in _ATTRIBUTES if hasattr(model, name)},
        "action_space": model.action_space._np_random and model.action_space.np_random.bit_generator.state,
        "exploration": [getattr(noise, "noise_prev", None) for noise in _noises(model)],
        "gsde": {name: matrix.detach() for name, matrix in _exploration(model).items()},
        "logged": {name: dict(getattr(model.logger, name)) for name in _LOGGED},
        "elapsed": time.time_ns() - model.start_time,
    }


def restore_agent(model: BaseAlgorithm, state: Mapping[str, Tree]) -> None:
    """
    Put an agent that was built in the same way into a state.

    :param model: the agent, between two rollouts
    :param state: what :func:`keep_agent` gave
    :raises RuntimeError: if it is the state of an agent with other networks
    """
    for name, module_state in state["modules"].items():
        recursive_getattr(model, name).load_state_dict(module_state)
    with th.no_grad():
        for name, variable in state["variables"].items():
            recursive_getattr(model, name).copy_(variable)
    for name, value in state["attributes"].items():
        setattr(model, name, value)
    if state["action_space"] is not None:
        model.action_space.np_random.bit_generator.state = state["action_space"]
    for noise, previous in zip(_noises(model), state["exploration"], strict=True):
        if previous is not None:
            noise.noise_prev = np.array(previous)  # type: ignore[attr-defined]
    for name, matrix in state["gsde"].items():
        setattr(_distribution(model), name, matrix.to(model.device))
    for name in _LOGGED:
        logged = getattr(model.logger, name)
        logged.clear()
        logged.update(state["logged"][name])
    model.start_time = time.time_ns() - state["elapsed"]


def _noises(model: BaseAlgorithm) -> list[ActionNoise]:
    noise: ActionNoise | None = getattr(model, "action_noise", None)
    if noise is None:
        return []
    return list(noise.noises) if isinstance(noise, VectorizedActionNoise) else [noise]


def _exploration(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    if not model.use_sde:
        return {}
    return {name: getattr(_distribution(model), name) for name in _EXPLORATION}


def _distribution(model: BaseAlgorithm) -> Any:
    return getattr(model.policy, "actor", model.policy).action_dist
