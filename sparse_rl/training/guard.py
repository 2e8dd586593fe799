"""What ends training before its time: a signal, or numbers that are none any longer."""

import math
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sparse_rl.sb3.steps import gradient_steps
from sparse_rl.training.signals import ending_signals

#: A loss beyond this has exploded: it is that of values of 1e12, and soon 32-bit numbers end.
EXPLODED = 1e24
#: Seconds that an evaluation may go on for after a signal.
PATIENCE = 10.0
_ENDING = (
    "\nEnding after this step (on-policy learners: this rollout); an evaluation in progress has "
    f"{PATIENCE:.0f} seconds. Then everything is saved. A second signal (Ctrl-C) ends the process at once.\n"
).encode()
# Losses that the algorithms log, and what they train.
_NETWORKS = {
    "actor_loss": "actor",
    "critic_loss": "critics",
    "ent_coef_loss": "entropy coefficient",
    "policy_gradient_loss": "actor",
    "policy_loss": "actor",
    "policy_objective": "actor",
    "value_loss": "critic",
    "loss": "networks",
}


class TrainingEnded(Exception):  # noqa: N818 - no error
    """Training ends here, between two rollouts."""


class GuardCallback(BaseCallback):
    """
    End training cleanly when it cannot or shall not go on: at a signal, or when numbers stop being finite.

    A signal only raises a flag, so it never strikes in the middle of an update; training ends between two rollouts,
    where checkpoints are taken. A second one acts at once.

    :param ends_at_second: whether it does; not where whoever started this process sends one too
    """

    def __init__(self, ends_at_second: bool = True) -> None:
        super().__init__()
        self.ends_at_second = ends_at_second
        self.signal: signal.Signals | None = None
        self.failure: str | None = None
        self._signalled_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def is_pressing(self) -> bool:
        """Whether there was a signal, and so long ago that nothing lengthy may go on."""
        return self.signal is not None and time.monotonic() - self._signalled_at > PATIENCE

    def __enter__(self) -> "GuardCallback":
        for number in ending_signals():
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal, self._signalled_at = signal.Signals(number), time.monotonic()
        if self.ends_at_second:
            self.__exit__()
        # Past Python's buffers, in which the signal may have come.
        with suppress(OSError, ValueError, AttributeError):  # nobody may be listening
            os.write(sys.stderr.fileno(), _ENDING)

    def _on_step(self) -> bool:
        for name, key in (("observation", "new_obs"), ("reward", "rewards"), ("action", "actions")):
            finite = np.isfinite(self.locals[key]).reshape(self.training_env.num_envs, -1).all(axis=1)
            if not finite.all():
                self.failure = self._where(f"NaN or infinite {name} in environment {finite.argmin()}")
        return self.failure is None

    def _on_rollout_start(self) -> None:
        for name, network in _NETWORKS.items():
            loss = self.logger.name_to_value.get(f"train/{name}", 0.0)
            if not abs(loss) < EXPLODED:  # NaN is not less
                self.end(f"the loss of the {network} is {loss:.3g}")

    def check_weights(self) -> None:
        """
        Check that all weights are finite numbers.

        :raises TrainingEnded: if not
        """
        name = first_not_finite(self.model)
        if name is not None:
            self.end(f"{name} has weights that are NaN or infinite")

    def end(self, why: str) -> None:
        """
        End training because of what it has come to.

        :param why: what happened
        :raises TrainingEnded: always
        """
        self.failure = self._where(why)
        raise TrainingEnded

    def _where(self, why: str) -> str:
        model = self.model
        when = f"step {model.num_timesteps} (gradient step {gradient_steps(model)}, seed {model.seed})"
        return f"Training ended at {when}: {why}."


def first_not_finite(model: BaseAlgorithm) -> str | None:
    """
    Find weights that are no numbers any longer.

    :param model: an agent
    :return: the name of the first parameter with NaN or infinity in it, such as ``critic.qf0.0.weight``, or ``None``
    """
    parameters: dict[str, th.Tensor] = dict(model.policy.named_parameters())
    log_ent_coef = getattr(model, "log_ent_coef", None)
    if isinstance(log_ent_coef, th.Tensor):
        parameters["log_ent_coef"] = log_ent_coef
    # A sum is finite only if all its terms are, and takes one pass; one that overflows is looked at again.
    return next(
        (
            name
            for name, p in parameters.items()
            if not math.isfinite(p.detach().sum()) and not p.detach().isfinite().all()
        ),
        None,
    )
