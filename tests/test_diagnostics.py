"""Looking at an agent's networks: the figures are what they say, and nothing of the run changes by looking."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sparse_rl.agents import SAC, TD3, RedrawnReplayBuffer
from sparse_rl.metrics import count_weights, dormant_ratio, training_flops
from sparse_rl.nn import rewire_layer, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, SparseTD3Policy, TopologyCallback
from sparse_rl.topology import SET, rewire
from sparse_rl.training.diagnostics import diagnose
from sparse_rl.training.metrics import MetricsCallback
from sparse_rl.training.vec_envs import make_vec_env

FIGURES = {f"{figure}_{network}" for figure in ("dormant", "srank", "effective_rank") for network in ("actor", "qf0")}


def agent(learner: type[SAC] | type[TD3], sparse: bool = True, **options: Any) -> SAC | TD3:
    env = make_vec_env("InvertedPendulum-noise90", 1, seed=0)
    policies = {SAC: SparseSACPolicy, TD3: SparseTD3Policy}
    return learner(
        policies[learner] if sparse else "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [16, 16]},
        learning_starts=20,
        batch_size=8,
        buffer_size=200,
        replay_buffer_class=RedrawnReplayBuffer,
        replay_buffer_kwargs=RedrawnReplayBuffer.kwargs_for(env),
        seed=0,
        **options,
    )


def state_of(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """Everything that the rest of a run depends on."""
    assert isinstance(model.replay_buffer, RedrawnReplayBuffer)
    return {
        "parameters": copy.deepcopy(model.get_parameters()),
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()],
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state()[1:3],
        "noise": model.replay_buffer.batches_drawn,
    }


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    elif isinstance(first, th.Tensor | np.ndarray):
        assert first.shape == second.shape
        assert (first == second).all()
    else:
        assert first == second


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("learner", [SAC, TD3])
def test_looking_leaves_no_trace(learner: type[SAC] | type[TD3], sparse: bool) -> None:
    model = agent(learner, sparse)
    model.learn(60)
    before = state_of(model)
    figures = diagnose(model)
    assert_equal(before, state_of(model))
    assert figures == diagnose(model)
    assert set(figures) >= {*FIGURES, "gradient_snr_qf0", "gradient_snr_qf1"}
    assert "gradient_snr_actor" not in figures
    for name, value in figures.items():
        low, high = (0, 1) if name.startswith("dormant") else (0, 16 if "rank" in name else float("inf"))
        assert low <= value <= high


def test_dead_neurons_are_seen() -> None:
    model = agent(SAC)
    model.learn(30)
    last = model.actor.latent_pi[2]
    with th.no_grad():
        last.bias[:] = 1.0
        last.bias[:4] = -1e6  # 4 of 16 never fire
        (last.weight if hasattr(last, "weight") else last.values).zero_()
    figures = diagnose(model)
    assert figures["effective_rank_actor"] == pytest.approx(1.0)
    assert figures["srank_actor"] == 1  # the same for all observations
    first = model.actor.latent_pi[:2](model.replay_buffer.sample(256).observations)
    assert figures["dormant_actor"] == pytest.approx((dormant_ratio([first]) * 16 + 4) / 32, abs=2 / 32)


def test_the_gradient_is_the_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over samples that the ratio is made of is the gradient with which TD3's critics learn."""
    means: list[th.Tensor] = []

    def spy(inputs: th.Tensor, gradients: th.Tensor, topology: Any = None) -> th.Tensor:
        mean = (gradients.T @ inputs / len(inputs)).flatten()
        means.append(mean if topology is None else mean[topology.positions])
        return means[-1]

    model = agent(TD3, target_policy_noise=0.0)
    model.learn(40)
    monkeypatch.setattr("sparse_rl.training.diagnostics.gradient_signal_to_noise", spy)
    th.manual_seed(3)
    np.random.seed(3)
    drawn = model.replay_buffer.batches_drawn
    diagnose(model, batch_size=8)
    np.random.seed(3)
    assert model.replay_buffer.batches_drawn == drawn
    for p in model.critic.parameters():
        p.grad = None
    super(TD3, model).train(1, batch_size=8)  # Stable-Baselines3's own
    for network, mean in zip(model.critic.q_networks, (means[0], means[3]), strict=True):
        layer = sparse_layers(network)["0"]
        # Stable-Baselines3's TD3 has the mean of the squares, we have half of that.
        th.testing.assert_close(layer.values.grad / 2, mean, rtol=1e-3, atol=1e-5)


def test_an_agent_that_has_diverged_can_still_be_looked_at() -> None:
    model = agent(TD3)
    model.learn(30)
    with th.no_grad():
        next(model.critic.q_networks[0].parameters()).fill_(float("nan"))
    figures = diagnose(model)
    assert np.isnan([figures["srank_qf0"], figures["dormant_qf0"], figures["gradient_snr_qf0"]]).all()
    assert np.isfinite([figures["srank_actor"], figures["srank_qf1"]]).all()


def test_overlap_is_with_the_start_and_with_the_last_look() -> None:
    model, metrics = agent(SAC), MetricsCallback()
    model.learn(31, callback=metrics)
    layer = sparse_layers(model.actor)["latent_pi.0"]
    overlaps, logged = [], metrics.logger.name_to_value
    for seed in range(3):
        kept = layer.topology.active - layer.topology.active // 4
        # At positions that were empty: then a quarter has gone, and nothing has come back.
        empty = (~layer.topology.mask().flatten()).nonzero().flatten()
        grown = empty[th.randperm(len(empty), generator=th.Generator().manual_seed(seed))[: layer.topology.active // 4]]
        dropped = th.arange(layer.topology.active // 4)
        rewire_layer(layer, rewire(layer.topology, dropped, grown), model.actor.optimizer)
        metrics.record()
        overlaps.append([logged[f"sparsity/overlap_{since}/actor"] for since in ("start", "last")])
        assert overlaps[-1][1] == kept / layer.topology.active
        assert logged["sparsity/overlap_start/qf0"] == logged["sparsity/overlap_last/qf0"] == 1
    assert overlaps[0][0] == overlaps[0][1]
    assert overlaps[2][0] < overlaps[1][0] < overlaps[0][0]


@pytest.mark.parametrize(("learner", "delay"), [(SAC, 1), (TD3, 2)])
def test_training_is_charged_by_the_gradient_step(learner: type[SAC] | type[TD3], delay: int) -> None:
    """TD3's actor learns at every second step. What was trained before the callback came is not charged."""
    model, metrics = agent(learner), MetricsCallback()
    model.learn(31)
    start = model._n_updates
    assert start == 11
    topology = TopologyCallback(SET(drop_fraction=0.2, update_interval=10))
    for _ in range(2):
        model.learn(26, callback=[metrics, topology], reset_num_timesteps=False)
    now = model._n_updates
    assert now > start + 40

    def cost(actor: int, critics: int) -> int:
        return training_flops(critics, 8, now - start) + training_flops(actor, 8, now // delay - start // delay)

    actor, critics = count_weights(model.actor), count_weights(model.critic)
    assert metrics.flops == cost(actor, critics)
    twin = agent(learner, sparse=False)
    dense_actor, dense_critics = count_weights(twin.actor), count_weights(twin.critic)
    assert metrics.dense_flops == cost(dense_actor, dense_critics)
    assert metrics.summary(model) == {
        "gradient_steps": now,
        "weights": actor + critics,
        "dense_weights": dense_actor + dense_critics,
        "inference_flops": 2 * actor,
        "dense_inference_flops": 2 * dense_actor,
        "training_flops": metrics.flops,
        "dense_training_flops": metrics.dense_flops,
    }
