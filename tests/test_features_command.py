"""``sparse-rl features``: a table, a CSV file and a picture, from whatever folder an agent lies in."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_rl.commands import features
from sparse_rl.commands.main import main
from sparse_rl.features import METHODS

ENVIRONMENT = "InvertedPendulum-noise90"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for a moment; permuted, so that the phase in which it is saved is another than the first."""
    root = tmp_path_factory.mktemp("runs")
    command = ["train", "--algo", "anf-sac", "--env", f"{ENVIRONMENT}-permute60", "-n", "100", "--seed", "0"]
    flags = ["--eval-freq", "-1", "--num-threads", "1", "--no-progress", "-f", str(root)]
    assert main([*command, *flags, "-params", "policy_kwargs.net_arch:[16,16]", "learning_starts:90"]) == 0
    return root / "anf-sac" / f"{ENVIRONMENT}-permute60" / "1"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def read(folder: Path, name: str = "features.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_gets_a_table_a_csv_file_and_a_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--episodes", "7", "--transitions", "400", "--top", "3", "--seed", "1"]
    assert main(["features", str(run), *flags]) == 0
    out = capsys.readouterr().out
    assert f"anf-sac on {ENVIRONMENT}-permute60" in out
    assert "the first 3 of 40 features" in out
    assert "against the 4 real ones" in out
    assert "400 random steps" in out
    rows = read(run)
    assert [int(row["feature"]) for row in rows] == list(range(40))
    assert list(rows[0]) == [
        "feature", "name", "real", "keep", "connections", "strength", "action_change", "return_drop", "return_p",
        "response_p", "reward_p", "prediction_p", "intervention_p",
        "rank_connections", "rank_ablation", "rank_intervention",
    ]  # fmt: skip
    real = {row["name"]: int(row["feature"]) for row in rows if row["real"] == "1"}
    assert set(real) == {"qpos slider", "qpos hinge", "qvel slider", "qvel hinge"}
    assert list(real.values()) != [0, 1, 2, 3]  # the features have changed places, and the agent was saved after that
    assert sum(row["return_p"] != "" for row in rows) == 3  # the others were not tried
    assert all(float(row["intervention_p"]) < 1e-6 for row in rows if row["real"] == "1")
    assert f"Keep {sum(row['keep'] == '1' for row in rows)} of 40" in out
    assert (run / "features.png").read_bytes().startswith(PNG)
    assert not list(run.glob(".*partial"))


def test_a_phase_can_be_chosen(run: Path) -> None:
    assert main(["features", str(run), "--methods", "connections", "--phase", "0", "-o", str(run / "a" / "b")]) == 0
    rows = read(run / "a" / "b", "features-phase0.csv")
    assert [row["name"] for row in rows[:4]] == ["qpos slider", "qpos hinge", "qvel slider", "qvel hinge"]
    assert "keep" not in rows[0]  # nothing was tested
    assert not (run / "features.csv").exists()


def test_an_agents_folder_needs_to_be_told_where_the_agent_belongs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Path(shutil.copytree(run / f"{ENVIRONMENT}-permute60.agent", tmp_path / "agent"))
    assert main(["features", str(agent), "--methods", "connections"]) == 2
    assert "--env HalfCheetah-noise98" in capsys.readouterr().err
    assert main(["features", str(agent), "--methods", "connections", "--env", f"{ENVIRONMENT}-permute60"]) == 0
    assert len(read(agent)) == 40


def test_an_agent_of_the_zoo(tmp_path: Path) -> None:
    words = ["anf-sac", "Reacher-noise90", "--methods", "connections", "--out", str(tmp_path)]
    assert main(["features", *words]) == 0
    rows = read(tmp_path)
    assert sum(row["real"] == "1" for row in rows) == 10
    assert {row["real"] for row in rows if int(row["rank_connections"]) <= 10} == {"1"}  # it has learnt where to look


def test_an_agent_of_the_zoo_is_ablated_too(tmp_path: Path) -> None:
    """It can act only, so it must not be put into training mode, not even to give back what was."""
    few = ["--episodes", "6", "--top", "1", "--transitions", "300"]
    assert main(["features", "anf-sac", "Reacher-noise90", *few, "--out", str(tmp_path)]) == 0
    assert any(float(row["action_change"]) > 0 for row in read(tmp_path))


def test_agents_of_a_run_do_not_overwrite_each_other(run: Path) -> None:
    shutil.copytree(run / f"{ENVIRONMENT}-permute60.agent", run / "best_model.agent")
    for flags in ([], ["--best"]):
        assert main(["features", str(run), *flags, "--methods", "connections,connections", "connections"]) == 0
    assert {file.name for file in run.glob("features*.csv")} == {"features.csv", "features-best.csv"}


def test_a_folder_that_is_not_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo's agent is meant, where a folder of that name has none."""
    monkeypatch.chdir(tmp_path)
    Path("anf-sac/Reacher-noise90").mkdir(parents=True)
    assert main(["features", "anf-sac", "Reacher-noise90", "--methods", "connections"]) == 0
    assert not list(Path("anf-sac/Reacher-noise90").iterdir())
    assert len(read(tmp_path)) == 100


def test_as_a_program(run: Path) -> None:
    command = [sys.executable, "-m", "sparse_rl", "features", str(run), "--methods", "connections", "--top", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "strength" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "/" not in line)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "ablation,conections"], "Unknown method 'conections'. Did you mean 'connections'"),
        (["--level", "2"], "must lie in (0, 1), not 2.0"),
        (["--episodes", "2"], "Take at least 10 episodes"),
        (["--top", "40", "--episodes", "1e1"], "Take at least 11 episodes"),
        (["--top", "1_000", "--level", "1e-3"], "take a top of at most 8"),
        (["--transitions", "5"], "transitions=5 are too few for tests"),
        (["--seed", "-1"], "seed must be at least 0, not -1"),
        (["--env", "InvertedPendulum-noise80"], "agent cannot act in InvertedPendulum-noise80"),
        (["--env", "InvertedPendulm"], "InvertedPendulum"),
        (["--out", f"{__file__}/report"], "nothing can be written into"),
    ],
)
def test_bad_input(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert not (run / "features.csv").exists()


def test_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(tmp_path / "nothing")]) == 2
    assert "There is no" in capsys.readouterr().err


def test_help_knows_the_methods_and_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert features.METHODS == METHODS
    with pytest.raises(SystemExit) as ended:
        main(["features", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*METHODS, "strength", "p(task)", "--level"))
