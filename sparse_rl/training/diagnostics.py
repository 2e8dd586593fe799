"""How alive an agent's networks are, seen on a batch of its replay. Looking changes nothing of what comes after."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac import SAC
from stable_baselines3.td3 import TD3
from torch import nn

from sparse_rl.agents.replay import RedrawnReplayBuffer
from sparse_rl.metrics import (
    Passage,
    dormant_ratio,
    effective_rank,
    gradient_signal_to_noise,
    hidden_activations,
    passages,
    srank,
)
from sparse_rl.nn import SparseLinear
from sparse_rl.training.measurement import networks

BATCH_SIZE = 256


def diagnose(model: OffPolicyAlgorithm, batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """
    Look at an agent's networks. Weights, gradients, random numbers and replay are left as they were.

    :param model: a SAC or TD3 agent whose replay buffer is not empty
    :param batch_size: transitions to look at
    :return: for each network ``dormant_<network>``, ``srank_<network>``, ``effective_rank_<network>``, and for each
        critic ``gradient_snr_<network>``: NaN where numbers are not finite
    """
    assert model.replay_buffer is not None
    figures: dict[str, float] = {}
    with _without_trace(model.replay_buffer), th.enable_grad():
        batch = model.replay_buffer.sample(batch_size, env=model._vec_normalize_env)
        with th.no_grad():
            targets = _targets(model, batch)
        for name, network in networks(model).items():
            seen, signal_to_noise = _look(model, name, network, batch, targets)
            for figure, value in _activity(seen).items():
                figures[f"{figure}_{name}"] = value
            if signal_to_noise is not None:
                figures[f"gradient_snr_{name}"] = signal_to_noise
    return figures


def _look(
    model: OffPolicyAlgorithm, name: str, network: nn.Module, batch: ReplayBufferSamples, targets: th.Tensor
) -> tuple[list[Passage], float | None]:
    """Run a network on a batch: what went through its layers and, of a critic, the signal-to-noise ratio."""
    if name == "actor":
        with th.no_grad():
            return passages(network, lambda: model.policy._predict(batch.observations, deterministic=True)), None
    critic: nn.Module = model.critic  # type: ignore[attr-defined]
    features = critic.extract_features(batch.observations, critic.features_extractor)  # type: ignore[operator]
    inputs, losses = th.cat([features.detach(), batch.actions], dim=1), []
    seen = passages(network, lambda: losses.append(0.5 * (network(inputs) - targets).square().sum()))
    return seen, _signal_to_noise(seen, losses[0])


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


def _targets(model: OffPolicyAlgorithm, batch: ReplayBufferSamples) -> th.Tensor:
    """Give what the critics learn to predict, as the learners compute it; shape ``(batch, 1)``."""
    entropy: th.Tensor | float = 0.0
    if isinstance(model, SAC):
        actions, log_prob = model.actor.action_log_prob(batch.next_observations)
        ent_coef = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
        entropy = ent_coef * log_prob.reshape(-1, 1)
        target = model.critic_target
    else:
        assert isinstance(model, TD3)
        noise = th.randn_like(batch.actions) * model.target_policy_noise
        noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
        actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
        target = model.critic_target
    next_q = th.cat(target(batch.next_observations, actions), dim=1).min(dim=1, keepdim=True).values
    discounts = model.gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * (next_q - entropy)


@contextmanager
def _without_trace(buffer: ReplayBuffer) -> Iterator[None]:
    """Put back all that a batch draws from: what is only looked at must not change the run."""
    numpy_state = np.random.get_state()
    drawn = buffer.batches_drawn if isinstance(buffer, RedrawnReplayBuffer) else None
    try:
        with th.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        if isinstance(buffer, RedrawnReplayBuffer) and drawn is not None:
            buffer.batches_drawn = drawn
