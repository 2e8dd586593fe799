"""The benchmarks run and write the columns that the documents speak of; what they measure here means nothing."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise50"
TIMES = {"agent", "noise replayed", "steps/s", "ms/step", "ms/step IQR", "times SB3", "peak memory, MB"}


def run(script: str, out: Path, table: str, *words: str | Path) -> list[dict[str, str]]:
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--threads", "1", "--rounds", "2", "--out", out]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert table in done.stdout
    assert (out / f"{table}.md").read_text().count("|") > 10
    with (out / f"{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_script_starts() -> None:
    """In one process, because they all import the same for some seconds."""
    folder = ROOT / "benchmarks"
    scripts = sorted(folder.glob("[a-z]*.py"))
    code = (
        "import contextlib, runpy, sys\n"
        "for sys.argv in ([script, '--help'] for script in sys.argv[1:]):\n"
        "    with contextlib.suppress(SystemExit): runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    # With `-c`, modules are looked for where it is called.
    done = subprocess.run([sys.executable, "-c", code, *scripts], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^usage: (\w+\.py)", done.stdout, re.MULTILINE) == [script.name for script in scripts]


def test_kernels(tmp_path: Path) -> None:
    small = ("--inputs", "60", "--hidden", "32", "--batch", "128", "--densities", "0.1")
    rows = run("kernels", tmp_path, "kernels-1", *small)
    assert {"ms", "ms IQR", "of dense's time", "GFLOP/s", "% of L1 bound", "% of L2 bound"} <= set(rows[0])
    assert {row["kernel"] for row in rows if row["ms"]} >= {"dense", "masked dense", "numba", "scatter"}
    assert {(row["layer"], row["operation"]) for row in rows} == {
        ("32 x 60", "forward"),
        ("32 x 60", "weight gradient"),
        ("32 x 32", "forward"),
        ("32 x 32", "weight gradient"),
        ("32 x 32", "input gradient"),
    }


def test_diagnostics() -> None:
    words = ("--env", ENV, "--rounds", "2", "--steps", "5")
    command = [sys.executable, ROOT / "benchmarks" / "diagnostics.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"a look \d+\.\d ms.*\n.*every 10000 steps: \d+\.\d+% of training", done.stdout)


def test_throughput(tmp_path: Path) -> None:
    words = ("--env", ENV, "--learners", "sac", "--replay", "redrawn", "--fill", "60", "--steps", "5")
    rows = run("throughput", tmp_path, "throughput-sac", *words, "--only", "anf-sac, input layers 80 %")
    assert set(rows[0]) >= TIMES
    assert [row["noise replayed"] for row in rows] == ["as seen", "redrawn"]
    assert all(float(row["ms/step"]) > 0 for row in rows)
    assert float(rows[0]["times SB3"]) == 1
    assert float(rows[1]["topology update, ms"]) > 0  # none came in so few steps; one was made


@pytest.mark.slow
def test_throughput_of_recipes(tmp_path: Path) -> None:
    words = ("--env", ENV, "--replay", "redrawn", "--fill", "60", "--steps", "5")
    rows = run("throughput", tmp_path, "throughput-recipes", *words, "--recipes", "screened-sac", "rigl-sac")
    assert [row["agent"] for row in rows] == ["SB3 SAC", "screened-sac", "rigl-sac"]
    assert all(float(row["ms/step"]) > 0 for row in rows)
    assert float(rows[2]["topology update, ms"]) > 0  # by gradient


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    words = ("--env", "InvertedPendulum", "--noise", "0", "50", "90", "--fill", "60", "--steps", "5")
    image = tmp_path / "scaling.png"
    rows = run("scaling", tmp_path, "scaling", *words, "--image", image)
    assert set(rows[0]) >= TIMES | {"noise, %", "features"}
    with (tmp_path / "scaling-slopes.csv").open() as file:
        slopes = list(csv.DictReader(file))
    assert len(slopes) == 7  # SB3, and three agents in two protocols
    assert all(row["us/step per feature"] and row["of SB3's"] for row in slopes)
    assert image.stat().st_size > 10_000


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    words = ("--env", ENV, "--weights-env", ENV, "--transitions", "200", "--steps", "2", "--batches", "2")
    rows = run("memory", tmp_path, "memory-replay", *words)
    assert [row["noise replayed"] for row in rows] == ["redrawn", "observed", "as seen"]
    assert {"bytes/transition", "RSS full, MB", "ms/batch sampled", "steps/s"} <= set(rows[0])
    with (tmp_path / "memory-weights.csv").open() as file:
        weights = list(csv.DictReader(file))
    assert {row["moments, bytes/weight"] for row in weights} == {"8.0"}


@pytest.mark.slow
def test_breakdown(tmp_path: Path) -> None:
    rows = run("breakdown", tmp_path, "breakdown", "--steps", "3", "--fill", "260")
    assert {"learner", "agent", "part", "calls", "ms", "million multiply-adds", "floor, ms"} == set(rows[0])
    for learner in ("sac", "td3"):
        mine = [row for row in rows if row["learner"] == learner and "gradients of the critics" in row["part"]]
        assert [row["agent"] for row in mine] == ["dense", "input 80 %", "uniform 95 %"]
        work = [float(row["million multiply-adds"]) for row in mine]
        assert work[0] > work[1] > work[2] > 0  # the sparser, the less
