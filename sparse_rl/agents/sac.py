"""Soft actor-critic: Stable-Baselines3's logic, on networks that are run in feature-major layout."""

from typing import cast

import numpy as np
import stable_baselines3
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sparse_rl.agents.networks import (
    can_run_feature_major,
    feature_major,
    mean_squared_error,
    to_feature_major,
)


class SAC(stable_baselines3.SAC):
    """
    Soft actor-critic (Haarnoja et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``SAC``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`; for policies that this
    does not support (images, custom networks, gSDE, other activations than ReLU, other devices than the CPU) it is
    Stable-Baselines3's.
    """

    def _create_aliases(self) -> None:
        super()._create_aliases()
        networks = [self.actor.latent_pi, *self.critic.q_networks, *self.critic_target.q_networks]
        self._is_fast = not self.use_sde and can_run_feature_major(self.policy, networks)
        if self._is_fast:
            self._actor_body = feature_major(self.actor.latent_pi)
            self._critics = [feature_major(q_net) for q_net in self.critic.q_networks]
            self._target_critics = [feature_major(q_net) for q_net in self.critic_target.q_networks]

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._is_fast:
            super().train(gradient_steps, batch_size)
            return
        assert self.replay_buffer is not None
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers += [self.ent_coef_optimizer]
        self._update_learning_rate(optimizers)

        actor_body, critics, targets = self._actor_body, self._critics, self._target_critics

        ent_coefs, ent_coef_losses, actor_losses, critic_losses = [], [], [], []
        for gradient_step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            discounts = self.gamma if batch.discounts is None else batch.discounts.t()
            observations = to_feature_major(batch.observations)
            next_observations = to_feature_major(batch.next_observations)

            # Only the actor's head, a few thousand numbers, is left to automatic differentiation.
            latent = actor_body.forward(observations).t().requires_grad_()
            actions_pi, log_prob = self._sample_actions(latent)

            if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
                assert isinstance(self.target_entropy, float)
                ent_coef = th.exp(self.log_ent_coef.detach())
                ent_coef_loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
                self.ent_coef_optimizer.zero_grad()
                ent_coef_loss.backward()
                self.ent_coef_optimizer.step()
                ent_coef_losses.append(ent_coef_loss.item())
            else:
                ent_coef = self.ent_coef_tensor
            ent_coefs.append(ent_coef.item())

            with th.no_grad():
                next_latent = actor_body.forward(next_observations, remember=False).t()
                next_actions, next_log_prob = self._sample_actions(next_latent)
                next_actions = next_actions.t().contiguous()
                next_q = th.cat([q.forward(next_observations, next_actions, remember=False) for q in targets])
                next_q = next_q.amin(0, keepdim=True) - ent_coef * next_log_prob
                target_q = batch.rewards.t() + (1 - batch.dones.t()) * discounts * next_q

            actions = to_feature_major(batch.actions)
            critic_loss = 0.0
            for q in critics:
                loss, gradient = mean_squared_error(q.forward(observations, actions), target_q)
                q.backward(0.5 * gradient)
                critic_loss += 0.5 * loss
            self.critic.optimizer.step()
            critic_losses.append(critic_loss)

            # The actor climbs the smaller of the critics' predictions; its loss is mean(ent_coef * log_prob - min Q).
            feature_major_actions = actions_pi.detach().t().contiguous()
            q_pi = th.cat([q.forward(observations, feature_major_actions) for q in critics])
            min_q_pi, smallest = q_pi.min(dim=0)
            actor_losses.append((ent_coef * log_prob.detach() - min_q_pi).mean().item())
            slope = -1 / len(log_prob) * F.one_hot(smallest, len(critics)).t().to(q_pi.dtype)
            action_gradient = th.stack(
                [q.input_gradient(slope[i : i + 1], block=1) for i, q in enumerate(critics)]
            ).sum(0)
            self.actor.optimizer.zero_grad()
            th.autograd.backward(
                [actions_pi, log_prob], [action_gradient.t(), (ent_coef / len(log_prob)).expand_as(log_prob)]
            )
            assert latent.grad is not None
            actor_body.backward(latent.grad.t().contiguous())
            self.actor.optimizer.step()

            if gradient_step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", np.mean(ent_coefs))
        self.logger.record("train/actor_loss", np.mean(actor_losses))
        self.logger.record("train/critic_loss", np.mean(critic_losses))
        if ent_coef_losses:
            self.logger.record("train/ent_coef_loss", np.mean(ent_coef_losses))

    def _sample_actions(self, latent: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Sample squashed actions ``(batch, action dimensions)`` and their log-probabilities ``(batch,)``."""
        log_std_head = cast(nn.Linear, self.actor.log_std)  # a plain vector only with gSDE, which is not run here
        distribution = cast(SquashedDiagGaussianDistribution, self.actor.action_dist)
        log_std = log_std_head(latent).clamp(LOG_STD_MIN, LOG_STD_MAX)
        return distribution.log_prob_from_params(self.actor.mu(latent), log_std)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_is_fast", "_actor_body", "_critics", "_target_critics"]
