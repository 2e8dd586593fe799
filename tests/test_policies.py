"""Sparse policies in Stable-Baselines3's own learners: what is sparse, what stays true in training, what is saved."""

import copy
import json
import re
import zipfile
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sparse_rl.nn import SparseLinear, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, SparseTD3Policy, TopologyCallback
from sparse_rl.topology import SET

LEARNERS = {"sac": (SAC, SparseSACPolicy), "td3": (TD3, SparseTD3Policy)}
both = pytest.mark.parametrize("learner", LEARNERS)


class Follow(gym.Env):
    """The action shall be the first two of the features; the others are noise. Episodes end after 20 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (18,), np.float32)
    action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    def _observe(self) -> np.ndarray:
        self.features = self.np_random.normal(size=18).astype(np.float32)
        return self.features

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        reward = -float(np.square(action - self.features[:2]).mean())
        self.steps += 1
        return self._observe(), reward, False, self.steps == 20, {}


def make(learner: str, seed: int = 0, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> OffPolicyAlgorithm:
    algorithm, policy = LEARNERS[learner]
    policy_kwargs = {"net_arch": [16, 12], **(policy_kwargs or {})}
    settings = {"learning_starts": 20, "batch_size": 16, "buffer_size": 2000, "device": "cpu", **kwargs}
    return algorithm(policy, Follow(), policy_kwargs=policy_kwargs, seed=seed, **settings)


def actions(model: OffPolicyAlgorithm) -> np.ndarray:
    observations = np.random.default_rng(0).normal(size=(32, 18)).astype(np.float32)
    return model.predict(observations, deterministic=True)[0]


def online_and_target(policy: nn.Module) -> list[tuple[SparseLinear, SparseLinear]]:
    layers = sparse_layers(policy)
    return [
        (layer, layers[name.replace(".", "_target.", 1)])
        for name, layer in layers.items()
        if name.replace(".", "_target.", 1) in layers
    ]


# What is sparse


@both
def test_by_default_only_the_input_layers_are_sparse_to_the_weight(learner):
    policy = make(learner).policy
    first = {"sac": "latent_pi.0", "td3": "mu.0"}[learner]
    assert policy.actor.get_submodule(first).values.numel() == round(0.2 * 16 * 18)
    for q_net in policy.critic.q_networks:
        assert q_net[0].values.numel() == round(0.2 * 16 * 20)
        assert all(type(layer) is nn.Linear for layer in q_net[2::2])
    online = {name for name in sparse_layers(policy) if "_target." not in name}
    assert online == {f"actor.{first}", "critic.qf0.0", "critic.qf1.0"}


@both
@pytest.mark.parametrize("distribution", ["uniform", "erdos_renyi", "erk"])
def test_a_distribution_over_all_layers_meets_the_total_and_spares_the_output_layers(learner, distribution):
    policy = make(learner, policy_kwargs={"sparsity": 0.5, "distribution": distribution}).policy
    for network in (policy.actor, *policy.critic.q_networks):
        linears = [m for m in network.modules() if isinstance(m, (nn.Linear, SparseLinear))]
        heads = [m for m in linears if m.out_features in (1, 2)]
        assert heads
        assert all(type(head) is nn.Linear for head in heads)
        total = sum(m.in_features * m.out_features for m in linears)
        active = sum(m.values.numel() if isinstance(m, SparseLinear) else m.weight.numel() for m in linears)
        assert abs(active - 0.5 * total) <= 0.5
        assert len(linears) - len(heads) == 2
        assert all(isinstance(m, SparseLinear) for m in linears if m not in heads)


@both
def test_biases_are_dense(learner):
    layers = sparse_layers(make(learner, policy_kwargs={"distribution": "uniform", "sparsity": 0.5}).policy)
    assert all(layer.bias is not None and layer.bias.shape == (layer.out_features,) for layer in layers.values())


@both
def test_each_network_draws_a_topology_of_its_own_and_shares_it_with_its_target_only(learner):
    policy = make(learner, policy_kwargs={"n_critics": 3}).policy
    first, second, third = (q_net[0].topology for q_net in policy.critic.q_networks)
    assert first != second
    assert second != third
    assert first != third
    pairs = online_and_target(policy)
    assert len(pairs) == {"sac": 3, "td3": 4}[learner]
    assert all(online.topology == target.topology for online, target in pairs)


@both
def test_sparsity_can_be_given_per_network(learner):
    sparsity = {"actor": 0.5, "critic": 0.9}
    layers = sparse_layers(make(learner, policy_kwargs={"sparsity": sparsity}).policy)
    assert all(layer.density == (0.5 if name.startswith("actor") else 0.1) for name, layer in layers.items())


@both
def test_actor_and_critic_can_have_different_widths(learner):
    policy = make(learner, policy_kwargs={"net_arch": {"pi": [8], "qf": [24, 10]}}).policy
    assert {layer.out_features for name, layer in sparse_layers(policy).items() if name.startswith("actor")} == {8}
    assert {layer.out_features for name, layer in sparse_layers(policy).items() if name.startswith("critic")} == {24}


@both
def test_sparsity_zero_is_the_dense_policy(learner):
    algorithm, _ = LEARNERS[learner]
    dense = algorithm("MlpPolicy", Follow(), policy_kwargs={"net_arch": [16, 12]}, seed=0, buffer_size=10)
    sparse = make(learner, policy_kwargs={"sparsity": 0.0})
    assert sparse_layers(sparse.policy) == {}
    np.testing.assert_array_equal(actions(sparse), actions(dense))


@pytest.mark.parametrize("clip_mean", [0.0, 2.0])
def test_state_dependent_exploration_learns_with_a_sparse_actor(clip_mean):
    model = make("sac", use_sde=True, policy_kwargs={"clip_mean": clip_mean, "distribution": "uniform"})
    model.learn(60, TopologyCallback(SET(update_interval=10)))
    actor = [name for name in sparse_layers(model.policy) if name.startswith("actor")]
    assert actor == ["actor.latent_pi.0", "actor.latent_pi.2"]
    assert np.isfinite(actions(model)).all()


@both
def test_both_kernels_give_the_same_policy_up_to_rounding(learner):
    numba, scatter = (make(learner, policy_kwargs={"kernel": kernel}) for kernel in ("numba", "scatter"))
    np.testing.assert_allclose(actions(numba), actions(scatter), atol=1e-5)


@both
def test_the_critic_computes_what_stable_baselines3s_computes(learner):
    policy = make(learner, policy_kwargs={"sparsity": 0.6, "distribution": "uniform", "n_critics": 3}).policy
    observations, taken = th.randn(16, 18), th.randn(16, 2)
    expected = super(type(policy.critic), policy.critic).forward(observations, taken)
    for q, e in zip(policy.critic(observations, taken), expected, strict=True):
        th.testing.assert_close(q, e)
    th.testing.assert_close(policy.critic.q1_forward(observations, taken), expected[0])


# What is refused


@both
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sparsity": float("nan")}, "Sparsity must lie in [0, 1), not nan"),
        ({"sparsity": 1.0}, "Sparsity must lie in [0, 1), not 1.0"),
        ({"sparsity": -0.1}, "Sparsity must lie in [0, 1), not -0.1"),
        ({"sparsity": 0.9999}, "without a single weight: lower it"),
        ({"sparsity": {"actor": 0.5}}, "lacks one for the critic"),
        ({"sparsity": {"actor": 0.5, "critics": 0.5}}, "Did you mean 'critic'?"),
        ({"distribution": "erdos"}, "Did you mean 'erdos_renyi' or 'erk'?"),
        ({"kernel": "nmba"}, "Did you mean 'numba'?"),
        ({"net_arch": []}, "The actor has no hidden layer"),
        ({"net_arch": {"pi": [8], "qf": []}}, "The critic has no hidden layer"),
        ({"net_arch": [], "distribution": "uniform"}, "The actor has no hidden layer"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(learner, wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(learner, policy_kwargs=wrong)


# What stays true while they learn


@pytest.mark.slow
@both
def test_after_thousands_of_gradient_steps_all_counts_shapes_and_targets_are_in_order(learner):
    fast = {"optimizer_kwargs": {"fused": True}}
    model = make(learner, policy_kwargs={"distribution": "erk", "sparsity": 0.7, **fast}, seed=3, gradient_steps=10)
    before = {name: (layer.topology, layer.values.numel()) for name, layer in sparse_layers(model.policy).items()}
    model.learn(220, TopologyCallback(SET(drop_fraction=0.3, update_interval=50)))
    assert model._n_updates == 2000
    layers = sparse_layers(model.policy)
    assert {name: layer.values.numel() for name, layer in layers.items()} == {n: c for n, (_, c) in before.items()}
    for name, layer in layers.items():
        layer.topology.validate()
        assert layer.topology != before[name][0]
        assert th.isfinite(layer.values).all()
    pairs = online_and_target(model.policy)
    assert pairs
    assert all(online.topology == target.topology for online, target in pairs)
    for network in (model.policy.actor, model.policy.critic):
        parameters = list(network.parameters())
        assert len(network.optimizer.state) == len(parameters)
        for parameter in parameters:
            state = network.optimizer.state[parameter]
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
    observations, taken = th.randn(64, 18), th.rand(64, 2) * 2 - 1
    assert all(th.isfinite(q).all() for q in model.critic_target(observations, taken))


@both
def test_same_seed_gives_the_same_run_bit_for_bit(learner):
    runs = []
    for seed in (5, 5, 6):
        model = make(learner, seed=seed)
        model.learn(80, TopologyCallback(SET(drop_fraction=0.2, update_interval=10)))
        runs.append(model.policy.state_dict())
    first, second, other = runs
    assert all(th.equal(first[name], second[name]) for name in first)
    assert any(not th.equal(first[name], other[name]) for name in first)


# What is saved


@pytest.fixture
def trained(request):
    model = make(request.param, seed=1)
    model.learn(120, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
    return request.param, model


trained_both = pytest.mark.parametrize("trained", LEARNERS, indirect=True)


@trained_both
def test_a_saved_model_is_loaded_with_its_topology_and_learns_on(trained, tmp_path):
    learner, model = trained
    model.save(tmp_path / "model")
    loaded = LEARNERS[learner][0].load(tmp_path / "model", env=Follow(), device="cpu")
    np.testing.assert_array_equal(actions(loaded), actions(model))
    for name, layer in sparse_layers(model.policy).items():
        assert sparse_layers(loaded.policy)[name].topology == layer.topology
    before = {name: layer.topology for name, layer in sparse_layers(loaded.policy).items()}
    loaded.learn(60, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
    assert all(layer.topology != before[name] for name, layer in sparse_layers(loaded.policy).items())
    assert all(online.topology == target.topology for online, target in online_and_target(loaded.policy))


@both
def test_our_settings_stand_in_clear_in_a_saved_model(learner, tmp_path):
    ours = {"sparsity": {"actor": 0.7, "critic": 0.8}, "distribution": "uniform", "kernel": "scatter"}
    make(learner, policy_kwargs=ours).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        stored = json.loads(archive.read("data"))["policy_kwargs"]
    assert ":serialized:" not in stored
    assert {key: stored[key] for key in ours} == ours


@trained_both
def test_parameters_given_to_another_model_bring_their_topology(trained):
    learner, model = trained
    other = make(learner, seed=2)
    assert actions(other).tolist() != actions(model).tolist()  # runs the other topology, so that it is cached
    other.set_parameters(model.get_parameters())
    np.testing.assert_array_equal(actions(other), actions(model))
    for name, layer in sparse_layers(model.policy).items():
        assert sparse_layers(other.policy)[name].topology == layer.topology
    other.learn(60, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
    assert actions(other).tolist() != actions(model).tolist()


@trained_both
def test_a_copied_policy_is_the_same_and_independent(trained):
    _, model = trained
    clone = copy.deepcopy(model.policy)
    observation = model.policy.obs_to_tensor(np.ones(18, np.float32))[0]
    before = clone(observation, deterministic=True)
    th.testing.assert_close(before, model.policy(observation, deterministic=True), rtol=0, atol=0)
    model.learn(60, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
    th.testing.assert_close(clone(observation, deterministic=True), before, rtol=0, atol=0)


@trained_both
def test_a_policy_can_be_saved_alone(trained, tmp_path):
    learner, model = trained
    model.policy.save(tmp_path / "policy.pth")
    loaded = LEARNERS[learner][1].load(tmp_path / "policy.pth", device="cpu")
    observation = np.ones(18, np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.policy.predict(observation, deterministic=True)[0]
    )
    assert loaded.sparsity == model.policy.sparsity


@pytest.mark.parametrize("sparsity", ["0.8", True, {"actor": 0.5, "critic": None}])
def test_a_sparsity_that_is_no_number_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be a number in \[0, 1\) or one for each network"):
        SAC(SparseSACPolicy, "Pendulum-v1", policy_kwargs={"sparsity": sparsity})


def test_a_misspelt_kernel_is_refused_also_where_nothing_is_sparse():
    with pytest.raises(ValueError, match=r"Unknown kernel 'numbo'\. Did you mean 'numba'"):
        SAC(SparseSACPolicy, "Pendulum-v1", policy_kwargs={"sparsity": 0, "kernel": "numbo"})
