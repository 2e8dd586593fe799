"""Twin delayed deep deterministic policy gradient: Stable-Baselines3's logic, on feature-major networks."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import stable_baselines3
import torch as th
from numpy.typing import NDArray
from torch import nn

from sparse_rl.agents.acting import Actor, is_acting_only
from sparse_rl.agents.learner import FastLearner
from sparse_rl.agents.networks import action_bounds, have_parameters_of_their_own, layers_of, parts_of, runs_fast
from sparse_rl.agents.optimizers import FastAdam, Following
from sparse_rl.agents.passes import td3_actor, td3_critics
from sparse_rl.nn import FeatureMajorMLP


@dataclass
class _Fast:
    action_bounds: tuple[NDArray[np.float32], NDArray[np.float32]]
    actor: FeatureMajorMLP
    critics: FeatureMajorMLP
    first_critic: FeatureMajorMLP
    target_actor: FeatureMajorMLP
    targets: FeatureMajorMLP
    actor_optimizer: FastAdam
    critic_optimizer: FastAdam
    actor_following: Following
    critic_following: Following
    is_stochastic = False


class TD3(FastLearner, stable_baselines3.TD3):
    """
    Twin delayed DDPG (Fujimoto et al. 2018), faster.

    Same arguments, hyperparameters and logs as Stable-Baselines3's ``TD3``, same results up to rounding, from the same
    random numbers. ``train()`` runs the networks through :class:`~sparse_rl.nn.FeatureMajorMLP`, both critics as one;
    for policies that this does not support (images, custom networks, other activations than ReLU, other devices than
    the CPU) it is Stable-Baselines3's.
    """

    _fast: _Fast | None

    def _present_parts(self) -> tuple[object, ...]:
        critics = (*parts_of(self.critic), *parts_of(self.critic_target))
        return (
            self.policy,
            self.actor,
            self.actor_target,
            *critics,
            self.actor.optimizer,
            getattr(self.critic, "optimizer", None),
        )

    def _adopt(self) -> _Fast | Actor | None:
        if is_acting_only(self.policy):
            return self._adopt_actor()
        # An actor ends with tanh, which is applied apart.
        if any(type(actor.mu[-1]) is not nn.Tanh for actor in (self.actor, self.actor_target)):
            return None
        actors = [layers_of(actor.mu)[:-1] for actor in (self.actor, self.actor_target)]
        critics, targets = (
            [layers_of(network) for network in critic.q_networks] for critic in (self.critic, self.critic_target)
        )
        if self.policy.actor is not self.actor:
            return None
        if not all(runs_fast(*each) for each in (actors[:1], actors[1:], critics, targets)):
            return None
        if not have_parameters_of_their_own(self.actor, self.actor_target, self.critic, self.critic_target):
            return None
        actor, target_actor = (FeatureMajorMLP(layers) for layers in actors)
        both, both_targets = FeatureMajorMLP(*critics), FeatureMajorMLP(*targets)
        return _Fast(
            action_bounds(self.policy), actor, both, FeatureMajorMLP(critics[0]), target_actor, both_targets,
            FastAdam(self.actor.optimizer, actor.stacks), FastAdam(self.critic.optimizer, both.stacks),
            Following(target_actor, actor), Following(both_targets, both),
        )  # fmt: skip

    def _adopt_actor(self) -> Actor | None:
        layers = layers_of(self.actor.mu)
        if not layers or type(layers[-1]) is not nn.Tanh or self.policy.actor is not self.actor:
            return None
        if not runs_fast(layers[:-1]):
            return None
        return Actor(action_bounds(self.policy), FeatureMajorMLP(layers[:-1]), is_stochastic=False)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Do gradient steps on batches from the replay buffer.

        :param gradient_steps: how many
        :param batch_size: transitions in each batch
        """
        if not self._follow():
            super().train(gradient_steps, batch_size)
            return
        fast = self._fast
        assert fast is not None
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        actor_losses, critic_losses = [], []
        networks = (fast.actor, fast.critics, fast.target_actor, fast.targets, fast.first_critic)
        with self._at_work(networks, [fast.actor_optimizer, fast.critic_optimizer]) as threads:
            for _ in range(gradient_steps):
                self._n_updates += 1
                is_actors_turn = self._n_updates % self.policy_delay == 0
                actor_loss, critic_loss = self._take_gradient_step(fast, batch_size, is_actors_turn, threads)
                critic_losses.append(critic_loss)
                if actor_loss is not None:
                    actor_losses.append(actor_loss)
            fast.critics.show_gradients()
            if actor_losses:
                fast.actor.show_gradients()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if actor_losses:
            self.logger.record("train/actor_loss", fmean(actor_losses))
        if critic_losses:
            self.logger.record("train/critic_loss", fmean(critic_losses))

    def _take_gradient_step(
        self, fast: _Fast, n: int, is_actors_turn: bool, threads: int
    ) -> tuple[float | None, float]:
        """Update the critics and perhaps the actor and the targets once, and give actor's and critics' loss."""
        batch = self._sample(n, fast.critics.in_features)
        n_features, n_actions = fast.actor.in_features, batch.n_actions
        noise = th.empty(n, n_actions).normal_(0, self.target_policy_noise)
        target_actor = fast.target_actor.prepare(n, remember=False).table
        critics = fast.critics.prepare(n, first=fast.critics.in_features).table
        targets = fast.targets.prepare(n, remember=False).table
        place = batch.place

        critic_loss = td3_critics(
            target_actor, critics, targets, *place, batch[2:], noise.numpy(), self.target_noise_clip, threads
        )
        fast.critic_optimizer.step()
        if not is_actors_turn:
            return None, critic_loss
        actor = fast.actor.prepare(n, first=n_features).table
        first_critic = fast.first_critic.prepare(n, first=n_features).table
        height = td3_actor(actor, first_critic, *place, n_actions, n, threads)
        fast.actor_optimizer.step()
        fast.critic_following.step(self.tau)
        fast.actor_following.step(self.tau)
        return -height, critic_loss
