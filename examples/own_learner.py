"""
A learner of your own: any algorithm of Stable-Baselines3, changed as you like, with any method.

    python train.py --algo anf-examples.own_learner:ClippedSAC --env HalfCheetah-noise98 -params max_grad_norm:0.5
"""

from typing import Any, ClassVar

import torch
from stable_baselines3 import SAC


class ClippedSAC(SAC):
    """
    SAC, whose critics' gradients are clipped.

    :param args: those of Stable-Baselines3's ``SAC``
    :param max_grad_norm: the largest Euclidean norm of all the critics' gradients together
    :param kwargs: those of Stable-Baselines3's ``SAC``
    """

    #: What goes with it when `train.py` is to run it; --n-timesteps, -params and so on change it.
    recipe: ClassVar[dict[str, object]] = {"n_timesteps": 1_000_000, "learning_starts": 5000}

    def __init__(self, policy: Any, env: Any, learning_rate: float = 3e-4, max_grad_norm: float = 1.0, **kwargs: Any):
        self.max_grad_norm = max_grad_norm
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.critic.optimizer.register_step_pre_hook(lambda *_: self._clip())

    def _clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.max_grad_norm)
