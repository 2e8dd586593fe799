"""Experiments: a grid is checked, run once, and survives being killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from _experiment.grid import SETTINGS, read_grid
from _experiment.launch import Job, on_ray, on_this_machine
from _experiment.results import FILE, read_results
from _experiment.runner import Experiment, lock
from _experiment.runs import cut_off_runs
from experiment import main

from sparse_rl.checkpoints import CheckpointFolder
from sparse_rl.inputs import InputError

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
def test_the_grids_that_come_along_are_fine(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))  # for examples
    assert len(read_grid(file)) >= 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options: [", "There is an error in the grid"),
        ("- 1", "must hold 'options' and 'grid'"),
        (f"{OPTIONS}\ngrid: {{algo: sac, env: {ENV}, seed: 0, num-threads: 0}}", "num_threads must be at least 1"),
        (
            f"{OPTIONS}\ngrid: {{algo: sac, env: {ENV}-permute50, seed: 0, n-envs: 2}}",
            "n_envs must be 1 where features change places",
        ),
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
        ("grid: {algo: sac, algo: td3, seed: 0}", "the key 'algo' is there twice"),
        ("grid: {hyperparams: {gamma: 2020-01-01}, seed: 0}", "Object of type date is not JSON serializable"),
        ("grid: {algo: gmp-sac, seed: 0, hyperparams: {method: {begin: 0.8, end: 0.2}}}", "end"),
        ("grid: {algo: sac, seed: [0, 1, 0]}", "Two points of a block are the same run: `train.py"),
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


def test_a_grid_that_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "/dev/zero"]) == 2
    assert "'/dev/zero' is not a regular file" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_that_is_whole_is_begun_again(tmp_path: Path) -> None:
    folder = tmp_path / "sac" / "Pendulum-v1" / "1"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yml").write_text("algo: sac\nenv: Pendulum-v1\nhyperparameters: {n_timesteps: 100}\n")
    CheckpointFolder(folder / "checkpoints").save(50, {"weight": th.zeros(3)})
    (file,) = (folder / "checkpoints").iterdir()
    assert [run for run, _ in cut_off_runs(tmp_path)] == [folder]
    file.write_bytes(file.read_bytes()[:-2])
    assert list(cut_off_runs(tmp_path)) == []


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


# All of it


def test_a_run_goes_on_with_the_threads_that_it_began_with(tmp_path: Path) -> None:
    file = grid(tmp_path, GRID)
    (cell, _) = read_grid(file, threads=1)
    former = tmp_path / "out" / "runs" / "anf-sac" / ENV / "1"
    (former / "checkpoints").mkdir(parents=True)
    config = {key: getattr(cell.plan, key) for key in SETTINGS} | {"num_threads": 1}
    (former / "config.yml").write_text(yaml.safe_dump(config))
    (job, *_) = Experiment(read_grid(file, threads=2), tmp_path / "out")._jobs({})
    assert job.words == ("--resume", str(former), "--no-progress")
    assert job.threads == 1
    assert dict(job.variables)["OMP_NUM_THREADS"] == "1"


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
