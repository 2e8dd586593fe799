"""Make the policy of any of Stable-Baselines3's or sb3-contrib's algorithms sparse."""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, cast

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn
from torch.optim import Optimizer

from sparse_rl.nn import SparseLinear, sparse_layers
from sparse_rl.sb3.networks import networks_of, target_of
from sparse_rl.sb3.policies import SparsePolicy, SparseSACPolicy, SparseTD3Policy

_OF_ITS_OWN: Mapping[type[BasePolicy], type[SparsePolicy]] = {SACPolicy: SparseSACPolicy, TD3Policy: SparseTD3Policy}


@cache
def sparse_policy(policy_class: type[BasePolicy]) -> type[SparsePolicy]:
    """
    Make a policy with sparse layers out of one with dense layers.

    Give the result to the algorithm in place of ``policy_class``: ``PPO(sparse_policy(ActorCriticPolicy), env)``. It
    takes the arguments of ``policy_class`` and those of :class:`~sparse_rl.sb3.SparseSACPolicy`, below
    ``policy_kwargs``. Each network of the policy has its own topologies: see
    :func:`~sparse_rl.sb3.networks.networks_of`. What a features extractor does before them stays dense. Target networks
    take the topologies of their online networks.

    TRPO differentiates twice, which only the kernel ``"scatter"`` can: give it ``"kernel": "scatter"``.

    :param policy_class: the policy of one of Stable-Baselines3's or sb3-contrib's algorithms, for example
        ``ActorCriticPolicy`` (PPO, A2C, TRPO), ``DQNPolicy``, ``TQCPolicy``
    :return: a subclass of it; :class:`SparseSACPolicy` and :class:`SparseTD3Policy` for the policies that these are of
    :raises TypeError: if it is no policy class
    """
    if not (isinstance(policy_class, type) and issubclass(policy_class, BasePolicy)):
        raise TypeError(f"Expected the class of a policy, for example ActorCriticPolicy, not {policy_class!r}.")
    if issubclass(policy_class, SparsePolicy):
        return policy_class
    if policy_class in _OF_ITS_OWN:
        return _OF_ITS_OWN[policy_class]
    name = f"Sparse{policy_class.__name__}"
    description = f"{policy_class.__name__} with sparse layers: see :func:`sparse_policy`."
    made = type(name, (_GeneralPolicy, policy_class), {"__doc__": description, "__module__": __name__})
    return cast(type[SparsePolicy], made)


class _GeneralPolicy(SparsePolicy):
    """Comes before a policy class: its networks are made sparse once they are built, and their optimizers anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        networks_of(self)  # complains of recurrent layers, which are made last

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]  # all policies have it, but not their base class
        networks = networks_of(self).values()
        self._check_kinds({network.kind for network in networks})
        dense = dict(self.named_modules())
        for network in networks:
            self._make_sparse(self, network.kind, network.layers, network.heads)
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for name, layer in sparse_layers(self).items():
            old = dict(dense[name].named_parameters())
            replaced[old["weight"]] = layer.values
            if layer.bias is not None:
                replaced[old["bias"]] = layer.bias
            if (target := target_of(name)) in dense:
                _replace(self, target, deepcopy(layer))
        for module in self.modules():
            optimizer = getattr(module, "optimizer", None)
            if isinstance(optimizer, Optimizer):
                trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                trained = [replaced.get(parameter, parameter) for parameter in trained]
                anew: Any = self.optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
                module.optimizer = anew

    def _check_kinds(self, kinds: Collection[str]) -> None:
        """Check that a sparsity for each network is given only where there are an actor and a critic."""
        for key in ("sparsity", "initial_sparsity"):
            if isinstance(getattr(self, key, None), dict) and len(kinds) == 1:
                raise ValueError(f"{type(self).__name__} has no actor beside its critic: give `{key}` as one number.")

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """
        Name all parameters; those of sparse layers as if the layers were dense.

        TRPO takes whatever has "value" in its name for the value function's, and would not train the ``values`` of an
        actor's sparse layers.

        :param args: see ``torch.nn.Module.named_parameters``
        :param kwargs: see there
        :return: names and parameters
        """
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield f"{name.removesuffix('values')}weight" if name.endswith(".values") else name, parameter


def _replace(module: nn.Module, name: str, layer: SparseLinear) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
