"""The fast learners compute what Stable-Baselines3's compute; the sparse networks what masked dense ones compute."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sparse_rl.agents.learner import _OWN
from sparse_rl.agents.sac import SAC
from sparse_rl.agents.td3 import TD3
from sparse_rl.nn import SparseLinear, rewire_layer, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, SparseTD3Policy, TopologyCallback
from sparse_rl.topology import SET, Rewiring

OURS = {"sac": SAC, "td3": TD3}
THEIRS = {"sac": stable_baselines3.SAC, "td3": stable_baselines3.TD3}
SPARSE = {"sac": SparseSACPolicy, "td3": SparseTD3Policy}
both = pytest.mark.parametrize("learner", OURS)

FEATURES, ACTIONS, UPDATES = 24, 3, 200


class Drift(gym.Env):
    """The state follows the actions. Some episodes end, some are cut off."""

    def __init__(self, dtype: type = np.float32):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,), dtype)
        self.action_space = gym.spaces.Box(-1, 1, (ACTIONS,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(size=FEATURES), 0
        return self.state.astype(self.observation_space.dtype), {}

    def step(self, action):
        self.state = 0.9 * self.state + 0.3 * self.np_random.normal(size=FEATURES)
        self.state[:ACTIONS] += action
        self.steps += 1
        reward = 1 - float(np.square(self.state[:ACTIONS]).sum())
        observation = self.state.astype(self.observation_space.dtype)
        return observation, reward, bool(self.state[0] > 2), self.steps == 15, {}


def make(
    algorithm: type[OffPolicyAlgorithm],
    policy: Any = "MlpPolicy",
    policy_kwargs: dict[str, Any] | None = None,
    env: Any = None,
    **kwargs: Any,
) -> OffPolicyAlgorithm:
    settings = {"learning_starts": 0, "batch_size": 32, "buffer_size": 1000, "learning_rate": 1e-3, "tau": 0.05}
    policy_kwargs = {"net_arch": [20, 16], **(policy_kwargs or {})}
    env = Drift() if env is None else env
    return algorithm(policy, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **{**settings, **kwargs})


def updated(model: OffPolicyAlgorithm, updates: int = UPDATES, gradient_steps: int = 1) -> OffPolicyAlgorithm:
    """Let a model train on 200 random transitions, with random numbers of its own."""
    model.set_logger(Logger(None, []))
    fill(model)
    train(model, updates, gradient_steps)
    return model


def fill(model: OffPolicyAlgorithm) -> None:
    env = model.get_env()
    normalize = env if isinstance(env, VecNormalize) else None
    env.seed(1)
    rng = np.random.default_rng(1)
    observations = env.reset()
    for _ in range(200):
        before = observations if normalize is None else normalize.get_original_obs()
        actions = rng.uniform(-1, 1, (1, ACTIONS)).astype(np.float32)
        observations, rewards, dones, infos = env.step(actions)
        after = observations if normalize is None else normalize.get_original_obs()
        rewards = rewards if normalize is None else normalize.get_original_reward()
        if dones[0]:
            after = infos[0]["terminal_observation"][None]
        model.replay_buffer.add(before, after, actions, rewards, dones, infos)


def train(model: OffPolicyAlgorithm, updates: int, gradient_steps: int = 1, seed: int = 2) -> None:
    np.random.seed(seed)
    th.manual_seed(seed)
    for _ in range(updates // gradient_steps):
        model.train(gradient_steps, model.batch_size)


def assert_same(ours: OffPolicyAlgorithm, theirs: OffPolicyAlgorithm) -> None:
    """Parameters, target networks, optimizers' steps and logs agree up to rounding."""
    expected = theirs.policy.state_dict()
    for name, value in ours.policy.state_dict().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, rtol=1e-4, err_msg=name)
    for network in ("actor", "critic"):
        a, b = (getattr(model.policy, network).optimizer.state_dict()["state"] for model in (ours, theirs))
        assert a.keys() == b.keys()
        assert all(a[i]["step"] == b[i]["step"] for i in a)
    assert ours._n_updates == theirs._n_updates
    assert ours.logger.name_to_value.keys() == theirs.logger.name_to_value.keys()
    for name, value in ours.logger.name_to_value.items():
        np.testing.assert_allclose(value, theirs.logger.name_to_value[name], atol=1e-4, rtol=1e-4, err_msg=name)
    assert th.isfinite(th.cat([p.flatten() for p in ours.policy.parameters()])).all()


# Ours and theirs


@both
@pytest.mark.parametrize(
    ("kernel", "distribution"),
    [(None, None), ("numba", "input"), ("numba", "uniform"), ("scatter", "input"), ("scatter", "uniform")],
)
def test_the_fast_learner_agrees_with_stable_baselines3s(learner, kernel, distribution):
    kwargs = {"sparsity": 0.6, "distribution": distribution, "kernel": kernel}
    policy = ("MlpPolicy", {}) if kernel is None else (SPARSE[learner], kwargs)
    ours, theirs = (updated(make(algorithm[learner], *policy)) for algorithm in (OURS, THEIRS))
    assert ours._follow()
    assert_same(ours, theirs)


def float64() -> Drift:
    return Drift(np.float64)


def normalized() -> VecNormalize:
    return VecNormalize(DummyVecEnv([Drift]), clip_obs=3.0)


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        ("sac", {"ent_coef": 0.2}),
        ("sac", {"ent_coef": "auto_0.1", "target_entropy": -1.0}),
        ("sac", {"policy_kwargs": {"n_critics": 1}}),
        ("sac", {"policy_kwargs": {"n_critics": 3}}),
        ("sac", {"target_update_interval": 2}),
        ("sac", {"n_steps": 3}),
        ("sac", {"env": float64}),
        ("sac", {"env": normalized}),
        ("sac", {"policy_kwargs": {"optimizer_class": th.optim.AdamW}}),
        ("td3", {"policy_kwargs": {"n_critics": 1}}),
        ("td3", {"policy_kwargs": {"n_critics": 3}}),
        ("td3", {"policy_delay": 1, "target_policy_noise": 0.5, "target_noise_clip": 0.2}),
        ("td3", {"n_steps": 3}),
        ("td3", {"env": float64}),
        ("td3", {"env": normalized}),
    ],
)
def test_the_fast_learner_agrees_whatever_the_settings(learner, settings):
    settings = dict(settings)
    env: Callable[[], Any] = settings.pop("env", Drift)
    policy_kwargs = {"sparsity": 0.6, **settings.pop("policy_kwargs", {})}
    ours, theirs = (
        updated(make(algorithm[learner], SPARSE[learner], policy_kwargs, env(), **settings), 40, gradient_steps=2)
        for algorithm in (OURS, THEIRS)
    )
    assert ours._follow()
    assert_same(ours, theirs)


class CriticOfItsOwn(ContinuousCritic):
    def forward(self, obs, actions):
        return tuple(q.tanh() for q in super().forward(obs, actions))


class PolicyOfItsOwn(SACPolicy):
    def make_critic(self, features_extractor=None):
        return CriticOfItsOwn(**self._update_features_extractor(self.critic_kwargs, features_extractor))


@pytest.mark.parametrize(
    ("learner", "policy", "settings"),
    [
        ("sac", "MlpPolicy", {"policy_kwargs": {"activation_fn": nn.Tanh}}),
        ("sac", SparseSACPolicy, {"policy_kwargs": {"activation_fn": nn.Tanh}}),
        ("sac", SparseSACPolicy, {"use_sde": True}),
        ("sac", PolicyOfItsOwn, {}),
        ("td3", "MlpPolicy", {"policy_kwargs": {"activation_fn": nn.ELU}}),
        ("td3", SparseTD3Policy, {"policy_kwargs": {"activation_fn": nn.ELU}}),
    ],
)
def test_what_the_fast_learner_does_not_support_is_left_to_stable_baselines3(learner, policy, settings):
    ours, theirs = (updated(make(algorithm[learner], policy, **settings), 20) for algorithm in (OURS, THEIRS))
    assert not ours._follow()
    expected = theirs.policy.state_dict()
    assert all(th.equal(value, expected[name]) for name, value in ours.policy.state_dict().items())


@both
def test_a_whole_training_run_agrees(learner):
    runs = []
    for algorithm in (OURS, THEIRS):
        model = make(algorithm[learner], SPARSE[learner], learning_starts=20)
        model.set_logger(Logger(None, []))
        model.learn(60, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
        runs.append(model)
    assert_same(*runs)


# Sparse and masked dense


class Masked:
    """A dense learner whose absent weights are held at zero: by zero weights, and gradients that are masked."""

    def __init__(self, sparse: OffPolicyAlgorithm, dense: OffPolicyAlgorithm):
        self.dense = dense
        self.masks: dict[str, th.Tensor] = {}
        state = {}
        for name, module in sparse.policy.named_modules():
            if isinstance(module, (nn.Linear, SparseLinear)):
                is_sparse = isinstance(module, SparseLinear)
                state[f"{name}.weight"] = module.dense_weight() if is_sparse else module.weight
                state[f"{name}.bias"] = module.bias
                if is_sparse:
                    self.masks[name] = module.topology.mask()
        dense.policy.load_state_dict(state)
        for name in self.masks:
            # Looks the mask up when it is called, so that it can change.
            self.weight(name).register_hook(lambda gradient, name=name: gradient * self.masks[name])

    def weight(self, name: str) -> nn.Parameter:
        return self.dense.policy.get_submodule(name).weight

    def rewire(self, name: str, rewiring: Rewiring) -> None:
        """Zero what goes and what comes: weights, moments, and the target network's weights."""
        kept = th.zeros(rewiring.after.shape, dtype=th.bool)
        kept.view(-1)[rewiring.after.positions[rewiring.source >= 0]] = True
        network, _, layer = name.partition(".")
        for n in (name, f"{network}_target.{layer}"):
            if n in self.masks:
                self.weight(n).data *= kept
                self.masks[n] = rewiring.after.mask()
        state = getattr(self.dense.policy, network).optimizer.state[self.weight(name)]
        state["exp_avg"] *= kept
        state["exp_avg_sq"] *= kept


@both
@pytest.mark.parametrize(
    ("kernel", "algorithms"),
    [("numba", OURS), ("scatter", OURS), ("numba", THEIRS)],
    ids=["numba-ours", "scatter-ours", "numba-theirs"],
)
def test_a_sparse_update_is_a_masked_dense_update(learner, kernel, algorithms):
    """Over 100 updates of everything, with a change of topology half-way."""
    kwargs = {"sparsity": 0.7, "distribution": "uniform", "kernel": kernel}
    sparse = updated(make(algorithms[learner], SPARSE[learner], kwargs), 0)
    masked = Masked(sparse, updated(make(THEIRS[learner]), 0))
    for model in (sparse, masked.dense):
        train(model, 50)
    layers, generator = sparse_layers(sparse.policy), th.Generator().manual_seed(0)
    for name, layer in layers.items():
        network, _, inner = name.partition(".")
        if not network.endswith("_target"):
            rewiring = SET(drop_fraction=0.3).propose(layer.topology, layer.values, 1000, generator)
            target = layers.get(f"{network}_target.{inner}")
            optimizer = getattr(sparse.policy, network).optimizer
            rewire_layer(layer, rewiring, optimizer, [] if target is None else [target])
            masked.rewire(name, rewiring)
    for model in (sparse, masked.dense):
        train(model, 50, seed=3)

    assert len(layers) == {"sac": 10, "td3": 12}[learner]
    for name, layer in layers.items():
        weight = masked.weight(name)
        assert not weight[~layer.topology.mask()].any()
        th.testing.assert_close(layer.dense_weight(), weight.data, atol=1e-5, rtol=1e-4)
    dense_state = masked.dense.policy.state_dict()
    for name, value in sparse.policy.state_dict().items():
        if name in dense_state:
            th.testing.assert_close(value, dense_state[name], atol=1e-5, rtol=1e-4)


# Saved


@both
@pytest.mark.parametrize("reader", [OURS, THEIRS], ids=["ours", "theirs"])
def test_a_saved_model_is_loaded_by_either_learner_and_goes_on_alike(learner, reader, tmp_path):
    model = updated(make(OURS[learner], SPARSE[learner]), 20)
    model.save(tmp_path / "model")
    loaded = reader[learner].load(tmp_path / "model", env=Drift(), device="cpu")
    assert all(th.equal(v, loaded.policy.state_dict()[n]) for n, v in model.policy.state_dict().items())
    if reader is THEIRS:  # what is ours alone is not in the file
        assert not {*_OWN} & {*vars(loaded)}
    loaded.set_logger(Logger(None, []))
    fill(loaded)
    for each in (model, loaded):
        train(each, 20)
    assert_same(model, loaded)


@both
def test_stable_baselines3s_saved_model_becomes_fast(learner, tmp_path):
    model = updated(make(THEIRS[learner], SPARSE[learner]), 20)
    model.save(tmp_path / "model")
    loaded = OURS[learner].load(tmp_path / "model", env=Drift(), device="cpu")
    assert loaded._follow()
    loaded.set_logger(Logger(None, []))
    fill(loaded)
    for each in (model, loaded):
        train(each, 20)
    assert_same(loaded, model)


@both
def test_given_parameters_are_what_is_trained(learner):
    model = updated(make(OURS[learner], SPARSE[learner]), 20)
    other = updated(make(OURS[learner], SPARSE[learner], learning_rate=3e-3), 10)
    other.set_parameters(copy.deepcopy(model.get_parameters()))
    other.lr_schedule, other._n_updates = model.lr_schedule, model._n_updates
    if learner == "sac":
        other.log_ent_coef.data.copy_(model.log_ent_coef.data)  # not among Stable-Baselines3's parameters
    for each in (model, other):
        train(each, 20)
    assert all(th.equal(v, other.policy.state_dict()[n]) for n, v in model.policy.state_dict().items())


# Seeds


@both
def test_same_seed_gives_the_same_run_bit_for_bit(learner):
    runs = []
    for _ in range(2):
        model = make(OURS[learner], SPARSE[learner], learning_starts=20)
        model.learn(70, TopologyCallback(SET(drop_fraction=0.3, update_interval=10)))
        runs.append(model.policy.state_dict())
    assert all(th.equal(value, runs[1][name]) for name, value in runs[0].items())


def targets_follow_at(model: OffPolicyAlgorithm, updates: int, gradient_steps: int = 1) -> list[int]:
    """Tell after which gradient steps the target networks have become the critics, with ``tau=1``."""
    model.set_logger(Logger(None, []))
    fill(model)
    np.random.seed(2)
    th.manual_seed(2)
    found = []
    for _ in range(updates // gradient_steps):
        model.train(gradient_steps, model.batch_size)
        pairs = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
        if all(th.equal(online, target) for online, target in pairs):
            found.append(model._n_updates)
    return found


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])  # with the other one Stable-Baselines3 trains
def test_targets_follow_at_intervals_of_the_whole_training(activation):
    """Also where each call of ``train()`` takes one gradient step, as by default."""
    settings = {"tau": 1.0, "target_update_interval": 3}
    ours = [make(SAC, policy_kwargs={"activation_fn": activation}, **settings) for _ in range(2)]
    assert targets_follow_at(ours[0], 10) == [1, 4, 7, 10]
    assert ours[0]._follow() == (activation is nn.ReLU)
    assert targets_follow_at(ours[1], 10, gradient_steps=5) == [10]  # and at 1, 4 and 7
    for one, other in zip(ours[0].policy.parameters(), ours[1].policy.parameters(), strict=True):
        assert th.equal(one, other)
    assert ours[0].target_update_interval == 3
    assert type(ours[0].target_update_interval) is int


def test_the_slow_way_logs_means_over_all_steps_too():
    models = []
    for hidden_from_us in (False, True):
        model = make(SAC, tau=1.0, target_update_interval=3)
        if hidden_from_us:
            model._follow = lambda: False
        models.append(updated(model, 10, gradient_steps=5))
    assert_same(*models)
