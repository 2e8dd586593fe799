"""
What SAC and TD3 compute in a gradient step, compiled: all but the draws before and the optimizer's steps in between.

For networks as small as theirs a step is a few hundred microseconds of arithmetic; a step back into Python between its
parts, with caches full of the batch, would take as long again.

Networks are the tables of :meth:`sparse_rl.nn.FeatureMajorMLP.prepare`. Activations are feature-major, of shape
``(features, batch)``. Observations and next observations lie side by side, ``(features, 2 * batch)``, and the rows
below them belong to the actions: critics read both as one. All numbers are float32.
"""

from math import log as logarithm
from math import pi
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sparse_rl.caching import cached_njit
from sparse_rl.kernels.elementary import exp, log, tanh
from sparse_rl.kernels.network import backward, forward
from sparse_rl.kernels.simd import array_at

Floats = NDArray[np.float32]

_EPSILON = np.float32(SquashedDiagGaussianDistribution(1).epsilon)
_LOW, _HIGH = np.float32(LOG_STD_MIN), np.float32(LOG_STD_MAX)
_HALF_LOG_2_PI = np.float32(0.5 * logarithm(2 * pi))
_ONE, _TWO, _HALF = np.float32(1), np.float32(2), np.float32(0.5)
_ITEM = 4  # bytes of a number


@njit
def _flags() -> Any:
    # Numba compiles a function anew for each literal that it is called with; these are not literals.
    return np.bool_(False), np.bool_(True), np.int64(0)


@njit
def _like() -> Any:
    return np.empty(0, np.float32)


@njit
def _address(array: Any) -> Any:
    # Numba's address is unsigned, and the sum of that and a signed number is a float.
    return np.int64(array.ctypes.data)


@njit
def _output(network: Any) -> Any:
    last = network[network.size - 1]
    return array_at(last.out, (last.rows, last.out_stride), _like())


@njit
def _output_gradient(network: Any) -> Any:
    last = network[network.size - 1]
    return array_at(last.d_out, (last.rows, last.d_out_stride), _like())


# The arrays behind addresses are arguments in all of these: Numba frees an array of a function's own after the last
# line that names it, where its address may still be at work.


@njit
def _run(network: Any, x: int, stride: int, n: int, threads: int) -> None:
    forward(network, x, stride, n, threads, _like())


@njit
def _run_array(network: Any, x: Any, stride: int, threads: int) -> None:
    _run(network, _address(x), stride, x.shape[1], threads)


@njit
def _actions_in(x: int, stride: int, first: int, n_actions: int) -> Any:
    """Give the rows of a batch that belong to the actions."""
    return array_at(x + first * stride * _ITEM, (n_actions, stride), _like())


@njit
def _differentiate(network: Any, x: int, stride: int, n: int, threads: int) -> None:
    """Write the gradients of a network's parameters."""
    _, yes, none = _flags()
    backward(network, x, stride, n, yes, none, none, threads, _like())


@njit
def _differentiate_actions(critics: Any, x: int, stride: int, d_actions: Any, threads: int) -> None:
    """Write the gradient of the actions, the only inputs whose gradient a critic was prepared for."""
    no = _flags()[0]
    n = d_actions.shape[1]
    backward(critics, x, stride, n, no, _address(d_actions), n, threads, _like())


@njit(error_model="numpy")
def squash(parameters: Any, noise: Any, actions: Any, log_prob: Any) -> None:
    """
    Draw actions from a Gaussian and squash them by tanh, as ``SquashedDiagGaussianDistribution`` does.

    :param parameters: means and logarithms of standard deviations, ``(2 * action dimensions, at least n)``
    :param noise: standard normal numbers, ``(n, action dimensions)``
    :param actions: the result, ``(action dimensions, n)``
    :param log_prob: their log-probabilities, ``(n,)``
    """
    n_actions, n = actions.shape
    z = np.empty(n, np.float32)
    log_prob[:] = 0
    for i in range(n_actions):
        for b in range(n):
            z[b] = noise[b, i]
        mean, log_std, row = parameters[i], parameters[n_actions + i], actions[i]
        for b in range(n):
            spread = _clamp(log_std[b])
            action = tanh(mean[b] + exp(spread) * z[b])
            row[b] = action
            log_prob[b] -= _HALF * z[b] * z[b] + spread + _HALF_LOG_2_PI + log(_ONE - action * action + _EPSILON)


@njit(inline="always")
def _clamp(log_std: Any) -> Any:
    # Written so that a NaN stays.
    log_std = _LOW if log_std < _LOW else log_std
    return _HIGH if log_std > _HIGH else log_std


@njit(error_model="numpy")
def unsquash(parameters: Any, noise: Any, actions: Any, d_actions: Any, d_log_prob: Any, d_parameters: Any) -> None:
    """
    Compute the gradient of what :func:`squash` was given, for the first ``n`` columns.

    :param parameters: as there
    :param noise: as there
    :param actions: what it gave
    :param d_actions: the gradient of the actions, ``(action dimensions, n)``
    :param d_log_prob: the gradient of the log-probabilities, the same for all
    :param d_parameters: the result, ``(2 * action dimensions, at least n)``
    """
    n_actions, n = d_actions.shape
    for i in range(n_actions):
        for b in range(n):
            action, log_std = actions[i, b], parameters[n_actions + i, b]
            slope = _ONE - action * action
            gradient = (d_actions[i, b] + d_log_prob * _TWO * action / (slope + _EPSILON)) * slope
            d_parameters[i, b] = gradient
            inner = gradient * exp(_clamp(log_std)) * noise[b, i] - d_log_prob
            d_parameters[n_actions + i, b] = 0 if log_std < _LOW or log_std > _HIGH else inner


@njit(error_model="numpy")
def regress(
    q: Any, next_q: Any, penalty: Any, weight: Any, rewards: Any, dones: Any, discounts: Any, scale: Any, error: Any
) -> float:
    """
    Compute the temporal-difference error of the critics.

    :param q: their predictions, ``(critics, at least n)``
    :param next_q: those of the target critics for what follows, of the same shape; the smallest counts
    :param penalty: what is subtracted from the value of what follows, ``(n,)``: SAC's log-probabilities
    :param weight: by how much: SAC's entropy coefficient; 0 if there is no penalty
    :param rewards: ``(1, n)``
    :param dones: ``(1, n)``
    :param discounts: ``(1, n)``, or one for all, ``(1, 1)``
    :param scale: of the gradient: 2 for the mean squared error, 1 for half of it
    :param error: the gradient of the predictions, of the shape of ``q``
    :return: the sum of the critics' mean squared errors
    """
    n_critics, n, total = len(q), rewards.shape[1], 0.0
    step = np.float32(scale / n)
    for b in range(n):
        value = next_q[0, b]
        for k in range(1, n_critics):
            # Written so that a NaN stays.
            value = value if value < next_q[k, b] or np.isnan(value) else next_q[k, b]
        if weight != 0:
            value -= weight * penalty[b]
        discount = discounts[0, b if discounts.size > 1 else 0]
        target = rewards[0, b] + (_ONE - dones[0, b]) * discount * value
        for k in range(n_critics):
            e = q[k, b] - target
            total += e * e
            error[k, b] = e * step
    return float(total / n)


@njit(error_model="numpy")
def ascend(q: Any, slope: Any, n: int) -> float:
    """
    Compute what an actor climbs: the mean of the smallest of the critics' predictions.

    :param q: the predictions, ``(critics, at least n)``
    :param slope: the gradient of the negative mean with respect to them, of the same shape
    :param n: columns of the batch
    :return: the mean
    """
    step, total = np.float32(-1 / n), 0.0
    for b in range(n):
        smallest = 0
        for k in range(len(q)):
            slope[k, b] = 0
            # The first of the smallest, or the first that is not a number.
            if q[k, b] < q[smallest, b] or (np.isnan(q[k, b]) and not np.isnan(q[smallest, b])):
                smallest = k
        slope[smallest, b] = step
        total += q[smallest, b]
    return float(total / n)


@cached_njit()
def sac_critics(
    actor: Any, critics: Any, targets: Any, x: int, stride: int, batch: Any, noise: Floats, drawn: Any,
    ent_coef: float, threads: int,
) -> tuple[float, float]:  # fmt: skip
    """
    Draw SAC's actions for observations and next observations, and write the gradients of the critics.

    :param actor: the actor's network, prepared for ``2 * n`` columns
    :param critics: the critics', prepared for ``n``
    :param targets: the target critics'
    :param x: address of observations and next observations with the actions below them, ``(inputs, 2 * n)``; those
        that follow are written here
    :param stride: elements between two rows of them
    :param batch: rewards, dones, discounts: see :func:`regress`
    :param noise: see :func:`squash`
    :param drawn: where the drawn actions ``(action dimensions, 2 * n)`` and their log-probabilities ``(2 * n,)`` go
    :param ent_coef: the entropy coefficient
    :param threads: how many threads share the work
    :return: the sum of the critics' mean squared errors, and the mean log-probability for the observations
    """
    rewards, dones, discounts = batch
    drawn_actions, log_prob = drawn
    n = rewards.shape[1]
    _run(actor, x, stride, 2 * n, threads)
    squash(_output(actor), noise, drawn_actions, log_prob)
    _actions_in(x, stride, actor[0].inputs, len(drawn_actions))[:, n : 2 * n] = drawn_actions[:, n:]
    _run(targets, x + n * _ITEM, stride, n, threads)
    _run(critics, x, stride, n, threads)
    # Each critic's loss is half of its mean squared error.
    loss = regress(
        _output(critics), _output(targets), log_prob[n:], np.float32(ent_coef), rewards, dones, discounts, 1.0,
        _output_gradient(critics),
    )  # fmt: skip
    _differentiate(critics, x, stride, n, threads)
    return loss, float(log_prob[:n].mean())


@cached_njit()
def sac_actor(
    actor: Any, critics: Any, x: int, stride: int, noise: Floats, actions: Floats, ent_coef: float, threads: int
) -> float:
    """
    Write the gradients of SAC's actor: its loss is mean(ent_coef * log_prob - min Q).

    :param actor: the actor's network, after the pass of :func:`sac_critics`
    :param critics: the critics'
    :param x: address of the observations with the actions below them; those that were drawn are written here
    :param stride: elements between two rows of them
    :param noise: as there
    :param actions: the actions that were drawn there
    :param ent_coef: the entropy coefficient
    :param threads: how many threads share the work
    :return: the mean of the smaller of the critics' predictions
    """
    n = actions.shape[1] // 2
    _actions_in(x, stride, actor[0].inputs, len(actions))[:, :n] = actions[:, :n]
    _run(critics, x, stride, n, threads)
    height = ascend(_output(critics), _output_gradient(critics), n)
    d_actions = np.empty((len(actions), n), np.float32)
    _differentiate_actions(critics, x, stride, d_actions, threads)
    unsquash(_output(actor), noise, actions, d_actions, np.float32(ent_coef / n), _output_gradient(actor))
    _differentiate(actor, x, stride, n, threads)
    return height


@njit
def _squash_only(parameters: Any, actions: Any) -> None:
    for i in range(len(actions)):
        row, result = parameters[i], actions[i]
        for b in range(result.size):
            result[b] = tanh(row[b])


@cached_njit()
def td3_critics(
    target_actor: Any, critics: Any, targets: Any, x: int, stride: int, batch: Any, noise: Floats, clip: float,
    threads: int,
) -> float:  # fmt: skip
    """
    Write the gradients of TD3's critics.

    :param target_actor: the target actor's network, prepared for ``n`` columns
    :param critics: the critics'
    :param targets: the target critics'
    :param x: address of observations and next observations with the actions below them, ``(inputs, 2 * n)``; those
        that follow are written here
    :param stride: elements between two rows of them
    :param batch: rewards, dones, discounts: see :func:`regress`
    :param noise: what is added to the next actions, ``(n, action dimensions)``
    :param clip: the largest amount of it
    :param threads: how many threads share the work
    :return: the sum of the critics' mean squared errors
    """
    rewards, dones, discounts = batch
    n, most = rewards.shape[1], np.float32(clip)
    following = x + n * _ITEM
    _run(target_actor, following, stride, n, threads)
    actions = _actions_in(following, stride, target_actor[0].inputs, noise.shape[1])[:, :n]
    _squash_only(_output(target_actor), actions)
    for i in range(len(actions)):
        for b in range(n):
            action = actions[i, b] + min(max(noise[b, i], -most), most)
            action = -_ONE if action < -_ONE else action  # a NaN stays
            actions[i, b] = _ONE if action > _ONE else action
    _run(targets, following, stride, n, threads)
    _run(critics, x, stride, n, threads)
    loss = regress(
        _output(critics), _output(targets), rewards[0], np.float32(0), rewards, dones, discounts, 2.0,
        _output_gradient(critics),
    )  # fmt: skip
    _differentiate(critics, x, stride, n, threads)
    return loss


@cached_njit()
def td3_actor(actor: Any, critic: Any, x: int, stride: int, n_actions: int, n: int, threads: int) -> float:
    """
    Write the gradients of TD3's actor: its loss is the negative mean of the first critic's prediction.

    :param actor: the actor's network, prepared for ``n`` columns
    :param critic: the first critic's
    :param x: address of the observations with the actions below them, ``(inputs, at least n)``; the actor's are written
        here
    :param stride: elements between two rows of them
    :param n_actions: action dimensions
    :param n: columns of the batch
    :param threads: how many threads share the work
    :return: the mean prediction
    """
    _run(actor, x, stride, n, threads)
    actions, d_actions = _actions_in(x, stride, actor[0].inputs, n_actions), np.empty((n_actions, n), np.float32)
    _squash_only(_output(actor), actions[:, :n])
    _run(critic, x, stride, n, threads)
    height = ascend(_output(critic), _output_gradient(critic), n)
    _differentiate_actions(critic, x, stride, d_actions, threads)
    gradient = _output_gradient(actor)
    for i in range(n_actions):
        for b in range(n):
            gradient[i, b] = d_actions[i, b] * (_ONE - actions[i, b] * actions[i, b])
    _differentiate(actor, x, stride, n, threads)
    return height


@cached_njit()
def act(
    actor: Any, observations: Floats, noise: Floats, low: Floats, high: Floats, actions: Floats, threads: int
) -> None:  # fmt: skip
    """
    Choose actions.

    :param actor: the actor's network, prepared for ``n`` columns
    :param observations: of shape ``(n, features)``
    :param noise: see :func:`squash`; empty for deterministic actions
    :param low: smallest actions of the environment, ``(action dimensions,)``
    :param high: largest actions of the environment, of the same shape
    :param actions: the result, in the environment's scale, ``(n, action dimensions)``
    :param threads: how many threads share the work
    """
    n, n_features = observations.shape
    x, one = observations.reshape(n_features, n), np.int64(1)
    if n > 1:
        x = np.empty((n_features, n), np.float32)
        x[:] = observations.T
    _run_array(actor, x, x.shape[1] if n > 1 else one, threads)
    squashed = np.empty((actions.shape[1], n), np.float32)
    if noise.size:
        squash(_output(actor), noise, squashed, np.empty(n, np.float32))
    else:
        _squash_only(_output(actor), squashed)
    for b in range(n):
        for i in range(actions.shape[1]):
            actions[b, i] = low[i] + (_HALF * (squashed[i, b] + _ONE)) * (high[i] - low[i])
