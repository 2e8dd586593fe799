"""Find the networks of a policy: what its learner trains, layer by layer, from input to output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sparse_rl.nn import SparseLinear


@dataclass(frozen=True)
class Network:
    """
    One network of a policy.

    :param kind: ``"actor"`` if it chooses actions, ``"critic"`` if it predicts values (DQN does both with one)
    :param parts: dotted names of the policy's modules that make it up, the input first; what comes after the first one
        are output layers side by side
    :param layers: dotted names of its linear layers, the input layer first
    :param heads: those of its layers that are output layers
    """

    kind: str
    parts: tuple[str, ...]
    layers: tuple[str, ...]
    heads: tuple[str, ...]

    def module(self, policy: nn.Module) -> nn.Module:
        """
        Give the network as one module.

        :param policy: the policy
        :return: its only part, or a list of its parts; the modules are the policy's own
        """
        parts = [policy.get_submodule(name) for name in self.parts]
        return parts[0] if len(parts) == 1 else nn.ModuleList(parts)


def networks_of(policy: BasePolicy) -> Mapping[str, Network]:
    """
    Find the networks of a policy, without target networks and without what a features extractor does.

    :param policy: of one of Stable-Baselines3's or sb3-contrib's algorithms that learn by gradients
    :return: the networks by name, the one that acts first: ``actor``, ``qf0``, ``qf1`` (SAC, TD3, DDPG, TQC, CrossQ);
        ``actor``, ``value`` (PPO, A2C, TRPO); ``q_net`` (DQN, QR-DQN)
    :raises ValueError: if its networks are not built like any of these
    """
    modules = dict(policy.named_modules())
    if recurrent := [name for name, module in modules.items() if isinstance(module, nn.RNNBase)]:
        raise ValueError(
            f"{type(policy).__name__} has the recurrent layer {recurrent[0]!r}, and only linear layers can be sparse: "
            "choose a policy without recurrence."
        )
    found = {}
    for name, kind, parts in _candidates(modules):
        present = [part for part in parts if part in modules]
        layers = [linears_in(policy, [part]) for part in present]
        if flat := [layer for part in layers for layer in part]:
            heads = [layer for part in layers[1:] for layer in part] or flat[-1:]
            found[name] = Network(kind, tuple(present), tuple(flat), tuple(heads))
    if not found:
        raise ValueError(
            f"{type(policy).__name__} has no networks that are known here: expected a policy of PPO, A2C, TRPO, DQN, "
            "QR-DQN, SAC, TD3, DDPG, TQC or CrossQ."
        )
    return found


def input_layers(policy: BasePolicy) -> Mapping[str, SparseLinear | nn.Linear]:
    """
    Find the layers by which the networks of a policy see.

    :param policy: see :func:`networks_of`
    :return: the layers by the names of the networks
    """
    found: dict[str, SparseLinear | nn.Linear] = {}
    for name, network in networks_of(policy).items():
        layer = policy.get_submodule(network.layers[0])
        assert isinstance(layer, SparseLinear | nn.Linear)
        found[name] = layer
    return found


def _candidates(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """List how Stable-Baselines3 and sb3-contrib name the networks of their policies: name, kind, parts."""
    yield "actor", "actor", ["actor.latent_pi", "actor.mu", "actor.log_std"]  # TD3's has no `latent_pi`
    yield "actor", "actor", ["mlp_extractor.policy_net", "action_net"]
    yield "value", "critic", ["mlp_extractor.value_net", "value_net"]
    for name in modules:
        first, _, index = name.partition(".qf")
        if first == "critic" and index.isdecimal():
            yield f"qf{index}", "critic", [name]
    for name in ("q_net", "quantile_net"):
        yield "q_net", "critic", [f"{name}.{name}"]


def linears_in(module: nn.Module, parts: Sequence[str]) -> list[str]:
    """
    Find the linear layers in some parts of a module, sparse and dense.

    :param module: the module
    :param parts: dotted names of submodules
    :return: the layers' dotted names, part by part
    """
    return [
        f"{part}.{child}" if child else part
        for part in parts
        for child, layer in module.get_submodule(part).named_modules()
        if isinstance(layer, nn.Linear | SparseLinear)
    ]


def is_target(name: str) -> bool:
    """
    Tell whether a module belongs to a target network.

    :param name: dotted name of the module in its policy
    :return: whether it does
    """
    return name.partition(".")[0].endswith("_target")


def target_of(name: str) -> str:
    """
    Name the module of a target network that follows a module of an online network.

    :param name: dotted name of the online network's, for example ``"critic.qf0.0"``
    :return: what Stable-Baselines3 would call the other one, for example ``"critic_target.qf0.0"``
    """
    network, dot, inner = name.partition(".")
    return f"{network}_target{dot}{inner}"
