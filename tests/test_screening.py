"""At the end of the warm-up, the input layers are connected to what bears on the task; then training goes on."""

from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecCheckNan, VecNormalize

from sparse_rl.agents import DynamicReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.sac import SAC
from sparse_rl.agents.td3 import TD3
from sparse_rl.envs import make
from sparse_rl.inputs import InputError
from sparse_rl.sb3 import ScreeningCallback, SparseSACPolicy, SparseTD3Policy, TopologyCallback
from sparse_rl.topology import SET
from sparse_rl.training import make_agent
from sparse_rl.training.vec_envs import make_vec_env

REAL = 4  # of InvertedPendulum
both = pytest.mark.parametrize(("algorithm", "policy"), [(SAC, SparseSACPolicy), (TD3, SparseTD3Policy)])


def learner(algorithm: Any = SAC, policy: Any = SparseSACPolicy, env: Any = "InvertedPendulum-noise90", **kwargs: Any):
    settings = {"learning_starts": 600, "buffer_size": 2000, "batch_size": 32, "seed": 0, "device": "cpu"}
    policy_kwargs = {"net_arch": [16, 16], "sparsity": 0.5, **kwargs.pop("policy_kwargs", {})}
    model = algorithm(
        policy, make(env) if isinstance(env, str) else env, policy_kwargs=policy_kwargs, **{**settings, **kwargs}
    )
    model.set_logger(Logger(None, []))
    return model


def columns(layer: Any) -> set[int]:
    return set(layer.columns.tolist())


@both
def test_only_what_bears_on_the_task_is_connected(algorithm: Any, policy: Any) -> None:
    model, callback = learner(algorithm, policy), ScreeningCallback()
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(600, callback)
    assert callback.evidence is None  # nothing is known, and nothing has changed
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    model.learn(1, callback, reset_num_timesteps=False)
    assert callback.evidence.chosen.nonzero().flatten().tolist() == [0, 1, 2, 3]
    actor = model.actor.latent_pi[0] if algorithm is SAC else model.actor.mu[0]
    assert columns(actor) == {0, 1, 2, 3}
    assert actor.values.numel() == 16 * REAL // 2  # as sparse as before
    for critic in (model.critic, model.critic_target):
        for network in critic.q_networks:
            assert columns(network[0]) == {0, 1, 2, 3, 40}  # 40 is the action
            assert network[0].values.numel() == 16 * (REAL + 1) // 2
            network[0].topology.validate()
    assert model._follow()  # the fast path is taken
    model.learn(60, callback, reset_num_timesteps=False)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def test_targets_begin_as_their_networks() -> None:
    model = learner(SAC, SparseSACPolicy, tau=0.0)  # a target that never follows
    model.learn(601, ScreeningCallback())
    for critic, target in zip(model.critic.q_networks, model.critic_target.q_networks, strict=True):
        assert not th.equal(critic[0].values, target[0].values)  # the critic has learnt once
        fan_in = target[0].row_ptr.diff()[target[0].topology.rows]
        bounds = 1 / fan_in.sqrt()
        assert th.all(target[0].values.abs() <= bounds)
        assert (target[0].values.abs() / bounds).max() > 0.8


def test_it_works_with_stable_baselines3s_own_learner_and_buffer() -> None:
    model, callback = learner(stable_baselines3.SAC), ScreeningCallback()
    model.learn(640, callback)
    assert columns(model.actor.latent_pi[0]) == {0, 1, 2, 3}


@pytest.mark.parametrize(("sparsity", "weights"), [(0.01, 63), (0.3, 45), (0.5, 32), (0.9, 6), (0.99, 1), (0.998, 1)])
def test_a_layer_is_as_sparse_over_the_chosen_features_as_it_was_over_all(sparsity: float, weights: int) -> None:
    model = learner(policy_kwargs={"sparsity": sparsity})
    model.learn(601, ScreeningCallback())
    layer = model.actor.latent_pi[0]
    assert layer.values.numel() == weights
    assert columns(layer) <= {0, 1, 2, 3}
    layer.topology.validate()


def test_the_same_seed_gives_the_same_network_and_another_one_another() -> None:
    def values(seed: int) -> list[float]:
        model = learner(policy_kwargs={"sparsity": 0.95})
        model.learn(602, ScreeningCallback(seed=seed))
        return model.actor.latent_pi[0].values.tolist()

    assert values(1) == values(1) != values(2)


def test_where_no_noise_is_chosen_both_protocols_are_the_same_run() -> None:
    models = []
    for replay in ("redrawn", "observed"):
        model, callbacks = make_agent(
            "screened-sac", "InvertedPendulum-noise90", seed=0, replay=replay, device="cpu", sparsity=0.5,
            learning_starts=600, batch_size=32, policy_kwargs={"net_arch": [16, 16]},
        )  # fmt: skip
        model.learn(640, callbacks)
        assert columns(model.actor.latent_pi[0]) == set(range(REAL))
        models.append(model)
    assert type(models[0].replay_buffer) is not type(models[1].replay_buffer)
    states = [model.policy.state_dict() for model in models]
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items())


def test_looking_leaves_no_trace() -> None:
    states = []
    for level in (None, 0.01, 1e-300):  # the first does not look; the last finds nothing, and changes nothing
        model = learner(policy_kwargs={"sparsity": 0.5})
        model.learn(600)
        callback = ScreeningCallback() if level is None else ScreeningCallback(level)
        model._setup_learn(1, callback)
        callback.init_callback(model)
        model.num_timesteps = 601
        if level is not None:
            callback.on_rollout_end()
        states.append((np.random.random(), th.rand(1).item()))
    assert states[0] == states[1] == states[2]


def read(model: Any) -> tuple[th.Tensor, ...]:
    callback = ScreeningCallback()
    callback.model = model
    return callback._transitions()


@pytest.mark.parametrize("algorithm", [SAC, stable_baselines3.SAC], ids=["redrawn", "stock"])
def test_series_are_those_of_one_environment_after_the_other(algorithm: Any) -> None:
    env = make_vec_env("Pendulum-v1-noise50", n_envs=3, seed=0)
    buffers = {"replay_buffer_class": RedrawnReplayBuffer, "replay_buffer_kwargs": RedrawnReplayBuffer.kwargs_for(env)}
    model = learner(algorithm, env=env, **(buffers if algorithm is SAC else {}), buffer_size=300, policy_kwargs={})
    model.learn(390)  # 130 steps in a ring of 100
    before, after, actions, rewards = read(model)
    assert (before.shape, after.shape, actions.shape, rewards.shape) == ((300, 6), (300, 6), (300, 1), (300,))
    follows = th.isclose(before[1:, :3], after[:-1, :3]).all(1)
    assert (~follows).nonzero().flatten().tolist() == [99, 199]
    if algorithm is SAC:
        assert model.replay_buffer.batches_drawn == 0


def test_transitions_are_those_of_one_step_also_where_targets_look_further() -> None:
    changes = {"replay_buffer_class": DynamicReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3}}
    model = learner(env="Pendulum-v1", **changes, policy_kwargs={})
    model.learn(50)
    before, after, _, rewards = read(model)
    assert th.equal(before[1:], after[:-1])
    assert rewards.tolist() == model.replay_buffer.rewards[:50, 0].tolist()


def test_observations_are_normalized_as_the_agent_sees_them() -> None:
    env = VecCheckNan(VecNormalize(make_vec_env("Pendulum-v1", n_envs=1, seed=0)))
    model = learner(env=env, policy_kwargs={})
    model.learn(50)
    assert read(model)[0].numpy() == pytest.approx(env.venv.normalize_obs(model.replay_buffer.observations[:50, 0]))


def test_a_rewiring_method_goes_on_from_there() -> None:
    model = learner()
    model.learn(640, [ScreeningCallback(), TopologyCallback(SET(drop_fraction=0.1, update_interval=10))])
    layer = model.actor.latent_pi[0]
    assert layer.values.numel() == 16 * REAL // 2
    assert columns(layer) > {0, 1, 2, 3}  # what was dropped grew elsewhere


def test_a_trained_agent_is_not_wired_anew() -> None:
    model = learner()
    model.learn(620)
    topology = model.actor.latent_pi[0].topology
    model.learn(20, ScreeningCallback(), reset_num_timesteps=False)
    assert model.actor.latent_pi[0].topology is topology


def test_a_callback_that_is_used_again_screens_anew() -> None:
    callback = ScreeningCallback()
    for seed in (1, 2):
        (model := learner(seed=seed)).learn(610, callback)
        assert columns(model.actor.latent_pi[0]) == {0, 1, 2, 3}


def test_what_the_policy_did_after_the_warm_up_is_not_looked_at() -> None:
    model, callback = learner(learning_starts=210, train_freq=500), ScreeningCallback()
    model.learn(500, callback)
    assert callback.evidence is not None
    assert len(read(model)[3]) == 211  # the last one was chosen before anything was learnt


class AnotherExtractor(FlattenExtractor):
    """What it gives need not be the features."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_kwargs": {"features_extractor_class": AnotherExtractor}}, "read a vector of features as it is"),
        ({"use_sde": True, "use_sde_at_warmup": True}, "leave out use_sde_at_warmup"),
        ({"policy_kwargs": {"initial_sparsity": 0.8}}, "choose one that keeps their number"),
        ({"learning_starts": 5}, "Screening needs at least 60 random transitions"),
        ({"buffer_size": 20}, "Screening needs at least 60 random transitions"),
    ],
)
def test_agents_that_it_does_not_suit_are_refused_before_training(changes: dict[str, Any], message: str) -> None:
    model = learner(**changes)
    with pytest.raises(InputError, match=message):
        model.learn(10, ScreeningCallback())
    assert model.num_timesteps == 0


def test_learners_without_replay_are_refused() -> None:
    model = stable_baselines3.PPO("MlpPolicy", make("InvertedPendulum-noise50"), n_steps=64, device="cpu")
    with pytest.raises(ValueError, match="Screening looks at a replay buffer, which PPO does not have"):
        model.learn(10, ScreeningCallback())
