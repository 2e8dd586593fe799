"""
A method and a learner that belong together: connections grow where unseen transitions ask for them.

    python train.py --algo examples.held_out:HeldOut-examples.held_out:HeldOutSAC --env HalfCheetah-noise98 \
        --replay observed

Where noise comes back as it was seen, networks memorise it, and then gradients of known transitions do not tell it from
what matters. Those of new ones do. (How well it learns: docs/methods/screened.md.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sparse_rl.agents import SAC, ObservedReplayBuffer
from sparse_rl.nn import SparseLinear, sparse_layers
from sparse_rl.topology import SET, Topology, WeightGradient


@dataclass(frozen=True)
class HeldOut(SET):
    """SET, with growth where the gradient, over the transitions of a batch, differs from zero most clearly."""

    needs_gradient: ClassVar[bool] = True

    def grow(
        self, topology: Topology, count: int, generator: torch.Generator | None, gradient: WeightGradient | None
    ) -> Tensor:
        """Choose what to grow: flat positions that are free, sorted."""
        assert gradient is not None
        x, dy = gradient.inputs, gradient.d_outputs
        # Sum over standard deviation of the sum: near N(0, 1) for what has nothing to do with the loss.
        z = (dy.t() @ x) / (dy.square().t() @ x.square()).sqrt().clamp(min=1e-30)
        clearness = z.abs().flatten()
        clearness[topology.positions] = -1  # these exist
        return clearness.topk(count).indices.sort().values


class HeldOutReplayBuffer(ObservedReplayBuffer):
    """A replay buffer that keeps its newest transitions back."""

    n_held_out = 0
    shows_held_out = False

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store a transition, and keep it back."""
        super().add(*args, **kwargs)
        self.n_held_out += 1

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Sample from all others or, for once, from those that were kept back."""
        size, held_out = self.size(), min(self.n_held_out, self.size() // 2)
        ages = (0, max(1, held_out)) if self.shows_held_out else (held_out, size)
        return self._get_samples((self.pos - 1 - np.random.randint(*ages, size=batch_size)) % self.buffer_size, env)


class HeldOutSAC(SAC):
    """
    SAC that learns from its newest transitions only after they have been asked where to grow.

    :param args: those of Stable-Baselines3's ``SAC``
    :param held_out: the most steps to keep back; never more than half of all
    :param begin_anew: gradient steps after which all weights are drawn anew, and only the wiring stays; 0 for never
    :param kwargs: those of Stable-Baselines3's ``SAC``
    """

    #: What goes with it when `train.py` is to run it.
    recipe: ClassVar[Mapping[str, object]] = {"n_timesteps": 1_000_000, "learning_starts": 5000}

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: float = 3e-4,
        held_out: int = 1000,
        begin_anew: int = 0,
        **kwargs: Any,
    ):
        self.held_out = held_out
        self.begin_anew = begin_anew
        if kwargs.get("replay_buffer_class") is ObservedReplayBuffer:
            kwargs["replay_buffer_class"] = HeldOutReplayBuffer
        super().__init__(policy, env, learning_rate, **kwargs)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Train; if somebody watches gradients, which the topology update does, they are those of new transitions."""
        buffer = self.replay_buffer
        if not isinstance(buffer, HeldOutReplayBuffer):
            raise ValueError("HeldOutSAC holds back noise that is observed: use `--replay observed`.")
        buffer.n_held_out = min(buffer.n_held_out, self.held_out)
        buffer.shows_held_out = any(layer._forward_hooks for layer in sparse_layers(self.policy).values())
        before = self._n_updates
        super().train(gradient_steps, buffer.n_held_out if buffer.shows_held_out else batch_size)
        if buffer.shows_held_out:
            buffer.n_held_out, buffer.shows_held_out = 0, False
        if before < self.begin_anew <= self._n_updates:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget everything that was learnt but the wiring."""
        for module in self.policy.modules():
            if isinstance(module, SparseLinear):
                module.draw_values()
                if module.bias is not None:
                    module.bias.data.zero_()
            elif isinstance(module, nn.Linear):
                module.reset_parameters()
        self.critic_target.load_state_dict(self.critic.state_dict())
        for optimizer in (self.actor.optimizer, self.critic.optimizer):
            for moments in optimizer.state.values():
                for moment in moments.values():
                    moment.zero_()
