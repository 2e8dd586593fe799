"""Any algorithm of Stable-Baselines3 and sb3-contrib can be sparse: what is sparse, what stays, and what moves."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from algorithm_cases import CASES, make
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.sac.policies import SACPolicy

from sparse_rl.nn import SparseLinear, sparse_layers
from sparse_rl.sb3 import ScreeningCallback, SparseSACPolicy, TopologyCallback, sparse_policy
from sparse_rl.sb3.callbacks import online_layers
from sparse_rl.sb3.networks import networks_of, target_of
from sparse_rl.sb3.steps import gradient_steps
from sparse_rl.topology import SET, Method, RigL, Static

every = pytest.mark.parametrize("name", CASES)
some = pytest.mark.parametrize("name", ["ppo", "a2c", "trpo", "dqn", "crossq"])


def observations(model: BaseAlgorithm) -> np.ndarray:
    shape = (32, *(model.observation_space.shape or ()))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def outputs(policy: Any, seen: np.ndarray) -> list[th.Tensor]:
    """All that the networks give, not only the action, which may be the same by chance."""
    policy.set_training_mode(False)
    x, given = th.as_tensor(seen), []
    with th.no_grad():
        if hasattr(policy, "mlp_extractor"):
            given += [policy.action_net(policy.mlp_extractor.forward_actor(x)), policy.predict_values(x)]
        elif hasattr(policy, "critic"):
            actions = policy.actor(x, deterministic=True) if hasattr(policy.actor, "latent_pi") else policy.actor(x)
            given += [actions, *policy.critic(x, actions)]
        else:
            given.append((policy.q_net if hasattr(policy, "q_net") else policy.quantile_net)(x))
    return given


# What is sparse


@every
def test_by_default_the_input_layer_of_each_network_is_sparse_to_the_weight(name):
    policy = make(name).policy
    online = {key: layer for key, layer in sparse_layers(policy).items() if "_target." not in key}
    assert set(online) == {layers[0] for layers in CASES[name].layers.values()}
    for layer in online.values():
        assert layer.values.numel() == round(0.2 * layer.in_features * layer.out_features)


@every
def test_networks_are_found_with_their_input_and_output_layers(name):
    case, policy = CASES[name], make(name, sparsity=0.5, layers="all").policy
    networks = networks_of(policy)
    assert {key: list(network.layers) for key, network in networks.items()} == case.layers
    for key, network in networks.items():
        assert network.heads == network.layers[2:], key
        assert network.kind == ("actor" if key == "actor" else "critic")
    assert next(iter(networks)) in ("actor", "q_net")  # the one that acts


@every
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_a_sparsity_is_met_by_each_network_to_the_weight(name, distribution, layers):
    policy = make(name, sparsity=0.6, distribution=distribution, layers=layers).policy
    for network in networks_of(policy).values():
        modules = [policy.get_submodule(layer) for layer in network.layers]
        size = sum(m.in_features * m.out_features for m in modules)
        active = sum(m.values.numel() if isinstance(m, SparseLinear) else m.weight.numel() for m in modules)
        assert abs(active - 0.4 * size) <= 0.5 + 1e-6
        spared = [key for key, m in zip(network.layers, modules, strict=True) if not isinstance(m, SparseLinear)]
        if layers == "hidden":
            assert set(spared) >= set(network.heads)


@every
def test_each_network_has_a_topology_of_its_own_and_its_target_has_the_same(name):
    policy = make(name, sparsity=0.5, layers="all").policy
    layers = online_layers(policy)
    first = [layers[names[0]][0].topology for names in CASES[name].layers.values()]
    assert all(a != b for i, a in enumerate(first) for b in first[:i])
    modules = dict(policy.named_modules())
    for key, (layer, _, followers) in layers.items():
        assert followers == ([modules[target_of(key)]] if target_of(key) in modules else [])
        assert all(follower.topology == layer.topology for follower in followers)
        assert all(th.equal(follower.values, layer.values) for follower in followers)


# What stays as it was


@every
def test_sparsity_zero_is_the_dense_policy(name):
    dense, sparse = make(name, sparse=False), make(name, sparsity=0.0)
    assert sparse_layers(sparse.policy) == {}
    seen = observations(dense)
    rounding = 1e-6 if name == "ddpg" else 0.0  # TD3's sparse policy reads observations and actions as two blocks
    for expected, found in zip(outputs(dense.policy, seen), outputs(sparse.policy, seen), strict=True):
        th.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@every
@settings(max_examples=3, deadline=None)
@given(sparsity=st.floats(0.1, 0.8), layers=st.sampled_from(["input", "hidden", "all"]))
def test_absent_weights_count_as_zero_and_nothing_else_differs(name, sparsity, layers):
    sparse = make(name, sparsity=sparsity, layers=layers)
    dense = copy.deepcopy(sparse.policy)
    for key, layer in sparse_layers(dense).items():
        parent, _, child = key.rpartition(".")
        setattr(dense.get_submodule(parent), child, layer.to_dense())
    seen = observations(sparse)
    for expected, found in zip(outputs(dense, seen), outputs(sparse.policy, seen), strict=True):
        th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every
def test_optimizers_are_the_same_but_for_the_weights_that_do_not_exist(name):
    dense, sparse = make(name, sparse=False), make(name, sparsity=0.5, layers="all")
    for module, other in zip(dense.policy.modules(), sparse.policy.modules(), strict=True):
        optimizer, ours = getattr(module, "optimizer", None), getattr(other, "optimizer", None)
        assert type(optimizer) is type(ours)
        if optimizer is not None:
            (group,), (our_group,) = optimizer.param_groups, ours.param_groups
            assert {**group, "params": 0} == {**our_group, "params": 0}  # learning rate, epsilon, betas, ...
            assert len(group["params"]) == len(our_group["params"])
            present = {id(parameter) for parameter in other.parameters()}
            assert all(id(parameter) in present for parameter in our_group["params"])


# What moves


class Watching(TopologyCallback):
    """Checks at each update that optimizer state moves with the weights."""

    def _rewire(self, step, gradients=None):
        before = {name: self._state(name) for name in online_layers(self.model.policy)}
        super()._rewire(step, gradients)
        for name, old in before.items():
            new = self._state(name)
            assert old.keys() == new.keys()
            for key, vector in new.items():
                if key != "positions":
                    was = dict(zip(old["positions"], old[key], strict=True))
                    expected = [was.get(position, 0.0) for position in new["positions"]]
                    same = np.equal(vector, expected)
                    # A weight may be dropped and grown again at once: then it starts anew.
                    assert np.all(same | (np.asarray(vector) == 0)), (name, key)
                    assert np.any(same & (np.asarray(vector) != 0)) or not np.any(old[key]), (name, key)

    def _state(self, name):
        layer, optimizer, _ = online_layers(self.model.policy)[name]
        state = {
            key: vector.tolist()
            for key, vector in optimizer.state.get(layer.values, {}).items()
            if isinstance(vector, th.Tensor) and vector.dim() == 1
        }
        return {"positions": layer.topology.positions.tolist(), "values": layer.values.tolist(), **state}


@every
@pytest.mark.parametrize("method", [Static(), SET(0.3, 5), RigL(0.3, 5)], ids=lambda method: type(method).__name__)
def test_it_learns_with_exact_density_and_moving_topology(name, method: Method):
    model = make(name, sparsity=0.5, layers="all")
    before = {key: (layer.topology, layer.values.clone()) for key, layer in sparse_layers(model.policy).items()}
    callback = (TopologyCallback if isinstance(method, Static) else Watching)(method)
    model.learn(160, callback)
    assert callback.updates == 0 if isinstance(method, Static) else callback.updates >= 2
    for key, layer in sparse_layers(model.policy).items():
        topology, values = before[key]
        layer.topology.validate()
        assert layer.values.shape == values.shape
        if isinstance(method, Static) or values.numel() > 30:  # of a few weights the same may grow again
            assert (layer.topology == topology) == isinstance(method, Static), key
        assert th.isfinite(layer.values).all()
        if isinstance(method, Static) and "_target." not in key:
            assert not th.equal(layer.values, values), f"{key} is not trained"
    for layer, optimizer, followers in online_layers(model.policy).values():
        assert all(follower.topology == layer.topology for follower in followers)
        for vector in optimizer.state.get(layer.values, {}).values():
            assert not isinstance(vector, th.Tensor) or vector.dim() == 0 or vector.shape == layer.values.shape


@every
def test_a_saved_model_is_loaded_with_its_topology_and_learns_on(name, tmp_path):
    model = make(name, sparsity=0.5, layers="all")
    model.learn(100, TopologyCallback(SET(0.3, 5)))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=gym.make(CASES[name].env), device="cpu")
    seen = observations(model)
    for expected, found in zip(outputs(model.policy, seen), outputs(loaded.policy, seen), strict=True):
        assert th.equal(expected, found)
    topologies = {key: layer.topology for key, layer in sparse_layers(model.policy).items()}
    assert {key: layer.topology for key, layer in sparse_layers(loaded.policy).items()} == topologies
    # Which looks at the optimizer's state. With the model's seed all growth would come again, and end where it was.
    loaded.learn(100, Watching(SET(0.3, 5), seed=1))
    changed = {key for key, layer in sparse_layers(loaded.policy).items() if layer.topology != topologies[key]}
    assert changed >= {layers[0] for layers in CASES[name].layers.values()}


@some
def test_a_policy_can_be_saved_alone(name, tmp_path):
    policy = make(name, sparsity=0.5).policy
    policy.save(tmp_path / "policy.pth")
    loaded = type(policy).load(tmp_path / "policy.pth", device="cpu")
    assert loaded.sparsity == 0.5
    seen = np.random.default_rng(0).normal(size=(8, *policy.observation_space.shape)).astype(np.float32)
    for expected, found in zip(outputs(policy, seen), outputs(loaded, seen), strict=True):
        assert th.equal(expected, found)


# When


@every
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("batch_size", [16, 24])  # 24 leaves a smaller minibatch at the end of a rollout of 32
def test_gradient_steps_are_steps_of_the_optimizer(name, batch_size):
    model = make(name)
    if hasattr(model, "n_steps") and hasattr(model, "batch_size") and not hasattr(model, "replay_buffer"):
        model.batch_size = batch_size
    optimizer = model.critic.optimizer if hasattr(model, "critic") else model.policy.optimizer
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model.learn(130)
    assert gradient_steps(model) == len(steps) > 5


class Comparing(TopologyCallback):
    """Keeps the gradients by which weights grow."""

    def _rewire(self, step, gradients=None):
        self.gradients = {
            name: (gradient.rows(0, gradient.d_outputs.shape[1]), online_layers(self.model.policy)[name][0].topology)
            for name, gradient in gradients.items()
        }
        super()._rewire(step, gradients)
        self.model.policy.optimizer.register_step_pre_hook(lambda *_: None)


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "trpo"])
def test_weights_grow_by_the_gradient_of_the_next_minibatch(name):
    model, seen = make(name, sparsity=0.5, layers="all"), []
    model.max_grad_norm = 1e9  # clipping would scale them
    callback = Comparing(RigL(0.3, 4, stop=7))

    def note(*_: Any) -> None:
        if callback._catcher is not None and not hasattr(callback, "gradients"):
            layers = sparse_layers(model.policy)
            seen.append({key: layer.values.grad for key, layer in layers.items() if layer.values.grad is not None})
            seen[-1] = {key: gradient.clone() for key, gradient in seen[-1].items()}

    model.policy.optimizer.register_step_pre_hook(note)
    if name == "trpo":  # whose actor is not trained by the optimizer
        compute = model._compute_actor_grad

        def note_actors(*args: Any) -> Any:
            parameters, objective, *rest = compute(*args)
            if callback._catcher is not None and not hasattr(callback, "gradients"):
                parts = objective.split([parameter.numel() for parameter in parameters])
                names = {id(layer.values): key for key, layer in sparse_layers(model.policy).items()}
                pairs = zip(parameters, parts, strict=True)
                seen.append({names[id(p)]: part.clone() for p, part in pairs if id(p) in names})
            return parameters, objective, *rest

        model._compute_actor_grad = note_actors
    model.learn(200, callback)
    assert set(callback.gradients) == {layer for layers in CASES[name].layers.values() for layer in layers}
    for key, (dense, topology) in callback.gradients.items():
        first = next(gradients[key] for gradients in seen if key in gradients)
        assert first.abs().max() > 0, key
        th.testing.assert_close(dense.flatten()[topology.positions], first, rtol=1e-3, atol=1e-7)


def test_long_names_are_cut_where_tables_would_cut_them_to_equal_ones(capsys):
    model = make("ppo", sparsity=0.5, layers="all")
    model.verbose = 1
    model.learn(64, TopologyCallback(SET(0.3, 2)))
    table = capsys.readouterr().out
    assert all(f"density/{name} " in table for name in ("policy_net.0", "policy_net.2", "value_net.0", "value_net"))


# Screening


@pytest.mark.parametrize("name", ["crossq", "dqn"])
def test_screening_wires_the_input_layers_wherever_they_stand(name):
    model = make(name, sparsity=0.3, layers="all")
    model.learning_starts = 120
    before = {key: layer.topology for key, layer in sparse_layers(model.policy).items()}
    callback = ScreeningCallback(level=0.5)
    model.learn(130, callback)
    assert callback.evidence is not None
    assert callback.evidence.chosen.any()
    online = [key for key in before if "_target." not in key]
    changed = {key for key in online if sparse_layers(model.policy)[key].topology != before[key]}
    assert changed == {layers[0] for layers in CASES[name].layers.values()}


def test_screening_needs_a_replay_buffer():
    with pytest.raises(ValueError, match="Screening looks at a replay buffer, which PPO does not have"):
        make("ppo").learn(32, ScreeningCallback())


# What is refused, and what is special


def test_sac_and_td3_keep_their_own_policies():
    assert sparse_policy(SACPolicy) is SparseSACPolicy
    assert sparse_policy(SparseSACPolicy) is SparseSACPolicy
    assert sparse_policy(ActorCriticCnnPolicy) is sparse_policy(ActorCriticCnnPolicy)


def test_a_name_is_no_policy_class():
    with pytest.raises(TypeError, match="Expected the class of a policy, for example ActorCriticPolicy, not 'MlpPo"):
        sparse_policy("MlpPolicy")


def test_recurrent_policies_are_refused():
    policy = sparse_policy(RecurrentPPO.policy_aliases["MlpLstmPolicy"])
    with pytest.raises(ValueError, match="has the recurrent layer 'lstm_actor'"):
        RecurrentPPO(policy, "CartPole-v1", device="cpu")


@pytest.mark.parametrize("name", ["dqn", "qrdqn"])
def test_one_network_has_one_sparsity(name):
    with pytest.raises(ValueError, match="has no actor beside its critic: give `sparsity` as one number"):
        make(name, sparsity={"actor": 0.5, "critic": 0.5})


def test_sparsity_can_be_given_per_network():
    layers = sparse_layers(make("ppo", sparsity={"actor": 0.5, "critic": 0.75}).policy)
    assert {key: layer.density for key, layer in layers.items()} == {
        "mlp_extractor.policy_net.0": 0.5,
        "mlp_extractor.value_net.0": 0.25,
    }
