"""SAC and TD3 policies with sparse layers, for Stable-Baselines3's own learners and for ours."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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
from sparse_rl.nn import SparseLinear, make_sparse, shapes_of, share_out
from sparse_rl.sb3.networks import linears_in
from sparse_rl.topology import erdos_renyi_by_lambda

NETWORKS = ("actor", "critic")
LAYERS = ("input", "hidden", "all")
DEFAULT_SPARSITY = 0.8  # ANF's


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


Sparsity = float | Mapping[str, float]


def _checked_sparsity(key: str, sparsity: Sparsity) -> float | dict[str, float]:
    """Check the form of a sparsity; its range is the distribution's business. A dictionary is plain JSON."""
    if isinstance(sparsity, Mapping):
        for name in sparsity:
            if name not in NETWORKS:
                raise ValueError(unknown(f"network in `{key}`", name, NETWORKS))
        if missing := [name for name in NETWORKS if name not in sparsity]:
            raise ValueError(f"`{key}` is given per network, but lacks one for the {missing[0]}.")
        sparsity = dict(sparsity)
    for value in sparsity.values() if isinstance(sparsity, dict) else [sparsity]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"`{key}` must be a number in [0, 1) or one for each network, not {value!r}.")
    return sparsity


class SparsePolicy(BasePolicy):
    """What all sparse policies share: the settings, which :class:`SparseSACPolicy` explains, and what they do."""

    #: The class of the sparse layers; a subclass of the policy may have one of its own.
    layer_class: ClassVar[type[SparseLinear]] = SparseLinear

    def __init__(
        self,
        *args: Any,
        sparsity: Sparsity | None = None,
        distribution: str | None = None,
        layers: str | None = None,
        lambdas: Sequence[float] | None = None,
        initial_sparsity: Sparsity | None = None,
        initialisation: str = "dense",
        kernel: str = "auto",
        **kwargs: Any,
    ) -> None:
        kernels.check(kernel)
        # All of this before the networks are built by super().
        if lambdas is None:
            self.sparsity = _checked_sparsity("sparsity", DEFAULT_SPARSITY if sparsity is None else sparsity)
            self.layers, self.distribution = _settle_layers(layers, distribution)
        elif (sparsity, distribution, layers, initial_sparsity) != (None,) * 4:
            raise ValueError(
                "`lambdas` say which layers are sparse and how sparse: leave out `sparsity`, `distribution`, `layers` "
                "and `initial_sparsity`, or else `lambdas`."
            )
        self.lambdas = None if lambdas is None else list(lambdas)
        self.initial_sparsity = (
            None if initial_sparsity is None else _checked_sparsity("initial_sparsity", initial_sparsity)
        )
        self.initialisation = initialisation
        self.kernel = kernel
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ["lambdas"] if self.lambdas is not None else ["sparsity", "distribution", "layers", "initial_sparsity"]
        own = {name: getattr(self, name) for name in (*names, "initialisation", "kernel")}
        return super()._get_constructor_parameters() | own

    def _make_sparse(self, module: nn.Module, name: str, layers: Sequence[str], heads: Sequence[str]) -> None:
        """
        Replace the linear layers of a network by sparse ones, which get a topology of their own together.

        :param module: what the network is a part of
        :param name: what it does, ``"actor"`` or ``"critic"``
        :param layers: dotted names of its layers, from input to output
        :param heads: those of them that are output layers
        """
        if self.lambdas is not None:
            counts = erdos_renyi_by_lambda(shapes_of(module, layers), self.lambdas)
            starts = ends = dict(zip(layers, counts, strict=True))
        else:
            if len(layers) == len(heads) and self.layers != "all":
                raise ValueError(
                    f"The {name} has no hidden layer, so none of its layers can be sparse: give `net_arch` at least "
                    "one, or `layers` as 'all'."
                )
            dense = [] if self.layers == "all" else heads
            ends = share_out(module, layers, _of(self.sparsity, name), self.distribution, dense)
            starts = ends
            if self.initial_sparsity is not None:
                starts = share_out(module, layers, _of(self.initial_sparsity, name), self.distribution, dense)
        make_sparse(module, starts, ends, self.kernel, self.initialisation, layer_class=self.layer_class)


def _of(sparsity: Sparsity, network: str) -> float:
    return sparsity[network] if isinstance(sparsity, Mapping) else sparsity


def _settle_layers(layers: str | None, distribution: str | None) -> tuple[str, str]:
    """Settle which layers are sparse, and how their sparsity is shared out: one that is given may decide the other."""
    if layers not in (None, *LAYERS):
        raise ValueError(unknown("choice of `layers`", layers, LAYERS))
    if layers == "input":
        return "input", "input"  # a single layer has nothing to share
    if layers is not None and distribution == "input":
        raise ValueError(
            f"The distribution 'input' makes the input layer alone sparse, but `layers` is {layers!r}: choose the "
            "`distribution` 'uniform', 'erdos_renyi' or 'erk', or leave `layers` out."
        )
    if distribution is None:
        return ("input", "input") if layers is None else (layers, "uniform")
    return layers or ("input" if distribution == "input" else "hidden"), distribution


class _BlockwisePolicy(SparsePolicy):
    """What SAC's and TD3's policies share: their networks are made sparse one by one, each before its optimizer."""

    critic_kwargs: dict[str, Any]

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> BlockwiseCritic:
        """
        Make the critics and replace their linear layers by sparse ones, each with a topology of its own.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the critics
        """
        critic = BlockwiseCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor))
        for index in range(critic.n_critics):
            layers = linears_in(critic, [f"qf{index}"])
            self._make_sparse(critic, "critic", layers, layers[-1:])
        # `q_networks` is a plain list of the same modules, whose layers were replaced in place.
        return critic.to(self.device)

    def set_training_mode(self, mode: bool) -> None:
        """
        Switch between training and evaluation, if that changes anything: Stable-Baselines3 asks at each step.

        :param mode: whether to train
        """
        if mode != self.training:
            super().set_training_mode(mode)


class SparseSACPolicy(_BlockwisePolicy, SACPolicy):
    """
    SAC's policy with sparse layers in the actor and in each critic.

    Give it to ``SAC`` in place of ``"MlpPolicy"``, and a
    :class:`~sparse_rl.sb3.callbacks.TopologyCallback` to ``learn()`` if the topology is to evolve. All arguments are
    JSON-serialisable, so they stand in clear in a saved model.

    :param args: positional arguments of ``stable_baselines3.sac.policies.SACPolicy``
    :param sparsity: fraction of weights that are absent, in [0, 1), or one for each network as
        ``{"actor": ..., "critic": ...}``; at the end of training, if a method prunes or grows; 0.8 if ``None``
    :param distribution: how the sparsity is shared out among the layers: ``"uniform"``, ``"erdos_renyi"``, ``"erk"``,
        or ``"input"``: it is the input layer's alone, as in ANF. ``None`` for ``"uniform"`` if there are ``layers``,
        else for ``"input"``
    :param layers: which layers may be sparse: ``"input"`` (the input layer alone), ``"hidden"`` (all but the output
        layers) or ``"all"``; ``None`` for ``"hidden"``, or ``"input"`` with that distribution. The sparsity counts the
        weights of all layers, except with ``"input"``
    :param lambdas: instead of ``sparsity``, ``distribution`` and ``layers``: give each of the first layers
        ``lambda * (n_in + n_out)`` weights, as DS and SET do; the layers after them stay dense
    :param initial_sparsity: the sparsity with which training starts, in the same distribution, if a method prunes or
        grows; ``None`` if it does not
    :param initialisation: ``"dense"`` to leave the weights as they are drawn for a dense layer (as in ANF), or
        ``"sparse"`` to scale those of each neuron by its number of active weights
    :param kernel: ``"auto"``, ``"numba"`` or ``"scatter"``
    :param kwargs: keyword arguments of ``SACPolicy``
    :raises ValueError: if a setting is invalid, settings contradict each other, or a layer would keep no weight
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        """
        Make the actor and replace its linear layers by sparse ones.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the actor
        """
        actor = super().make_actor(features_extractor)
        # With gSDE, `mu` may be a sequence that starts with the linear layer, and `log_std` is no layer.
        heads = linears_in(actor, [name for name in ("mu", "log_std") if isinstance(getattr(actor, name), nn.Module)])
        self._make_sparse(actor, "actor", [*linears_in(actor, ["latent_pi"]), *heads], heads)
        return actor


class SparseTD3Policy(_BlockwisePolicy, TD3Policy):
    """
    TD3's policy with sparse layers in the actor and in each critic: see :class:`SparseSACPolicy`.

    :param args: positional arguments of ``stable_baselines3.td3.policies.TD3Policy``
    :param sparsity: see :class:`SparseSACPolicy`, as for all that follow
    :param distribution: how the sparsity is shared out
    :param layers: which layers may be sparse
    :param lambdas: instead of these three: weights by the size of each layer
    :param initial_sparsity: the sparsity with which training starts
    :param initialisation: of the active weights
    :param kernel: what computes the sparse layers
    :param kwargs: keyword arguments of ``TD3Policy``
    :raises ValueError: if a setting is invalid, settings contradict each other, or a layer would keep no weight
    """

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        """
        Make the actor and replace its linear layers by sparse ones.

        :param features_extractor: a features extractor to share; ``None`` for a new one
        :return: the actor
        """
        actor = super().make_actor(features_extractor)
        layers = linears_in(actor, ["mu"])
        self._make_sparse(actor, "actor", layers, layers[-1:])
        return actor
