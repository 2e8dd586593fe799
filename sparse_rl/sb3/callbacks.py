"""Dynamic sparse training as a Stable-Baselines3 callback."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sparse_rl.nn import SparseLinear, rewire_layer, sparse_layers
from sparse_rl.sb3.gradients import GradientCatcher
from sparse_rl.sb3.networks import is_target, target_of
from sparse_rl.sb3.steps import actor_interval, gradient_steps
from sparse_rl.topology import Budget, Method, WeightGradient

_LONGEST_NAME = 18  # of a layer: with what stands before it less than the 36 characters of a table


class TopologyCallback(BaseCallback):
    """
    Rewire the sparse layers of a policy during training.

    Time is counted in gradient steps, as the papers do: see :func:`~sparse_rl.sb3.steps.gradient_steps`.
    Stable-Baselines3 has no hook after a gradient step, so an update happens at the start of the next rollout: with one
    gradient step for each environment step, as SAC and TD3 have by default, that is right after the gradient step. If
    one rollout brings more gradient steps than the update interval, as with PPO it may, the updates that fell due in
    between are done as one.

    A method that grows by gradient (RigL) needs one of a real batch, with the absent weights. The learners compute
    those of active weights only, and Stable-Baselines3 shows nobody the batch. So when such an update falls due, the
    layers are watched by hooks during the next ``train()``, which fast learners leave to Stable-Baselines3 for that
    reason, and the update happens one rollout later: as soon as every layer has got a gradient. (TD3's actor gets one
    with every second gradient step.) Other methods set no hooks.

    Target networks take the topology of their online network, and optimizer state moves with the weights. Logs
    ``sparsity/*``: the density of each layer, the number of active weights and the rewired ones at the last update.

    :param method: decides when and how: :class:`~sparse_rl.topology.SET` (ANF), :class:`~sparse_rl.topology.RigL`, ...
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
        self._last_model: object = None
        self._catcher: GradientCatcher | None = None
        self._caught_for = 0  # the gradient step at which the update that waits for gradients fell due

    def _init_callback(self) -> None:
        if not sparse_layers(self.model.policy):
            raise ValueError(
                f"{type(self.model.policy).__name__} has no sparse layers to rewire: make the model with "
                "SparseSACPolicy, SparseTD3Policy or what sparse_policy() gives, and a sparsity above 0."
            )
        self.check(self.model)
        if self._steps_seen is None or self.model is not self._last_model:
            self.updates = self.rewired = 0
            self._catcher, self._last_model = None, self.model
            # A model that was trained before, or loaded, is not to catch up on updates of its past.
            self._steps_seen = gradient_steps(self.model)
            seed = self.model.seed if self.seed is None else self.seed
            if seed is None:
                self.generator.seed()
            else:
                # Not the seed itself: with it, growth would repeat the random numbers that initialised the networks.
                self.generator.manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]))

    def check(self, model: BaseAlgorithm) -> None:
        """
        Check that the method can do what it is to do with each layer.

        :param model: the agent
        :raises ValueError: if a layer does not suit the method, is not trained by exactly one optimizer, or could get
            no gradient between two updates of a method that grows by gradient
        """
        for layer, _, _ in online_layers(model.policy).values():
            budget, present = layer.budget, layer.values.numel()
            # Where a former method has changed the number of weights as it was to, nothing is left to change.
            self.method.check(Budget(present, present) if present == budget.end else budget)
        interval = actor_interval(model)
        if self.method.needs_gradient and getattr(self.method, "update_interval", interval) < interval:
            raise ValueError(
                f"The actor is trained every {interval} gradient steps (`policy_delay`), so a topology that grows by "
                f"gradient cannot be updated more often: give an `update_interval` of at least {interval}."
            )

    def keep(self) -> dict[str, Any]:
        """
        Give what has to be kept in a checkpoint; the layers' topologies are part of the policy.

        :return: plain values and tensors
        """
        caught = {} if self._catcher is None else self._catcher.caught
        return {
            "updates": self.updates,
            "rewired": self.rewired,
            "steps_seen": self._steps_seen,
            "generator": self.generator.get_state(),
            "is_catching": self._catcher is not None,
            "caught": {name: (gradient.inputs, gradient.d_outputs) for name, gradient in caught.items()},
            "caught_for": self._caught_for,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from where a checkpoint was taken.

        :param state: what :meth:`keep` gave
        """
        self.updates, self.rewired, self._steps_seen = state["updates"], state["rewired"], state["steps_seen"]
        self.generator.set_state(state["generator"])
        self._caught_for = state["caught_for"]
        self._catcher = self._make_catcher() if state["is_catching"] else None
        if self._catcher is not None:
            device = self.model.device
            self._catcher.caught = {
                name: WeightGradient(*(factor.to(device) for factor in factors))
                for name, factors in state["caught"].items()
            }

    def _on_training_start(self) -> None:
        self._record()

    def _on_rollout_start(self) -> None:
        now = gradient_steps(self.model)
        assert self._steps_seen is not None  # since _init_callback()
        is_due = bool(self.method.updates_between(self._steps_seen, now))
        self._steps_seen = now
        if self._catcher is not None:
            self._finish_catching(is_due, now)
        if is_due and self.method.needs_gradient:
            self._caught_for = now
            if self._catcher is None:
                self._catcher = self._make_catcher()
        elif is_due:
            self._rewire(now)

    def _make_catcher(self) -> GradientCatcher:
        return GradientCatcher({name: layer for name, (layer, _, _) in online_layers(self.model.policy).items()})

    def _finish_catching(self, is_due: bool, now: int) -> None:
        """
        Rewire if every layer has got its gradient; else go on watching, but not for ever.

        Where the last update follows closely upon the one before, the actor's turn may not have come in between: then
        both are done as one.
        """
        assert self._catcher is not None
        self._catcher.release()
        missing = self._catcher.missing
        if missing and is_due and now - self._caught_for >= actor_interval(self.model):
            raise RuntimeError(
                f"The sparse layer {missing[0]!r} got no gradient from the topology update at gradient step "
                f"{self._caught_for} to the next one, so nothing can grow by gradient there. Is it trained at all, and "
                "often enough? A larger `update_interval` gives it more time."
            )
        if not missing:
            gradients, self._catcher = self._catcher.caught, None
            self._rewire(self._caught_for, gradients)

    def _on_rollout_end(self) -> None:
        # During training only: in a rollout, an evaluation may ask the networks for gradients of its own.
        if self._catcher is not None:
            self._catcher.watch()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._catcher is not None:
            self._catcher.release()

    def _rewire(self, step: int, gradients: Mapping[str, WeightGradient] | None = None) -> None:
        rewired = 0
        for name, (layer, optimizer, followers) in online_layers(self.model.policy).items():
            gradient = None if gradients is None else gradients[name]
            rewiring = self.method.propose(
                layer.topology, layer.values, step, self.generator, budget=layer.budget, gradient=gradient
            )
            rewire_layer(layer, rewiring, optimizer, followers)
            rewired += max(rewiring.n_grown, rewiring.n_dropped)
        self.updates += 1
        self.rewired = rewired
        if self.verbose:
            print(f"Topology update {self.updates} at gradient step {step}: {rewired} weights rewired")
        self._record()

    def _record(self) -> None:
        layers = sparse_layers(self.model.policy)
        online = {name: layer for name, layer in layers.items() if not is_target(name)}
        for name, layer in online.items():
            self.logger.record(f"sparsity/density/{_brief(name)}", layer.density)
        self.logger.record("sparsity/active_weights", sum(layer.values.numel() for layer in online.values()))
        self.logger.record("sparsity/rewired", self.rewired)
        self.logger.record("sparsity/updates", self.updates)


def online_layers(
    policy: nn.Module,
) -> dict[str, tuple[SparseLinear, th.optim.Optimizer, list[SparseLinear]]]:
    """
    Find each sparse layer that is trained, the optimizer that trains it, and the target layers that follow it.

    :param policy: the policy
    :return: these three, by the layer's dotted name
    :raises ValueError: if a layer is not trained by exactly one optimizer, or a target layer follows none
    """
    layers = sparse_layers(policy)
    optimizers = list(_optimizers(policy))
    found, followed = {}, set()
    for name, layer in layers.items():
        if is_target(name):
            continue
        trained_by = [optimizer for optimizer in optimizers if _trains(optimizer, layer)]
        if len(trained_by) != 1:
            raise ValueError(
                f"Expected one optimizer that trains the sparse layer {name!r}, found {len(trained_by)}: its state "
                "has to move with the weights. Make optimizers as Stable-Baselines3's policies do."
            )
        target = target_of(name)
        followed.add(target)
        found[name] = (layer, trained_by[0], [layers[target]] if target in layers else [])
    if alone := [name for name in layers if is_target(name) and name not in followed]:
        raise ValueError(f"The target layer {alone[0]!r} has no online layer of the same name to follow.")
    return found


def _brief(name: str) -> str:
    """Leave outer modules out of a long name: Stable-Baselines3's tables fail if two cut names become equal."""
    return name if len(name) <= _LONGEST_NAME else ".".join(name.split(".")[-2:])


def _optimizers(policy: nn.Module) -> Iterator[th.optim.Optimizer]:
    """Find the optimizers that Stable-Baselines3 keeps as attributes of the policy and of its networks."""
    for module in policy.modules():
        optimizer = getattr(module, "optimizer", None)
        if isinstance(optimizer, th.optim.Optimizer):
            yield optimizer


def _trains(optimizer: th.optim.Optimizer, layer: SparseLinear) -> bool:
    return any(layer.values is parameter for group in optimizer.param_groups for parameter in group["params"])
