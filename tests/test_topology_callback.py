"""Dynamic sparse training as a callback: when it acts, what it changes, and what it leaves alone to the bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sparse_rl.nn import sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, SparseTD3Policy, TopologyCallback
from sparse_rl.topology import SET, Static


class Still(gym.Env):
    """Nothing depends on anything. Episodes end after 10 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (12,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(12, np.float32), {}

    def step(self, action):
        self.steps += 1
        return self.np_random.normal(size=12).astype(np.float32), 1.0, False, self.steps == 10, {}


class Recording(TopologyCallback):
    """Notes the gradient step of each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = []

    def _rewire(self, step):
        self.steps.append(step)
        super()._rewire(step)


class Memory(KVWriter):
    """Keeps what is logged."""

    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        self.lines.append(dict(key_values))

    def close(self):
        pass


def make(seed=0, policy=SparseSACPolicy, algorithm=SAC, sparsity=0.5, n_envs=1, **kwargs):
    settings = {"learning_starts": 7, "batch_size": 4, "buffer_size": 500, "device": "cpu", **kwargs}
    policy_kwargs = {"net_arch": [8], "sparsity": sparsity}
    env = DummyVecEnv([Still] * n_envs)
    return algorithm(policy, env, policy_kwargs=policy_kwargs, seed=seed, **settings)


def rewire_now(model, callback):
    model.set_logger(Logger(None, []))
    callback.init_callback(model)
    callback._rewire(1000)


def topologies(model):
    return {name: layer.topology for name, layer in sparse_layers(model.policy).items()}


# When


@pytest.mark.parametrize(
    ("settings", "timesteps", "expected"),
    [
        # The first gradient step follows environment step 8; an update comes with the rollout after its gradient step.
        ({}, 37, [10, 20]),
        ({}, 38, [10, 20, 30]),
        ({"train_freq": 4, "gradient_steps": 4}, 40, [12, 20, 32]),
        ({"train_freq": 5, "gradient_steps": 1}, 75, [10]),
        ({"train_freq": 1, "gradient_steps": 2}, 24, [10, 20, 30]),
        ({"train_freq": 1, "gradient_steps": 25}, 11, [25, 50, 75]),
        ({"train_freq": 3, "gradient_steps": -1}, 40, [12, 21, 30]),
        ({"train_freq": (1, "episode"), "gradient_steps": -1}, 50, [10, 20, 30, 40]),
    ],
)
def test_updates_fall_due_at_multiples_of_the_interval_in_gradient_steps(settings, timesteps, expected):
    callback = Recording(SET(update_interval=10))
    make(**settings).learn(timesteps, callback)
    assert callback.steps == expected
    assert callback.updates == len(expected)


def test_with_two_environments_it_is_still_gradient_steps_that_count():
    callback = Recording(SET(update_interval=10))
    make(n_envs=2, gradient_steps=-1).learn(38, callback)
    assert callback.steps == [10, 20, 30]


def test_nothing_is_rewired_before_learning_starts():
    model, callback = make(learning_starts=50), Recording(SET(update_interval=1))
    before = topologies(model)
    model.learn(50, callback)
    assert callback.steps == []
    assert topologies(model) == before


def test_two_calls_of_learn_continue_where_they_left_off():
    callback = Recording(SET(update_interval=10))
    model = make()
    model.learn(37, callback)
    assert (callback.steps, model._n_updates) == ([10, 20], 30)
    model.learn(21, callback, reset_num_timesteps=False)
    assert callback.steps == [10, 20, 30, 40, 50]
    assert callback.updates == 5


def test_two_calls_of_learn_are_as_good_as_one():
    once, twice = make(), make()
    once.learn(60, TopologyCallback(SET(update_interval=10)))
    callback = TopologyCallback(SET(update_interval=10))
    twice.learn(30, callback)
    twice.learn(30, callback, reset_num_timesteps=False)
    assert topologies(once) == topologies(twice)


def test_a_new_callback_does_not_catch_up_on_a_trained_models_past(tmp_path):
    model = make()
    model.learn(32)
    model.save(tmp_path / "model")
    for trained in (model, SAC.load(tmp_path / "model", env=Still(), device="cpu", learning_starts=0)):
        assert trained._n_updates == 25
        callback = Recording(SET(update_interval=10))
        trained.learn(17, callback, reset_num_timesteps=False)
        assert callback.steps == [30, 40]


def test_static_training_never_rewires():
    model, callback = make(), Recording(Static())
    before = topologies(model)
    model.learn(60, callback)
    assert callback.steps == []
    assert topologies(model) == before


# With which random numbers


def test_the_models_seed_decides_unless_the_callback_has_one():
    outcomes = []
    for seed in (None, 0, 1):
        model = make(seed=0)
        model.learn(40, TopologyCallback(SET(drop_fraction=0.5, update_interval=10), seed=seed))
        outcomes.append(topologies(model))
    by_model, same, other = outcomes
    assert by_model == same
    assert by_model != other


def test_without_a_seed_growth_is_random_but_other_random_numbers_are_left_alone():
    model, states = make(seed=None), []
    for _ in range(2):
        th.manual_seed(3)
        before = th.get_rng_state()
        callback = TopologyCallback(SET())
        callback.init_callback(model)
        assert th.equal(th.get_rng_state(), before)
        states.append(callback.generator.initial_seed())
    assert states[0] != states[1]


def test_growing_takes_nothing_from_the_learners_random_numbers():
    model = make()
    before = th.get_rng_state()
    rewire_now(model, TopologyCallback(SET(drop_fraction=0.5)))
    assert th.equal(th.get_rng_state(), before)


# What changes


class Watched(SET):
    """Notes the rewirings that it proposes."""

    def propose(self, *args, **kwargs):
        rewiring = super().propose(*args, **kwargs)
        self.__dict__.setdefault("proposed", []).append(rewiring)
        return rewiring


@pytest.mark.parametrize(("algorithm", "policy"), [(SAC, SparseSACPolicy), (TD3, SparseTD3Policy)])
def test_kept_weights_keep_everything_and_new_ones_start_from_zero(algorithm, policy):
    model = make(policy=policy, algorithm=algorithm)
    model.learn(60)
    method = Watched(drop_fraction=0.3)
    networks = {name: getattr(model.policy, name) for name in ("actor", "critic")}

    def snapshot():
        state = {name: value.clone() for name, value in model.policy.state_dict().items()}
        for network, module in networks.items():
            for name, parameter in module.named_parameters():
                for key, value in module.optimizer.state[parameter].items():
                    state[f"{network}.{name}.{key}"] = value.clone()
        return state

    before = snapshot()
    assert all(bool(value.any()) for name, value in before.items() if name.endswith("exp_avg"))
    rewire_now(model, TopologyCallback(method))
    after = snapshot()

    layers = [name for name in sparse_layers(model.policy) if "_target." not in name]
    assert len(method.proposed) == len(layers) == 3
    changed = set()
    for name, rewiring in zip(layers, method.proposed, strict=True):
        kept = rewiring.source >= 0
        assert rewiring.n_dropped == rewiring.n_grown == int(0.3 * rewiring.before.active) > 0
        target = name.replace(".", "_target.", 1)
        vectors = [f"{name}.values", f"{name}.values.exp_avg", f"{name}.values.exp_avg_sq", f"{target}.values"]
        for vector in vectors:
            if vector in before:
                assert th.equal(after[vector][kept], before[vector][rewiring.source[kept]])
                assert not after[vector][~kept].any()
        changed |= {*vectors, *(f"{n}.{buffer}" for n in (name, target) for buffer in ("row_ptr", "columns"))}
    assert all(th.equal(after[name], before[name]) for name in before if name not in changed)
    model.learn(20, reset_num_timesteps=False)


def test_the_weights_that_go_are_the_weakest():
    model, method = make(), Watched(drop_fraction=0.25)
    layer = model.actor.latent_pi[0]
    before = layer.values.detach().abs().clone()
    rewire_now(model, TopologyCallback(method))
    source = method.proposed[0].source
    kept = before[source[source >= 0]]
    assert kept.min() >= before.sort().values[len(before) - len(kept) :].min()


# What is refused, and what is said


@pytest.mark.parametrize("model", [lambda: make(sparsity=0.0), lambda: SAC("MlpPolicy", Still(), buffer_size=10)])
def test_a_dense_policy_is_refused(model):
    with pytest.raises(
        ValueError, match=r"no sparse layers to rewire: .* SparseSACPolicy, SparseTD3Policy or what sparse_policy"
    ):
        model().learn(10, TopologyCallback(SET()))


def test_density_counts_and_updates_are_logged():
    memory, model = Memory(), make()
    model.set_logger(Logger(None, [memory]))
    model.learn(60, TopologyCallback(SET(drop_fraction=0.25, update_interval=10)), log_interval=1)
    names = {name for line in memory.lines for name in line if name.startswith("sparsity/")}
    layers = {"sparsity/density/actor.latent_pi.0", "sparsity/density/critic.qf0.0", "sparsity/density/critic.qf1.0"}
    assert names == {*layers, "sparsity/active_weights", "sparsity/rewired", "sparsity/updates"}
    first, last = memory.lines[0], memory.lines[-1]
    assert all(first[name] == 0.5 for name in layers)
    assert first["sparsity/active_weights"] == 8 * 12 // 2 + 2 * 8 * 13 // 2
    assert (first["sparsity/updates"], first["sparsity/rewired"]) == (0, 0)
    assert last["sparsity/updates"] == 5
    assert last["sparsity/rewired"] == 48 // 4 + 2 * (52 // 4)


def test_the_logs_can_be_shown_as_a_table(capsys):
    model = make(verbose=1)
    callback = TopologyCallback(SET(drop_fraction=0.25, update_interval=10), verbose=1)
    model.learn(30, callback, log_interval=1)
    printed = capsys.readouterr().out
    assert "Topology update 1 at gradient step 10: 38 weights rewired" in printed
    assert "critic.qf1.0" in printed


def test_a_layer_that_no_optimizer_trains_is_refused():
    model = make()
    model.policy.actor.optimizer = th.optim.Adam(model.policy.actor.mu.parameters())
    with pytest.raises(ValueError, match=r"one optimizer that trains the sparse layer 'actor\.latent_pi\.0', found 0"):
        TopologyCallback(SET()).init_callback(model)


def test_a_target_layer_without_an_online_layer_is_refused():
    model = make()
    model.policy.odd_target = th.nn.Sequential(model.policy.actor.latent_pi[0])
    model.policy.actor.latent_pi[0] = model.policy.actor.latent_pi[0].to_dense()
    with pytest.raises(ValueError, match=r"target layer 'odd_target\.0' has no online layer"):
        TopologyCallback(SET()).init_callback(model)
