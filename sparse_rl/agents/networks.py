"""What the learners share: which policies they can run in feature-major layout, and what they do to parameters."""

from collections.abc import Sequence

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

from sparse_rl.nn import FeatureMajorMLP
from sparse_rl.sb3.policies import BlockwiseCritic

# A subclass may compute something else.
_KNOWN_MODULES = (SACActor, TD3Actor, ContinuousCritic, BlockwiseCritic)


def has_known_networks(policy: SACPolicy | TD3Policy) -> bool:
    """
    Tell whether a policy's networks can be run without its features extractor, layer by layer.

    :param policy: the policy
    :return: whether observations are flat vectors, and actor and critic compute what is known
    """
    space = policy.observation_space
    stock = SACPolicy if isinstance(policy, SACPolicy) else TD3Policy
    return (
        type(policy)._predict is stock._predict
        and type(policy).predict is stock.predict
        and isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and type(policy.actor) in _KNOWN_MODULES
        and type(policy.critic) in _KNOWN_MODULES
        and policy.features_extractor_class is FlattenExtractor
    )


def layers_of(network: nn.Module) -> list[nn.Module]:
    """
    List the layers of a network.

    :param network: the network
    :return: the layers of an ``nn.Sequential``; of any other module none
    """
    # Not children(), which names a module that is used twice only once.
    return list(network) if isinstance(network, nn.Sequential) else []


def is_same(present: Sequence[object], known: Sequence[object]) -> bool:
    """
    Tell whether two lists hold the very same objects.

    :param present: some objects
    :param known: other objects, or the same
    :return: whether they are the same, in the same order
    """
    return len(present) == len(known) and all(a is b for a, b in zip(present, known, strict=True))


def has_hooks(layer: object) -> bool:
    """
    Tell whether somebody wants to be called when a layer runs, or when it gets a gradient.

    :param layer: a layer; anything else has none
    :return: whether there are any hooks
    """
    if not isinstance(layer, nn.Module):
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or any(p._backward_hooks for p in layer._parameters.values() if p is not None)


def heads_of(actor: nn.Module) -> list[nn.Module]:
    """
    List the heads of SAC's actor.

    :param actor: the actor
    :return: the layers for mean and log standard deviation of a squashed Gaussian; of any other distribution none
    """
    modules = dict(actor.named_children())
    is_squashed = type(getattr(actor, "action_dist", None)) is SquashedDiagGaussianDistribution
    return [modules[name] for name in ("mu", "log_std") if is_squashed and name in modules]


def as_batch(policy: BasePolicy, observation: object) -> th.Tensor | None:
    """
    See observations as a feature-major batch.

    :param policy: the policy
    :param observation: what was given to ``predict()``
    :return: tensor of shape ``(features, batch)``; ``None`` for anything but 32-bit vectors, one for each environment
    """
    space = policy.observation_space
    if isinstance(observation, np.ndarray) and observation.dtype == np.float32 and observation.shape[1:] == space.shape:
        return th.from_numpy(np.require(observation, requirements=["C", "W"])).t()
    return None


def to_environment(policy: BasePolicy, actions: th.Tensor) -> NDArray[np.float32]:
    """
    Turn a network's actions into the environment's.

    :param policy: the policy, whose actions are squashed
    :param actions: tensor of shape ``(action dimensions, batch)``, in [-1, 1]
    :return: array of shape ``(batch, *action space)``, in the action space
    """
    shape = policy.action_space.shape
    assert shape is not None
    return policy.unscale_action(actions.t().reshape(-1, *shape).numpy())


def update_targets(targets: FeatureMajorMLP, networks: FeatureMajorMLP, tau: float) -> None:
    """
    Move target networks a little towards the networks that they follow (Polyak averaging).

    :param targets: the target networks
    :param networks: the networks that they follow
    :param tau: how far, in [0, 1]
    """
    for target, followed in zip(targets.stacks, networks.stacks, strict=True):
        target.tensor.lerp_(followed.tensor, tau)
