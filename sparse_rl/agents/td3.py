"""Twin delayed deep deterministic policy gradient: Stable-Baselines3's logic, on feature-major networks."""

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.utils import polyak_update

from sparse_rl.agents.networks import (
    can_run_feature_major,
    feature_major,
    mean_squared_error,
    to_feature_major,
)


class TD3(stable_baselines3.TD3):
    """
    Twin delayed DDPG (Fujimoto et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``TD3``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`; for policies that this
    does not support (images, custom networks, other activations than ReLU, other devices than the CPU) it is
    Stable-Baselines3's.
    """

    def _create_aliases(self) -> None:
        super()._create_aliases()
        # An actor ends with tanh, which is applied apart.
        actors = [self.actor.mu[:-1], self.actor_target.mu[:-1]]
        q_networks = [*self.critic.q_networks, *self.critic_target.q_networks]
        self._is_fast = can_run_feature_major(self.policy, actors + q_networks)
        if self._is_fast:
            self._actor, self._target_actor = (feature_major(actor) for actor in actors)
            self._critics = [feature_major(q_net) for q_net in self.critic.q_networks]
            self._target_critics = [feature_major(q_net) for q_net in self.critic_target.q_networks]

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._is_fast:
            super().train(gradient_steps, batch_size)
            return
        assert self.replay_buffer is not None
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])

        actor_losses, critic_losses = [], []
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            discounts = self.gamma if batch.discounts is None else batch.discounts.t()
            observations = to_feature_major(batch.observations)
            next_observations = to_feature_major(batch.next_observations)
            actions = to_feature_major(batch.actions)

            noise = th.empty_like(batch.actions).normal_(0, self.target_policy_noise).t()
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            next_actions = self._target_actor.forward(next_observations, remember=False).tanh()
            next_actions = (next_actions + noise).clamp(-1, 1).contiguous()
            next_q = [q.forward(next_observations, next_actions, remember=False) for q in self._target_critics]
            min_next_q = th.cat(next_q).amin(0, keepdim=True)
            target_q = batch.rewards.t() + (1 - batch.dones.t()) * discounts * min_next_q

            critic_loss = 0.0
            for q in self._critics:
                loss, gradient = mean_squared_error(q.forward(observations, actions), target_q)
                q.backward(gradient)
                critic_loss += loss
            self.critic.optimizer.step()
            critic_losses.append(critic_loss)

            if self._n_updates % self.policy_delay == 0:
                actions_pi = self._actor.forward(observations).tanh()
                q_pi = self._critics[0].forward(observations, actions_pi)
                actor_losses.append(-q_pi.mean().item())
                slope = th.full_like(q_pi, -1 / q_pi.numel())
                action_gradient = self._critics[0].input_gradient(slope, block=1)
                self._actor.backward(action_gradient * (1 - actions_pi.square()))
                self.actor.optimizer.step()

                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if actor_losses:
            self.logger.record("train/actor_loss", np.mean(actor_losses))
        self.logger.record("train/critic_loss", np.mean(critic_losses))

    def _excluded_save_params(self) -> list[str]:
        own = ["_is_fast", "_actor", "_target_actor", "_critics", "_target_critics"]
        return [*super()._excluded_save_params(), *own]
