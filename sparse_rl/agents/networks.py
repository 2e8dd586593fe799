"""What the learners share: which networks run in feature-major layout, and whether they are still what they were."""

from collections.abc import Sequence, Sized

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sparse_rl.agents.acting import Absent
from sparse_rl.nn import FeatureMajorMLP
from sparse_rl.sb3.policies import BlockwiseCritic

# A subclass may compute something else.
_KNOWN_MODULES = (SACActor, TD3Actor, ContinuousCritic, BlockwiseCritic, Absent)


def has_known_networks(policy: BasePolicy) -> bool:
    """
    Tell whether a policy's networks can be run without its features extractor, layer by layer.

    :param policy: the policy
    :return: whether observations are flat vectors, and actor and critic compute what is known
    """
    space = policy.observation_space
    stock = SACPolicy if isinstance(policy, SACPolicy) else TD3Policy
    return (
        isinstance(policy, SACPolicy | TD3Policy)
        and type(policy)._predict is stock._predict
        and type(policy).predict is stock.predict
        and type(policy).unscale_action is stock.unscale_action
        and policy.action_space.dtype == np.float32
        and isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and type(policy.actor) in _KNOWN_MODULES
        and type(policy.critic) in _KNOWN_MODULES
        and policy.features_extractor_class is FlattenExtractor
        and all(map(_is_stock, policy.children()))
    )


def _is_stock(network: nn.Module) -> bool:
    """Tell whether an actor's or critic's own parts are those it was made with."""
    extractor = getattr(network, "features_extractor", None)
    return isinstance(network, Absent) or (type(extractor) is FlattenExtractor and "forward" not in vars(network))


def layers_of(network: nn.Module) -> list[nn.Module]:
    """
    List the layers of a network.

    :param network: the network
    :return: the layers of an ``nn.Sequential``; of any other module none
    """
    # Not children(), which names a module that is used twice only once.
    return list(network) if isinstance(network, nn.Sequential) else []


def parts_of(critic: nn.Module) -> tuple[object, ...]:
    """
    List a critic and its networks, which it keeps in a list of its own too.

    :param critic: the critic
    :return: itself and, if it has any, its networks
    """
    return (critic, *getattr(critic, "q_networks", ()))


class Watch:
    """
    Tell whether the networks of a policy are still those that a learner has looked at.

    :param policy: the policy
    """

    def __init__(self, policy: nn.Module) -> None:
        modules = list(policy.modules())
        # By identity: parts are replaced, and parameters cannot be compared for less.
        self._children = [(m._modules, name, child) for m in modules for name, child in m._modules.items()]
        self._parameters = [(m._parameters, name, p) for m in modules for name, p in m._parameters.items()]
        self._places = [m._modules for m in modules]
        self._n_places = sum(map(len, self._places))
        everywhere = nn.modules.module
        self._hooks: list[Sized] = [
            everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks,
            everywhere._global_backward_hooks, everywhere._global_backward_pre_hooks,
        ]  # fmt: skip
        for m in modules:
            self._hooks += [m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks]

    def is_as_it_was(self) -> bool:
        """
        Look again.

        :return: whether all parts are the same objects as before
        """
        return (
            all(place.get(name) is part for place, name, part in self._parameters)
            and all(place.get(name) is part for place, name, part in self._children)
            and sum(map(len, self._places)) == self._n_places
        )

    def has_hooks(self) -> bool:
        """
        Tell whether somebody wants to be called when a layer runs, or when it gets a gradient.

        :return: whether there are any hooks, which compiled passes would not call
        """
        return any(map(len, self._hooks)) or any(
            p is not None and (p._backward_hooks or p._post_accumulate_grad_hooks) for _, _, p in self._parameters
        )


def runs_fast(*networks: Sequence[nn.Module], heads: Sequence[nn.Module] = ()) -> bool:
    """
    Tell whether the compiled passes know networks.

    :param networks: the layers of each, see :meth:`sparse_rl.nn.FeatureMajorMLP.supports`
    :param heads: layers on top of a single network
    :return: whether these are linear layers of 32-bit numbers with ReLU between them, and none at the end
    """
    is_linear_at_the_end = bool(heads) or all(len(network) % 2 == 1 for network in networks)
    parameters = [p for network in networks for layer in network for p in layer.parameters()]
    return (
        FeatureMajorMLP.supports(*networks, heads=heads)
        and is_linear_at_the_end
        and all(p.dtype == th.float32 for p in parameters)
    )


def have_parameters_of_their_own(*networks: nn.Module) -> bool:
    """
    Tell whether no two networks share a parameter.

    :param networks: the networks
    :return: whether all of their parameters are different objects
    """
    parameters = [p for network in networks for p in network.parameters()]
    return len({id(p) for p in parameters}) == len(parameters)


def heads_of(actor: nn.Module) -> list[nn.Module]:
    """
    List the heads of SAC's actor.

    :param actor: the actor
    :return: the layers for mean and log standard deviation of a squashed Gaussian; of any other distribution none
    """
    modules = dict(actor.named_children())
    is_squashed = type(getattr(actor, "action_dist", None)) is SquashedDiagGaussianDistribution
    return [modules[name] for name in ("mu", "log_std") if is_squashed and name in modules]


def is_batch(policy: BasePolicy, observation: object) -> bool:
    """
    Tell whether the compiled passes know observations.

    :param policy: the policy
    :param observation: what was given to ``predict()``
    :return: whether these are 32-bit vectors, one for each environment, in an ordinary array
    """
    return (
        isinstance(observation, np.ndarray)
        and observation.dtype == np.float32
        and observation.shape[1:] == policy.observation_space.shape
        and observation.flags.carray
    )


def action_bounds(policy: BasePolicy) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Give the bounds of the actions.

    :param policy: the policy
    :return: the smallest and the largest ones, float32 of shape ``(action dimensions,)``
    """
    space = policy.action_space
    assert isinstance(space, spaces.Box)
    return np.ravel(space.low).astype(np.float32), np.ravel(space.high).astype(np.float32)
