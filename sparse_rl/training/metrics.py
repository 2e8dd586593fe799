"""What training costs and what it does to the networks, as curves and in the run's summary."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from sparse_rl.metrics import (
    count_dense_weights,
    count_weights,
    inference_flops,
    linear_layers,
    topology_overlap,
    training_flops,
    weights_of,
)
from sparse_rl.nn import SparseLinear, sparse_layers
from sparse_rl.sb3.networks import networks_of
from sparse_rl.sb3.steps import actor_interval, gradient_steps
from sparse_rl.topology import Topology
from sparse_rl.training.diagnostics import diagnose
from sparse_rl.training.measurement import networks


class MetricsCallback(BaseCallback):
    """
    Log ``cost/*``, ``plasticity/*`` and ``sparsity/overlap_*`` when asked to, at each evaluation.

    What training costs is added up as it goes, because the number of weights may change. Goes before the callback that
    changes topologies, so that gradient steps are charged to the weights that took them.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Floating-point operations of all gradient steps so far, and what they would be if all layers were dense.
        self.flops, self.dense_flops = 0, 0
        #: What was seen of neurons, gradients and wiring when it was last recorded.
        self._seen: dict[str, dict[str, float]] = {}
        self._updates = 0
        self._kinds: dict[str, str] = {}
        self._layers: dict[str, list[SparseLinear | nn.Linear]] = {}
        self._dense: dict[str, int] = {}
        self._first: dict[str, dict[str, Topology]] = {}
        self._last: dict[str, dict[str, Topology]] = {}

    def keep(self) -> dict[str, Any]:
        """Give what has to be kept in a checkpoint: operations so far, what was seen, topologies to compare with."""
        self._charge()
        compared = {name: _as_tree(topologies) for name, topologies in (("first", self._first), ("last", self._last))}
        return {"flops": self.flops, "dense_flops": self.dense_flops, "seen": self._seen, **compared}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from where a checkpoint was taken.

        :param state: what :meth:`keep` gave
        """
        self.flops, self.dense_flops = state["flops"], state["dense_flops"]
        self._seen = state["seen"]
        self._updates = self.model._n_updates
        self._first, self._last = _from_tree(state["first"]), _from_tree(state["last"])

    def _on_training_start(self) -> None:
        self._updates = self.model._n_updates
        # Found once: the search takes longer than a step can spare.
        self._kinds = {name: network.kind for name, network in networks_of(self.model.policy).items()}
        self._layers = {name: linear_layers(network) for name, network in networks(self.model).items()}
        self._dense = {name: count_dense_weights(network) for name, network in networks(self.model).items()}
        self._first = self._last = _topologies(self.model)

    def _on_rollout_start(self) -> None:
        self._charge()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._charge()

    def _charge(self) -> None:
        """Add the cost of the gradient steps since the last call."""
        before, now = self._updates, self.model._n_updates
        if now == before:
            return
        self._updates = now
        for name, kind in self._kinds.items():
            transitions = _transitions(self.model, kind, before, now)
            self.flops += training_flops(sum(map(weights_of, self._layers[name])), transitions, 1)
            self.dense_flops += training_flops(self._dense[name], transitions, 1)

    def record(self) -> None:
        """Look now, and hand the figures to the logger."""
        self._charge()
        figures: dict[str, float] = {f"cost/{name}": value for name, value in _costs(self.model).items()}
        figures |= {"cost/training_flops": self.flops, "cost/dense_training_flops": self.dense_flops}
        now = _topologies(self.model)
        self._seen = {
            "plasticity": diagnose(self.model),
            "overlap_start": {name: topology_overlap(self._first[name], each) for name, each in now.items()},
            "overlap_last": {name: topology_overlap(self._last[name], each) for name, each in now.items()},
        }
        self._last = now
        for group, values in self._seen.items():
            prefix = f"{group}/" if group == "plasticity" else f"sparsity/{group}/"
            figures |= {f"{prefix}{name}": value for name, value in values.items()}
        for name, value in figures.items():
            # Curves, not tables: on the console they would drown all else.
            self.logger.record(name, value, exclude=("stdout", "log"))

    def summary(self, model: BaseAlgorithm) -> dict[str, Any]:
        """
        Say what the agent cost and how alive it was when last looked at, for the run's summary.

        :param model: the agent
        :return: weights and floating-point operations, and what they would be if all layers were dense; and, unless
            nothing has been recorded, ``plasticity``, ``overlap_start`` and ``overlap_last`` with a figure for each
            network
        """
        training = {"training_flops": self.flops, "dense_training_flops": self.dense_flops}
        seen = {group: values for group, values in self._seen.items() if values}
        return {"gradient_steps": gradient_steps(model), **_costs(model), **training, **seen}


def _transitions(model: BaseAlgorithm, kind: str, before: int, now: int) -> int:
    """Count the transitions that a network was trained on, each as often as it was, between two counts of updates."""
    if isinstance(model, OnPolicyAlgorithm):
        # TRPO's actor takes one step on all of a rollout; what finds its direction is not counted.
        epochs: int = getattr(model, "n_critic_updates", 1) if kind == "critic" else 1
        return (now - before) * epochs * model.n_steps * model.n_envs
    interval = actor_interval(model) if kind == "actor" else 1
    batch_size: int = model.batch_size  # type: ignore[attr-defined]
    return (now // interval - before // interval) * batch_size


def _costs(model: BaseAlgorithm) -> Mapping[str, int]:
    """Count the weights of all networks, and the operations that choose one action."""
    every = list(networks(model).values())
    agent, actor = nn.ModuleList(every), every[0]
    return {
        "weights": count_weights(agent),
        "dense_weights": count_dense_weights(agent),
        "inference_flops": inference_flops(count_weights(actor)),
        "dense_inference_flops": inference_flops(count_dense_weights(actor)),
    }


def _topologies(model: BaseAlgorithm) -> dict[str, dict[str, Topology]]:
    """Give the topologies of the networks that have sparse layers."""
    found = {name: sparse_layers(network) for name, network in networks(model).items()}
    return {name: {key: layer.topology for key, layer in layers.items()} for name, layers in found.items() if layers}


def _as_tree(topologies: Mapping[str, Mapping[str, Topology]]) -> dict[str, Any]:
    return {
        network: {name: (each.shape, each.row_ptr, each.columns) for name, each in layers.items()}
        for network, layers in topologies.items()
    }


def _from_tree(tree: Mapping[str, Any]) -> dict[str, dict[str, Topology]]:
    return {network: {name: Topology(*parts) for name, parts in layers.items()} for network, layers in tree.items()}
