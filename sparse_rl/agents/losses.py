"""The small arithmetic between networks, compiled: one call instead of a dozen operators on a row of numbers."""

from math import log, pi
from typing import Any

import numpy as np
import torch as th
from numba import njit
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

_EPSILON = np.float32(SquashedDiagGaussianDistribution(1).epsilon)
_LOW, _HIGH = np.float32(LOG_STD_MIN), np.float32(LOG_STD_MAX)
_HALF_LOG_2_PI = np.float32(0.5 * log(2 * pi))


@njit(cache=True)
def _squash(parameters: Any, noise: Any, actions: Any, log_prob: Any) -> None:
    n_actions, n_batch = actions.shape
    one, half = parameters.dtype.type(1), parameters.dtype.type(0.5)
    log_prob[:] = 0
    for i in range(n_actions):
        for b in range(n_batch):
            log_std = _clamp(parameters[n_actions + i, b])
            z = noise[b, i]
            action = np.tanh(parameters[i, b] + np.exp(log_std) * z)
            actions[i, b] = action
            log_prob[0, b] -= half * z * z + log_std + _HALF_LOG_2_PI + np.log(one - action * action + _EPSILON)


@njit
def _clamp(log_std: Any) -> Any:
    # Written so that a NaN stays.
    if log_std < _LOW:
        return _LOW
    return _HIGH if log_std > _HIGH else log_std


@njit(cache=True)
def _unsquash(parameters: Any, noise: Any, actions: Any, d_actions: Any, d_log_prob: Any, d_parameters: Any) -> None:
    n_actions, n_batch = d_actions.shape
    one, two = parameters.dtype.type(1), parameters.dtype.type(2)
    for i in range(n_actions):
        for b in range(n_batch):
            action, log_std = actions[i, b], parameters[n_actions + i, b]
            slope = one - action * action
            gradient = (d_actions[i, b] + d_log_prob * two * action / (slope + _EPSILON)) * slope
            d_parameters[i, b] = gradient
            is_clamped = log_std < _LOW or log_std > _HIGH
            inner = gradient * np.exp(log_std) * noise[b, i] - d_log_prob
            d_parameters[n_actions + i, b] = 0 if is_clamped else inner


class SquashedGaussian:
    """
    Actions drawn from a Gaussian and squashed by tanh, with a backward pass.

    :param parameters: means and logarithms of standard deviations, of shape ``(2 * action dimensions, batch)``
    :param noise: standard normal numbers, of shape ``(batch, action dimensions)``
    """

    def __init__(self, parameters: th.Tensor, noise: th.Tensor) -> None:
        self._parameters, self._noise = parameters.numpy(), noise.numpy()
        n_actions, n_batch = noise.shape[1], noise.shape[0]
        #: The actions, of shape ``(action dimensions, batch)``.
        self.actions = parameters.new_empty(n_actions, n_batch)
        #: Their log-probabilities, of shape ``(1, batch)``.
        self.log_prob = parameters.new_empty(1, n_batch)
        _squash(self._parameters, self._noise, self.actions.numpy(), self.log_prob.numpy())

    def backward(self, d_actions: th.Tensor, d_log_prob: float) -> th.Tensor:
        """
        Compute the gradient of the parameters from those of the first actions and log-probabilities.

        :param d_actions: of shape ``(action dimensions, n)``
        :param d_log_prob: one number, the same for all
        :return: tensor of shape ``(2 * action dimensions, n)``
        """
        gradient = d_actions.new_empty(2 * d_actions.shape[0], d_actions.shape[1])
        weight = self._parameters.dtype.type(d_log_prob)
        _unsquash(
            self._parameters, self._noise, self.actions.numpy(), d_actions.numpy(), weight, gradient.numpy()
        )  # fmt: skip
        return gradient


@njit(cache=True)
def _regress(
    q: Any, next_q: Any, penalty: Any, weight: Any, rewards: Any, dones: Any, discounts: Any, scale: Any, error: Any
) -> float:
    n_critics, n_batch = q.shape
    one, total = q.dtype.type(1), 0.0
    for b in range(n_batch):
        value = next_q[0, b]
        for k in range(1, n_critics):
            # Written so that a NaN stays.
            value = value if value < next_q[k, b] or np.isnan(value) else next_q[k, b]
        if weight != 0:
            value -= weight * penalty[0, b]
        discount = discounts[0, b if discounts.size > 1 else 0]
        target = rewards[0, b] + (one - dones[0, b]) * discount * value
        for k in range(n_critics):
            e = q[k, b] - target
            total += e * e
            error[k, b] = e * scale
    return float(total / n_batch)


def regress(
    q: th.Tensor,
    next_q: th.Tensor,
    batch: Any,
    scale: float,
    penalty: th.Tensor | None = None,
    weight: float = 0.0,
) -> tuple[float, th.Tensor]:
    """
    Compute the temporal-difference error of the critics.

    :param q: their predictions, of shape ``(critics, batch)``
    :param next_q: those of the target critics for what follows, of the same shape; the smallest counts
    :param batch: the :class:`~sparse_rl.agents.batches.Batch`
    :param scale: of the gradient: 2 for the mean squared error, 1 for half of it
    :param penalty: what is subtracted from the value of what follows, ``(1, batch)``: SAC's log-probabilities
    :param weight: by how much: SAC's entropy coefficient
    :return: the sum of the critics' mean squared errors, and the gradient of the predictions
    """
    gradient = th.empty_like(q)
    kind = q.numpy().dtype.type
    discounts = batch.discounts if isinstance(batch.discounts, th.Tensor) else th.full((1, 1), batch.discounts)
    loss = _regress(
        q.numpy(), next_q.numpy(), (next_q if penalty is None else penalty).numpy(), kind(weight),
        batch.rewards.numpy(), batch.dones.numpy(), discounts.numpy(), kind(scale / q.shape[1]), gradient.numpy(),
    )  # fmt: skip
    return loss, gradient


@njit(cache=True)
def _ascend(q: Any, slope: Any) -> float:
    n_critics, n_batch = q.shape
    step, total = q.dtype.type(-1 / n_batch), 0.0
    for b in range(n_batch):
        smallest = 0
        for k in range(n_critics):
            slope[k, b] = 0
            # The first of the smallest, or the first that is not a number.
            if q[k, b] < q[smallest, b] or (np.isnan(q[k, b]) and not np.isnan(q[smallest, b])):
                smallest = k
        slope[smallest, b] = step
        total += q[smallest, b]
    return float(total / n_batch)


def ascend(q: th.Tensor) -> tuple[float, th.Tensor]:
    """
    Compute what an actor climbs: the mean of the smallest of the critics' predictions.

    :param q: the predictions, of shape ``(critics, batch)``
    :return: the mean, and the gradient of its negative with respect to the predictions
    """
    slope = th.empty_like(q)
    return _ascend(q.numpy(), slope.numpy()), slope
