"""What RLx2 (Tan et al. 2023) does to a replay buffer while an agent learns; it needs no state of its own for that."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sparse_rl.agents.replay.dynamic import DynamicReplayBuffer


class _ReplayCallback(BaseCallback):
    """A callback for agents that have a dynamic replay buffer."""

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, DynamicReplayBuffer):
            raise ValueError(
                f"{type(self).__name__} needs a DynamicReplayBuffer, not {type(buffer).__name__}: make the model with "
                "`replay_buffer_class=DynamicReplayBuffer`."
            )
        if buffer.gamma != self._learner.gamma:
            raise ValueError(
                f"The learner discounts by {self._learner.gamma}, its replay buffer by {buffer.gamma}: give "
                f'`replay_buffer_kwargs={{"gamma": {self._learner.gamma}}}`.'
            )

    def _on_step(self) -> bool:
        return True

    @property
    def _learner(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    @property
    def _buffer(self) -> DynamicReplayBuffer:
        assert isinstance(self._learner.replay_buffer, DynamicReplayBuffer)
        return self._learner.replay_buffer


class MultiStepCallback(_ReplayCallback):
    """
    Learn from one-step targets at first, and from multi-step targets later.

    Early on the policy changes fast, and rewards on the way were those of another policy; later that matters less than
    that the value at the end, which a sparse network estimates badly, is discounted more (Tan et al. 2023, section
    4.2.1). A switch falls between two calls of ``train()``.

    :param n_steps: over how many steps targets reach in the end
    :param delay: the number of gradient steps before that
    :raises ValueError: if a value is out of range
    """

    def __init__(self, n_steps: int = 3, delay: int = 300_000) -> None:
        super().__init__()
        if n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1, not {n_steps}: with 1, targets look one step ahead.")
        if delay < 0:
            raise ValueError(f"`delay` must be a number of gradient steps of at least 0, not {delay}.")
        self.n_steps = n_steps
        self.delay = delay

    def _on_training_start(self) -> None:
        self._set()

    def _on_rollout_end(self) -> None:
        self._set()

    def _set(self) -> None:
        is_early = self._learner._n_updates < self.delay
        self._buffer.n_steps = 1 if is_early else self.n_steps
        self.logger.record("replay/n_steps", self._buffer.n_steps)


class DynamicCapacityCallback(_ReplayCallback):
    """
    Drop the oldest transitions while the policy is far from the one that they come from.

    Every ``interval`` environment steps the policy's actions are compared with those that were taken in the oldest
    transitions. If the policy distance, which is half the mean squared difference with actions scaled to [-1, 1], is
    above the threshold, the oldest transitions go: a tenth of all, but no more than leaves the minimum. The buffer
    then fills again. Tan et al. 2023, section 4.2.2; what is done at a time, and how the distance is scaled, is as in
    the authors' code.

    Logs ``replay/policy_distance`` and ``replay/transitions``.

    :param threshold: the policy distance above which transitions are dropped
    :param interval: environment steps between two looks
    :param minimum: the number of transitions that stay in any case
    :param oldest: how many of the oldest transitions are looked at
    :param drop_fraction: fraction of all transitions to drop at a time, in (0, 1]
    :raises ValueError: if a value is out of range
    """

    def __init__(
        self,
        threshold: float = 0.2,
        interval: int = 10_000,
        minimum: int = 100_000,
        oldest: int = 2048,
        drop_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"The `threshold` of the policy distance must be above 0, not {threshold}.")
        for name, value in (("interval", interval), ("minimum", minimum), ("oldest", oldest)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, not {value}.")
        if not 0 < drop_fraction <= 1:
            raise ValueError(f"`drop_fraction` must lie in (0, 1], not {drop_fraction}.")
        self.threshold = threshold
        self.interval = interval
        self.minimum = minimum
        self.oldest = oldest
        self.drop_fraction = drop_fraction

    def check(self, capacity: int) -> None:
        """
        Check that there is room between the least and the greatest capacity.

        :param capacity: the most transitions that the replay buffer can hold
        :raises ValueError: if there is not
        """
        if self.minimum > capacity:
            raise ValueError(
                f"The replay buffer must never hold fewer than {self.minimum} transitions, its `minimum`, but it "
                f"holds at most {capacity}: give a smaller `minimum`, or a larger `buffer_size`."
            )

    def policy_distance(self) -> float:
        """
        Compare the present policy with the actions in the oldest transitions.

        :return: half the mean squared difference, over transitions and action dimensions; actions lie in [-1, 1]
        """
        observations, taken = self._buffer.oldest(self.oldest, self._learner.get_vec_normalize_env())
        now, _ = self.model.predict(observations, deterministic=True)
        now = self.model.policy.scale_action(now).reshape(taken.shape)
        return float(np.square(now - taken).mean()) / 2

    def _init_callback(self) -> None:
        super()._init_callback()
        if not isinstance(self.model.action_space, spaces.Box):
            raise ValueError(f"Only Box actions have a distance, not {self.model.action_space}.")
        self.check(self._buffer.buffer_size * self._buffer.n_envs)

    def _on_step(self) -> bool:
        # The number of steps is a multiple of that of environments, so this is so once in each interval. The step
        # itself is stored afterwards.
        if self.num_timesteps % self.interval < self._buffer.n_envs and self._buffer.size():
            self._look()
        return True

    def _look(self) -> None:
        distance, transitions = self.policy_distance(), self._buffer.size() * self._buffer.n_envs
        if distance > self.threshold and transitions > self.minimum:
            self._buffer.drop_oldest(min(int(self.drop_fraction * transitions), transitions - self.minimum))
        self.logger.record("replay/policy_distance", distance)
        self.logger.record("replay/transitions", self._buffer.size() * self._buffer.n_envs)
