"""Dynamic sparse training as a Stable-Baselines3 callback."""

from collections.abc import Iterator

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sparse_rl.nn import SparseLinear, rewire_layer, sparse_layers
from sparse_rl.topology import Method


class TopologyCallback(BaseCallback):
    """
    Rewire the sparse layers of a policy during training.

    Time is counted in gradient steps, as the papers do: by ``model._n_updates``, which off-policy algorithms (SAC, TD3,
    DDPG, DQN) increase with each. (On-policy ones count epochs in it.) Stable-Baselines3 has no hook after a
    gradient step, so an update happens at the start of the next rollout: with one gradient step for each environment
    step, as SAC and TD3 have by default, that is right after the gradient step. If one rollout brings more gradient
    steps than the update interval, the updates that fell due in between are done as one.

    Target networks take the topology of their online network, and optimizer state moves with the weights. Logs
    ``sparsity/*``: the density of each layer, the number of active weights and the rewired ones at the last update.

    :param method: decides when and how: :class:`~sparse_rl.topology.SET` (ANF), :class:`~sparse_rl.topology.Static`
    :param seed: of the random growth; ``None`` for the model's seed, and if it has none for a random one
    :param verbose: 0 for silence, 1 to print each update
    """

    def __init__(self, method: Method, seed: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.method = method
        self.seed = seed
        self.generator = th.Generator()
        self.updates = 0
        self.rewired = 0
        self._steps_seen: int | None = None

    def _init_callback(self) -> None:
        if not sparse_layers(self.model.policy):
            raise ValueError(
                f"{type(self.model.policy).__name__} has no sparse layers to rewire: make the model with "
                "SparseSACPolicy or SparseTD3Policy, and a sparsity above 0."
            )
        self._layers()  # complains early
        if self._steps_seen is None:
            # A model that was trained before, or loaded, is not to catch up on updates of its past.
            self._steps_seen = self.model._n_updates
            seed = self.model.seed if self.seed is None else self.seed
            if seed is None:
                self.generator.seed()
            else:
                # Not the seed itself: with it, growth would repeat the random numbers that initialised the networks.
                self.generator.manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]))

    def _on_training_start(self) -> None:
        self._record()

    def _on_rollout_start(self) -> None:
        now = self.model._n_updates
        assert self._steps_seen is not None  # since _init_callback()
        if self.method.updates_between(self._steps_seen, now):
            self._rewire(now)
        self._steps_seen = now

    def _on_step(self) -> bool:
        return True

    def _rewire(self, step: int) -> None:
        rewired = 0
        for layer, optimizer, followers in self._layers():
            rewiring = self.method.propose(layer.topology, layer.values, step, self.generator)
            rewire_layer(layer, rewiring, optimizer, followers)
            rewired += rewiring.n_grown
        self.updates += 1
        self.rewired = rewired
        if self.verbose:
            print(f"Topology update {self.updates} at gradient step {step}: {rewired} weights rewired")
        self._record()

    def _layers(self) -> list[tuple[SparseLinear, th.optim.Optimizer, list[SparseLinear]]]:
        """Find each online layer, the optimizer that trains it, and the target layers that follow it."""
        layers = sparse_layers(self.model.policy)
        optimizers = list(_optimizers(self.model.policy))
        found, followed = [], set()
        for name, layer in layers.items():
            network, _, inner = name.partition(".")
            if network.endswith("_target"):
                continue
            trained_by = [optimizer for optimizer in optimizers if _trains(optimizer, layer)]
            if len(trained_by) != 1:
                raise ValueError(
                    f"Expected one optimizer that trains the sparse layer {name!r}, found {len(trained_by)}: its state "
                    "has to move with the weights. Make optimizers as Stable-Baselines3's policies do."
                )
            target = f"{network}_target.{inner}"
            followed.add(target)
            found.append((layer, trained_by[0], [layers[target]] if target in layers else []))
        if alone := [name for name in layers if "_target." in name and name not in followed]:
            raise ValueError(f"The target layer {alone[0]!r} has no online layer of the same name to follow.")
        return found

    def _record(self) -> None:
        layers = sparse_layers(self.model.policy)
        online = {name: layer for name, layer in layers.items() if "_target." not in name}
        for name, layer in online.items():
            self.logger.record(f"sparsity/density/{name}", layer.density)
        self.logger.record("sparsity/active_weights", sum(layer.values.numel() for layer in online.values()))
        self.logger.record("sparsity/rewired", self.rewired)
        self.logger.record("sparsity/updates", self.updates)


def _optimizers(policy: nn.Module) -> Iterator[th.optim.Optimizer]:
    """Find the optimizers that Stable-Baselines3 keeps as attributes of the policy and of its networks."""
    for module in policy.modules():
        optimizer = getattr(module, "optimizer", None)
        if isinstance(optimizer, th.optim.Optimizer):
            yield optimizer


def _trains(optimizer: th.optim.Optimizer, layer: SparseLinear) -> bool:
    return any(layer.values is parameter for group in optimizer.param_groups for parameter in group["params"])
