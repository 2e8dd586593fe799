"""Every method in training: on the fast path and on autograd's, with gradients that are the right ones."""

import re
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from test_learners import OURS, SPARSE, THEIRS, Drift, assert_same, make, updated
from torch import nn

from sparse_rl.nn import FeatureMajorMLP, SparseLinear, rewire_layer, sparse_layers
from sparse_rl.sb3 import TopologyCallback
from sparse_rl.sb3.gradients import GradientCatcher
from sparse_rl.topology import (
    SET,
    GradualPruning,
    Method,
    NeuroplasticExpansion,
    RigL,
    SignedSET,
    Topology,
    WeightGradient,
    rewire,
)

both = pytest.mark.parametrize("learner", OURS)
SPARSE_KWARGS: dict[str, Any] = {"sparsity": 0.6, "distribution": "uniform"}
METHODS: dict[str, tuple[Method, dict[str, Any]]] = {
    "set": (SET(0.3, 10), SPARSE_KWARGS),
    "signed set": (SignedSET(0.3, 10, stop=30), {"lambdas": [5, 4]}),
    "rigl": (RigL(0.3, 10, decay="cosine", stop=50), {**SPARSE_KWARGS, "layers": "all", "initialisation": "sparse"}),
    # From dense, through the density at which another kernel takes over.
    "gmp": (GradualPruning(end=40, update_interval=10), {**SPARSE_KWARGS, "sparsity": 0.8, "initial_sparsity": 0}),
    "ne": (
        NeuroplasticExpansion(end=40, update_interval=10),
        {**SPARSE_KWARGS, "sparsity": 0.3, "initial_sparsity": 0.8},
    ),
}


def hooked(model: OffPolicyAlgorithm) -> list[str]:
    return [name for name, layer in model.policy.named_modules() if layer._forward_hooks or layer._backward_hooks]


def densities(model: OffPolicyAlgorithm) -> dict[str, float]:
    return {name: layer.density for name, layer in sparse_layers(model.policy).items()}


class Watching(TopologyCallback):
    """Notes the gradient step of each rollout's end, whether layers have hooks then, and what is rewired."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.armed: list[int] = []
        self.rewirings: list[tuple[int, int]] = []
        self.gradients: dict[str, WeightGradient] | None = None

    def _on_rollout_end(self) -> None:
        assert not hooked(self.model)  # nobody watches a rollout: evaluations happen there
        super()._on_rollout_end()
        if hooked(self.model):
            self.armed.append(self.model._n_updates)

    def _rewire(self, step: int, gradients: Any = None) -> None:
        self.rewirings.append((self.model._n_updates, step))
        self.gradients = gradients
        super()._rewire(step, gradients)


# Both paths


@both
@pytest.mark.parametrize("name", METHODS)
def test_both_paths_train_alike_with_every_method(learner: str, name: str) -> None:
    method, policy_kwargs = METHODS[name]
    runs = []
    for algorithm in (OURS, THEIRS):
        model = make(algorithm[learner], SPARSE[learner], policy_kwargs, learning_starts=20)
        model.set_logger(Logger(None, []))
        callback = TopologyCallback(method)
        model.learn(80, callback)
        assert callback.updates >= 3
        assert not hooked(model)
        runs.append(model)
    assert runs[0]._follow()  # the fast path is taken again
    assert_same(*runs)
    for online, target in targets(runs[0]):
        assert online.topology == target.topology


def targets(model: OffPolicyAlgorithm) -> list[tuple[SparseLinear, SparseLinear]]:
    layers = sparse_layers(model.policy)
    pairs = [(layer, layers.get(name.replace(".", "_target.", 1))) for name, layer in layers.items()]
    return [(layer, target) for layer, target in pairs if target is not None]


@both
@pytest.mark.parametrize("name", ["gmp", "ne"])
def test_pruning_and_growth_end_at_the_density_that_was_asked_for(learner: str, name: str) -> None:
    method, policy_kwargs = METHODS[name]
    model = make(OURS[learner], SPARSE[learner], policy_kwargs, learning_starts=20)
    for each in sparse_layers(model.policy).values():
        # The output layer stays dense, and for that the others have less.
        assert each.density == 1 if name == "gmp" else 0.1 < each.density < 0.2
        assert each.values.numel() == each.budget.start
    parameters = [id(p) for p in model.policy.parameters()]
    model.learn(80, TopologyCallback(method))
    for layer in sparse_layers(model.policy).values():
        assert layer.values.numel() == layer.budget.end != layer.budget.start
        layer.topology.validate()
    assert [id(p) for p in model.policy.parameters()] == parameters
    for network in (model.actor, model.critic):
        for parameter, state in network.optimizer.state.items():
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape


def test_another_method_goes_on_with_what_was_pruned() -> None:
    method, policy_kwargs = METHODS["gmp"]
    model = make(OURS["sac"], SPARSE["sac"], policy_kwargs, learning_starts=20)
    with pytest.raises(ValueError, match="SET keeps the number of active weights"):
        model.learn(1, TopologyCallback(SET(0.3, 10)))
    model.learn(80, TopologyCallback(method))
    callback = TopologyCallback(SET(0.3, 10))
    model.learn(30, callback, reset_num_timesteps=False)
    assert callback.updates >= 2
    assert all(layer.values.numel() == layer.budget.end for layer in sparse_layers(model.policy).values())


def test_a_network_changes_its_kernel_as_its_density_passes_the_crossover() -> None:
    model = make(OURS["sac"], SPARSE["sac"], METHODS["gmp"][1], learning_starts=20)
    model.learn(22)

    def is_sparse() -> bool:
        critics = model._fast.critics
        return bool(critics.prepare(32).table[0]["is_sparse"])

    stacks = model._fast.critics.stacks
    assert not is_sparse()
    model.learn(80, TopologyCallback(METHODS["gmp"][0]), reset_num_timesteps=False)
    assert is_sparse()
    assert model._fast.critics.stacks is stacks


def test_a_feature_major_network_follows_another_number_of_weights() -> None:
    th.manual_seed(0)
    layers = [SparseLinear(Topology.random((6, 8), n), kernel=k) for n, k in ((20, "numba"), (20, "numba"))]
    network, x = FeatureMajorMLP(layers[:1], layers[1:]), th.randn(8, 5)
    optimizer = th.optim.Adam([p for layer in layers for p in layer.parameters()])
    for dropped, grown in (([0, 5, 9], []), ([], [0, 1]), ([1], [2])):
        for layer in layers:
            before = layer.topology
            free = sorted(set(range(48)) - set(before.positions.tolist()))
            places = th.tensor([free[i] for i in grown], dtype=th.int64)
            rewire_layer(layer, rewire(before, th.tensor(dropped, dtype=th.int64), places), optimizer)
        output = network.forward(x)
        expected = th.cat([layer(x.t()).t() for layer in layers])
        th.testing.assert_close(output, expected.detach())
        network.backward(th.ones_like(output))
        ours = [p.grad.clone() for layer in layers for p in layer.parameters()]
        expected.sum().backward()  # adds its own
        for layer_gradient, both_gradients in zip(ours, (p.grad for n in layers for p in n.parameters()), strict=True):
            th.testing.assert_close(both_gradients, 2 * layer_gradient)
        optimizer.step()


# When, and with which gradients


@pytest.mark.parametrize(
    ("learner", "settings", "armed", "rewirings"),
    [
        # Rewired one rollout after it fell due, at the drop fraction of the step at which it did.
        ("sac", {}, [10, 20], [(11, 10), (21, 20)]),
        # The first gradient step after 10 has none of TD3's actor.
        ("td3", {}, [10, 11, 20, 21], [(12, 10), (22, 20)]),
        ("td3", {"gradient_steps": 2}, [10, 20, 30, 40], [(n + 2, n) for n in range(10, 50, 10)]),
        # An update falls due with every rollout.
        ("sac", {"train_freq": 10, "gradient_steps": 10}, [10, 20], [(20, 10)]),
    ],
)
def test_layers_are_watched_from_when_an_update_falls_due_until_all_have_a_gradient(
    learner: str, settings: dict[str, Any], armed: list[int], rewirings: list[tuple[int, int]]
) -> None:
    model = make(OURS[learner], SPARSE[learner], SPARSE_KWARGS, learning_starts=5, **settings)
    callback = Watching(RigL(0.3, 10))
    model.learn(30, callback)
    assert (callback.armed, callback.rewirings) == (armed, rewirings)
    assert not hooked(model)


@pytest.mark.parametrize("method", [SET(0.3, 10), SignedSET(0.3, 10), GradualPruning(end=40, update_interval=10)])
def test_methods_that_need_no_gradient_never_watch(method: Method) -> None:
    resized = {"initial_sparsity": 0.2} if isinstance(method, GradualPruning) else {}
    callback = Watching(method)
    make(OURS["sac"], SPARSE["sac"], SPARSE_KWARGS | resized, learning_starts=5).learn(30, callback)
    assert [now for now, _ in callback.rewirings] == [10, 20]
    assert callback.armed == []
    assert callback.gradients is None


@both
def test_two_calls_of_learn_rewire_as_one_does(learner: str) -> None:
    """The first call ends while the layers are watched, or while a gradient waits to be used."""
    once, callback = make(OURS[learner], SPARSE[learner], SPARSE_KWARGS, learning_starts=5), Watching(RigL(0.3, 10))
    once.learn(40, callback)
    for split in (15, 16, 17):
        model, again = make(OURS[learner], SPARSE[learner], SPARSE_KWARGS, learning_starts=5), Watching(RigL(0.3, 10))
        model.learn(split, again)
        assert not hooked(model)
        model.learn(40 - split, again, reset_num_timesteps=False)
        assert again.rewirings == callback.rewirings


@both
@pytest.mark.parametrize("algorithms", [OURS, THEIRS], ids=["ours", "theirs"])
def test_what_is_caught_is_the_gradient_of_the_critics_own_loss(learner: str, algorithms: dict[str, Any]) -> None:
    """At the active weights it equals what the critic's optimizer sees: the actor's loss adds nothing to it."""
    model = updated(make(algorithms[learner], SPARSE[learner], SPARSE_KWARGS), 4)
    layers = {
        n: layer for n, layer in sparse_layers(model.policy).items() if not n.partition(".")[0].endswith("_target")
    }
    seen: dict[str, th.Tensor] = {}

    def look(*_: Any) -> None:
        for name, layer in layers.items():
            if layer.values.grad is not None and name.startswith("critic"):
                seen[name] = layer.values.grad.clone()

    handle = model.critic.optimizer.register_step_pre_hook(look)
    catcher = GradientCatcher(layers)
    catcher.watch()
    model.train(1, 32)
    if catcher.missing:  # TD3's actor is trained every other time
        assert all(name.startswith("actor") for name in catcher.missing)
        model.critic.optimizer._optimizer_step_pre_hooks.clear()
        model.train(1, 32)
    handle.remove()
    catcher.release()
    assert not hooked(model)
    assert catcher.missing == []
    assert len(seen) == 4
    for name, layer in layers.items():
        gradient = catcher.caught[name]
        dense = gradient.rows(0, layer.out_features)
        assert gradient.inputs.shape == (32, layer.in_features)  # observations and actions
        if name in seen:
            th.testing.assert_close(dense.flatten()[layer.topology.positions], seen[name], atol=1e-6, rtol=1e-4)


def test_growth_by_gradient_waits_for_the_actors_turn() -> None:
    model = make(OURS["td3"], SPARSE["td3"], SPARSE_KWARGS, learning_starts=5, policy_delay=3)
    with pytest.raises(ValueError, match="give an `update_interval` of at least 3"):
        model.learn(40, TopologyCallback(RigL(0.3, 2)))
    model.learn(40, callback := TopologyCallback(RigL(0.3, 3)))
    assert callback.updates == 10  # of the 34 gradient steps; the last one is still waiting
    TopologyCallback(SET(0.3, 1)).check(model)  # which needs no gradient


def test_a_last_update_that_comes_before_the_actors_turn_waits_for_it() -> None:
    kwargs = {**SPARSE_KWARGS, "sparsity": 0.3, "initial_sparsity": 0.8}
    model = make(OURS["td3"], SPARSE["td3"], kwargs, learning_starts=5)
    callback = TopologyCallback(NeuroplasticExpansion(end=21, update_interval=10))  # at 10, 20 and 21; the actor at 22
    model.learn(40, callback)
    assert callback.updates == 2  # the last two are one
    assert all(layer.values.numel() == layer.budget.end for layer in sparse_layers(model.policy).values())


def test_a_layer_that_is_never_trained_is_named() -> None:
    model = make(OURS["sac"], SPARSE["sac"], SPARSE_KWARGS, learning_starts=5)
    model.policy.unused = SparseLinear(Topology.random((8, 8), active=32))
    model.actor.optimizer.add_param_group({"params": list(model.policy.unused.parameters())})
    message = "layer 'unused' got no gradient from the topology update at gradient step 10 to the next one"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        model.learn(40, TopologyCallback(RigL(0.3, 10)))
    assert not hooked(model)


def test_a_budget_that_the_method_does_not_follow_is_refused_before_training() -> None:
    model = make(OURS["sac"], SPARSE["sac"], SPARSE_KWARGS | {"initial_sparsity": 0.8})
    with pytest.raises(ValueError, match="`sparsity`, at the end, must not be less than `initial_sparsity`"):
        model.learn(1, TopologyCallback(GradualPruning(end=10)))
    with pytest.raises(ValueError, match="keeps the number of active weights"):
        model.learn(1, TopologyCallback(SET()))


# Saved


@both
@pytest.mark.parametrize("name", ["gmp", "ne"])
def test_a_network_of_another_size_than_at_the_start_is_loaded(learner: str, name: str, tmp_path: Any) -> None:
    method, policy_kwargs = METHODS[name]
    model = make(OURS[learner], SPARSE[learner], policy_kwargs, learning_starts=20)
    model.learn(50, TopologyCallback(method))
    model.save(tmp_path / "model")
    loaded = OURS[learner].load(tmp_path / "model", env=Drift(), device="cpu")
    assert densities(loaded) == densities(model)
    assert [layer.budget for layer in sparse_layers(loaded.policy).values()] == [
        layer.budget for layer in sparse_layers(model.policy).values()
    ]
    observation = np.ones((3, 24), np.float32)
    np.testing.assert_array_equal(*(each.predict(observation, deterministic=True)[0] for each in (model, loaded)))
    loaded.learn(60, TopologyCallback(method), reset_num_timesteps=False)
    assert all(layer.values.numel() == layer.budget.end for layer in sparse_layers(loaded.policy).values())


# Where


def make_policy(learner: str, **policy_kwargs: Any) -> nn.Module:
    return make(THEIRS[learner], SPARSE[learner], policy_kwargs).policy


@both
@pytest.mark.parametrize(
    ("kwargs", "n_layers"),
    [
        ({"layers": "input"}, 1),
        ({"layers": "input", "distribution": "erk"}, 1),
        ({"layers": "hidden"}, 2),
        ({"layers": "all"}, 3),
        ({"layers": "all", "distribution": "uniform"}, 3),
        ({"lambdas": [5]}, 1),
        ({"lambdas": [5, 4]}, 2),
    ],
)
def test_layers_that_are_sparse(learner: str, kwargs: dict[str, Any], n_layers: int) -> None:
    layers = sparse_layers(make_policy(learner, **kwargs))
    actor = [name for name in layers if name.startswith("actor.")]
    has_two_heads = learner == "sac" and n_layers == 3
    assert len(actor) == n_layers + has_two_heads
    assert len([name for name in layers if name.startswith("critic.qf0.")]) == n_layers


@both
def test_lambdas_decide_the_number_of_weights(learner: str) -> None:
    layers = sparse_layers(make_policy(learner, lambdas=[5, 4]))
    prefix = {"sac": "actor.latent_pi", "td3": "actor.mu"}[learner]
    assert layers[f"{prefix}.0"].values.numel() == 5 * (24 + 20)
    assert layers[f"{prefix}.2"].values.numel() == 4 * (20 + 16)
    assert layers["critic.qf1.0"].values.numel() == 5 * (27 + 20)


def test_actor_and_critic_start_and_end_with_sparsities_of_their_own() -> None:
    start, end = {"actor": 0.0, "critic": 0.5}, {"actor": 0.5, "critic": 0.9}
    layers = sparse_layers(make_policy("sac", layers="input", initial_sparsity=start, sparsity=end))
    assert (layers["actor.latent_pi.0"].budget.start, layers["actor.latent_pi.0"].budget.end) == (480, 240)
    assert (layers["critic.qf0.0"].budget.start, layers["critic.qf0.0"].budget.end) == (270, 54)


def test_sparse_initialisation_counts_active_weights_only() -> None:
    """Dense weights are uniform within 1 / sqrt(fan-in); so are these, with the fan-in that each neuron has."""
    policies = []
    for initialisation in ("dense", "sparse"):
        th.manual_seed(0)
        policies.append(make_policy("sac", layers="input", sparsity=0.9, initialisation=initialisation))
    dense, sparse = (sparse_layers(policy)["actor.latent_pi.0"] for policy in policies)
    assert dense.topology == sparse.topology
    fan_in = sparse.row_ptr.diff()[sparse.topology.rows]
    th.testing.assert_close(sparse.values, dense.values * (24 / fan_in).sqrt())
    bounds = fan_in**-0.5
    assert bool((sparse.values.abs() <= bounds).all())
    assert float((sparse.values.detach().abs() / bounds).mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": "hiden"}, "Did you mean 'hidden'?"),
        ({"layers": "all", "distribution": "input"}, "makes the input layer alone sparse, but `layers` is 'all'"),
        ({"lambdas": [7, 64], "sparsity": 0.9}, "leave out `sparsity`, `distribution`, `layers`"),
        ({"lambdas": [1, 1, 1, 1, 1]}, "There are 5 lambdas for 4 layers"),
        ({"initial_sparsity": "dense"}, "`initial_sparsity` must be a number in [0, 1)"),
        ({"initialisation": "spars"}, "Did you mean 'sparse'?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_policy("sac", **wrong)


def test_any_layer_of_any_model_can_be_watched() -> None:
    """No reinforcement learning: several blocks, a pass without gradient first, two with, of which the first counts."""
    th.manual_seed(0)
    layer = SparseLinear(Topology.random((4, 6), 10))
    catcher = GradientCatcher({"it": layer})
    catcher.watch()
    with th.no_grad():
        layer(th.randn(3, 6))
    x, y = th.randn(3, 4), th.randn(3, 2)
    layer(x, y).square().sum().backward()
    layer(th.randn(3, 6)).sum().backward()
    d_output = 2 * layer(x, y).detach()
    catcher.release()
    expected = d_output.t() @ th.cat([x, y], dim=1)
    th.testing.assert_close(catcher.caught["it"].rows(0, 4), expected)
