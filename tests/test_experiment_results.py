"""What an experiment says: which runs count, what their curves, intervals and tables are, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from _experiment.curves import panels, reach, scores
from _experiment.results import COLUMNS, FILE, Row, read_results, write_results
from _experiment.runs import Run, cut_off_runs, finished_runs
from experiment import main
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparse_rl.checkpoints import CheckpointFolder
from sparse_rl.plots.curves import Agent, Curve
from sparse_rl.plots.intervals import interval, iqm

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise50"


# Runs


def fake_run(folder: Path, steps: int = 200, returns: tuple[float, ...] = (1.0, 4.0)) -> Path:
    folder.mkdir(parents=True)
    config = {"algo": "sac", "env": ENV, "seed": 0, "hyperparameters": {"n_timesteps": 200, "n_envs": 1}}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    timesteps = np.linspace(steps / len(returns), steps, len(returns)).astype(int)
    results = np.array([[value - 1, value + 1] for value in returns])
    np.savez(folder / "evaluations.npz", timesteps=timesteps, results=results)
    (folder / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n1,40,10\n1,80,40\n')
    return folder


def test_the_clock_is_that_of_the_episodes(tmp_path: Path) -> None:
    """Episodes end at steps 40 and 120, after 10 and 40 seconds; from there on the average speed is all one knows."""
    run = Run(fake_run(tmp_path / "run", returns=(1, 2, 3, 4, 5)))
    assert run.steps.tolist() == [40, 80, 120, 160, 200]
    assert run.seconds() == pytest.approx([10, 25, 40, 40 + (200 / 3 - 40) / 2, 200 / 3])
    (run.folder / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n')
    assert np.isnan(run.seconds()).all()


def test_only_what_can_be_continued_was_cut_off(tmp_path: Path) -> None:
    """What has results, but no checkpoint, would be refused each time: such a run is begun again, elsewhere."""
    parent = tmp_path / "sac" / ENV
    for name in ("1", "2", "3"):
        (fake_run(parent / name) / "checkpoints").mkdir()
    CheckpointFolder(parent / "1" / "checkpoints").save(150, {"weight": th.zeros(3)})
    (parent / "2" / "evaluations.npz").unlink()
    assert [folder for folder, _ in cut_off_runs(tmp_path)] == [parent / "1", parent / "2"]


def test_only_finished_runs_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = tmp_path / "sac" / ENV
    finished = fake_run(parent / "10")
    fake_run(parent / "2", steps=150)  # ended early
    (fake_run(parent / "3") / ".partial").mkdir()  # killed while it wrote its last files
    half = fake_run(parent / "4") / "evaluations.npz"
    half.write_bytes(half.read_bytes()[:100])
    (fake_run(parent / "5") / "config.yml").write_text("- 1")
    (fake_run(parent / "6") / "evaluations.npz").unlink()  # not evaluated yet
    (fake_run(parent / "7") / "summary.yml").write_text("finished: false\n")  # its last update went wrong
    (fake_run(parent / "8") / "checkpoints").mkdir()  # the disk was full
    oldest = fake_run(parent / "9")
    (parent / "10" / "summary.yml").write_text("finished: true\n")
    assert [run.folder for run in finished_runs(tmp_path)] == [oldest, finished]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert [note.split(" does not count: ")[0] for note in notes] == [f"Note: the run in '{parent}/{n}'" for n in "45"]


def test_the_published_runs_of_anf_are_read() -> None:
    runs = {run.folder.parts[-3] + run.folder.name: run for run in finished_runs(ROOT / "benchmarks/results/anf")}
    assert {name: round(run.returns[-1].mean()) for name, run in runs.items()} == {
        "anf-sac1": 6852,
        "anf-sac2": -228,
        "sac1": 5356,
        "static-sac1": 6648,
    }  # docs/methods/anf.md


# Intervals

SCORES = np.array([[3.0, 14.0], [15.0, 9.0], [26.0, 53.0], [58.0, 97.0], [93.0, 23.0]])


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm(np.array([1000.0, 2.0, 3.0, -500.0])) == 2.5
    assert iqm(np.array([9.0, 0.0, 3.0])) == 4  # too few to leave any out
    assert iqm(np.array([[1.0, 2.0, 4.0, 9.0, 100.0], [5.0, 5.0, 5.0, 5.0, 5.0]])).tolist() == [5, 5]


def test_intervals_are_those_of_rliable() -> None:
    """rliable 1.2.0, 50,000 repetitions: low ends 14 to 14.33 and high ends 63.67 to 64.17 with four seeds."""
    assert iqm(SCORES.ravel()) == 31.5
    low, high = interval([SCORES[:, 0], SCORES[:, 1]])
    assert 14 <= low <= 14.34
    assert 63.66 <= high <= 64.17
    assert interval([SCORES[:, 0]]) == pytest.approx((7, 81 + 1 / 3))  # with all four


def test_each_stratum_is_drawn_from_by_itself() -> None:
    """Runs that agree within their environments leave nothing uncertain, however far apart environments are."""
    assert interval([np.full(2, 3.0), np.full(2, 9.0)], repetitions=100) == (6, 6)


@given(st.lists(arrays(float, st.integers(1, 6), elements=st.floats(-1e6, 1e6)), min_size=1, max_size=3))
def test_an_interval_lies_among_the_scores_and_is_reproducible(strata: list[np.ndarray]) -> None:
    low, high = interval(strata, repetitions=200)
    scores = np.concatenate(strata)
    slack = 1e-6 * (1 + np.abs(scores).max())
    assert scores.min() - slack <= low <= high <= scores.max() + slack
    assert interval(strata, repetitions=200) == (low, high)


# The table and what is made of it


def row(
    algorithm: str, seed: int, step: int, value: float, environment: str = ENV, replay: str = "observed noise"
) -> Row:
    name = f"runs/{algorithm}/{environment}/{seed}"
    return Row(algorithm, environment, replay, "", seed, step, step / 10, value, 1.0, 5, 1234, 56 * 10**11, "abc", name)


ROWS = [
    *(row("sac", seed, step, seed + step / 100) for seed in (0, 1, 2) for step in (100, 200)),
    *(row("anf-sac", 0, step, step / 10) for step in (100, 200, 300)),
    row("sac", 0, 200, 50.0, "InvertedPendulum-v5", "no noise"),
]


def test_the_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        replace(ROWS[0], weights=None, training_flops=None, settings="tau 0.1, gamma 0.9", environment="x,y"),
    ]
    write_results(tmp_path, rows)
    assert read_results(tmp_path) == rows
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_noise_free_runs_are_the_ceiling_of_their_environment() -> None:
    ((name, panel),) = panels(ROWS).items()
    assert name == ENV
    assert [curve.agent.label for curve in panel] == ["sac, observed noise", "anf-sac, observed noise", "sac, no noise"]
    assert list(panels([ROWS[-1]])) == ["InvertedPendulum-v5"]  # alone, it has a picture of its own


def test_a_curve_has_the_steps_that_all_runs_share() -> None:
    rows = [*ROWS[:6], row("sac", 2, 300, 9.0)]
    (curve,) = panels(rows)[ENV]
    assert curve.steps.tolist() == [100, 200]
    assert curve.returns.tolist() == [[1, 2], [2, 3], [3, 4]]
    assert curve.middle().tolist() == [2, 3]
    assert curve.clock.tolist() == [10, 20]
    assert curve.band().shape == (2, 2)
    assert scores(curve, last=2).tolist() == [1.5, 2.5, 3.5]


def test_steps_and_seconds_to_a_return() -> None:
    returns = np.array([[1.0, 5.0, 3.0, 6.0], [1.0, 2.0, 3.0, 4.0]])
    seconds = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    curve = Curve(Agent("sac", "no noise", ""), "Hopper-v5", np.arange(4), returns, seconds)
    assert [each.tolist() for each in reach(curve, 5)] == [[1, np.inf], [2, np.inf]]
    assert [each.tolist() for each in reach(curve, 1)] == [[0, 0], [1, 10]]


def test_environments_with_fewer_runs_are_not_cut_off(tmp_path: Path) -> None:
    write_results(tmp_path, [row("sac", seed, 100, n, f"{n}-v1", "no noise") for n in (2, 4) for seed in range(n)])
    assert main(["plot", str(tmp_path), "--reference", "sac, no noise"]) == 0
    assert (
        "| sac, no noise | unknown: 2 to 4 runs in an environment, not equally many |"
        in (tmp_path / "results.md").read_text()
    )


def test_the_report(tmp_path: Path) -> None:
    write_results(tmp_path, ROWS)
    words = ["--reach", "3", "4", "1000", "--reference", "sac, no noise"]
    assert main(["plot", str(tmp_path), *words]) == 0
    text = (tmp_path / "results.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[2:5] == [
        "| sac, observed noise | 3 | 200 | 1,234 | 5.6e+12 | 3 [2, 4] | 20 | 200 (2 of 3 runs) | 20 (2 of 3 runs) "
        "| only 1 of 3 runs | only 1 of 3 runs | not reached | not reached |",
        "| anf-sac, observed noise | 1 | 300 | 1,234 | 5.6e+12 | 30 | 30 | 100 | 10 | 100 | 10 "
        "| not reached | not reached |",
        "| sac, no noise | 1 | 200 | 1,234 | 5.6e+12 | 50 | 20 | 200 | 20 | 200 | 20 | not reached | not reached |",
    ]
    assert "| sac, observed noise | 0.06 [0.04, 0.08] |" in table
    assert f"![{ENV}]({ENV}.png)" in text
    assert (tmp_path / f"{ENV}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([FILE, "results.md", f"{ENV}.png"])


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], "first `python benchmarks/experiment.py run`"),
        ("", [], "does not have the columns"),
        ("a,b\n", [], "does not have the columns"),
        (",".join(COLUMNS) + "\n", [], "No run in"),
        ("half a row", [], f"{FILE}', line 12 is damaged"),
        ("half a number", [], f"{FILE}', line 11 is damaged"),
        ("no protocol", [], "is damaged: replay is 'a | b'"),
        ("a field without end", [], "is damaged: field larger than field limit"),
        ("whole", ["--last", "4"], "2 evaluations that all its runs share, fewer than the 4"),
        ("whole", ["--reference", "sac, no nois"], "Did you mean 'sac, no noise'"),
    ],
)
def test_a_table_with_an_error_draws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: list[str], message: str
) -> None:
    write_results(tmp_path, ROWS)
    text = (tmp_path / FILE).read_text()
    content = {
        "whole": text,
        "half a row": text + "sac,Inver",
        "half a number": text.replace("50.0", "5o"),
        "no protocol": text.replace("observed noise", "a | b"),
        "a field without end": text + "x" * 140_000,
    }.get(content or "", content)
    (tmp_path / FILE).unlink() if content is None else (tmp_path / FILE).write_text(content)
    assert main(["plot", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {FILE}
