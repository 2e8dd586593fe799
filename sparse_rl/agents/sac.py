"""Soft actor-critic: Stable-Baselines3's logic, on networks that are run in feature-major layout."""

from dataclasses import dataclass
from math import exp
from statistics import fmean

import numpy as np
import stable_baselines3
import torch as th
from numpy.typing import NDArray

from sparse_rl.agents.acting import Actor, is_acting_only
from sparse_rl.agents.learner import FastLearner
from sparse_rl.agents.networks import (
    action_bounds,
    have_parameters_of_their_own,
    heads_of,
    layers_of,
    parts_of,
    runs_fast,
)
from sparse_rl.agents.optimizers import FastAdam, Following
from sparse_rl.agents.passes import sac_actor, sac_critics
from sparse_rl.nn import FeatureMajorMLP, Stack


class _Interval(int):
    """A number that, as a divisor, counts what was before: ``step % interval`` is the rest of ``before + step``."""

    before: int

    def __new__(cls, interval: int, before: int) -> "_Interval":
        self = super().__new__(cls, interval)
        self.before = before
        return self

    def __rmod__(self, step: int) -> int:
        return (self.before + step) % int(self)


@dataclass
class _Fast:
    action_bounds: tuple[NDArray[np.float32], NDArray[np.float32]]
    actor: FeatureMajorMLP
    critics: FeatureMajorMLP
    targets: FeatureMajorMLP
    actor_optimizer: FastAdam
    critic_optimizer: FastAdam
    ent_coef_optimizer: FastAdam | None
    following: Following
    is_stochastic = True


class SAC(FastLearner, stable_baselines3.SAC):
    """
    Soft actor-critic (Haarnoja et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``SAC``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`, both critics as one;
    for policies that this does not support (images, custom networks, gSDE, other activations than ReLU, other devices
    than the CPU) it is Stable-Baselines3's.

    One argument does more: ``target_update_interval`` counts the gradient steps of the whole training.
    Stable-Baselines3 counts from 0 in each call of ``train()``, so with one gradient step in each, targets follow at
    every step, whatever the interval (https://github.com/DLR-RM/stable-baselines3/issues/2158).
    """

    _fast: _Fast | None

    def _present_parts(self) -> tuple[object, ...]:
        optimizers = (self.actor.optimizer, getattr(self.critic, "optimizer", None), self.ent_coef_optimizer)
        critics = (*parts_of(self.critic), *parts_of(self.critic_target))
        return (self.policy, self.actor, *critics, *optimizers, self.log_ent_coef)

    def _adopt(self) -> _Fast | Actor | None:
        body, heads = layers_of(self.actor.latent_pi), heads_of(self.actor)
        if self.use_sde or len(heads) != 2 or self.policy.actor is not self.actor or not runs_fast(body, heads=heads):
            return None
        if is_acting_only(self.policy):
            return Actor(action_bounds(self.policy), FeatureMajorMLP(body, heads=heads), is_stochastic=True)
        critics, targets = (
            [layers_of(network) for network in critic.q_networks] for critic in (self.critic, self.critic_target)
        )
        if not (runs_fast(*critics) and runs_fast(*targets)):
            return None
        if not have_parameters_of_their_own(self.actor, self.critic, self.critic_target):
            return None
        actor = FeatureMajorMLP(body, heads=heads)
        both, both_targets = FeatureMajorMLP(*critics), FeatureMajorMLP(*targets)
        ent_coef = None
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            ent_coef = FastAdam(self.ent_coef_optimizer, [Stack([self.log_ent_coef])])
        return _Fast(
            action_bounds(self.policy), actor, both, both_targets, FastAdam(self.actor.optimizer, actor.stacks),
            FastAdam(self.critic.optimizer, both.stacks), ent_coef, Following(both_targets, both),
        )  # fmt: skip

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._follow():
            self._train_slowly(gradient_steps, batch_size)
            return
        fast = self._fast
        assert fast is not None
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers += [self.ent_coef_optimizer]
        self._update_learning_rate(optimizers)
        networks = (fast.actor, fast.critics, fast.targets)
        adams = [fast.actor_optimizer, fast.critic_optimizer]
        if fast.ent_coef_optimizer is not None:
            assert self.log_ent_coef is not None
            fast.ent_coef_optimizer.stacks[0].follow([self.log_ent_coef])  # a loaded model gave it other memory
            adams.append(fast.ent_coef_optimizer)
        with self._at_work(networks, adams) as threads:
            losses = [self._take_gradient_step(fast, batch_size, step, threads) for step in range(gradient_steps)]
            for network in networks[:2]:
                network.show_gradients()
            if fast.ent_coef_optimizer is not None:
                fast.ent_coef_optimizer.stacks[0].show_gradient()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in losses[0] if losses else ():
            self.logger.record(f"train/{name}", fmean(loss[name] for loss in losses))

    def _train_slowly(self, gradient_steps: int, batch_size: int) -> None:
        """Let Stable-Baselines3 train, which counts from 0, with an interval that counts from the beginning."""
        interval = self.target_update_interval
        self.target_update_interval = _Interval(interval, self._n_updates)
        try:
            super().train(gradient_steps, batch_size)
        finally:
            self.target_update_interval = interval

    def _take_gradient_step(self, fast: _Fast, n: int, step: int, threads: int) -> dict[str, float]:
        """Update actor, critics and entropy coefficient once, and give the losses."""
        batch = self._sample(n, fast.critics.in_features)
        n_features, n_actions = fast.actor.in_features, batch.n_actions
        noise = th.empty(2 * n, n_actions)
        noise[:n].normal_()
        noise[n:].normal_()
        # One pass of the actor for both; what is said about the next observations is not differentiated.
        actor = fast.actor.prepare(2 * n, first=n_features).table
        critics = fast.critics.prepare(n, first=n_features).table
        targets = fast.targets.prepare(n, remember=False).table
        place, draws = batch.place, noise.numpy()
        drawn, log_prob = np.empty((n_actions, 2 * n), np.float32), np.empty(2 * n, np.float32)
        coefficient = self._ent_coef()

        critic_loss, mean_log_prob = sac_critics(
            actor, critics, targets, *place, batch[2:], draws, (drawn, log_prob), coefficient, threads
        )
        losses = self._update_ent_coef(fast, mean_log_prob, coefficient)
        fast.critic_optimizer.step()
        critics = fast.critics.prepare(n, first=n_features).table
        height = sac_actor(actor, critics, *place, draws, drawn, coefficient, threads)
        fast.actor_optimizer.step()
        if (self._n_updates + step) % self.target_update_interval == 0:
            fast.following.step(self.tau)
        return {**losses, "actor_loss": coefficient * mean_log_prob - height, "critic_loss": 0.5 * critic_loss}

    def _ent_coef(self) -> float:
        """Give the present entropy coefficient."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor.item()
        return exp(self.log_ent_coef.item())

    def _update_ent_coef(self, fast: _Fast, mean_log_prob: float, coefficient: float) -> dict[str, float]:
        """Update the entropy coefficient, if it is learnt; give the loss, and the coefficient before."""
        if fast.ent_coef_optimizer is None:
            return {"ent_coef": coefficient}
        assert isinstance(self.target_entropy, float)
        assert self.log_ent_coef is not None
        log_ent_coef = self.log_ent_coef.item()
        gradient = -(mean_log_prob + self.target_entropy)
        fast.ent_coef_optimizer.stacks[0].gradient.numpy()[:] = gradient
        fast.ent_coef_optimizer.step()
        return {"ent_coef": coefficient, "ent_coef_loss": log_ent_coef * gradient}
