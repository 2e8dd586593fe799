"""Twin delayed deep deterministic policy gradient: Stable-Baselines3's logic, on feature-major networks."""

from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np
import stable_baselines3
import torch as th

from sparse_rl.agents.batches import sample
from sparse_rl.agents.losses import ascend, regress
from sparse_rl.agents.networks import (
    as_batch,
    has_hooks,
    has_known_networks,
    is_same,
    layers_of,
    to_environment,
    update_targets,
)
from sparse_rl.agents.optimizers import FastAdam
from sparse_rl.kernels import kernels_only
from sparse_rl.nn import FeatureMajorMLP


class TD3(stable_baselines3.TD3):
    """
    Twin delayed DDPG (Fujimoto et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``TD3``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`, both critics as one;
    for policies that this does not support (images, custom networks, other activations than ReLU, other devices than
    the CPU) it is Stable-Baselines3's.
    """

    def _setup_model(self) -> None:
        self._known: list[object] = []
        super()._setup_model()

    def _follow(self) -> bool:
        """Look at the present networks and optimizers, which may have been replaced; tell whether they can run here."""
        # An actor ends with tanh, which is applied apart.
        actors = [layers_of(actor.mu)[:-1] for actor in (self.actor, self.actor_target)]
        critics, targets = (
            [layers_of(network) for network in critic.q_networks] for critic in (self.critic, self.critic_target)
        )
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        known: list[object] = [self.policy, *chain(*actors, *critics, *targets), *optimizers]
        if self.policy.actor is not self.actor or not has_known_networks(self.policy):
            return False
        if not is_same(known, self._known) or any(has_hooks(layer) for layer in known):
            self._known = []
            if not all(FeatureMajorMLP.supports(*each) for each in (actors[:1], actors[1:], critics, targets)):
                return False
            self._actor, self._target_actor = (FeatureMajorMLP(actor) for actor in actors)
            self._critics, self._target_critics = FeatureMajorMLP(*critics), FeatureMajorMLP(*targets)
            self._first_critic = FeatureMajorMLP(critics[0])
            self._actor_optimizer = FastAdam(self.actor.optimizer, self._actor.stacks)
            self._critic_optimizer = FastAdam(self.critic.optimizer, self._critics.stacks)
            self._known = known
        return True

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._follow():
            super().train(gradient_steps, batch_size)
            return
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        actor_losses, critic_losses = [], []
        networks = (self._actor, self._target_actor, self._critics, self._target_critics, self._first_critic)
        with kernels_only(), ExitStack() as stack:
            for network in networks:
                stack.enter_context(network.steady())
            for _ in range(gradient_steps):
                self._n_updates += 1
                actor_loss, critic_loss = self._take_gradient_step(batch_size, self._n_updates % self.policy_delay == 0)
                critic_losses.append(critic_loss)
                if actor_loss is not None:
                    actor_losses.append(actor_loss)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if actor_losses:
            self.logger.record("train/actor_loss", np.mean(actor_losses))
        self.logger.record("train/critic_loss", np.mean(critic_losses))

    @th.no_grad()
    def _take_gradient_step(self, batch_size: int, update_actor: bool) -> tuple[float | None, float]:
        """Update the critics and perhaps the actor and the targets once, and give actor's and critics' loss."""
        assert self.replay_buffer is not None
        batch = sample(self.replay_buffer, batch_size, self._vec_normalize_env, self.gamma)
        n = batch_size
        observations, next_observations = batch.observations[:, :n], batch.observations[:, n:]

        noise = th.empty(n, len(batch.actions)).normal_(0, self.target_policy_noise).t()
        noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
        next_actions = self._target_actor.forward(next_observations, remember=False).tanh_()
        next_actions = next_actions.add_(noise).clamp_(-1, 1)
        next_q = self._target_critics.forward(next_observations, next_actions, remember=False)
        critic_loss, gradient = regress(self._critics.forward(observations, batch.actions), next_q, batch, 2)
        self._critics.backward(gradient)
        self._critic_optimizer.step()
        if not update_actor:
            return None, critic_loss

        actions_pi = self._actor.forward(observations).tanh_()
        height, slope = ascend(self._first_critic.forward(observations, actions_pi))
        action_gradient = self._first_critic.input_gradient(slope, block=1)
        self._actor.backward(action_gradient * (1 - actions_pi.square()))
        self._actor_optimizer.step()

        update_targets(self._target_critics, self._critics, self.tau)
        update_targets(self._target_actor, self._actor, self.tau)
        return -height, critic_loss

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
        :param deterministic: whether to take the same actions always, which it does anyway
        :return: actions, of shape ``(batch, action dimensions)``, and ``state``
        """
        batch = as_batch(self.policy, observation) if self._follow() else None
        if batch is None:
            return super().predict(observation, state, episode_start, deterministic)
        actions = self._actor.forward(batch, remember=False).tanh_()
        return to_environment(self.policy, actions), state

    def _excluded_save_params(self) -> list[str]:
        own = ["_known", "_actor", "_target_actor", "_critics", "_target_critics", "_first_critic"]
        own += ["_actor_optimizer", "_critic_optimizer"]
        return [*super()._excluded_save_params(), *own]
