"""What training costs and what it does to the networks, as curves and in the run's summary."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
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
        self._updates = 0
        self._layers: dict[str, list[SparseLinear | nn.Linear]] = {}
        self._dense: dict[str, int] = {}
        self._first: dict[str, dict[str, Topology]] = {}
        self._last: dict[str, dict[str, Topology]] = {}

    def _on_training_start(self) -> None:
        self._updates = self._off_policy._n_updates
        # Found once: the search takes longer than a step can spare.
        self._layers = {name: linear_layers(network) for name, network in networks(self._off_policy).items()}
        self._dense = {name: count_dense_weights(network) for name, network in networks(self._off_policy).items()}
        self._first = self._last = _topologies(self._off_policy)

    def _on_rollout_start(self) -> None:
        self._charge()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._charge()

    @property
    def _off_policy(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    def _charge(self) -> None:
        """Add the cost of the gradient steps since the last call."""
        before, now = self._updates, self._off_policy._n_updates
        if now == before:
            return
        self._updates = now
        delay: int = getattr(self.model, "policy_delay", 1)
        batch_size = self._off_policy.batch_size
        for name, layers in self._layers.items():
            updates = now // delay - before // delay if name == "actor" else now - before
            self.flops += training_flops(sum(map(weights_of, layers)), batch_size, updates)
            self.dense_flops += training_flops(self._dense[name], batch_size, updates)

    def record(self) -> None:
        """Look now, and hand the figures to the logger."""
        self._charge()
        figures: dict[str, float] = {f"cost/{name}": value for name, value in _costs(self._off_policy).items()}
        figures["cost/training_flops"] = self.flops
        buffer = self._off_policy.replay_buffer
        if buffer is not None and buffer.size():  # the first step is stored after it was counted
            figures |= {f"plasticity/{name}": value for name, value in diagnose(self._off_policy).items()}
        now = _topologies(self._off_policy)
        for name, topologies in now.items():
            figures[f"sparsity/overlap_start/{name}"] = topology_overlap(self._first[name], topologies)
            figures[f"sparsity/overlap_last/{name}"] = topology_overlap(self._last[name], topologies)
        self._last = now
        for name, value in figures.items():
            # Curves, not tables: on the console they would drown all else.
            self.logger.record(name, value, exclude=("stdout", "log"))

    def summary(self, model: OffPolicyAlgorithm) -> dict[str, Any]:
        """
        Say what the agent cost, for the run's summary.

        :param model: the agent
        :return: weights and floating-point operations, and what they would be if all layers were dense
        """
        training = {"training_flops": self.flops, "dense_training_flops": self.dense_flops}
        return {"gradient_steps": model._n_updates, **_costs(model), **training}


def _costs(model: OffPolicyAlgorithm) -> Mapping[str, int]:
    """Count the weights of actor and critics, and the operations that choose one action."""
    agent = nn.ModuleList(networks(model).values())
    actor = networks(model)["actor"]
    return {
        "weights": count_weights(agent),
        "dense_weights": count_dense_weights(agent),
        "inference_flops": inference_flops(count_weights(actor)),
        "dense_inference_flops": inference_flops(count_dense_weights(actor)),
    }


def _topologies(model: OffPolicyAlgorithm) -> dict[str, dict[str, Topology]]:
    """Give the topologies of the networks that have sparse layers."""
    found = {name: sparse_layers(network) for name, network in networks(model).items()}
    return {name: {key: layer.topology for key, layer in layers.items()} for name, layers in found.items() if layers}
