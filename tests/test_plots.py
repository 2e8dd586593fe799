"""Learning curves of run folders, ours and rl-baselines3-zoo's: what is drawn, what the table says, and bad input."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sparse_rl.commands.main import main
from sparse_rl.plots.drawing import COLUMNS
from sparse_rl.plots.files import Episodes, operations, read_episodes
from sparse_rl.plots.folders import find_runs
from sparse_rl.plots.gathering import moving_average
from sparse_rl.plots.intervals import interval, mean
from sparse_rl.training.finding import find_agent

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise90"
TRAIN = (
    f"train --algo anf-sac --env {ENV} -n 200 --seed 1 --eval-freq 100 --eval-episodes 2 --no-progress -params "
    "learning_starts:50 buffer_size:200 batch_size:16 policy_kwargs.net_arch:[8,8] -f"
)


class Drawn(NamedTuple):
    rows: list[dict[str, str]]
    error: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this project, and one as rl-baselines3-zoo makes it: Stable-Baselines3's monitors and EvalCallback."""
    root = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN.split(), str(root)]) == 0
    folder = root / "ppo" / "CartPole-v1_3"
    env = make_vec_env("CartPole-v1", 2, seed=0, monitor_dir=str(folder))
    evaluation = EvalCallback(make_vec_env("CartPole-v1", 1), n_eval_episodes=2, eval_freq=32, log_path=str(folder))
    PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(128, evaluation)
    env.close()
    return root


def plot(out: Path, capsys: pytest.CaptureFixture[str], *words: object) -> Drawn:
    assert main(["plot", *map(str, words), "-o", str(out)]) == 0
    error = capsys.readouterr().err
    with out.with_suffix(".csv").open() as file:
        return Drawn(list(csv.DictReader(file)), error)


def zoo_run(folder: Path, returns: list[float], every: int = 100) -> Path:
    """Write what the zoo writes, with these mean returns, and an episode of 50 steps every 5 seconds."""
    folder.mkdir(parents=True)
    steps = every * np.arange(1, len(returns) + 1)
    results = np.array([[value - 1, value + 1] for value in returns])
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, ep_lengths=np.ones_like(results))
    episodes = "".join(f"{end / 50},50,{end / 10}\n" for end in range(50, steps[-1] + 1, 50))
    (folder / "0.monitor.csv").write_text(f'#{{"t_start": 0, "env_id": "x"}}\nr,l,t\n{episodes}')
    return folder


def our_run(folder: Path, returns: list[float], **hyperparameters: object) -> Path:
    zoo_run(folder, returns)
    algorithm, environment = folder.parts[-3:-1]
    config = {"algo": algorithm, "env": environment, "seed": int(folder.name) if folder.name.isdecimal() else 0}
    config["hyperparameters"] = {"replay": "observed", "n_envs": 1, **hyperparameters}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    return folder


# What is drawn


def test_the_table_is_what_one_gets_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finals = [1.0, 2.0, 3.0, 6.0, 50.0]
    for seed, final in enumerate(finals, start=1):
        zoo_run(tmp_path / "sac" / f"Hopper-v5_{seed}", [final / 2, final])
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert error == ""
    assert list(rows[0]) == list(COLUMNS)
    first, last = rows
    # Of five the lowest and the highest are left out: (2 + 3 + 6) / 3.
    assert float(last["return"]) == pytest.approx(11 / 3)
    assert float(first["return"]) == pytest.approx(11 / 6)
    low, high = interval([np.array(finals)])
    assert (float(last["low"]), float(last["high"])) == (low, high)
    assert (last["steps"], float(last["seconds"]), last["flops"]) == ("200", 20.0, "")
    assert [last[key] for key in COLUMNS[:7]] == [
        "Hopper-v5", "sac", "rl-baselines3-zoo", "no noise", "dense", "5", "iqm",
    ]  # fmt: skip
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")

    rows, _ = plot(tmp_path / "mean.pdf", capsys, tmp_path, "--mean", "-x", "time")
    assert (float(rows[1]["return"]), rows[1]["statistic"]) == (12.4, "mean")
    low, high = interval([np.array(finals)], statistic=mean)
    assert (float(rows[1]["low"]), float(rows[1]["high"])) == (low, high)
    assert (tmp_path / "mean.pdf").read_bytes().startswith(b"%PDF")


def test_training_episodes_are_averaged_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Episode k ends at step 50 k, after 5 k seconds, with a return of k."""
    zoo_run(tmp_path / "sac" / "Hopper-v5_1", [0.0] * 4)
    rows, _ = plot(tmp_path / "out.svg", capsys, tmp_path, "--training", "-w", "3")
    values = {int(row["steps"]): float(row["return"]) for row in rows}
    assert values[50] == 1
    assert values[100] == values[148] == 1.5
    assert values[150] == 2
    assert values[400] == 7  # episodes 6, 7 and 8
    assert max(values) == 400
    assert min(values) == 50
    assert "<svg" in (tmp_path / "out.svg").read_text()


def test_points_of_different_runs_lie_at_the_same_steps() -> None:
    episodes = Episodes(np.array([7, 19, 31]), np.array([1.0, 3.0, 8.0]), np.array([1.0, 2.0, 3.0]))
    steps, returns = moving_average(episodes, 2, 10)
    assert steps.tolist() == [10, 20, 30]
    assert returns.tolist() == [1, 2, 2]


def test_copies_of_an_environment_take_their_steps_together(tmp_path: Path) -> None:
    for rank, lengths in enumerate(([10, 30], [25])):
        rows = "".join(f"{rank},{length},{length}\n" for length in lengths)
        (tmp_path / f"{rank}.monitor.csv").write_text(f"#{{}}\nr,l,t\n{rows}")
    episodes = read_episodes(tmp_path)
    assert episodes.steps.tolist() == [20, 50, 80]
    assert episodes.returns.tolist() == [0, 1, 0]


def test_our_runs_and_the_zoos_go_together(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, error = plot(tmp_path / "out.png", capsys, runs)
    assert error == ""
    found = {(row["environment"], row["algorithm"], row["replay"], row["networks"]) for row in rows}
    assert found == {(ENV, "anf-sac", "redrawn noise", "sparse"), ("CartPole-v1", "ppo", "no noise", "dense")}
    for name, folder in ((ENV, runs / "anf-sac" / ENV / "1"), ("CartPole-v1", runs / "ppo" / "CartPole-v1_3")):
        with np.load(folder / "evaluations.npz") as evaluations:
            expected = list(zip(evaluations["timesteps"], evaluations["results"].mean(1), strict=True))
        assert [(int(r["steps"]), float(r["return"])) for r in rows if r["environment"] == name] == expected
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_flops_are_those_of_the_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, error = plot(tmp_path / "out.png", capsys, runs, "-x", "flops")
    assert "CartPole-v1_3' does not count: its TensorBoard files do not have 'cost/training_flops'" in error
    summary = yaml.safe_load((runs / "anf-sac" / ENV / "1" / "summary.yml").read_text())
    assert float(rows[-1]["flops"]) == pytest.approx(summary["training_flops"], rel=1e-6)
    assert {row["algorithm"] for row in rows} == {"anf-sac"}


def test_flops_that_are_gone(tmp_path: Path) -> None:
    assert np.isnan(operations(tmp_path / "gone", np.array([1, 2]))).all()
    assert np.isnan(operations(tmp_path, np.array([1, 2]))).all()


def test_other_hyperparameters_make_another_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = tmp_path / "anf-sac" / "Hopper-noise90"
    for number, sparsity in enumerate((0.8, 0.8, 0.9), start=1):
        our_run(parent / str(number), [float(number)], method={"name": "set"}, sparsity=sparsity, eval_freq=number)
    rows, _ = plot(tmp_path / "out.png", capsys, tmp_path)
    assert [(row["settings"], row["runs"], float(row["return"])) for row in rows] == [
        ("sparsity 0.8", "2", 1.5),
        ("sparsity 0.9", "1", 3),
    ]


def test_only_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algorithm in ("sac", "anf-sac"):
        for environment in ("Hopper-noise90", "Ant-noise90"):
            our_run(tmp_path / algorithm / environment / "1", [1.0])
    rows, _ = plot(tmp_path / "out.png", capsys, tmp_path, "-a", "sac", "-e", "Ant-noise90")
    assert [(row["algorithm"], row["environment"]) for row in rows] == [("sac", "Ant-noise90")]


def test_a_curve_ends_where_its_first_run_ends_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = tmp_path / "sac" / "Hopper-noise90"
    our_run(parent / "1", [1.0, 2.0, 3.0])
    our_run(parent / "2", [1.0, 2.0])
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert [row["steps"] for row in rows] == ["100", "200"]
    assert f"ends at step 200, as '{parent / '2'}' does; '{parent / '1'}' went on to 300" in error


def test_the_table_has_each_curve_once_in_its_own_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environments = ("Hopper-v4", "Hopper-v5", "Hopper-noise90", "Hopper-noise95")
    for value, environment in enumerate(environments):
        our_run(tmp_path / "sac" / environment / "1", [float(value)])
    rows, _ = plot(tmp_path / "out.png", capsys, tmp_path)
    assert {row["environment"]: float(row["return"]) for row in rows} == {
        environment: value for value, environment in enumerate(environments)
    }
    assert len(rows) == 4


# Bad input


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["plot", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(("error: ", "Note: "))
    assert "Traceback" not in error
    return error


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no folder" in refused(capsys, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "There is no run in" in refused(capsys, tmp_path / "empty")
    zoo_run(tmp_path / "odd", [1.0])
    assert "it has no config.yml" in refused(capsys, tmp_path)


def test_a_copy_of_a_run_says_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, returns in (("1", [1.0, 2.0]), ("2", [1.0, 2.0, 3.0]), ("3", [1.0, 2.0])):
        folder = our_run(tmp_path / "sac" / "Hopper-noise90" / name, returns)
        config = yaml.safe_load((folder / "config.yml").read_text())
        (folder / "config.yml").write_text(yaml.safe_dump({**config, "seed": 5}))
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert {row["runs"] for row in rows} == {"1"}
    assert len(rows) == 3
    assert error.count("has the same seed, and went at least as far") == 2


def test_a_stranger_who_writes_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    our_run(tmp_path / "sac" / "Hopper-noise90" / "1", [1.0])
    bad = our_run(tmp_path / "sac" / "Hopper-noise90" / "2", [1.0], replay="\x1b]0;owned\x07")
    _, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert f"'{bad}' does not count: Unknown replay in its config.yml" in error
    assert "\x1b" not in error
    assert find_agent(bad).noise == "?]0;owned? noise"


def test_a_folder_that_may_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = our_run(tmp_path / "sac" / "Hopper-noise90" / "1", [1.0])
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def scan(path: Path) -> object:  # permissions do not stop root, who may be running this
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert len(rows) == 1
    assert good.exists()
    assert "locked' does not count: [Errno 13] Permission denied" in error


def test_a_good_run_among_garbage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = our_run(tmp_path / "sac" / "Hopper-noise90" / "1", [1.0])
    half = our_run(tmp_path / "sac" / "Hopper-noise90" / "2", [1.0]) / "evaluations.npz"
    half.write_bytes(half.read_bytes()[:100])
    (our_run(tmp_path / "sac" / "Hopper-noise90" / "3", [1.0]) / "config.yml").write_text("- 1")
    (our_run(tmp_path / "sac" / "Hopper-noise90" / "4", [1.0]) / "0.monitor.csv").write_text("#{}\nr,l,t\n1,x,3\n")
    (our_run(tmp_path / "sac" / "Hopper-noise90" / "5", [1.0]) / "evaluations.npz").unlink()
    (tmp_path / "notes.txt").write_text("not a run")
    os.symlink(tmp_path, tmp_path / "circle")
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path, good)
    assert len(rows) == 1
    assert rows[0]["runs"] == "1"
    notes = error.splitlines()
    assert len(notes) == 4
    assert all(note.startswith("Note: ") and "does not count: " in note for note in notes)
    assert [part for part in ("does not describe a run", "is damaged", "--training") if part not in error] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.jpg"], "it must end in .png, .svg, .pdf"),
        (["-o", "x"], "it must end in .png, .svg, .pdf"),
        (["-a", "anf-sak"], "Unknown algorithm among these runs 'anf-sak'. Did you mean 'anf-sac'"),
        (["-e", "Hoper-noise90"], "Did you mean 'Hopper-noise90'"),
        (["-x", "flops"], "No run has anything to draw"),
        (["--connectivity", "-o", "x.png"], "it must end in .gif"),
    ],
)
def test_bad_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    our_run(tmp_path / "anf-sac" / "Hopper-noise90" / "1", [1.0])
    assert message in refused(capsys, tmp_path, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["anf-sac"]


def test_runs_without_a_step_in_common_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo_run(tmp_path / "sac" / "Ant-v5_1", [1.0], every=100)
    zoo_run(tmp_path / "sac" / "Ant-v5_2", [1.0], every=130)
    assert "were evaluated at different steps" in refused(capsys, tmp_path, "-o", tmp_path / "out.png")
    zoo_run(tmp_path / "sac" / "Hopper-v5_1", [1.0])
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path)
    assert {row["environment"] for row in rows} == {"Hopper-v5"}
    assert error.startswith("Note: sac, rl-baselines3-zoo, no noise in Ant-v5 is left out: ")


@pytest.mark.parametrize("line", ["1,x,3", "1,nan,3", "1,1e300,3", "1,50"])
def test_a_damaged_monitor_among_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    zoo_run(tmp_path / "sac" / "Hopper-v5_1", [1.0])
    (zoo_run(tmp_path / "sac" / "Hopper-v5_2", [1.0]) / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n{line}\n")
    rows, error = plot(tmp_path / "out.png", capsys, tmp_path, "--training")
    assert {row["runs"] for row in rows} == {"1"}
    assert "Hopper-v5_2' does not count: " in error


def test_nothing_but_a_table_of_curves_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    our_run(tmp_path / "sac" / "Hopper-noise90" / "1", [1.0])
    (tmp_path / "x.csv").write_text("my,own\n")
    assert "no table of curves" in refused(capsys, tmp_path, "-o", tmp_path / "x.png")
    assert (tmp_path / "x.csv").read_text() == "my,own\n"
    assert not (tmp_path / "x.png").exists()
    first, second = (plot(tmp_path / "y.png", capsys, tmp_path).rows for _ in range(2))
    assert first == second


def test_a_disk_that_takes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    our_run(tmp_path / "sac" / "Hopper-noise90" / "1", [1.0])
    (tmp_path / "file").write_text("")
    refused(capsys, tmp_path, "-o", tmp_path / "file" / "out.png")


# rl-baselines3-zoo


def test_runs_are_linked_as_the_zoo_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = our_run(tmp_path / "a" / "sac" / "Hopper-noise90" / "1", [1.0])
    two = our_run(tmp_path / "b" / "sac" / "Hopper-noise90" / "1", [2.0])
    links = tmp_path / "links"
    for _ in range(2):  # again: nothing changes
        assert main(["plot", str(tmp_path / "a"), str(tmp_path / "b"), "--export-rl-zoo", str(links)]) == 0
        assert f"Linked in {links}: 2 runs." in capsys.readouterr().out
        found = {link.relative_to(links).as_posix(): link.resolve() for link in links.glob("*/*")}
        assert found == {"sac/Hopper-noise90_1": one, "sac/Hopper-noise90_2": two}
    runs, notes = find_runs([links])
    assert (len(runs), notes) == (2, [])
    error = refused(capsys, tmp_path / "a", "--export-rl-zoo", tmp_path / "a")
    assert "give another, empty folder" in error


def test_the_zoos_own_plot_scripts_read_our_runs(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3", exc_type=ImportError)
    assert main(["plot", str(runs), "--export-rl-zoo", str(tmp_path / "logs")]) == 0
    words = ["-a", "anf-sac", "-e", ENV, "-f", str(tmp_path / "logs")]
    outputs = []
    for script in (["all_plots", "-print", "-o", "curves"], ["plot_train", "-w", "2"]):
        command = [sys.executable, "-m", "rl_zoo3.cli", script[0], *words, *script[1:]]
        environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert f"{ENV}-ANF-SAC-{tmp_path / 'logs'}: 1" in outputs[0]  # one trial
    with np.load(runs / "anf-sac" / ENV / "1" / "evaluations.npz") as evaluations:
        assert f"{evaluations['results'][-1].mean():.0f} +/- 0" in outputs[0]
