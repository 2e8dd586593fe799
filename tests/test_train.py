"""The front door: what ``train.py`` leaves behind, what it says, and what bad input gets."""

import csv
import gc
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from sparse_rl.agents.sac import SAC
from sparse_rl.agents.saved import load_agent, save_agent, view_of
from sparse_rl.agents.td3 import TD3
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.train import main
from sparse_rl.nn import SparseLinear
from sparse_rl.storage import load_tensors, save_tensors
from sparse_rl.training.callbacks import EvaluationCallback, PatienceCallback
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.experiment import EVALUATION_SEED_OFFSET
from sparse_rl.training.trained import open_trained

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise90"
WORDS = f"--algo anf-sac --env {ENV} -n 400 --seed 7 --update-interval 100 --eval-freq 200 --eval-episodes 2"
QUICK = "--eval-episodes 1 -params buffer_size:1000 policy_kwargs.net_arch:[16,16] --log-folder"
FILES = [
    "0.monitor.csv",
    f"{ENV}.agent",
    f"{ENV}.zip",
    "best_model.agent",
    "best_model.zip",
    "command.txt",
    "config.yml",
    "connectivity.csv",
    "connectivity.npz",
    "connectivity.png",
    "evaluations.npz",
    "rl_model_300_steps.agent",
    "rl_model_300_steps.zip",
    "summary.yml",
]


@dataclass(frozen=True)
class Run:
    folder: Path
    output: str

    def events(self) -> EventAccumulator:
        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        return events.Reload()

    def monitor(self) -> list[dict[str, str]]:
        lines = (self.folder / "0.monitor.csv").read_text().splitlines()
        assert lines[0].startswith("#{")
        return list(csv.DictReader(lines[1:]))

    def config(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self.folder / "config.yml").read_text())
        return content


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train as a user does."""
    root = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "train.py", *WORDS.split(), "--save-freq", "300", "-f", str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return Run(root / "anf-sac" / ENV / "1", done.stdout)


def train(words: str, root: Path) -> int:
    return main([*words.split(), str(root)])


def test_the_folder_is_complete(run: Run) -> None:
    names = sorted(path.name for path in run.folder.iterdir())
    assert [name for name in names if not name.startswith("events.out.tfevents.")] == sorted(FILES)
    assert len(names) == len(FILES) + 1


def test_it_says_where_and_what_next(run: Run) -> None:
    assert f"anf-sac on {ENV}, redrawn noise, seed 7" in run.output
    assert f"tensorboard --logdir {run.folder}" in run.output
    with np.load(run.folder / "evaluations.npz") as evaluations:
        last = evaluations["results"][-1]
    assert f"return {last.mean():.1f} +/- {last.std():.1f} over 2 episodes" in run.output


def test_it_says_what_memory_the_replay_takes(run: Run) -> None:
    assert f"replay buffer: 1,000,000 transitions of {ENV}, 48.0 MB (noise is redrawn, not stored)" in run.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--replay observed", "100 transitions of {env}, 6.4 kB (observed noise is regenerated, not stored)"),
        (
            "--replay observed -params n_steps:2",
            "100 transitions of {env}, 6.4 kB (observed noise is regenerated, not stored)",
        ),
        ("--env {env}-ar", "100 transitions of {env}-ar, 4.8 kB (noise is redrawn, not stored)"),
        (
            "--env {env}-ar --replay observed",
            "100 transitions of {env}-ar, 6.4 kB (observed noise is regenerated, not stored)",
        ),
        ("--env {env}-other", "100 transitions of {env}-other, 33.6 kB (observed noise is stored)"),
        ("--env InvertedPendulum-v5", "100 transitions of InvertedPendulum-v5, 8.0 kB"),
    ],
)
def test_it_says_whether_noise_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    words = words.format(env=ENV)
    train(f"--env {ENV} --seed 0 -n 20 --buffer-size 100 --eval-freq -1 {words} -f", tmp_path)
    assert f"replay buffer: {line.format(env=ENV)}\n" in capsys.readouterr().out


def test_a_replay_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_rl.training.experiment.available_memory", lambda: 48_000)
    words = f"--env {ENV} --buffer-size 5000 --seed 0 --eval-freq -1"
    assert train(f"{words} -n 2000 -f", tmp_path / "runs") == 2
    assert capsys.readouterr().err == (
        "error: 2,000 transitions in the replay buffer need 0.1 MB of memory, but 48.0 kB are available: give a "
        "--buffer-size of at most 1000.\n"
    )
    assert not (tmp_path / "runs").exists()
    assert train(f"{words} -n 20 -f", tmp_path / "runs") == 0  # memory that is never written to is never taken


def test_evaluations_have_the_keys_of_the_zoo(run: Run) -> None:
    with np.load(run.folder / "evaluations.npz", allow_pickle=False) as evaluations:
        assert sorted(evaluations) == ["ep_lengths", "results", "timesteps"]
        assert evaluations["timesteps"].tolist() == [200, 400]
        assert evaluations["results"].shape == evaluations["ep_lengths"].shape == (2, 2)


def test_monitor_is_readable(run: Run) -> None:
    rows = run.monitor()
    assert list(rows[0]) == ["r", "l", "t"]
    assert 350 < sum(int(row["l"]) for row in rows) <= 400


def test_monitor_is_readable_by_stable_baselines3(run: Run) -> None:
    from stable_baselines3.common.monitor import load_results

    assert len(load_results(str(run.folder))) == len(run.monitor())


def test_config_says_everything(run: Run) -> None:
    config = run.config()
    assert config["algo"] == "anf-sac"
    assert config["env"] == ENV
    assert config["seed"] == 7
    hyperparameters = config["hyperparameters"]
    assert hyperparameters["method"] == {"name": "set", "drop_fraction": 0.05, "update_interval": 100}
    expected = {"replay": "redrawn", "sparsity": 0.8, "learning_rate": 3e-4, "batch_size": 256, "n_timesteps": 400}
    assert hyperparameters.items() >= expected.items()
    assert config["versions"]["torch"] == th.__version__
    assert set(config["versions"]) >= {"python", "stable_baselines3", "gymnasium", "mujoco", "numba", "sparse_rl"}
    command = (run.folder / "command.txt").read_text()
    assert command.strip() == config["command"]
    assert command.startswith(f"python train.py {WORDS}")


def test_tensorboard_reads_the_curves(run: Run) -> None:
    events = run.events()
    tags = events.Tags()["scalars"]
    networks = ("actor", "qf0", "qf1")
    expected = {f"connectivity/{n}_{g}{a}" for n in networks for g in ("real", "noise") for a in ("", "_abs")}
    expected |= {"connectivity/qf0_action", "connectivity/qf1_action_abs", "sparsity/density/actor.latent_pi.0"}
    expected |= {
        "sparsity/active_weights",
        "sparsity/rewired",
        "eval/mean_reward",
        "rollout/ep_rew_mean",
        "train/critic_loss",
    }
    assert set(tags) >= expected
    assert not [tag for tag in tags if len(tag) >= 36]  # SB3's table cuts longer ones, and fails if two become equal
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [200, 400]
    assert events.Scalars("connectivity/actor_real")[0].step == 0
    assert events.Scalars("sparsity/rewired")[-1].value > 0


def test_tensorboard_reads_the_metrics_of_each_evaluation(run: Run) -> None:
    events = run.events()
    networks = ("actor", "qf0", "qf1")
    names = {f"plasticity/{figure}_{n}" for figure in ("dormant", "srank", "effective_rank") for n in networks}
    names |= {"plasticity/gradient_snr_qf0", "plasticity/gradient_snr_qf1", "eval/learning_curve_area"}
    names |= {f"cost/{kind}{what}" for kind in ("", "dense_") for what in ("weights", "inference_flops")}
    names |= {"cost/training_flops", "cost/dense_training_flops"} | {
        f"sparsity/overlap_{since}/{n}" for since in ("start", "last") for n in networks
    }
    for name in names:
        assert [event.step for event in events.Scalars(name)] == [200, 400], name
    # Updates of 5 % at 100 and 200 gradient steps: right after the first evaluation, and between the two.
    start, last = ([e.value for e in events.Scalars(f"sparsity/overlap_{since}/actor")] for since in ("start", "last"))
    assert start[0] == 1
    assert 0.9 <= start[1] < 0.95
    assert start == last


def test_the_summary_says_what_was_learnt_and_what_it_cost(run: Run) -> None:
    summary = yaml.safe_load((run.folder / "summary.yml").read_text())
    with np.load(run.folder / "evaluations.npz") as evaluations:
        returns = evaluations["results"].mean(axis=1).tolist()
    assert (summary["steps"], summary["last_return"], summary["best_return"]) == (400, returns[-1], max(returns))
    assert summary["learning_curve_area"] == pytest.approx(sum(returns) / 400)
    assert 0 < summary["seconds"] < 120
    # 40 inputs, 41 with the action; the input layers are 80 % sparse. SAC's actor has two outputs for an action.
    hidden = 256 * 256
    actor, critic = 40 * 256 // 5 + hidden + 2 * 256, round(41 * 256 / 5) + hidden + 256
    assert summary["weights"] == actor + 2 * critic
    assert summary["dense_weights"] == 40 * 256 + hidden + 2 * 256 + 2 * (41 * 256 + hidden + 256)
    assert summary["inference_flops"] == 2 * actor
    assert summary["training_flops"] == 6 * 256 * summary["gradient_steps"] * summary["weights"]
    scalars = run.events()
    for name in ("weights", "inference_flops", "training_flops"):
        assert scalars.Scalars(f"cost/{name}")[-1].value == pytest.approx(summary[name], rel=1e-6)


def test_tensorboard_shows_a_picture_at_each_evaluation(run: Run) -> None:
    pictures = run.events().Images("connectivity/features")
    assert [picture.step for picture in pictures] == [200, 400]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")


def test_tensorboard_compares_hyperparameters(run: Run) -> None:
    events = run.events()
    content = events.PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert session.hparams["replay"].string_value == "redrawn"
    assert session.hparams["method"].string_value == "set"
    assert session.hparams["drop_fraction"].number_value == 0.05
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    metrics = {metric.name.tag for metric in experiment.metric_infos}
    assert "eval/mean_reward" in metrics
    assert metrics <= set(events.Tags()["scalars"])
    assert "config/text_summary" in events.Tags()["tensors"]


def test_tensorboard_has_a_page_of_the_curves_that_matter(run: Run) -> None:
    events = run.events()
    (layout,) = (
        Layout.FromString(event.tensor_proto.string_val[0]) for event in events.Tensors("custom_scalars__config__")
    )
    pages = {page.title: {chart.title: list(chart.multiline.tag) for chart in page.chart} for page in layout.category}
    assert list(pages) == ["What it learns", "Where it looks", "How sparse it is", "What it costs"]
    assert list(pages["Where it looks"]) == [f"{name}: connections per feature" for name in ("actor", "qf0", "qf1")]
    tags = events.Tags()["scalars"]
    shown = {
        chart: {tag for tag in tags for pattern in patterns if re.match(pattern, tag)}
        for page in pages.values()
        for chart, patterns in page.items()
    }
    assert shown["return"] == {"eval/mean_reward", "rollout/ep_rew_mean"}
    assert shown["actor: connections per feature"] == {"connectivity/actor_real", "connectivity/actor_noise"}
    assert len(shown["qf0: connections per feature"]) == 3
    assert shown["FLOPs of training"] == {"cost/training_flops", "cost/dense_training_flops"}
    assert shown["weights"] == {"cost/weights", "cost/dense_weights"}
    assert shown["active weights"] == {"sparsity/active_weights"}
    assert len(shown["density of each layer"]) == 3


def test_connectivity_is_written_for_people_and_programs(run: Run) -> None:
    with (run.folder / "connectivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows[:3]] == ["actor", "qf0", "qf1"]
    assert (rows[0]["step"], rows[-1]["step"]) == ("0", "400")
    assert rows[0]["action"] == ""  # an actor sees no actions
    for row in rows:  # 4 real features, 36 noise, 1 action; the number of connections stays
        total = 4 * float(row["real"]) + 36 * float(row["noise"]) + float(row["action"] or 0)
        assert total == pytest.approx(0.2 * 256 * (40 if row["network"] == "actor" else 41), abs=1)
    assert rows[0]["real"] != rows[-3]["real"]
    assert (run.folder / "connectivity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [f"{ENV}.zip", "best_model.zip", "rl_model_300_steps.zip"])
def test_the_agent_loads(run: Run, name: str) -> None:
    stem = name.removesuffix(".zip")
    model = SAC.load(run.folder / stem, device="cpu")  # as people of Stable-Baselines3 do
    observation = np.ones(40, np.float32)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == (1,)
    again = load_agent(run.folder / f"{stem}.agent")
    assert type(again) is SAC
    assert_equal(again.policy.state_dict(), model.policy.state_dict())
    assert again.predict(observation, deterministic=True)[0] == action
    assert again.num_timesteps == model.num_timesteps


def test_a_run_from_before_there_were_safetensors_can_be_evaluated(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    for name in (ENV, "best_model", "rl_model_300_steps"):
        (folder / f"{name}.agent").rmdir()
    assert evaluate(folder, 2, best=True).tolist() == evaluate(run.folder, 2, best=True).tolist()


def test_a_run_whose_agents_have_their_former_names_can_be_evaluated(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("*.zip"))
    (folder / "best_model.agent").rename(folder / "best_model")
    assert evaluate(folder, 2, best=True).tolist() == evaluate(run.folder, 2, best=True).tolist()


def test_a_run_of_a_stranger_may_not_ask_for_more_than_an_agent_may(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run.folder / f"{ENV}.zip", folder)
    config = yaml.safe_load((run.folder / "config.yml").read_text())
    config["hyperparameters"]["policy_kwargs"] = {"net_arch": [65_536, 65_536]}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"that '.*config\.yml' describes would have more than 134,217,728 weights"):
        evaluate(folder, 1)


def test_the_agent_can_be_evaluated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["evaluate", str(run.folder), "--episodes", "3", "--best"]) == 0
    first = capsys.readouterr().out
    what, result = first.splitlines()
    assert what == f"anf-sac on {ENV}, trained with redrawn noise, best agent"
    assert re.fullmatch(r"return \d+\.\d \+/- \d+\.\d over 3 episodes, seed 0", result)
    assert sparse_rl(["evaluate", str(run.folder), "-n", "3", "--best"]) == 0
    assert capsys.readouterr().out == first


def test_what_is_saved_is_what_was_evaluated(tmp_path: Path) -> None:
    """The last evaluation comes after the last update: the same episodes give the same returns later."""
    assert train(f"--algo static-sac --env {ENV} -n 150 --seed 5 --eval-freq 1000 {QUICK}", tmp_path) == 0
    folder = tmp_path / "static-sac" / ENV / "1"
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [150]
        assert evaluations["results"][0].tolist() == evaluate(folder, 1, seed=5 + EVALUATION_SEED_OFFSET).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no run in"),
        ("- 1", "does not describe a run"),
        ("{algo: x, env: Hopper-v5, hyperparameters: {}}", "Unknown algorithm 'x'"),
        ("{algo: sac, env: Hopperr-v5, hyperparameters: {}}", "Did you mean 'Hopper"),
        ("{algo: sac, env: Hopper-v5, hyperparameters: {gama: 1}}", "Did you mean 'gamma'"),
        ("{algo: sac, env: Hopper-v5, hyperparameters: 3}", "does not describe a run"),
        ("{algo: sac, env: Hopper-v5, hyperparameters: {}}", "Hopper-v5.zip"),
        ("!!python/name:os.system", "There is an error in"),
    ],
)
def test_evaluating_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "config.yml").write_text(text)
    assert sparse_rl(["evaluate", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_same_seed_same_run(run: Run, tmp_path: Path) -> None:
    """Another process, other threads of the machine, another folder; checkpoints or not: nothing of it matters."""
    assert train(f"{WORDS} -f", tmp_path) == 0
    again = Run(tmp_path / "anf-sac" / ENV / "1", "")
    assert [(row["r"], row["l"]) for row in run.monitor()] == [(row["r"], row["l"]) for row in again.monitor()]
    for file in (f"{ENV}.zip", "best_model.zip"):
        first, second = (SAC.load(r.folder / file, device="cpu").get_parameters() for r in (run, again))
        assert_equal(first, second)
    with np.load(run.folder / "evaluations.npz") as a, np.load(again.folder / "evaluations.npz") as b:
        assert np.array_equal(a["results"], b["results"])


def assert_equal(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    else:
        assert th.equal(first, second) if isinstance(first, th.Tensor) else first == second


def test_dense_td3_in_an_ordinary_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All features are real, tables are printed, TensorBoard's files go elsewhere, and the second run is number 2."""
    words = f"--algo td3 --env Reacher-v5 -n 120 --eval-freq 60 --verbose 1 -tb {tmp_path}/tb {QUICK}"
    assert train(words, tmp_path) == train(words, tmp_path) == 0
    output = capsys.readouterr().out
    assert "total_timesteps" in output
    assert "connectivity/" not in output  # that is for TensorBoard: it would drown the rest
    assert "learning_starts" not in output
    run = Run(tmp_path / "td3" / "Reacher-v5" / "2", output)
    assert run.config()["hyperparameters"]["replay"] == "observed"
    assert not list(run.folder.glob("events*"))
    events = Run(tmp_path / "tb" / "td3" / "Reacher-v5" / "2", "").events()
    assert not [tag for tag in events.Tags()["scalars"] if "noise" in tag]
    assert events.Scalars("connectivity/actor_real")[-1].value == 16
    assert not [tag for tag in events.Tags()["scalars"] if "overlap" in tag]  # nothing is sparse
    assert events.Scalars("plasticity/srank_actor")[-1].step == 120
    TD3.load(run.folder / "Reacher-v5.zip", device="cpu")


@pytest.mark.parametrize(("kind", "protocol"), [("ar", "redrawn"), ("other", "observed")])
def test_noise_with_a_memory_and_other_environments(tmp_path: Path, kind: str, protocol: str) -> None:
    env = f"InvertedPendulum-noise80-{kind}"
    words = f"--env {env} --seed 3 -n 150 --eval-freq 100 {QUICK}"
    command = [sys.executable, "train.py", *words.split(), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{protocol} noise, seed 3" in done.stdout
    folder = tmp_path / "anf-sac" / env / "1"
    connections = list(csv.DictReader((folder / "connectivity.csv").read_text().splitlines()))
    assert all(float(row["noise"]) > 0 for row in connections)
    returns = [evaluate(folder, episodes=2, seed=4) for _ in range(2)]
    np.testing.assert_array_equal(*returns)


@pytest.mark.parametrize(
    ("algorithm", "changes", "change"),
    [
        ("gmp-td3", "--sparsity 0.7 --layers hidden --distribution uniform", -1),
        ("ne-sac", "--sparsity 0.4", 1),
        ("rigl-sac", "--layers input --sparsity 0.8", 0),
    ],
)
def test_networks_change_as_asked_and_can_be_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str, changes: str, change: int
) -> None:
    words = f"--algo {algorithm} --env {ENV} -n 200 --seed 1 --update-interval 20 --eval-freq 100 {changes} {QUICK}"
    assert main([*words.split(), str(tmp_path)]) == 0
    folder = tmp_path / algorithm / ENV / "1"
    model = (SAC if algorithm.endswith("sac") else TD3).load(folder / f"{ENV}.zip", device="cpu")
    actor = model.actor.mu if algorithm == "gmp-td3" else model.actor.latent_pi
    layers = [layer for layer in actor if isinstance(layer, SparseLinear)]
    assert layers
    assert all(layer.values.numel() == layer.budget.end for layer in layers)
    assert all(np.sign(layer.budget.end - layer.budget.start) == change for layer in layers)
    assert sparse_rl(["evaluate", str(folder), "-n", "1"]) == 0
    assert sparse_rl(["evaluate", str(folder), "-n", "1", "--best"]) == 0


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 ignores it too; pytest undoes that
def test_permuted_features_in_worker_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The evaluation follows the training environment's phase, and is repeated in it; each worker has its monitor."""
    env = "Reacher-noise50-permute50"
    words = f"--algo anf-td3 --env {env} -n 200 --eval-freq 110 --n-envs 2 --vec-env subproc --progress {QUICK}"
    assert train(words, tmp_path) == 0
    folder = tmp_path / "anf-td3" / env / "1"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"0.monitor.csv", "1.monitor.csv", "best_model.zip", f"{env}.zip", "connectivity.png"}
    # 200 steps in 2 copies: 100 each, in episodes of 50, each followed by a reset into the next phase of 50 steps.
    last, best = folder / f"{env}.agent", folder / "best_model.agent"
    assert [view_of(load_agent(agent)).phase for agent in (last, best)] == [2, 2]
    # What a run of version 0.1 noted beside its agents, and then was continued, does not go before that.
    (folder / "phases.yml").write_text("{last: 1, best: 1}")
    seed = Run(folder, "").config()["seed"] + EVALUATION_SEED_OFFSET
    returns = [evaluate(folder, episodes=1, seed=seed, phase=phase) for phase in (None, 2, 1)]
    assert returns[0] == returns[1] != returns[2]
    capsys.readouterr()
    assert sparse_rl(["evaluate", str(folder), "--phase", "-1"]) == 2
    # In another environment that is permuted too, the order is still that of the agent ...
    assert evaluate(folder, 1, seed=seed).tolist() == returns[0].tolist()
    other = ["--env", "Reacher-noise50-permute70", "-n", "1", "--seed", str(seed)]
    capsys.readouterr()
    assert sparse_rl(["evaluate", str(folder), *other]) == 0
    title, result = capsys.readouterr().out.splitlines()
    assert title == f"anf-td3, trained in {env} with redrawn noise, last agent, acting in {other[1]}"
    assert result.startswith(f"return {returns[0].mean():.1f} ")
    # ... in one that is not, its features would be taken for others; and nobody guesses.
    assert sparse_rl(["evaluate", str(folder), "--env", "Reacher-noise50"]) == 2
    assert "not permuted, but the agent knows them in the order of phase 2" in capsys.readouterr().err
    save_agent(load_agent(last), tmp_path / "again")
    assert view_of(load_agent(tmp_path / "again")).phase == 2
    tensors, metadata = load_tensors(last / "model.safetensors")
    save_tensors(last / "model.safetensors", tensors, {"num_timesteps": metadata["num_timesteps"]})
    assert [evaluate(folder, 1, seed=seed, phase=p).tolist() for p in (None, 1)] == [returns[2].tolist()] * 2
    (folder / "phases.yml").unlink()
    assert sparse_rl(["evaluate", str(folder)]) == 2
    assert "give the phase with --phase" in capsys.readouterr().err
    save_tensors(last / "model.safetensors", tensors, {**metadata, "phase": -1})
    assert sparse_rl(["evaluate", str(folder)]) == 2
    assert "must be a whole number of at least 0" in capsys.readouterr().err


def test_the_phase_of_the_best_agent_is_known_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the agent's own file, so there is no moment in which one of the two is older."""
    env, seen = "CartPole-v1-noise50-permute20", []
    evaluated = EvaluationCallback.evaluate

    def look(self: EvaluationCallback) -> bool:
        goes_on = evaluated(self)
        seen.append((self.phase, open_trained(str(self.folder.path), best=True).phase))
        return goes_on

    monkeypatch.setattr(EvaluationCallback, "evaluate", look)
    words = f"--algo static-a2c --env {env} -n 60 --n-envs 1 --eval-freq 25 --eval-episodes 1 --seed 1 --kernel scatter"
    assert main([*words.split(), "-f", str(tmp_path)]) == 0
    assert len(seen) == 3
    assert all(phase == known for phase, known in seen)
    assert seen[-1][0] > 0


def test_a_phase_makes_no_sense_without_a_permutation(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["evaluate", str(run.folder), "--phase", "1"]) == 2
    assert "not permuted" in capsys.readouterr().err


def test_curves_reach_an_evaluation_when_episodes_are_long(tmp_path: Path) -> None:
    assert train(f"--algo sac --env Reacher-noise50 -n 60 --log-interval 100 {QUICK}", tmp_path) == 0
    events = Run(tmp_path / "sac" / "Reacher-noise50" / "1", "").events()
    for tag in ("rollout/ep_rew_mean", "time/fps", "train/critic_loss", "connectivity/actor_real_abs"):
        assert events.Scalars(tag)[-1].step == 60


def test_no_evaluation(tmp_path: Path) -> None:
    assert train(f"--algo static-sac --env {ENV} -n 20 --eval-freq -1 {QUICK}", tmp_path) == 0
    names = {path.name for path in (tmp_path / "static-sac" / ENV / "1").iterdir()}
    assert f"{ENV}.zip" in names
    assert not names & {"evaluations.npz", "best_model.zip"}


def test_pictures_do_not_pile_up(tmp_path: Path) -> None:
    """They are made of objects that refer to each other, which stay until somebody looks for them."""
    gc.collect()
    gc.disable()
    try:
        assert train(f"--algo static-sac --env {ENV} -n 120 --eval-freq 30 {QUICK}", tmp_path) == 0
        pictures = [each for each in gc.get_objects() if type(each) is Figure]
    finally:
        gc.enable()
    assert len(pictures) <= 1  # that of the end


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_everything_saved(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-u", "train.py", *f"--env {ENV} -n 1000000 --eval-freq 150 {QUICK}".split(), "."]
    command[-1] = str(tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "return" in line:  # the first evaluation
                process.send_signal(number)
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch(r"\nEnding after this step .+ A second signal .+\n", errors)
    assert f"Ended by {number.name}" in output
    folder = tmp_path / "anf-sac" / ENV / "1"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"evaluations.npz", "best_model.zip", "connectivity.png", "connectivity.csv", "config.yml"}
    assert ".partial" not in names
    assert SAC.load(folder / f"{ENV}.zip", device="cpu").num_timesteps >= 150


class Broken(gym.Env[np.ndarray[Any, Any], np.ndarray[Any, Any]]):
    """An environment whose numbers stop being numbers."""

    def __init__(self, after: int = 0, what: str = "observation") -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.after, self.what, self.steps = after, what, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        return np.full(3, np.nan if self.after == 0 else 0, np.float32), {}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.what == "error" and self.steps >= self.after:
            raise RuntimeError("the motor is hot")
        value = float("nan") if self.steps >= self.after else 0.0
        observation = np.full(3, value if self.what == "observation" else 0, np.float32)
        return observation, value if self.what == "reward" else 0.0, False, self.steps % 10 == 0, {}


@pytest.fixture(scope="module")
def _broken() -> Iterator[None]:
    gym.register("Broken-v0", Broken, disable_env_checker=True)  # it would warn, which is an error in tests
    yield
    del gym.registry["Broken-v0"]


@pytest.mark.usefixtures("_broken")
def test_nan_at_the_start_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for env in ("Broken-v0", "Broken-v0-noise50"):
        assert train(f"--env {env} -n 100 {QUICK}", tmp_path / "runs") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "nan" in error.lower()
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("_broken")
@pytest.mark.parametrize(
    ("env", "what"), [("Broken-v0", "observation"), ("Broken-v0", "reward"), ("Broken-v0-noise50", "observation")]
)
def test_nan_during_training_saves_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str, what: str
) -> None:
    words = f"--algo sac --env {env} --env-kwargs after:35 what:{what} -n 100 --eval-freq -1 {QUICK}"
    assert train(words, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Training ended at step 3")
    assert "nan" in error.lower()
    assert {path.name for path in (tmp_path / "sac" / env / "1").iterdir()} >= {f"{env}.zip", "connectivity.png"}


@pytest.mark.usefixtures("_broken")
def test_an_environment_that_raises_costs_nothing_that_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--algo sac --env Broken-v0 --env-kwargs after:35 what:error -n 100 --eval-freq -1 {QUICK}"
    assert train(words, tmp_path) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error  # for whoever wrote the environment
    assert "error: Training ended at step 3" in error
    assert "RuntimeError: the motor is hot" in error
    folder = tmp_path / "sac" / "Broken-v0" / "1"
    assert {path.name for path in folder.iterdir()} >= {"Broken-v0.zip", "connectivity.png"}
    assert not (folder / ".partial").exists()


def test_a_full_disk_leaves_complete_files_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: SAC, path: str | Path, *_: Any, **__: Any) -> None:
        Path(path).with_suffix(".zip").write_bytes(b"half a mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SAC, "save", save)
    assert train(f"--algo sac --env {ENV} -n 40 --eval-freq 20 {QUICK}", tmp_path) == 2
    folder = tmp_path / "sac" / ENV / "1"
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert str(folder) in error
    assert not list(folder.glob("*.zip"))
    assert not (folder / ".partial").exists()


def test_a_signal_ends_an_evaluation_too(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "train.py", "--env", ENV, *f"-n 400 --eval-freq 20 {QUICK}".split(), str(tmp_path)]
    command += ["--eval-episodes", "1000000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        folder = tmp_path / "anf-sac" / ENV / "1"
        for _ in range(600):
            if (folder / "command.txt").exists():
                break
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert (folder / f"{ENV}.zip").exists()


@pytest.mark.parametrize("name", [f"{ENV}.zip", f"{ENV}.agent/model.safetensors", f"{ENV}.agent/config.json"])
@pytest.mark.parametrize("damage", [b"", b"nothing of the kind", None])
def test_a_damaged_agent_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: bytes | None
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    if name.endswith(".zip"):  # which is what counts where there is nothing else
        shutil.rmtree(folder / f"{ENV}.agent")
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    assert sparse_rl(["evaluate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(part in error for part in name.split("/"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo anf-sca", "Unknown algorithm 'anf-sca'. Did you mean 'anf-sac'"),
        ("--env HalfCheeta-noise98", "Unknown environment 'HalfCheeta'. Did you mean 'HalfCheetah'"),
        ("--env HalfCheetah-noise100", "noise is a percentage in [0, 100)"),
        ("--env HalfCheetah-nose98", "'HalfCheetah"),
        ("--env nowhere:Hopper-noise90", "No module named 'nowhere'"),
        ("--env CartPole-v1", "actions of kind Discrete; sac needs Box actions. Learners for these actions: a2c, dqn"),
        ("--env FrozenLake-v1", "observations of kind Discrete"),
        ("--env Hopper-v5 --env-kwargs legs:2", "cannot be made"),
        ("--env Hopper-v5 --env-kwargs legs", "Expected key:value"),
        ("--variant papr", "Unknown anf-sac variant 'papr'. Did you mean 'paper'?"),
        ("--sparsity 1", "sparsity must be a number in [0, 1), not 1.0"),
        ("--sparsity -0.1", "sparsity must be"),
        ("--sparsity 0.9999999", "parsity"),
        ("--drop-fraction 1.5", "drop_fraction must be a number in [0, 1]"),
        ("--update-interval 0", "update_interval must be a whole number of at least 1"),
        ("--algo sac --sparsity 0.5", "sac is dense"),
        ("--algo static-td3 --drop-fraction 0.5", "has no settings"),
        ("--layers all", "`layers` is 'all': choose the `distribution`"),
        ("--algo ds-sac --sparsity 0.5", "leave out `sparsity`"),
        ("--algo gmp-sac -params initial_sparsity:0.95", "must not be less than `initial_sparsity`"),
        ("--algo ne-td3 --sparsity 0.9", "must not be more than `initial_sparsity`"),
        ("--algo gmp-sac -params method.end:0.1", "would end before it starts: `end` is"),
        ("--algo rigl-sac -n 500", "would end before they start: `stop` is gradient step"),
        ("-params initial_sparsity:0.5", "SET keeps the number of active weights"),
        ("--env Hopper-v5 --replay redrawn", "no noise features"),
        ("--env Hopper-noise80-other --replay redrawn", "which cannot be redrawn: use `--replay observed`"),
        ("--env Hopper-noise80-othr", "Unknown part 'othr'. Did you mean 'other'?"),
        ("--kernel fast", "Unknown kernel"),
        ("--device gpu", "There is no device 'gpu'"),
        ("--seed -2", "seed must be a whole number in [0, "),
        ("--n-envs 0", "n_envs must be"),
        ("-n 0", "n_timesteps must be"),
        ("-params learning_rat:1", "Unknown recipe key 'learning_rat'. Did you mean 'learning_rate'"),
        ("-params policy_kwargs.net_arhc:[1]", "Unknown key of policy_kwargs 'net_arhc'. Did you mean 'net_arch'?"),
        ("-params policy_kwargs.activation_fn:Tan", "'Tanh'"),
        ("-params policy_kwargs.optimizer_kwargs.weigth_decay:1", "weigth_decay"),
        ("-params policy_kwargs.sparsity:0.5", "belongs at the top of a recipe"),
        ("-params optimize_memory_usage:true", "works with `--replay observed` only"),
        ("-params method.decay:cosine", "cosine decay needs"),
        ("-params gamma:{", "There is an error in 'gamma:{'"),
        ("-conf missing.yml", "The recipe file 'missing.yml' cannot be read"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    env = [] if "--env " in words else ["--env", ENV]
    assert main([*words.split(), *env, "-f", str(tmp_path / "runs")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["-f", "-tb"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    folders = ["-f", str(tmp_path / "runs"), option, str(tmp_path / "file")]
    assert main(["--env", ENV, "-n", "10", *folders]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.glob("runs/*/*/*"))


@pytest.mark.parametrize("words", ["-n many", "-n 1.5", "-n nan", "--vec-env thread", "--alg sac", "--seed"])
def test_words_that_cannot_be_parsed(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_and_typos_answer_without_pytorch() -> None:
    code = (
        "import sys\nfrom sparse_rl.commands.train import main\n"
        "from sparse_rl.commands.train_arguments import make_parser\nmake_parser().format_help()\n"
        "assert main(['--algo', 'x']) == main(['--env', 'x']) == main(['--variant', 'x']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_first_gradient_step_that_takes_long_is_explained(capsys):
    class Slow(stable_baselines3.SAC):
        def train(self, gradient_steps, batch_size=64):
            time.sleep(0.3)

    model = Slow("MlpPolicy", "Pendulum-v1", learning_starts=10, buffer_size=100)
    model.learn(12, PatienceCallback(seconds=0.1))
    assert capsys.readouterr().out.count("compiling the kernels") == 1
    model = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, buffer_size=100)
    model.learn(12, PatienceCallback(seconds=30))
    assert "compiling" not in capsys.readouterr().out
