"""Tuning: trials are ordinary runs, nothing that is done is lost, and what comes out can be used as it is."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.importance import PedAnovaImportanceEvaluator

from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.main import make_parser as parser_of
from sparse_rl.commands.train import main as train
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.commands.tune import _NOT_LASTING, _train_words
from sparse_rl.training.plan import Plan
from sparse_rl.tuning.report import Report, _importances
from sparse_rl.tuning.space import Choices, Range, Space, default_space
from sparse_rl.tuning.study import JOURNAL, PRUNED, ask, cut_off, ended, open_study
from sparse_rl.tuning.tuner import Tuner

ROOT = Path(__file__).parents[1]
ENV = "CartPole-v1"
# Stable-Baselines3's own learner: nothing has to be compiled.
WORDS = f"--algo static-a2c --env {ENV} --kernel scatter -n 60 --n-envs 1 --eval-episodes 1"
SPACE = """\
learning_rate: {low: 1e-4, high: 1e-2, log: true}
policy_kwargs: {net_arch: [[64, 64], [8]]}
"""


def plan_of(words: str) -> Plan:
    return read_plan(make_parser().parse_args(words.split()))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Tune as a user does."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "space.yml").write_text(SPACE)
    command = (
        f"{sys.executable} -m sparse_rl tune {WORDS} --space {folder / 'space.yml'} --trials 2 --jobs 2 -o {folder}"
    )
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_the_folder_is_complete(study: tuple[Path, str]) -> None:
    folder, output = study
    names = {path.name for path in folder.iterdir()}
    assert names == {"space.yml", "journal.jsonl", "lock", "logs", "runs", "trials.csv", "best.yml", "tuning.png"}
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert all(isinstance(json.loads(line), dict) for line in (folder / JOURNAL).read_text().splitlines())
    assert f"tuning learning_rate, policy_kwargs.net_arch of static-a2c on {ENV}" in output
    assert "trial 0 is the recipe as it is" not in output  # net_arch is not in it


def test_trials_are_runs(study: tuple[Path, str]) -> None:
    folder, _ = study
    table = rows(folder)
    assert [(row["trial"], row["state"], row["step"]) for row in table] == [
        ("0", "complete", "60"),
        ("1", "complete", "60"),
    ]
    for row in table:
        run = folder / row["run"]
        config = yaml.safe_load((run / "config.yml").read_text())
        assert config["hyperparameters"]["learning_rate"] == float(row["learning_rate"])
        assert str(config["hyperparameters"]["policy_kwargs"]["net_arch"]) == row["policy_kwargs.net_arch"]
        with np.load(run / "evaluations.npz") as evaluations:
            assert len(evaluations["timesteps"]) == 10
            assert evaluations["results"][-1].mean() == float(row["return"])


def test_the_printed_command_makes_the_same_run(study: tuple[Path, str], tmp_path: Path) -> None:
    folder, output = study
    match = re.search(r"The same run again: +python train.py (.*)", output)
    assert match is not None
    assert train([*shlex.split(match[1]), "-f", str(tmp_path)]) == 0
    best = max(rows(folder), key=lambda row: float(row["return"]))
    files = (folder / best["run"] / "evaluations.npz", tmp_path / "static-a2c" / ENV / "1" / "evaluations.npz")
    first, second = (np.load(file)["results"].tolist() for file in files)
    assert first == second


def test_the_recipe_can_be_used(study: tuple[Path, str]) -> None:
    folder, output = study
    best = max(rows(folder), key=lambda row: float(row["return"]))
    match = re.search(r"With these values: +python train.py (.*)", output)
    assert match is not None
    plan = plan_of(match[1])
    assert plan.hyperparameters["learning_rate"] == float(best["learning_rate"])
    assert str(plan.hyperparameters["policy_kwargs"]["net_arch"]) == best["policy_kwargs.net_arch"]
    assert plan.hyperparameters["kernel"] == "scatter"
    assert (
        plan.hyperparameters["n_timesteps"] == plan_of(f"--algo static-a2c --env {ENV}").hyperparameters["n_timesteps"]
    )


def test_the_same_command_has_nothing_left_to_do(study: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = study
    words = f"tune {WORDS} --space {folder / 'space.yml'} --trials 2 -o {folder}"
    assert sparse_rl(words.split()) == 0
    again = capsys.readouterr().out
    assert "2 trials are done already" in again
    assert output[output.index("\nbest:") :] == again[again.index("\nbest:") :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--algo anf-a2c", "algo is 'anf-a2c' instead of 'static-a2c'"),
        ("--env CartPole-v1-noise50", "env is 'CartPole-v1-noise50' instead of 'CartPole-v1'"),
        ("-n 70", "hyperparameters.n_timesteps is 70 instead of 60"),
        ("--space {folder}/other.yml", "space.learning_rate.high is 0.02 instead of 0.01"),
        ("--seed 1", "seed is 1 instead of 0"),
    ],
)
def test_another_study_is_refused(
    study: tuple[Path, str], capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    folder, _ = study
    (folder / "other.yml").write_text(SPACE.replace("1e-2", "2e-2"))
    before = (folder / JOURNAL).read_bytes()
    words = f"tune {WORDS} --space {folder / 'space.yml'} -o {folder} {change.format(folder=folder)}"
    assert sparse_rl(words.split()) == 2
    (folder / "other.yml").unlink()
    error = capsys.readouterr().err
    assert message in error
    assert "give another --out" in error
    assert (folder / JOURNAL).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--eval-freq -1", "give an --eval-freq above 0"),
        ("--timeout 0", "--timeout must be above 0 seconds"),
        ("--seed -1", "Give a --seed of 0 or more"),
        ("-params learning_rate:0.1 --sparsity 0.5", "Everything that would be varied has been given a value"),
        ("--algo stati-a2c", "Did you mean 'static'"),
        ("--space nowhere.yml", "The space 'nowhere.yml' cannot be read"),
    ],
)
def test_bad_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert sparse_rl(f"tune {WORDS} -o {tmp_path / 'study'} {words}".split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_what_has_been_given_a_value_is_not_varied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yml").write_text(SPACE)
    words = f"tune {WORDS} --space {tmp_path / 'space.yml'} -params learning_rate:0.1 -o {tmp_path / 'study'}"
    assert sparse_rl(words.split()) == 2
    assert "learning_rate is varied here, but has also been given a value" in capsys.readouterr().err


RANGES: Space = {"x": Range(0.0, 1.0), "n": Range(1, 100, log=True, whole=True), "c": Choices(("a", None))}


def play(study: optuna.Study, n_trials: int, first: dict[str, Any] | None = None) -> list[Mapping[str, Any]]:
    while len(ended(study)) < n_trials:
        trial = ask(study, RANGES, seed=5, first=first)
        study.tell(trial, trial.params["x"])
    return [trial.params for trial in study.trials]


def test_an_interrupted_study_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole = play(open_study(tmp_path / "a", {}, 10), 14)
    for n_trials in (3, 11):
        play(open_study(tmp_path / "b", {}, 10), n_trials)
    assert play(open_study(tmp_path / "b", {}, 10), 14) == whole
    assert len({params["x"] for params in whole}) == 14


def test_the_first_trial_is_the_recipe(tmp_path: Path) -> None:
    first = {"x": 0.25, "n": 7, "c": None}
    assert play(open_study(tmp_path, {}, 10), 2, first)[0] == first


def report_of(study: optuna.Study, folder: Path) -> Report:
    return Report(study, RANGES, folder, "title", None, ["--algo", "sac"], ["--algo", "sac"], lambda words: {})


def reported(folder: Path, n_trials: int) -> optuna.Study:
    """Give a study whose trials have been evaluated, and are the better the larger x is."""
    study = open_study(folder, {}, 10)
    for _ in range(n_trials):
        trial = ask(study, RANGES, seed=5, first=None)
        trial.report(trial.params["x"], 10)
        study.tell(trial, trial.params["x"])
    return study


def test_importances_are_those_of_ped_anova(tmp_path: Path) -> None:
    """By its name, not by Optuna's default, which was another one that needs a package more."""
    for name in ("few", "enough"):
        (tmp_path / name).mkdir()
    few, study = reported(tmp_path / "few", 9), reported(tmp_path / "enough", 12)
    assert _importances(few) == {}
    weights = _importances(study)
    assert weights == optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    assert max(weights, key=lambda name: weights[name]) == "x"
    other = optuna.importance.get_param_importances
    with pytest.MonkeyPatch.context() as patch:  # an Optuna that has no default
        patch.setattr(
            "sparse_rl.tuning.report.get_param_importances",
            lambda study, *, evaluator: other(study, evaluator=evaluator),
        )
        assert _importances(study) == weights


def test_a_picture_that_cannot_be_drawn_does_not_end_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuning.png").mkdir()  # where the picture belongs
    report = report_of(reported(tmp_path, 2), tmp_path)
    report.write()
    report.write()
    assert len(rows(tmp_path)) == 2
    assert (tmp_path / "best.yml").exists()
    output = capsys.readouterr().out
    assert output.count("Note: tuning.png could not be drawn, the study goes on: Is a directory\n") == 1
    (tmp_path / "tuning.png").rmdir()
    report.write()
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_a_method_of_ones_own_has_a_default_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    plan = plan_of("--algo examples.own_method:RichGetRicher-sac --env InvertedPendulum-noise90")
    assert set(default_space(plan)) == {"learning_rate", "sparsity", "method.drop_fraction", "method.update_interval"}


def test_a_half_written_line_is_removed(tmp_path: Path) -> None:
    played = play(open_study(tmp_path, {}, 10), 2)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "work')  # the process was killed here, with Optuna's lock in its hands
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    began = time.monotonic()
    study = open_study(tmp_path, {}, 10)
    assert [trial.params for trial in study.trials] == played
    play(study, 3)
    assert time.monotonic() - began < 20  # Optuna itself would wait for 30 seconds
    assert len(open_study(tmp_path, {}, 10).trials) == 3


def test_a_damaged_journal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / JOURNAL).write_text("no JSON\nat all\n")
    assert sparse_rl(f"tune {WORDS} -o {tmp_path}".split()) == 2
    assert "is damaged" in capsys.readouterr().err


def test_when_all_fail_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yml").write_text("learning_rate: [0.01, 0.1]")
    words = f"tune {WORDS} --sparsity 0 --space {tmp_path / 'space.yml'} --jobs 3 -o {tmp_path}"
    assert sparse_rl(words.split()) == 1
    output = capsys.readouterr().out
    assert "The first trials have all failed, so the others were not tried." in output
    assert "there is nothing for static-a2c to do" in output
    assert 3 <= len(rows(tmp_path)) <= 6
    assert "there is nothing for static-a2c to do" in rows(tmp_path)[0]["why"]


def test_one_tuner_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparse_rl.storage import locked

    with locked(tmp_path / "lock"):
        assert sparse_rl(f"tune {WORDS} -o {tmp_path}".split()) == 2
    assert f"is going on, in process {os.getpid()}" in capsys.readouterr().err


def test_help_shows_the_defaults_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    args: Namespace = parser_of(["tune"]).parse_args(["tune"])
    assert (args.n_timesteps, args.seed, args.num_threads, args.trials) == (100_000, 0, 1, 30)
    with pytest.raises(SystemExit):
        sparse_rl(["tune", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "environment steps of a trial (100000)" in text
    assert "same seed, same study (0)" in text
    assert "random" not in text


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_trials_go_on(tmp_path: Path, end: signal.Signals) -> None:
    """However the tuner ends, the same command goes on, with the same trials, and none is begun twice."""
    (tmp_path / "space.yml").write_text(SPACE)
    words = f"tune {WORDS} -n 20000 --space {tmp_path / 'space.yml'} --trials 2".split()
    command = [sys.executable, "-m", "sparse_rl", *words]
    whole = subprocess.run([*command, "-o", tmp_path / "whole"], cwd=ROOT, capture_output=True, timeout=500)
    assert whole.returncode == 0
    folder = tmp_path / "parts"
    with subprocess.Popen([*command, "-o", folder], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tuner:
        while not any(folder.rglob("evaluations.npz")):
            time.sleep(0.05)
        tuner.send_signal(end)
        output, _ = tuner.communicate(timeout=120)
    assert tuner.returncode == (130 if end == signal.SIGINT else -9)
    if end == signal.SIGINT:
        assert "1 trial can be continued" in output
    assert len(cut_off(_reopened(folder))) == 1
    again = subprocess.run([*command, "-o", folder], cwd=ROOT, capture_output=True, timeout=500)
    assert again.returncode == 0
    assert len(list((folder / "runs").glob("*/*/*"))) == 2
    first, second = ([{**row, "seconds": ""} for row in rows(each)] for each in (tmp_path / "whole", folder))
    assert first == second


def _reopened(folder: Path) -> optuna.Study:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.load_study(study_name="sparse-rl", storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))))


AHEAD = """\
import gymnasium as gym
import numpy as np


class Ahead(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (1,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action[0]), False, False, {}


gym.register("Ahead-v0", Ahead, max_episode_steps=20)
"""


@pytest.mark.slow
def test_trials_that_fall_behind_are_pruned(tmp_path: Path) -> None:
    """Where an action is its own reward, a learning rate of next to nothing earns next to nothing."""
    (tmp_path / "ahead.py").write_text(AHEAD)
    (tmp_path / "space.yml").write_text("learning_rate: [0.03, 0.02, 1e-9]")
    words = (
        "tune --algo a2c --env ahead:Ahead-v0 -n 3000 --eval-episodes 1 --trials 16 --jobs 2 --space space.yml -o study"
    )
    command = [sys.executable, "-m", "sparse_rl", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "study"
    pruned = [row for row in rows(folder) if row["state"] == "pruned"]
    assert {row["learning_rate"] for row in pruned} == {"1e-09"}
    for row in pruned:
        assert 1000 < int(row["step"]) < 3000
        assert not (folder / row["run"] / "checkpoints").exists()
        assert not yaml.safe_load((folder / row["run"] / "summary.yml").read_text())["finished"]


def test_words_that_last() -> None:
    """The command with the recipe that came out has what is neither in that nor about trials."""
    words = f"tune {WORDS} --env-kwargs max_episode_steps:30 --vec-env subproc --eval-freq 20 -params gamma:0.9"
    args = parser_of(["tune"]).parse_args(words.split())
    lasting = _train_words(args, _NOT_LASTING)
    expected = f"--algo static-a2c --env {ENV} --env-kwargs max_episode_steps:30 --vec-env subproc"
    assert lasting == expected.split()


def test_a_trial_that_was_told_to_end_is_not_run_again(tmp_path: Path) -> None:
    """Its tuner died between that and noting that it had ended."""
    plan = plan_of(WORDS)
    study = open_study(tmp_path, {"of": "something"}, 60)
    space: Space = {"learning_rate": Range(1e-4, 1e-2, log=True)}
    trial = ask(study, space, 0, None)
    trial.report(1.0, 30)
    trial.set_user_attr(PRUNED, True)
    again = open_study(tmp_path, {"of": "something"}, 60)
    Tuner(again, space, tmp_path, lambda words: plan, ["--algo", "static-a2c"], 0).run(1)
    (ended_trial,) = ended(again)
    assert ended_trial.state == optuna.trial.TrialState.PRUNED
    assert not list(tmp_path.glob("runs/*"))


def test_what_falls_behind_the_median_is_pruned_after_a_third_of_the_steps(tmp_path: Path) -> None:
    study = open_study(tmp_path, {"of": "something"}, 60)
    for _ in range(5):
        trial = study.ask()
        for step in (15, 30):
            trial.report(10.0, step)
        study.tell(trial, 10.0)
    worse, better = study.ask(), study.ask()
    worse.report(1.0, 15)
    assert not worse.should_prune()  # too early to tell
    worse.report(1.0, 30)
    better.report(11.0, 30)
    assert worse.should_prune()
    assert not better.should_prune()
