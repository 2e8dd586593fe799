"""Agents that act only: without critics, target networks, and whatever else it takes to learn but not to act."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from sparse_rl.nn import FeatureMajorMLP

# The parts of Stable-Baselines3's and sb3-contrib's policies that nobody asks for an action. A features extractor that
# the actor shares has its first name in `named_modules`, and stays.
_FOR_LEARNING = (
    "critic", "critic_target", "actor_target", "q_net_target", "quantile_net_target",
    "value_net", "mlp_extractor.value_net", "vf_features_extractor",
)  # fmt: skip
WHY = "This agent was saved to act only, without critics or target networks: it cannot go on learning."


class Absent(nn.Module):
    """Stands where a network is left out. Policies may ask it to get ready to act; all else is answered by why not."""

    def set_training_mode(self, mode: bool) -> None:
        """
        Switch between training and evaluation.

        :param mode: whether to train
        :raises AttributeError: if so
        """
        if mode:
            raise AttributeError(WHY)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """
        Refuse to compute anything.

        :param args: not used
        :param kwargs: not used
        :raises AttributeError: always
        """
        raise AttributeError(WHY)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{WHY} (There is no {name!r}.)")


@dataclass
class Actor:
    """
    What a fast learner needs to act.

    :param action_bounds: lowest and highest actions, each of shape ``(action dimensions,)``
    :param actor: the network, in feature-major layout
    :param is_stochastic: whether it gives a distribution, as SAC's does
    """

    action_bounds: tuple[NDArray[np.float32], NDArray[np.float32]]
    actor: FeatureMajorMLP
    is_stochastic: bool


def leave_out(model: BaseAlgorithm) -> None:
    """
    Take out of an agent what it does not need to act.

    :param model: the agent
    """
    modules = dict(model.policy.named_modules())
    for name in _FOR_LEARNING:
        if name in modules:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, Absent())
    if hasattr(model, "_create_aliases"):  # `model.critic` and the like
        model._create_aliases()
    # For good: whoever asks for a moment's evaluation mode gives back what was, and training mode is refused.
    model.policy.set_training_mode(False)


def is_acting_only(policy: nn.Module) -> bool:
    """
    Tell whether something has been left out of an agent.

    :param policy: the agent's policy
    :return: whether it can act, but not learn
    """
    return any(isinstance(module, Absent) for module in policy.modules())


def tensors_to_act(model: BaseAlgorithm) -> dict[str, Tensor]:
    """
    Find the tensors that it takes to act.

    :param model: the agent
    :return: those of its policy's state, by name
    """
    modules = dict(model.policy.named_modules())
    prefixes = tuple(f"{name}." for name in _FOR_LEARNING if name in modules)
    return {name: tensor for name, tensor in model.policy.state_dict().items() if not name.startswith(prefixes)}
