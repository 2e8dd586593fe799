"""What the learners share: Stable-Baselines3's networks as feature-major ones, and the arithmetic around them."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
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


def can_run_feature_major(policy: SACPolicy | TD3Policy, networks: list[nn.Module]) -> bool:
    """
    Tell whether a policy's networks can be run without its features extractor, layer by layer.

    :param policy: the policy
    :param networks: the networks that would be run
    :return: whether observations are flat vectors, and actor and critic compute what is known and supported
    """
    space = policy.observation_space
    flat = isinstance(space, spaces.Box) and len(space.shape) == 1
    known = type(policy.actor) in _KNOWN_MODULES and type(policy.critic) in _KNOWN_MODULES
    return (
        flat
        and known
        and policy.features_extractor_class is FlattenExtractor
        and all(FeatureMajorMLP.supports(_layers(network)) for network in networks)
    )


def feature_major(network: nn.Module) -> FeatureMajorMLP:
    """
    Run the layers of an ``nn.Sequential`` in feature-major layout.

    :param network: the network, whose parameters are shared
    :return: a runner for it
    """
    return FeatureMajorMLP(_layers(network))


def _layers(network: nn.Module) -> list[nn.Module]:
    # Not children(), which names a module that is used twice only once.
    return list(network) if isinstance(network, nn.Sequential) else []


def to_feature_major(batch: th.Tensor) -> th.Tensor:
    """
    Turn a batch around, as 32-bit floats; a batch that a buffer keeps feature-major is not copied.

    :param batch: tensor of shape ``(batch, features)``
    :return: contiguous tensor of shape ``(features, batch)``
    """
    return batch.t().float().contiguous()


def mean_squared_error(prediction: th.Tensor, target: th.Tensor) -> tuple[float, th.Tensor]:
    """
    Compute a loss and its gradient.

    :param prediction: of shape ``(1, batch)``
    :param target: of the same shape
    :return: the mean squared error, and its gradient with respect to the prediction
    """
    error = prediction - target
    return error.square().mean().item(), error * (2 / error.numel())
