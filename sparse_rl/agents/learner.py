"""What the learners have in common: they look at the networks, and run them in feature-major layout if they can."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import is_
from threading import RLock
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sparse_rl.agents.acting import WHY, is_acting_only
from sparse_rl.agents.networks import Watch, has_known_networks, is_batch
from sparse_rl.agents.optimizers import FastAdam
from sparse_rl.agents.passes import act
from sparse_rl.agents.replay.batches import Batch, sample
from sparse_rl.kernels import follow_torch, kernels_only
from sparse_rl.nn import FeatureMajorMLP

# Passes work in memory of their own, one at a time.
_AT_WORK = RLock()

# What is made anew when a saved model is loaded.
_OWN = ("_fast", "_parts", "_watch", "_is_settled")


class FastLearner(OffPolicyAlgorithm):
    """
    An off-policy algorithm that replaces Stable-Baselines3's ``train()`` and ``predict()`` by faster ones.

    Subclasses say what their networks are; whatever is done to these between two calls is followed.
    """

    #: The networks and optimizers, in the form in which they are run; ``None`` if that is not possible.
    _fast: Any
    _parts: tuple[object, ...] | None
    _watch: Watch
    _is_settled: bool

    def _setup_model(self) -> None:
        self._fast, self._parts = None, None
        super()._setup_model()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if is_acting_only(self.policy):
            raise ValueError(WHY)
        return super()._setup_learn(*args, **kwargs)

    @abstractmethod
    def _present_parts(self) -> tuple[object, ...]:
        """List what the learner uses now, and what may be replaced: policy, networks, optimizers."""

    @abstractmethod
    def _adopt(self) -> object:
        """Make :attr:`_fast` from the present networks; ``None`` if they are not of a kind that can run here."""

    def _follow(self) -> bool:
        """Look at the present networks and optimizers, which may have been replaced; tell whether they can run here."""
        parts = self._present_parts()
        is_known = self._parts is not None and len(parts) == len(self._parts) and all(map(is_, parts, self._parts))
        if not (is_known and self._watch.is_as_it_was()):
            self._fast, self._parts, self._watch, self._is_settled = None, parts, Watch(self.policy), False
        if self._watch.has_hooks():
            return False
        if not self._is_settled:
            self._fast = self._adopt() if has_known_networks(self.policy) else None
            self._is_settled = True
        return self._fast is not None

    @contextmanager
    def _at_work(self, networks: Sequence[FeatureMajorMLP], optimizers: Sequence[FastAdam]) -> Iterator[int]:
        """Give the threads to the kernels, and promise that nobody changes these meanwhile; say how many threads."""
        with _AT_WORK, kernels_only(), ExitStack() as stack:
            for network in networks:
                network.follow()  # before the optimizers, which follow the networks
            for optimizer in optimizers:
                stack.enter_context(optimizer.steady())
            # An optimizer of another kind may do anything to the parameters: then every pass looks.
            for network in networks if all(optimizer.is_plain for optimizer in optimizers) else ():
                stack.enter_context(network.steady())
            yield follow_torch()

    def _sample(self, n: int, n_inputs: int) -> Batch:
        """Sample a batch for critics of so many inputs."""
        assert self.replay_buffer is not None
        batch = sample(self.replay_buffer, n, self._vec_normalize_env, self.gamma)
        if len(batch.inputs) != n_inputs:  # a pass would read out of bounds
            raise ValueError(f"Expected {n_inputs} features and actions in the replay buffer, not {len(batch.inputs)}.")
        return batch

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """
        Choose actions.

        :param observation: observations, of shape ``(batch, features)``
        :param state: not used
        :param episode_start: not used
        :param deterministic: whether to take the mean of a stochastic policy instead of drawing actions
        :return: actions, of shape ``(batch, action dimensions)``, and ``state``
        """
        space = self.action_space
        if not (self._follow() and is_batch(self.policy, observation)):
            return super().predict(observation, state, episode_start, deterministic)
        assert isinstance(observation, np.ndarray)
        assert isinstance(space, spaces.Box)
        (n, n_features), (low, high) = observation.shape, self._fast.action_bounds
        if n_features != self._fast.actor.in_features:
            raise ValueError(f"Expected {self._fast.actor.in_features} features, not {n_features}.")
        actions = np.empty((n, low.size), np.float32)
        noise = actions[:, :0]
        if self._fast.is_stochastic and not deterministic:
            noise = th.empty(n, low.size).normal_().numpy()
        with _AT_WORK:
            table = self._fast.actor.prepare(n, remember=False).table
            act(table, observation, noise, low, high, actions, 1 if n == 1 else follow_torch())
        return actions.reshape(-1, *space.shape), state

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OWN]
