"""Soft actor-critic: Stable-Baselines3's logic, on networks that are run in feature-major layout."""

from itertools import chain
from math import exp
from typing import Any

import numpy as np
import stable_baselines3
import torch as th

from sparse_rl.agents.batches import sample
from sparse_rl.agents.losses import SquashedGaussian, ascend, regress
from sparse_rl.agents.networks import (
    as_batch,
    has_hooks,
    has_known_networks,
    heads_of,
    is_same,
    layers_of,
    to_environment,
    update_targets,
)
from sparse_rl.agents.optimizers import FastAdam
from sparse_rl.kernels import kernels_only
from sparse_rl.nn import FeatureMajorMLP, Stack

# What is made anew when a saved model is loaded.
_OWN = (
    *("_known", "_actor", "_critics", "_target_critics"),
    *("_actor_optimizer", "_critic_optimizer", "_ent_coef_optimizer"),
)


class SAC(stable_baselines3.SAC):
    """
    Soft actor-critic (Haarnoja et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``SAC``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`, both critics as one;
    for policies that this does not support (images, custom networks, gSDE, other activations than ReLU, other devices
    than the CPU) it is Stable-Baselines3's.
    """

    def _setup_model(self) -> None:
        self._known: list[object] = []
        super()._setup_model()

    def _follow(self) -> bool:
        """Look at the present networks and optimizers, which may have been replaced; tell whether they can run here."""
        body, heads = layers_of(self.actor.latent_pi), heads_of(self.actor)
        critics, targets = (
            [layers_of(network) for network in critic.q_networks] for critic in (self.critic, self.critic_target)
        )
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        known: list[object] = [self.policy, *body, *heads, *chain(*critics, *targets), *optimizers, self.log_ent_coef]
        if (
            self.use_sde
            or len(heads) != 2
            or self.policy.actor is not self.actor
            or not has_known_networks(self.policy)
        ):
            return False
        if not is_same(known, self._known) or any(has_hooks(layer) for layer in known):
            self._known = []
            supported = FeatureMajorMLP.supports(body, heads=heads) and FeatureMajorMLP.supports(*critics)
            if not (supported and FeatureMajorMLP.supports(*targets)):
                return False
            self._actor = FeatureMajorMLP(body, heads=heads)
            self._critics, self._target_critics = FeatureMajorMLP(*critics), FeatureMajorMLP(*targets)
            self._actor_optimizer = FastAdam(self.actor.optimizer, self._actor.stacks)
            self._critic_optimizer = FastAdam(self.critic.optimizer, self._critics.stacks)
            self._ent_coef_optimizer = None
            if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
                self._ent_coef_optimizer = FastAdam(self.ent_coef_optimizer, [Stack([self.log_ent_coef])])
            self._known = known
        return True

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._follow():
            super().train(gradient_steps, batch_size)
            return
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers += [self.ent_coef_optimizer]
        self._update_learning_rate(optimizers)
        with kernels_only(), self._actor.steady(), self._critics.steady(), self._target_critics.steady():
            losses = [self._take_gradient_step(batch_size, step) for step in range(gradient_steps)]
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in losses[0] if losses else ():
            self.logger.record(f"train/{name}", np.mean([loss[name] for loss in losses]))

    @th.no_grad()
    def _take_gradient_step(self, batch_size: int, step: int) -> dict[str, float]:
        """Update actor, critics and entropy coefficient once, and give the losses."""
        assert self.replay_buffer is not None
        batch = sample(self.replay_buffer, batch_size, self._vec_normalize_env, self.gamma)
        n = batch_size
        observations, next_observations = batch.observations[:, :n], batch.observations[:, n:]
        # One pass of the actor for both; what is said about the next observations is not differentiated.
        noise = th.empty(2 * n, len(batch.actions))
        noise[:n].normal_()
        noise[n:].normal_()
        policy = SquashedGaussian(self._actor.forward(batch.observations), noise)
        log_prob, next_log_prob = policy.log_prob[:, :n], policy.log_prob[:, n:]
        mean_log_prob = log_prob.mean().item()
        losses = self._update_ent_coef(mean_log_prob)
        ent_coef = losses["ent_coef"]

        next_q = self._target_critics.forward(next_observations, policy.actions[:, n:], remember=False)
        q = self._critics.forward(observations, batch.actions)
        # Each critic's loss is half of its mean squared error.
        loss, gradient = regress(q, next_q, batch, 1, next_log_prob, ent_coef)
        self._critics.backward(gradient)
        self._critic_optimizer.step()

        # The actor climbs the smaller of the critics' predictions: its loss is mean(ent_coef * log_prob - min Q).
        q_pi = self._critics.forward(observations, policy.actions[:, :n])
        height, slope = ascend(q_pi)
        action_gradient = self._critics.input_gradient(slope, block=1)
        self._actor.backward(policy.backward(action_gradient, ent_coef / n))
        self._actor_optimizer.step()

        if step % self.target_update_interval == 0:
            update_targets(self._target_critics, self._critics, self.tau)
        return {**losses, "actor_loss": ent_coef * mean_log_prob - height, "critic_loss": 0.5 * loss}

    def _update_ent_coef(self, mean_log_prob: float) -> dict[str, float]:
        """Update the entropy coefficient, if it is learnt; give the loss, and the coefficient before."""
        if self._ent_coef_optimizer is None:
            return {"ent_coef": self.ent_coef_tensor.item()}
        assert isinstance(self.target_entropy, float)
        assert self.log_ent_coef is not None
        log_ent_coef = self.log_ent_coef.item()
        gradient = -(mean_log_prob + self.target_entropy)
        (stack,) = self._ent_coef_optimizer.stacks
        stack.follow([self.log_ent_coef])  # a loaded model gave it other memory
        stack.gradient.fill_(gradient)
        stack.show_gradient()
        self._ent_coef_optimizer.step()
        return {"ent_coef": exp(log_ent_coef), "ent_coef_loss": log_ent_coef * gradient}

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """
        Choose actions.

        :param observation: observations, of shape ``(batch, features)``
        :param state: not used
        :param episode_start: not used
        :param deterministic: whether to take the mean instead of drawing them
        :return: actions, of shape ``(batch, action dimensions)``, and ``state``
        """
        batch = as_batch(self.policy, observation) if self._follow() else None
        if batch is None:
            return super().predict(observation, state, episode_start, deterministic)
        parameters = self._actor.forward(batch, remember=False)
        if deterministic:
            actions = parameters[: len(parameters) // 2].tanh()
        else:
            noise = th.empty(batch.shape[1], len(parameters) // 2).normal_()
            actions = SquashedGaussian(parameters, noise).actions
        return to_environment(self.policy, actions), state

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OWN]
