"""Whatever is done to networks and optimizers between two gradient steps, the fast learners do what SB3's would."""

import copy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from test_learners import OURS, SPARSE, THEIRS, Drift, assert_same, make, train, updated
from torch import nn

from sparse_rl.kernels import layout
from sparse_rl.nn import FeatureMajorMLP, SparseLinear, rewire_layer
from sparse_rl.topology import SET, Topology

both = pytest.mark.parametrize("learner", OURS)


def smaller(network: nn.Module) -> dict[str, th.Tensor]:
    return {name: x * 0.9 if x.is_floating_point() else x for name, x in network.state_dict().items()}


def move(model: OffPolicyAlgorithm) -> None:
    for p in model.policy.parameters():
        p.data = p.data.clone()


def swap_and_swap_back(model: OffPolicyAlgorithm) -> None:
    backup = [p.data for p in model.actor.parameters()]
    for p in model.actor.parameters():
        p.data = p.data * 0.5
    model.predict(np.zeros((1, model.observation_space.shape[0]), np.float32))
    for p, data in zip(model.actor.parameters(), backup, strict=True):
        p.data = data


def freeze(model: OffPolicyAlgorithm) -> None:
    next(model.actor.parameters()).requires_grad_(False)
    next(model.critic.parameters()).requires_grad_(False)


def freeze_and_unfreeze(model: OffPolicyAlgorithm) -> None:
    freeze(model)
    train(model, 3, seed=7)
    for p in (*model.actor.parameters(), *model.critic.parameters()):
        p.requires_grad_(True)


def load_other_parameters(model: OffPolicyAlgorithm) -> None:
    state = {
        name: value * 0.9 if value.is_floating_point() else value for name, value in model.policy.state_dict().items()
    }
    model.policy.load_state_dict(state)


def assign_other_parameters(model: OffPolicyAlgorithm) -> None:
    state = {
        name: value * 0.9 if value.is_floating_point() else value for name, value in model.policy.state_dict().items()
    }
    model.actor.load_state_dict(
        {n.removeprefix("actor."): v for n, v in state.items() if n.startswith("actor.")}, assign=True
    )
    model.actor.optimizer = th.optim.Adam(model.actor.parameters(), lr=3e-4)


def replace_optimizer(model: OffPolicyAlgorithm) -> None:
    model.actor.optimizer = th.optim.SGD(model.actor.parameters(), lr=1e-2)


def add_weight_decay(model: OffPolicyAlgorithm) -> None:
    model.actor.optimizer.param_groups[0]["weight_decay"] = 1e-2
    model.critic.optimizer.param_groups[0]["weight_decay"] = 1e-2


def switch_to_amsgrad(model: OffPolicyAlgorithm) -> None:
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=3e-4, amsgrad=True)


def forget_moments(model: OffPolicyAlgorithm) -> None:
    for state in model.critic.optimizer.state.values():
        state["exp_avg_sq"] = th.full_like(state["exp_avg_sq"], 0.1)
        state["exp_avg"].data = state["exp_avg"] * 0.5


def set_one_step_back(model: OffPolicyAlgorithm) -> None:
    next(iter(model.critic.optimizer.state.values()))["step"].fill_(2.0)


def add_a_gradient_hook(model: OffPolicyAlgorithm) -> None:
    next(model.actor.parameters()).register_hook(lambda gradient: gradient * 0)


def change_the_batch_size(model: OffPolicyAlgorithm) -> None:
    model.batch_size = 33


@both
@pytest.mark.parametrize(
    "change",
    [
        move,
        swap_and_swap_back,
        freeze,
        freeze_and_unfreeze,
        load_other_parameters,
        assign_other_parameters,
        replace_optimizer,
        add_weight_decay,
        switch_to_amsgrad,
        forget_moments,
        set_one_step_back,
        add_a_gradient_hook,
        change_the_batch_size,
    ],
)
@pytest.mark.parametrize("policy", ["dense", "sparse"])
def test_a_change_is_followed(learner: str, policy: str, change: Callable[[OffPolicyAlgorithm], None]) -> None:
    models = []
    for algorithms in (OURS, THEIRS):
        model = updated(make(algorithms[learner], "MlpPolicy" if policy == "dense" else SPARSE[learner]), 6)
        change(model)
        if algorithms is OURS:
            assert model._follow() == (change is not add_a_gradient_hook)
        train(model, 10, seed=5)
        models.append(model)
    assert_same(*models)
    observation = np.ones((3, models[0].observation_space.shape[0]), np.float32)
    actions = [model.predict(observation, deterministic=True)[0] for model in models]
    np.testing.assert_allclose(*actions, atol=1e-4)


@both
def test_a_copy_goes_on_by_itself(learner: str) -> None:
    model = updated(make(OURS[learner], SPARSE[learner]), 10)
    other = copy.deepcopy(model)
    before = [p.clone() for p in model.policy.parameters()]
    train(other, 10)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    train(model, 10)
    assert_same(model, other)


@both
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1)])
def test_action_spaces_of_any_shape(learner: str, shape: tuple[int, ...]) -> None:
    class Box(Drift):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gym.spaces.Box(-2, 2, shape, np.float32)

        def step(self, action: Any) -> Any:
            assert action.shape == shape
            return super().step(action.ravel()[:1])

    model = make(OURS[learner], env=Box())
    model.learn(130)
    assert model.predict(np.zeros((4, 24), np.float32))[0].shape == (4, *shape)
    assert model.predict(np.zeros(24, np.float32))[0].shape == shape


def test_another_type_of_numbers_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    mlp = FeatureMajorMLP(list(network))
    x = th.randn(3, 5)
    mlp.forward(x)
    network.double()
    with pytest.raises(ValueError, match=r"Expected parameters of torch.float32 on the CPU"):
        mlp.forward(x)
    with pytest.raises(ValueError, match=r"torch.float32, on the CPU, not of shape \(3, 5\), torch.float64"):
        FeatureMajorMLP([nn.Linear(3, 4)]).forward(x.double())


def test_a_gradient_of_another_type_reads_no_other_memory() -> None:
    mlp = FeatureMajorMLP([nn.Linear(3, 4).double()])
    y = mlp.forward(th.randn(3, 50).double())
    assert mlp.input_gradient(th.ones_like(y).float()).dtype == th.float64


def test_a_pass_cannot_be_differentiated_after_a_change() -> None:
    layer = SparseLinear(Topology.random((6, 9), 20), kernel="numba")
    mlp = FeatureMajorMLP([layer])
    y = mlp.forward(th.randn(9, 5))
    rewire_layer(layer, SET(drop_fraction=0.5).propose(layer.topology, layer.values, 1000))
    with pytest.raises(ValueError, match="changed since the forward pass"):
        mlp.backward(th.ones_like(y))


def test_networks_that_the_passes_would_misread_are_not_supported() -> None:
    twice = nn.Linear(4, 4)
    assert not FeatureMajorMLP.supports([nn.Linear(4, 8), nn.ReLU(), nn.Linear(4096, 2)])
    assert not FeatureMajorMLP.supports([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2).double()])
    assert not FeatureMajorMLP.supports([twice, nn.ReLU(), twice])


def test_few_programs_are_kept() -> None:
    mlp = FeatureMajorMLP([nn.Linear(3, 4)])
    for batch in range(1, 30):
        mlp.forward(th.ones(3, batch))
    assert len(mlp._programs) <= 4


def test_a_forked_process_gets_a_sentence_instead_of_a_signal() -> None:
    program = """
import os, torch
from sparse_rl.kernels import kernels_only
from sparse_rl.nn import FeatureMajorMLP
mlp = FeatureMajorMLP([torch.nn.Linear(3, 4)])
with kernels_only():
    mlp.forward(torch.ones(3, 8))
child = os.fork()
if child == 0:
    try:
        mlp.forward(torch.ones(3, 1))  # one observation needs no threads
        mlp.forward(torch.ones(3, 8))
    except RuntimeError as error:
        os._exit(7 if "spawn" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@both
@pytest.mark.parametrize("batch_size", [33, 77, 100])
def test_what_memory_held_before_does_not_matter(
    learner: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve(*args: Any, **kwargs: Any) -> Any:
        memory = layout.empty_rows(*args, **kwargs)
        memory.fill(np.nan)
        return memory

    def run(algorithm: Any) -> OffPolicyAlgorithm:
        model = updated(make(algorithm), 5)
        for _ in range(8):
            model.train(1, batch_size)
            hoard = [np.full((3, batch_size), np.nan, np.float32) for _ in range(50)]
            del hoard  # the next small arrays may get this memory
        return model

    expected = run(THEIRS[learner])
    monkeypatch.setattr("sparse_rl.agents.replay.batches.empty_rows", reserve)
    for _ in range(3):
        assert_same(run(OURS[learner]), expected)


def double_what_the_actor_sees(model: OffPolicyAlgorithm) -> None:
    model.actor.features_extractor = Doubling(model.observation_space)


def tie_targets(model: OffPolicyAlgorithm) -> None:
    model.critic_target = model.policy.critic_target = model.critic


def wrap_step(model: OffPolicyAlgorithm) -> None:
    optimizer = model.critic.optimizer
    step = type(optimizer).step

    def clipped(closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_(model.critic.parameters(), 1e-3)
        return step(optimizer)

    optimizer.step = clipped


def move_in_the_optimizer(model: OffPolicyAlgorithm) -> None:
    class Moving(th.optim.SGD):
        @th.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data - 0.01 * p.grad

    model.actor.optimizer = Moving(model.actor.parameters(), lr=1e-2)
    model.critic.optimizer = Moving(model.critic.parameters(), lr=1e-2)


def watch_everything(model: OffPolicyAlgorithm) -> None:
    def halve(p: th.Tensor) -> None:
        p.grad.mul_(0.5)

    next(model.actor.parameters()).register_post_accumulate_grad_hook(halve)


class Doubling(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return 2 * super().forward(observations)


@both
@pytest.mark.parametrize(
    "change", [double_what_the_actor_sees, tie_targets, wrap_step, move_in_the_optimizer, watch_everything]
)
def test_what_the_fast_path_does_not_know_is_left_to_stable_baselines3(
    learner: str, change: Callable[[OffPolicyAlgorithm], None]
) -> None:
    models = []
    for algorithms in (OURS, THEIRS):
        model = updated(make(algorithms[learner]), 6)
        change(model)
        train(model, 10, seed=5)
        train(model, 2, gradient_steps=3, seed=6)
        models.append(model)
    assert_same(*models)


@both
def test_a_buffer_of_another_width_reads_no_other_memory(learner: str) -> None:
    model, wider = updated(make(OURS[learner]), 3), make(OURS[learner], env=Wide())
    wider = updated(wider, 1)
    model.replay_buffer = wider.replay_buffer
    with pytest.raises(ValueError, match=r"Expected 27 features and actions in the replay buffer, not 28"):
        train(model, 1)


class Wide(Drift):
    """Like the other, with a feature more."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (25,), np.float32)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return np.append(observation, np.float32(0)), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (np.append(observation, np.float32(0)), *rest)


@both
def test_predictions_in_inference_mode_leave_no_trace(learner: str) -> None:
    model = make(OURS[learner])
    other = make(OURS[learner])
    with th.inference_mode():
        model.predict(np.ones((2, 24), np.float32))
    assert_same(updated(model, 3), updated(other, 3))
    (-model.critic(th.ones(2, 24), th.ones(2, 3))[0].mean()).backward()


@both
def test_threads_wait_for_each_other(learner: str) -> None:
    model = updated(make(OURS[learner]), 2)
    batches = [np.random.default_rng(i).normal(size=(2 + i, 24)).astype(np.float32) for i in range(12)]
    expected = [model.predict(batch, deterministic=True)[0] for batch in batches]

    def wrong(first: int) -> int:
        results = [(i % 12, model.predict(batches[i % 12], deterministic=True)[0]) for i in range(first, first + 300)]
        return sum(not np.array_equal(result, expected[i]) for i, result in results)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, range(4))) == 0
