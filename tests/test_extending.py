"""The user's own methods, layers, learners and environments: the examples do what docs/extending.md says."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from comparing import assert_same_run, run, run_in_parts
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sparse_rl.agents import ObservedReplayBuffer, load_agent, register, save_agent
from sparse_rl.agents.build import in_gradient_steps, make_method
from sparse_rl.agents.classes import _registered
from sparse_rl.commands.main import main as sparse_rl_main
from sparse_rl.commands.train import main
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.nn import SparseLinear, rewire_layer, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, TopologyCallback
from sparse_rl.storage import StorageError
from sparse_rl.topology import Budget, Topology, WeightGradient

ROOT = Path(__file__).parents[1]
SHORT = (
    "--env Pendulum-v1-noise50 --seed 3 -n 60 --eval-freq 30 --eval-episodes 1 --update-interval 10 "
    "-params learning_starts:20 batch_size:16 buffer_size:100 policy_kwargs.net_arch:[16,16]"
)


@pytest.fixture(autouse=True)
def _in_the_projects_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)


def config_of(folder: Path) -> dict[str, dict[str, object]]:
    config: dict[str, dict[str, object]] = yaml.safe_load((folder / "config.yml").read_text())
    return config


# --- A method ---


def test_a_method_of_ones_own_proposes_rewirings() -> None:
    from examples.own_method import RichGetRicher

    topology = Topology.random((8, 30), 60, th.Generator().manual_seed(0))
    method = RichGetRicher(drop_fraction=0.2, power=8.0)
    rewiring = method.propose(topology, th.arange(60.0), 1000, th.Generator().manual_seed(1), budget=Budget(60, 60))
    rewiring.after.validate()
    assert (rewiring.n_dropped, rewiring.n_grown, rewiring.after.active) == (12, 12, 60)
    connections = th.bincount(topology.columns, minlength=30)
    grown = rewiring.after.columns[rewiring.source < 0]
    assert connections[grown].float().mean() > connections.float().mean() + 1


def test_a_method_of_ones_own_in_stable_baselines3() -> None:
    from examples.own_method import RichGetRicher

    model = SAC(SparseSACPolicy, "Pendulum-v1", learning_starts=20, batch_size=16, buffer_size=100, seed=0)
    callback = TopologyCallback(RichGetRicher(update_interval=10))
    model.learn(60, callback)
    assert callback.updates >= 3


def test_a_method_of_ones_own_in_a_run_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    words = f"--algo examples.own_method:RichGetRicher-sac {SHORT} method.power:3.5 sparsity:0.5"
    whole = run(words, tmp_path / "whole")
    assert whole.parent.parent.name == "examples.own_method-RichGetRicher-sac"
    assert config_of(whole)["hyperparameters"]["method"] == {
        "name": "examples.own_method:RichGetRicher",
        "power": 3.5,
        "update_interval": 10,
    }
    assert_same_run(whole, run_in_parts(words, tmp_path / "parts", (37,)))


def test_a_method_that_looks_at_what_nobody_has_learnt_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--algo examples.held_out:HeldOut-examples.held_out:HeldOutSAC --replay observed {SHORT} held_out:10"
    with mock.patch("examples.held_out.HeldOutReplayBuffer._get_samples", autospec=True) as sample:
        sample.side_effect = lambda buffer, rows, env: drawn(buffer, rows)
        learnt, asked = set(), []

        def drawn(buffer: Any, rows: NDArray[np.int64]) -> ReplayBufferSamples:
            if buffer.shows_held_out:
                asked.append(learnt & set(rows))
            learnt.update(rows)
            return ObservedReplayBuffer._get_samples(buffer, rows)

        run(words, tmp_path)
    assert len(asked) >= 3
    assert not any(asked)
    assert main([*words.replace("observed", "redrawn").split(), "-f", str(tmp_path / "redrawn")]) == 2
    assert "use `--replay observed`" in capsys.readouterr().err


def test_what_was_learnt_can_be_forgotten_and_the_wiring_not(tmp_path: Path) -> None:
    from examples.held_out import HeldOutSAC

    agents, forgotten = [], []
    begin_anew = HeldOutSAC._begin_anew

    def watched(agent: HeldOutSAC) -> None:
        layers = [layer for layer in agent.actor.modules() if isinstance(layer, SparseLinear | th.nn.Linear)]
        weights = [layer.values if isinstance(layer, SparseLinear) else layer.weight for layer in layers]
        before, wiring = [each.clone() for each in weights], sparse_layers(agent.actor)
        topologies = [layer.topology for layer in wiring.values()]
        begin_anew(agent)
        assert not any(th.equal(a, b) for a, b in zip(before, weights, strict=True))
        assert [layer.topology for layer in wiring.values()] == topologies
        agents.append(agent)
        forgotten.append(agent._n_updates)

    words = f"--algo examples.held_out:HeldOut-examples.held_out:HeldOutSAC --replay observed {SHORT} begin_anew:20"
    with mock.patch.object(HeldOutSAC, "_begin_anew", watched):
        run(words, tmp_path)
    assert forgotten == [20]
    steps = {int(state["step"]) for state in agents[0].critic.optimizer.state.values()}
    assert steps == {agents[0]._n_updates - 20}


def test_what_is_held_back_is_at_most_half(tmp_path: Path) -> None:
    from examples.held_out import HeldOutReplayBuffer

    words = f"--algo examples.held_out:HeldOut-examples.held_out:HeldOutSAC --replay observed {SHORT}"
    drawn = set()
    with mock.patch.object(HeldOutReplayBuffer, "_get_samples", autospec=True) as sample:
        sample.side_effect = lambda buffer, rows, env: (
            drawn.update(rows.tolist()) or ObservedReplayBuffer._get_samples(buffer, rows)
        )
        run(words, tmp_path)
    assert len(drawn) > 20


def test_growth_where_the_gradient_is_clear() -> None:
    from examples.held_out import HeldOut

    generator = th.Generator().manual_seed(0)
    x, dy = th.randn(500, 20, generator=generator), th.randn(500, 4, generator=generator)
    dy[:, 1] += 0.5 * x[:, 7]
    dy *= th.tensor([100.0, 1, 1, 1])  # a large gradient that is all noise
    topology = Topology.random((4, 20), 10, th.Generator().manual_seed(2))
    free = 27 not in topology.positions
    grown = HeldOut().grow(topology, 1, None, WeightGradient(x, dy))
    assert free
    assert grown.tolist() == [27]


def test_it_can_be_named_in_a_recipe_too(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    recipe.write_text("default: {method: {name: 'examples.own_method:RichGetRicher', drop_fraction: 0.2}}\n")
    plan = read_plan(make_parser().parse_args(f"--algo anf-sac -conf {recipe} {SHORT}".split()))
    method = make_method(in_gradient_steps(plan.hyperparameters))
    assert (type(method).__name__, vars(method)["drop_fraction"]) == ("RichGetRicher", 0.2)


@pytest.mark.parametrize(
    ("algo", "more", "message"),
    [
        ("no_such_module:X-sac", "", "cannot be imported: ModuleNotFoundError"),
        ("examples.own_method:RichGetsRicher-sac", "", "Did you mean 'RichGetRicher'"),
        ("examples.own_method:Topology-sac", "", "cannot be created"),
        ("threading:Event-sac", "", "is not a method of sparse training: it has no 'needs_gradient'"),
        ("examples.own_method:RichGetRicher-sacc", "", "Did you mean"),
        ("examples.own_method:RichGetRicher-sac", " method.powr:2", "Did you mean 'power'"),
        ("examples.own_method:RichGetRicher-sac", " method.power:many", "must be a number"),
        ("examples.own_method:RichGetRicher-sac", " method.drop_fraction:2", "in [0, 1]"),
        ("anf-examples.own_layer:GainLinear", "", "is not a learner"),
        ("anf-examples.own_learner:ClippedSAC", " max_grad_nrm:2", "Did you mean 'max_grad_norm'"),
    ],
)
def test_what_is_not_there_or_is_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algo: str, more: str, message: str
) -> None:
    assert main([*f"--algo {algo} -f {tmp_path} {SHORT.replace('--update-interval 10 ', '')}{more}".split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- An environment ---

MODULE = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict

class Still(gym.Env):
    def __init__(self, space=None):
        self.observation_space = space or Box(-1, 1, (2,))
        self.action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

def register(name, space=None):
    gym.register(name, entry_point=Still, max_episode_steps=20, kwargs={"space": space})

register("Still-v0")
register("Words-v0", Dict({"a": Box(-1, 1, (2,))}))
register("Picture-v0", Box(0, 255, (36, 36, 3), np.uint8))
"""


@pytest.fixture
def _a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "a_module_here.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*gym.registry}
    yield
    sys.modules.pop("a_module_here", None)
    for name in {*gym.registry} - known:
        del gym.registry[name]


@pytest.mark.usefixtures("_a_module_in_the_current_folder")
def test_an_environment_of_ones_own_from_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--algo anf-ppo --env a_module_here:Still-v0-noise90 -n 40 --eval-episodes 1"
    words += " -params n_steps:20 batch_size:20"
    assert main(words.split()) == 0
    (command,) = re.findall(r"To evaluate the agent:  sparse-rl (.*)", capsys.readouterr().out)
    assert command.endswith("--trust")
    assert sparse_rl_main([*command.split(), "-n", "1"]) == 0


@pytest.mark.usefixtures("_a_module_in_the_current_folder")
@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("Words-v0", ("of kind Dict", "FlattenObservation")),
        ("Picture-v0", ("shape (36, 36, 3)", "no sparse convolutions", "FlattenObservation")),
        ("Stil-v0", ("Did you mean 'Still-v0'",)),
    ],
)
def test_what_an_environment_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, messages: tuple[str, ...]
) -> None:
    assert main(["--env", f"a_module_here:{name}", "-f", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    for message in messages:
        assert message in error
    assert not (tmp_path / "runs").exists()


# --- A layer ---


def test_a_layer_of_ones_own_takes_part_in_everything() -> None:
    from examples.own_layer import GainLinear, GainPolicy

    model = SAC(GainPolicy, "Pendulum-v1", policy_kwargs={"sparsity": 0.5, "net_arch": [16]}, seed=0)
    layers = sparse_layers(model.policy)
    assert layers
    assert all(isinstance(layer, GainLinear) for layer in layers.values())
    layer = next(iter(layers.values()))
    assert any(layer.gain is p for group in model.actor.optimizer.param_groups for p in group["params"])
    with th.no_grad():
        layer.gain.fill_(2)
    x = th.randn(5, 3)
    th.testing.assert_close(layer(x), 2 * layer.to_dense()(x))
    from examples.own_method import RichGetRicher

    method = RichGetRicher(drop_fraction=0.5)
    rewire_layer(layer, method.propose(layer.topology, layer.values, 1000, budget=layer.budget))
    th.testing.assert_close(layer(x), 2 * layer.to_dense()(x))


def test_a_layer_of_ones_own_is_not_passed_over_by_the_fast_learner() -> None:
    import sparse_rl.agents
    from examples.own_layer import GainPolicy

    model = sparse_rl.agents.SAC(GainPolicy, "Pendulum-v1", learning_starts=10, batch_size=16, buffer_size=50, seed=0)
    model.learn(20)
    assert not th.equal(next(iter(sparse_layers(model.actor).values())).gain, th.ones(256))


@pytest.mark.slow
def test_a_layer_of_ones_own_in_a_run(tmp_path: Path) -> None:
    folder = run(f"--algo anf-examples.own_layer:GainSAC {SHORT}", tmp_path)
    model = load_agent(folder / "best_model.agent")
    assert "actor.latent_pi.0.gain" in model.policy.state_dict()


# --- A learner ---


def test_a_learner_of_ones_own_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(f"--algo anf-examples.own_learner:ClippedSAC {SHORT} max_grad_norm:0.25", tmp_path)
    assert config_of(folder)["hyperparameters"]["max_grad_norm"] == 0.25
    assert json.loads((folder / "best_model.agent" / "config.json").read_text())["algorithm"] == (
        "examples.own_learner:ClippedSAC"
    )
    model = load_agent(folder / "best_model.agent")
    assert model.max_grad_norm == 0.25  # type: ignore[attr-defined]
    assert sparse_rl_main(["evaluate", str(folder), "-n", "1"]) == 0  # its module is imported already
    assert "return" in capsys.readouterr().out


def test_the_learner_does_what_it_says() -> None:
    from examples.own_learner import ClippedSAC

    norms = []

    class Observed(ClippedSAC):
        def _clip(self) -> None:
            super()._clip()
            gradients = [p.grad.flatten() for p in self.critic.parameters() if p.grad is not None]
            norms.append(float(th.cat(gradients).norm()))

    settings = {"learning_starts": 10, "batch_size": 16, "buffer_size": 50}
    Observed("MlpPolicy", "Pendulum-v1", max_grad_norm=0.01, **settings).learn(14)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_files_name_learners_only_once_they_are_registered(tmp_path: Path) -> None:
    class MyPPO(PPO):
        pass

    model = MyPPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="no description"):
        save_agent(model, tmp_path)
    register(MyPPO, "mine:MyPPO")
    save_agent(model, tmp_path)
    assert type(load_agent(tmp_path)) is MyPPO
    del _registered["mine:MyPPO"]
    with pytest.raises(StorageError, match="mine:MyPPO"):
        load_agent(tmp_path)
