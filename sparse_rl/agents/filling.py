"""From tensors that somebody stored to an agent that has them: compared first, copied then."""

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from sparse_rl.agents.acting import is_acting_only
from sparse_rl.nn import check_state
from sparse_rl.storage import StorageError


def variables_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """
    Find what an agent has learnt besides its networks: for SAC the logarithm of its entropy coefficient.

    :param model: the agent
    :return: the tensors themselves by name
    """
    return {name: getattr(model, name) for name in model._get_torch_save_params()[1]}


def fill(model: BaseAlgorithm, policy: Mapping[str, Tensor], variables: Mapping[str, Tensor], where: str) -> None:
    """
    Copy stored tensors into an agent, if all of them fit; else the agent stays as it is.

    :param model: the agent
    :param policy: what becomes the state of its policy
    :param variables: what :func:`variables_of` finds; nothing for an agent that acts only
    :param where: what was read, for error messages
    :raises StorageError: see :func:`sparse_rl.nn.check_state`
    """
    own = {} if is_acting_only(model.policy) else variables_of(model)
    try:
        check_state(model.policy, policy)
        check_state(_holder(own), variables)
    except ValueError as error:
        raise StorageError(f"{where} does not fit the agent that its configuration describes. {error}") from error
    model.policy.load_state_dict(dict(policy))
    with th.no_grad():
        for name, tensor in own.items():
            tensor.copy_(variables[name])
    if getattr(model, "use_sde", False):
        exploring: Any = model.policy  # no class that these policies share has the method
        exploring.reset_noise()  # what is drawn depends on what has been learnt


def _holder(variables: Mapping[str, Tensor]) -> th.nn.Module:
    """Give tensors the form of a network, for comparison."""
    module = th.nn.Module()
    for name, tensor in variables.items():
        module.register_buffer(name, tensor.detach())
    return module
