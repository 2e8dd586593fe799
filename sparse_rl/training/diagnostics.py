"""How alive an agent's networks are, seen on a batch of what it learns from. Looking changes nothing afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac import SAC
from stable_baselines3.td3 import TD3
from torch import nn

from sparse_rl.agents.replay.buffers import RedrawnReplayBuffer
from sparse_rl.metrics import (
    Passage,
    dormant_ratio,
    effective_rank,
    gradient_signal_to_noise,
    hidden_activations,
    linear_layers,
    passages,
    srank,
)
from sparse_rl.nn import SparseLinear
from sparse_rl.training.measurement import networks

BATCH_SIZE = 256


def diagnose(model: BaseAlgorithm, batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """
    Look at an agent's networks. Weights, gradients, random numbers and what it learns from are left as they were.

    :param model: an agent
    :param batch_size: transitions to look at: of the replay, or of the present rollout at regular distances
    :return: for each network ``dormant_<network>``, ``srank_<network>``, ``effective_rank_<network>``, and for each
        critic of SAC, TD3 and DDPG ``gradient_snr_<network>``: NaN where numbers are not finite. Nothing if there are
        no transitions: before the first one, and when a new rollout has just begun
    """
    figures: dict[str, float] = {}
    with _without_trace(model), th.enable_grad():
        batch: ReplayBufferSamples | None = None
        if isinstance(model, OnPolicyAlgorithm):
            observations = _of_rollout(model, batch_size)
        elif isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None and model.replay_buffer.size():
            batch = model.replay_buffer.sample(batch_size, env=model._vec_normalize_env)
            observations = batch.observations
        else:
            return {}
        if not len(observations):
            return {}
        with th.no_grad():
            seen = passages(nn.ModuleList(networks(model).values()), lambda: _run(model, observations, batch))
        for name, network in networks(model).items():
            layers = linear_layers(network)
            through = [passage for passage in seen if any(passage.layer is layer for layer in layers)]
            for figure, value in _activity(through).items():
                figures[f"{figure}_{name}"] = value
        if isinstance(model, SAC | TD3) and batch is not None:
            figures |= _signal_to_noise_of_critics(model, batch)
    return figures


def _of_rollout(model: OnPolicyAlgorithm, count: int) -> th.Tensor:
    """Give observations of the present rollout, of shape ``(batch, features)``; none if it has just begun."""
    buffer = model.rollout_buffer
    stored = buffer.observations if buffer.full else buffer.observations[: buffer.pos]
    rows = stored.reshape(-1, *model.observation_space.shape)  # type: ignore[misc]
    index = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)
    return th.as_tensor(rows[index], device=model.device)


def _run(model: BaseAlgorithm, observations: th.Tensor, batch: ReplayBufferSamples | None) -> None:
    """Run all networks."""
    policy = model.policy
    policy._predict(observations, deterministic=True)
    if isinstance(policy, ActorCriticPolicy):
        policy.predict_values(observations)
    elif hasattr(policy, "critic") and batch is not None:
        policy.critic(observations, batch.actions)  # type: ignore[operator]


def _signal_to_noise_of_critics(model: SAC | TD3, batch: ReplayBufferSamples) -> dict[str, float]:
    """Look at the gradients of the critics' own loss; that of other learners' value functions is not computed here."""
    figures = {}
    with th.no_grad():
        targets = _targets(model, batch)
    features = model.critic.extract_features(batch.observations, model.critic.features_extractor)
    inputs = th.cat([features.detach(), batch.actions], dim=1)
    for name, network in networks(model).items():
        if name != "actor":
            losses: list[th.Tensor] = []
            seen = passages(network, partial(_add_loss, network, inputs, targets, losses))
            figures[f"gradient_snr_{name}"] = _signal_to_noise(seen, losses[0])
    return figures


def _add_loss(network: nn.Module, inputs: th.Tensor, targets: th.Tensor, losses: list[th.Tensor]) -> None:
    losses.append(0.5 * (network(inputs) - targets).square().sum())


def _activity(seen: list[Passage]) -> Mapping[str, float]:
    hidden = hidden_activations(seen)
    if not all(layer.isfinite().all() for layer in hidden):
        return dict.fromkeys(("dormant", "srank", "effective_rank"), float("nan"))
    features = hidden[-1]
    return {"dormant": dormant_ratio(hidden), "srank": srank(features), "effective_rank": effective_rank(features)}


def _signal_to_noise(seen: list[Passage], loss: th.Tensor) -> float:
    """Give the mean over all weights. The loss is a sum, so that each row of a gradient belongs to one sample."""
    trained = [passage for passage in seen if passage.outputs.requires_grad]
    gradients = th.autograd.grad(loss, [passage.outputs for passage in trained])
    ratios = [
        gradient_signal_to_noise(
            passage.inputs.detach(),
            gradient,
            passage.layer.topology if isinstance(passage.layer, SparseLinear) else None,
        )
        for passage, gradient in zip(trained, gradients, strict=True)
    ]
    return float(th.cat(ratios).mean())


def _targets(model: SAC | TD3, batch: ReplayBufferSamples) -> th.Tensor:
    """Give what the critics learn to predict, as the learners compute it; shape ``(batch, 1)``."""
    entropy: th.Tensor | float = 0.0
    if isinstance(model, SAC):
        actions, log_prob = model.actor.action_log_prob(batch.next_observations)
        ent_coef = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
        entropy = ent_coef * log_prob.reshape(-1, 1)
        target = model.critic_target
    else:
        noise = th.randn_like(batch.actions) * model.target_policy_noise
        noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
        actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
        target = model.critic_target
    next_q = th.cat(target(batch.next_observations, actions), dim=1).min(dim=1, keepdim=True).values
    discounts = model.gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * (next_q - entropy)


@contextmanager
def _without_trace(model: BaseAlgorithm) -> Iterator[None]:
    """Put back all that a batch draws from, and what a pass changes: what is only looked at must not change the run."""
    buffer = getattr(model, "replay_buffer", None)
    # CrossQ's networks count what passes through them in training.
    in_training = [module for module in model.policy.modules() if module.training]
    numpy_state = np.random.get_state()
    drawn = buffer.batches_drawn if isinstance(buffer, RedrawnReplayBuffer) else None
    try:
        for module in in_training:
            module.training = False
        with th.random.fork_rng():
            yield
    finally:
        for module in in_training:
            module.training = True
        np.random.set_state(numpy_state)
        if isinstance(buffer, RedrawnReplayBuffer) and drawn is not None:
            buffer.batches_drawn = drawn
