"""A run with any learner: the front door, the folder it leaves, and what is logged, are the same as with SAC."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from algorithm_cases import CASES, make
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_rl.commands.train import main
from sparse_rl.metrics import count_weights, training_flops
from sparse_rl.training.diagnostics import diagnose
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.experiment import EVALUATION_SEED_OFFSET
from sparse_rl.training.measurement import networks
from sparse_rl.training.metrics import MetricsCallback

ROOT = Path(__file__).parents[1]
FILES = {"0.monitor.csv", "best_model.zip", "command.txt", "config.yml", "connectivity.csv", "connectivity.png"}
FILES |= {"evaluations.npz", "summary.yml"}
EVALUATION = "--seed 3 --eval-episodes 1 --eval-freq 1000 -f"


def by_subprocess(words: str, root: Path) -> str:
    """Train as a user does."""
    command = [sys.executable, "train.py", *words.split(), *EVALUATION.split(), str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def check_folder(folder: Path, networks: set[str], steps: int) -> tuple[dict[str, Any], EventAccumulator]:
    """Check what every run leaves; return its summary and its curves."""
    names = {path.name for path in folder.iterdir()}
    assert names >= FILES | {f"{folder.parent.name}.zip"}
    summary = yaml.safe_load((folder / "summary.yml").read_text())
    assert summary["steps"] == steps
    events = EventAccumulator(str(folder))
    tags = set(events.Reload().Tags()["scalars"])
    assert {f"plasticity/{figure}_{name}" for figure in ("dormant", "srank") for name in networks} <= tags
    assert {f"connectivity/{name}_real" for name in networks} <= tags
    assert {f"sparsity/overlap_start/{name}" for name in networks} <= tags
    assert not [tag for tag in tags if len(tag) >= 36]  # Stable-Baselines3's table cuts longer ones
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"][-1] == steps
        returns = evaluations["results"][-1].tolist()
    assert evaluate(folder, 1, seed=3 + EVALUATION_SEED_OFFSET).tolist() == returns  # the agent is saved as it was
    return summary, events


def test_set_ppo_trains_in_noise_with_discrete_actions(tmp_path: Path) -> None:
    words = "--algo set-ppo --env CartPole-v1-noise90 -n 300 --n-envs 2 --update-interval 8"
    output = by_subprocess(f"{words} -params n_steps:32 batch_size:32 n_epochs:2", tmp_path)
    assert "Note: ppo has no replay buffer: it learns from noise as it was observed" in output
    assert "set-ppo on CartPole-v1-noise90, observed noise, seed 3" in output
    assert "\nreplay buffer:" not in output
    # Rollouts of 64 steps are completed: 5 of them, of 2 epochs with 2 minibatches each.
    summary, events = check_folder(tmp_path / "set-ppo" / "CartPole-v1-noise90" / "1", {"actor", "value"}, 320)
    assert summary["gradient_steps"] == 20
    # 40 inputs; two networks of 64 and 64; 20 (40 + 64) weights of the first layer, 20 (64 + 64) of the second.
    weights = [20 * (40 + 64), 20 * (64 + 64)]
    assert summary["weights"] == 2 * sum(weights) + 64 * 2 + 64
    assert summary["inference_flops"] == 2 * (sum(weights) + 64 * 2)
    assert summary["training_flops"] == 6 * summary["weights"] * 320 * 2  # each transition twice
    assert events.Scalars("sparsity/updates")[-1].value == 2
    assert "train/value_loss" in events.Tags()["scalars"]


def test_rigl_tqc_trains_with_redrawn_noise(tmp_path: Path) -> None:
    words = "--algo rigl-tqc --env InvertedPendulum-noise90 -n 160 --buffer-size 1000 --update-interval 20"
    output = by_subprocess(f"{words} -params learning_starts:50 policy_kwargs.net_arch:[32,32]", tmp_path)
    assert "(noise is redrawn, not stored)" in output
    folder = tmp_path / "rigl-tqc" / "InvertedPendulum-noise90" / "1"
    summary, events = check_folder(folder, {"actor", "qf0", "qf1"}, 160)
    assert summary["weights"] == pytest.approx(0.1 * summary["dense_weights"], abs=3)
    assert events.Scalars("sparsity/updates")[-1].value >= 3
    assert "sb3_contrib" in yaml.safe_load((folder / "config.yml").read_text())["versions"]


ROLLOUT = "n_envs:1 n_steps:32 batch_size:32"
WARM_UP = "learning_starts:50 train_freq:16 gradient_steps:2 policy_kwargs.net_arch:[32,32]"


@pytest.mark.parametrize(
    ("words", "networks", "steps"),
    [
        (f"--algo static-dqn --env CartPole-v1 -n 256 -params {WARM_UP}", "q_net", 256),
        (f"--algo anf-qrdqn --env CartPole-v1-noise90 -n 256 -params {WARM_UP}", "q_net", 256),
        ("--algo gmp-a2c --env Pendulum-v1 -n 100 --update-interval 2", "actor value", 100),
        (f"--algo rigl-trpo --env CartPole-v1 -n 128 --update-interval 4 -params {ROLLOUT}", "actor value", 128),
        ("--algo anf-crossq --env Pendulum-v1 -n 130 -params policy_kwargs.net_arch:[16]", "actor qf0 qf1", 130),
        ("--algo ne-ddpg --env Pendulum-v1 -n 160 --update-interval 10", "actor qf0", 160),
    ],
)
def test_a_run_is_complete(tmp_path: Path, words: str, networks: str, steps: int) -> None:
    assert main([*words.split(), *EVALUATION.split(), str(tmp_path)]) == 0
    algo, env = words.split()[1], words.split()[3]
    check_folder(tmp_path / algo / env / "1", set(networks.split()), steps)


def test_evaluating_needs_no_large_buffer(tmp_path: Path) -> None:
    """Nor the number of environments that the run had: a rollout of one step of one environment would be refused."""
    words = "--algo a2c --env CartPole-v1 -n 16 --n-envs 8 -params n_steps:1"
    assert main([*words.split(), *EVALUATION.split(), str(tmp_path)]) == 0
    assert len(evaluate(tmp_path / "a2c" / "CartPole-v1" / "1", 2)) == 2


# Metrics


def state_of(model: Any) -> dict[str, Any]:
    return {
        "parameters": copy.deepcopy(model.policy.state_dict()),
        "training": [module.training for module in model.policy.modules()],
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state()[1:3],
    }


@pytest.mark.parametrize("name", CASES)
def test_looking_at_any_agent_changes_nothing(name: str) -> None:
    model = make(name, sparsity=0.5, layers="all")
    model.learn(64)
    model.policy.set_training_mode(True)
    before = state_of(model)
    figures = diagnose(model)
    names = {f"{figure}_{network}" for figure in ("dormant", "srank", "effective_rank") for network in networks(model)}
    assert set(figures) == names | ({"gradient_snr_qf0"} if name == "ddpg" else set())
    assert all(np.isfinite(value) for value in figures.values())
    after = state_of(model)
    assert before["training"] == after["training"]
    assert th.equal(before["torch"], after["torch"])
    assert np.array_equal(before["numpy"][0], after["numpy"][0])
    assert all(th.equal(before["parameters"][key], value) for key, value in after["parameters"].items())
    assert diagnose(model) == figures


def test_there_is_nothing_to_see_before_the_first_transition() -> None:
    assert diagnose(make("ppo")) == diagnose(make("dqn")) == {}


def test_a_rollout_is_seen_as_far_as_it_goes() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, device="cpu", seed=0)
    model.learn(32)
    whole = diagnose(model, batch_size=8)
    buffer = model.rollout_buffer
    rows = copy.deepcopy(buffer.observations)
    buffer.reset()
    assert diagnose(model) == {}
    buffer.observations, buffer.pos = rows.reshape(32, 1, 4), 31
    buffer.observations[31:] = np.nan  # not written yet
    part = diagnose(model, batch_size=8)
    assert all(np.isfinite(value) for value in part.values())
    assert part.keys() == whole.keys()


@pytest.mark.parametrize(
    ("name", "transitions"),
    [
        ("ppo", {"actor": 64 * 2, "value": 64 * 2}),  # two epochs
        ("a2c", {"actor": 65, "value": 65}),
        ("trpo", {"actor": 64, "value": 64 * 2}),  # two passes of the value function
        ("dqn", {"q_net": 22 * 8}),
        ("crossq", {"actor": 7 * 8, "qf0": 22 * 8, "qf1": 22 * 8}),  # the actor every third time
    ],
)
def test_training_is_charged_by_the_transitions_that_each_network_sees(name: str, transitions: dict[str, int]) -> None:
    model, metrics = make(name), MetricsCallback()
    model.learn(64, metrics)
    weights = {key: count_weights(network) for key, network in networks(model).items()}
    assert weights.keys() == transitions.keys()
    assert metrics.flops == sum(training_flops(weights[key], count, 1) for key, count in transitions.items())
