"""The front door: what ``train.py`` leaves behind, what it says, and what bad input gets."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from train_cases import ENV, ROOT, WORDS, Run, train

from sparse_rl.agents.sac import SAC
from sparse_rl.agents.saved import load_agent
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.inputs import InputError
from sparse_rl.training.finding import find_agent

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train as a user does."""
    root = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "train.py", *WORDS.split(), "--save-freq", "300", "-f", str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return Run(root / "anf-sac" / ENV / "1", done.stdout)


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
    seen = [("plasticity", f"plasticity/{name}", name) for name in summary["plasticity"]]
    seen += [
        (each, f"sparsity/{each}/{name}", name)
        for each in ("overlap_start", "overlap_last")
        for name in ("actor", "qf0", "qf1")
    ]
    assert {name for _, _, name in seen} >= {"dormant_actor", "srank_qf0", "effective_rank_qf1", "gradient_snr_qf0"}
    for group, curve, name in seen:
        assert scalars.Scalars(curve)[-1].value == pytest.approx(summary[group][name], rel=1e-6)


def test_a_folder_of_runs_and_a_zip_file_are_no_agents_but_near_one(run: Run) -> None:
    with pytest.raises(
        InputError, match=re.escape(f"is the folder of 1 run: say which, for example {str(run.folder)!r}")
    ):
        find_agent(str(run.folder.parent))
    beside = run.folder / "best_model"
    with pytest.raises(InputError, match=re.escape(f"give the folder beside it, '{beside}.agent'")):
        find_agent(f"{beside}.zip")


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


def test_the_agent_can_be_evaluated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["evaluate", str(run.folder), "--episodes", "3", "--best"]) == 0
    first = capsys.readouterr().out
    what, result = first.splitlines()
    assert what == f"anf-sac on {ENV}, trained with redrawn noise, best agent"
    assert re.fullmatch(r"return \d+\.\d \+/- \d+\.\d over 3 episodes, seed 1000000", result)
    assert sparse_rl(["evaluate", str(run.folder), "-n", "3", "--best"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no run in"),
        ("- 1", "does not describe a run"),
        ("{algo: sac, env: Hopper-v5, hyperparameters: 3}", "does not describe a run"),
        ("{algo: sac, env: Hopper-v5, hyperparameters: {}}", "Hopper-v5.agent', or none yet"),
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


def test_a_phase_makes_no_sense_without_a_permutation(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert sparse_rl(["evaluate", str(run.folder), "--phase", "1"]) == 2
    assert "not permuted" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", [b"", b"nothing of the kind", None])
def test_a_damaged_agent_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: bytes | None
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    file = folder / f"{ENV}.agent" / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert sparse_rl(["evaluate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"{ENV}.agent" in error
    assert name in error
