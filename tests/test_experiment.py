"""Experiments: a grid is checked, run once, survives being killed, and becomes a table that says what was measured."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from _experiment.curves import panels, reach, scores
from _experiment.grid import read_grid
from _experiment.launch import Job, on_ray, on_this_machine
from _experiment.results import COLUMNS, FILE, Row, read_results, replacing, write_results
from _experiment.runner import lock
from _experiment.runs import Run, cut_off_runs, finished_runs
from experiment import main
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparse_rl.inputs import InputError
from sparse_rl.plots.curves import Agent, Curve
from sparse_rl.plots.intervals import interval, iqm

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise50"
OPTIONS = """
options:
  n-timesteps: 200
  eval-freq: 100
  eval-episodes: 2
  hyperparams: {buffer_size: 1000, learning_starts: 50, policy_kwargs: {net_arch: [16, 16]}}
"""
GRID = f"{OPTIONS}\ngrid: {{algo: anf-sac, env: {ENV}, replay: observed, seed: [0, 1]}}\n"


def grid(folder: Path, text: str) -> Path:
    file = folder / "tiny.yml"
    file.write_text(text)
    return file


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# The grid


def test_a_list_is_an_axis_and_every_run_is_there_once(tmp_path: Path) -> None:
    blocks = f"[{{algo: [sac, anf-sac], env: {ENV}, seed: [0, 1]}}, {{algo: sac, env: {ENV}, seed: 1}}]"
    cells = read_grid(grid(tmp_path, f"{OPTIONS}\ngrid: {blocks}"))
    assert [(cell.plan.algo, cell.plan.seed) for cell in cells] == [(a, s) for a in ("sac", "anf-sac") for s in (0, 1)]
    assert {cell.plan.num_threads for cell in cells} == {1}
    assert {cell.plan.hyperparameters["n_timesteps"] for cell in cells} == {200}


def test_a_part_of_the_grid_changes_options_key_by_key(tmp_path: Path) -> None:
    block = f"{{algo: sac, env: {ENV}, seed: 0, n_timesteps: 1e3, hyperparams: [{{tau: 0.1}}, {{tau: 0.2}}]}}"
    cells = read_grid(grid(tmp_path, f"{OPTIONS}\ngrid: {block}"), threads=3)
    assert [cell.plan.hyperparameters["tau"] for cell in cells] == [0.1, 0.2]
    assert [cell.settings for cell in cells] == ["n_timesteps 1000.0, tau 0.1", "n_timesteps 1000.0, tau 0.2"]
    for cell in cells:
        assert cell.plan.num_threads == 3
        assert cell.plan.hyperparameters["n_timesteps"] == 1000
        assert cell.plan.hyperparameters["policy_kwargs"] == {"net_arch": [16, 16]}


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "grids").glob("*.yml")), ids=lambda file: file.stem)
def test_the_grids_that_come_along_are_fine(file: Path) -> None:
    assert len(read_grid(file)) >= 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options: [", "There is an error in the grid"),
        ("- 1", "must hold 'options' and 'grid'"),
        ("grids: []", "Unknown section 'grids'. Did you mean 'grid'?"),
        ("options: {seed: 1}", "'grid' must hold runs such as"),
        ("grid: []", "'grid' must hold runs such as"),
        ("grid: [sac]", "Expected keys such as 'algo: sac', not 'sac'"),
        ("grid: {alg: sac, seed: 0}", "Unknown key 'alg'. Did you mean 'algo'"),
        ("grid: {log-folder: x, seed: 0}", "Unknown key 'log-folder'"),
        ("grid: {algo: anfsac, seed: 0}", "Unknown algorithm 'anfsac'. Did you mean 'anf-sac'"),
        ("grid: {env: HalfCheetahh-noise98, seed: 0}", "Did you mean 'HalfCheetah"),
        ("grid: {replay: redrawed, seed: 0}", "redrawn"),
        ("grid: {hyperparams: {learning_rat: 1}, seed: 0}", "Did you mean 'learning_rate'"),
        ("grid: {hyperparams: learning_rate, seed: 0}", "hyperparams must hold keys and values"),
        ("grid: {algo: {sac: 1}, seed: 0}", "algo must be a word or a number"),
        ("grid: {seed: zero}", "argument --seed: invalid whole number value: 'zero'"),
        ("grid: {seed: []}", "'seed' is an empty list"),
        ("grid: {algo: sac}", "Give every run its seed"),
        ("grid: {algo: sac, seed: 0, eval-freq: -1}", "eval_freq must be positive"),
        ("options: {algo: [sac]}\ngrid: {seed: 0}", "'algo' is a list, which is an axis: it belongs below 'grid'"),
    ],
)
def test_a_grid_with_an_error_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert main(["run", str(grid(tmp_path, text)), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: There is an error in the grid")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_grid_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.yml")]) == 2
    assert "none.yml" in capsys.readouterr().err


# Processes


def job(folder: Path, code: str, name: str = "job", threads: int = 1) -> Job:
    script = folder / f"{name}.py"
    script.write_text(code)
    return Job(name, script, ("a", "b c"), folder / "logs" / f"{name}.log", threads, (("OMP_NUM_THREADS", "7"),))


def test_a_job_is_the_script_as_if_run_by_itself(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], __name__, sys.path[0]); sys.exit(3)"
    ((_, exit_code),) = on_this_machine([job(tmp_path, code)], 1)
    assert exit_code == 3
    assert (tmp_path / "logs" / "job.log").read_text() == f"['a', 'b c'] 7 __main__ {tmp_path}\n"


def test_threads_share_the_cores(tmp_path: Path) -> None:
    """Each job writes when it began and ended: two cores have room for one job of two threads, or two of one."""
    code = "import time; print(time.monotonic()); time.sleep(0.4); print(time.monotonic())"
    jobs = [job(tmp_path, code, name, threads) for name, threads in (("wide", 2), ("one", 1), ("two", 1), ("vast", 9))]
    assert sorted(done.title for done, _ in on_this_machine(jobs, 2)) == ["one", "two", "vast", "wide"]
    times = {j.title: [float(line) for line in j.log.read_text().split()] for j in jobs}
    assert times["wide"][1] < min(times["one"][0], times["two"][0])
    assert max(times["one"][0], times["two"][0]) < min(times["one"][1], times["two"][1])
    assert max(times["one"][1], times["two"][1]) < times["vast"][0]  # more than there are: alone


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """However that ends: here it is killed, and the job does nothing that would notice."""
    file = tmp_path / "pid"
    code = f"import os, time\nopen({str(file)!r}, 'w').write(str(os.getpid()) + ' ')\nwhile True: time.sleep(60)"
    script = job(tmp_path, code).script
    starter = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom _experiment.launch import Job, on_this_machine\n"
        "job = Job('job', Path(sys.argv[2]), (), Path(sys.argv[2]).with_suffix('.log'), 1, ())\n"
        "list(on_this_machine([job], 1))"
    )
    command = [sys.executable, "-c", starter, ROOT / "benchmarks", script]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        wait_for(lambda: file.exists() and file.read_text().endswith(" "))
        process.kill()
    pid = int(file.read_text())
    wait_for(lambda: not is_alive(pid), seconds=10)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a dead process may wait for somebody to notice
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_jobs_end_when_nobody_waits_for_them_any_more(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    sleeper = job(tmp_path, f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    quick = job(tmp_path, f"import os, time\nwhile not os.path.exists({str(file)!r}): time.sleep(0.01)", "quick")
    jobs = on_this_machine([sleeper, quick], 2)
    assert next(jobs) == (quick, 0)
    jobs.close()
    assert not is_alive(int(file.read_text()))


def test_a_killed_job_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    suicide = job(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "suicide")
    codes = {done.title: code for done, code in on_this_machine([suicide, job(tmp_path, "")], 1)}
    assert codes == {"suicide": -signal.SIGKILL, "job": 0}


def test_without_ray_the_launcher_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--launcher ray needs Ray: .*\[ray\]"):
        next(on_ray([]))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs = [job(tmp_path, "import sys; print(1); sys.exit(3)"), job(tmp_path, "print(2)", "other")]
    assert {done.title: code for done, code in on_ray(jobs)} == {"job": 3, "other": 0}
    assert jobs[1].log.read_text() == "2\n"


def test_one_runner_to_a_folder(tmp_path: Path) -> None:
    message = rf"Another runner \(process {os.getpid()} on .*\) is at work in '{tmp_path}'"
    with lock(tmp_path), pytest.raises(InputError, match=message), lock(tmp_path):
        pass
    (tmp_path / "lock").write_text("1 on elsewhere\n")  # left behind by one that was killed
    with lock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")


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
    (parent / "1" / "checkpoints" / "step_000000000150.safetensors").write_bytes(b"")
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
    oldest = fake_run(parent / "9")
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


def test_a_file_is_replaced_only_once_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with suppress(OSError), replacing(file) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert file.read_text() == "old"


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
        ("whole", ["--last", "4"], "2 evaluations that all its runs share, fewer than the 4"),
        ("whole", ["--reference", "sac, no nois"], "Did you mean 'sac, no noise'"),
    ],
)
def test_a_table_with_an_error_draws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: list[str], message: str
) -> None:
    write_results(tmp_path, ROWS)
    text = (tmp_path / FILE).read_text()
    content = {"whole": text, "half a row": text + "sac,Inver", "half a number": text.replace("50.0", "5o")}.get(
        content or "", content
    )
    (tmp_path / FILE).unlink() if content is None else (tmp_path / FILE).write_text(content)
    assert main(["plot", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {FILE}


# All of it


def test_an_experiment_is_run_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    words = ["run", str(grid(tmp_path, GRID)), "--out", str(folder), "--cores", "2"]
    assert main(words) == 0
    assert "[2/2] anf-sac on" in capfd.readouterr().out
    table = (folder / FILE).read_text()
    rows = read_results(folder)
    assert [(r.algorithm, r.replay, r.seed, r.step, r.episodes) for r in rows] == [
        ("anf-sac", "observed noise", seed, step, 2) for seed in (0, 1) for step in (100, 200)
    ]
    # 8 features: the actor has 20 % of 8 x 16, 16 x 16, and 16 x 2; each of two critics 20 % of 9 x 16, 16 x 16, 16.
    assert {r.weights for r in rows} == {26 + 256 + 32 + 2 * (29 + 256 + 16)}
    with np.load(folder / rows[0].run / "evaluations.npz") as evaluations:
        assert [r.return_mean for r in rows[:2]] == pytest.approx(evaluations["results"].mean(1), abs=1e-3)
    assert 0 < rows[0].seconds < rows[1].seconds
    assert yaml.safe_load((folder / rows[0].run / "config.yml").read_text())["num_threads"] == 1

    assert main(words) == 0
    assert "2 runs, 2 of them done, 0 to do" in capfd.readouterr().out
    assert (folder / FILE).read_text() == table
    (folder / rows[2].run / "evaluations.npz").write_bytes(b"half")
    assert main([*words, "--dry-run"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("train.py")[0] for line in lines] == ["done  ", "to do "]


def test_a_run_that_fails_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The environment is known but cannot be made with these arguments, which only the run itself finds out."""
    text = f"{OPTIONS}\ngrid: {{algo: sac, env: {ENV}, seed: 0, env-kwargs: {{wheels: 3}}}}\n"
    assert main(["run", str(grid(tmp_path, text)), "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr()
    assert f"failed with exit code 2: error: The environment '{ENV}' cannot be made" in said.out
    assert said.err == "error: 1 of the runs failed; `run` again goes on with them.\n"


@pytest.mark.slow
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    """Kill -9 strikes the runner and then a run; in the end every run is there, once."""
    folder = tmp_path / "out"
    long_enough = GRID.replace("n-timesteps: 200", "n-timesteps: 1000").replace("eval-freq: 100", "eval-freq: 500")
    words = [str(grid(tmp_path, long_enough)), "--out", str(folder), "--cores", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "experiment.py"), "run", *words]
    runs = folder / "runs" / "anf-sac" / ENV

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with begin() as runner:
        wait_for((folder / "logs").exists)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (second.returncode, second.stdout) == (2, "")
        assert f"Another runner (process {runner.pid} on " in second.stderr
        wait_for((runs / "2" / "config.yml").exists)
        (child,) = trainers(folder)
        runner.kill()
    wait_for(lambda: not is_alive(child), seconds=20)
    first = (folder / FILE).read_text()
    assert {r.seed for r in read_results(folder)} == {0}

    with begin() as runner:
        wait_for(lambda: trainers(folder))
        (child,) = trainers(folder)
        os.kill(child, signal.SIGKILL)
        out, error = runner.communicate()
    assert runner.returncode == 1
    assert "2 runs, 1 of them done, 1 to do" in out
    assert "seed 1: killed by SIGKILL" in out
    assert error == "error: 1 of the runs failed; `run` again goes on with them.\n"
    assert (folder / FILE).read_text() == first

    with begin() as runner:
        out, error = runner.communicate()
    assert (runner.returncode, error) == (0, "")
    assert (folder / FILE).read_text().startswith(first)
    assert [(r.seed, r.run[-1], r.step) for r in read_results(folder)] == [
        (seed, run, step) for seed, run in ((0, "1"), (1, "2")) for step in (500, 1000)
    ]


def trainers(folder: Path) -> list[int]:
    """Find the processes that train below a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            words = file.read_bytes().split(b"\0")
            if any(word.startswith(str(folder / "runs").encode()) for word in words):
                found.append(int(file.parent.name))
    return found
