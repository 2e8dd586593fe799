"""SAC and TD3 policies with sparse layers, for Stable-Baselines3's own learners and for ours."""

from collections.abc import Mapping
from typing import Any

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sparse_rl import kernels
from sparse_rl.names import unknown
from sparse_rl.nn import SparseLinear, sparsify

NETWORKS = ("actor", "critic")


class BlockwiseCritic(ContinuousCritic):
    """
    Stable-Baselines3's critic, taking observation and action as two blocks of its first layer's input.

    It computes what ``ContinuousCritic`` computes, without concatenating the two, and without the gradient of the
    observation, which nobody needs: the actor's loss only asks for the action's.
    """

    def forward(self, obs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Predict the Q-values of all critics.

        :param obs: observations, of shape ``(batch, observation features)``
        :param actions: actions, of shape ``(batch, action dimensions)``
        :return: one tensor of shape ``(batch, 1)`` for each critic
        """
        with th.set_grad_enabled(not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        return tuple(_apply_blockwise(q_net, features, actions) for q_net in self.q_networks)

    def q1_forward(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Predict the Q-values of the first critic only (TD3's actor loss).

        :param obs: observations, of shape ``(batch, observation features)``
        :param actions: actions, of shape ``(batch, action dimensions)``
        :return: tensor of shape ``(batch, 1)``
        """
        with th.no_grad():
            features = self.extract_features(obs, self.features_extractor)
        return _apply_blockwise(self.q_networks[0], features, actions)


def _apply_blockwise(q_net: nn.Module, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
    assert isinstance(q_net, nn.Sequential)
    first, *rest = q_net
    if isinstance(first, SparseLinear):
        x = first(features, actions)
    else:
        assert isinstance(first, nn.Linear)
        for_features, for_actions = first.weight.split([features.shape[1], actions.shape[1]], dim=1)
        x = F.linear(features, for_features, first.bias) + F.linear(actions, for_actions)
    for layer in rest:
        x = layer(x)
    return x  # type: ignore[no-any-return]


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_modules()).get(name)


def _checked_sparsity(sparsity: float | Mapping[str, float]) -> float | dict[str, float]:
    """Check the form of a sparsity; its range is the distribution's business. A dictionary is plain JSON."""
    if isinstance(sparsity, Mapping):
        for name in sparsity:
            if name not in NETWORKS:
                raise ValueError(unknown("network in `sparsity`", name, NETWORKS))
        if missing := [name for name in NETWORKS if name not in sparsity]:
            raise ValueError(f"`sparsity` is given per network, but lacks one for the {missing[0]}.")
        sparsity = dict(sparsity)
    for value in sparsity.values() if isinstance(sparsity, dict) else [sparsity]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"`sparsity` must be a number in [0, 1) or one for each network, not {value!r}.")
    return sparsity


class _SparsePolicy(BasePolicy):
    """What both policies share: the settings, and how a network is made sparse before its optimizer exists."""

    critic_kwargs: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        sparsity: float | Mapping[str, float] = 0.8,
        distribution: str = "input",
        kernel: str = "auto",
        **kwargs: Any,
    ) -> None:
        kernels.check(kernel)
        # Before the networks are built by super().
        self.sparsity = _checked_sparsity(sparsity)
        self.distribution = distribution
        self.kernel = kernel
        super().__init__(*args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> BlockwiseCritic:
        """
        Make the critics and replace their linear layers by sparse ones, each with a topology of its own.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the critics
        """
        critic = BlockwiseCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor))
        for index in range(critic.n_critics):
            self._make_sparse(critic, "critic", [f"qf{index}"], [])
        # `q_networks` is a plain list of the same modules, whose layers were replaced in place.
        return critic.to(self.device)

    def set_training_mode(self, mode: bool) -> None:
        """
        Switch between training and evaluation, if that changes anything: Stable-Baselines3 asks at each step.

        :param mode: whether to train
        """
        if mode != self.training:
            super().set_training_mode(mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"sparsity": self.sparsity, "distribution": self.distribution, "kernel": self.kernel}
        return super()._get_constructor_parameters() | own

    def _make_sparse(self, network: nn.Module, name: str, parts: list[str], heads: list[str]) -> None:
        """
        Replace the network's linear layers by sparse ones.

        :param network: an actor or a critic
        :param name: which of the two, ``"actor"`` or ``"critic"``
        :param parts: its submodules from input to output, which get a topology of their own together
        :param heads: output layers, which stay dense (as in ANF); empty for the last layer
        """
        sparsity = self.sparsity[name] if isinstance(self.sparsity, Mapping) else self.sparsity
        layers = [
            f"{part}.{child}" if child else part
            for part in parts
            for child, layer in network.get_submodule(part).named_modules()
            if isinstance(layer, nn.Linear)
        ]
        heads = heads or layers[-1:]
        if len(layers) == len(heads):
            raise ValueError(
                f"The {name} has no hidden layer, so none of its layers can be sparse: give `net_arch` at least one."
            )
        sparsify(network, layers, sparsity, self.distribution, dense=heads, kernel=self.kernel)


class SparseSACPolicy(_SparsePolicy, SACPolicy):
    """
    SAC's policy with sparse layers in the actor and in each critic.

    Give it to ``SAC`` in place of ``"MlpPolicy"``, and a
    :class:`~sparse_rl.sb3.callbacks.TopologyCallback` to ``learn()`` if the topology is to evolve. All arguments are
    JSON-serialisable, so they stand in clear in a saved model.

    :param args: positional arguments of ``stable_baselines3.sac.policies.SACPolicy``
    :param sparsity: fraction of weights that are absent, in [0, 1), or one for each network as
        ``{"actor": ..., "critic": ...}``
    :param distribution: which layers the sparsity is a fraction of, and how it is shared out: ``"input"`` (the input
        layer alone, as ANF does), ``"uniform"``, ``"erdos_renyi"`` or ``"erk"``; output layers stay dense
    :param kernel: ``"auto"``, ``"numba"`` or ``"scatter"``
    :param kwargs: keyword arguments of ``SACPolicy``
    :raises ValueError: if sparsity, distribution or kernel are invalid, or a layer would keep no weight
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        """
        Make the actor and replace its linear layers by sparse ones.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the actor
        """
        actor = super().make_actor(features_extractor)
        # With gSDE, `mu` may be a sequence that starts with the linear layer, and `log_std` is no layer.
        heads = [name for name in ("mu", "mu.0", "log_std") if isinstance(_child(actor, name), nn.Linear)]
        self._make_sparse(actor, "actor", ["latent_pi", *heads], heads)
        return actor


class SparseTD3Policy(_SparsePolicy, TD3Policy):
    """
    TD3's policy with sparse layers in the actor and in each critic: see :class:`SparseSACPolicy`.

    :param args: positional arguments of ``stable_baselines3.td3.policies.TD3Policy``
    :param sparsity: see :class:`SparseSACPolicy`
    :param distribution: see :class:`SparseSACPolicy`
    :param kernel: see :class:`SparseSACPolicy`
    :param kwargs: keyword arguments of ``TD3Policy``
    :raises ValueError: if sparsity, distribution or kernel are invalid, or a layer would keep no weight
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        """
        Make the actor and replace its linear layers by sparse ones.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the actor
        """
        actor = super().make_actor(features_extractor)
        self._make_sparse(actor, "actor", ["mu"], [])
        return actor
