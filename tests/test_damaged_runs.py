"""Runs that may be strangers': one that cannot be read is left out, with a note that says what is wrong."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from sparse_rl.commands.main import main
from sparse_rl.plots.files import read_episodes
from sparse_rl.plots.folders import find_runs
from sparse_rl.training.returns import read_evaluations

STEPS, RESULTS = np.array([100, 200]), np.array([[1.0, 2.0], [3.0, 4.0]])
Damage = Callable[[Path], object]


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "evaluations.npz", timesteps=STEPS, results=RESULTS)
    (folder / "0.monitor.csv").write_text("#{}\nr,l,t\n1,50,1\n2,50,2\n")
    configure(folder)
    return folder


def configure(folder: Path, text: str = "", **changes: object) -> None:
    config = {"algo": "sac", "env": "Hopper-noise90", "hyperparameters": {"n_envs": 1}} | changes
    (folder / "config.yml").write_text(yaml.safe_dump(config) + text)


def evaluations(**arrays: object) -> Damage:
    return lambda folder: np.savez(
        folder / "evaluations.npz", **({"timesteps": STEPS, "results": RESULTS} | arrays)  # type: ignore[arg-type]
    )  # fmt: skip


def monitor(text: str) -> Damage:
    return lambda folder: (folder / "0.monitor.csv").write_text(f"#{{}}\n{text}\n")


def settings(**changes: object) -> Damage:
    return lambda folder: configure(folder, **changes)  # type: ignore[arg-type]


def n_envs(value: object) -> Damage:
    return settings(hyperparameters={"n_envs": value})


def pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def link(folder: Path) -> None:
    (folder / "evaluations.npz").rename(folder / "other.npz")
    (folder / "evaluations.npz").symlink_to("other.npz")


def read(folder: Path) -> None:
    (run,) = find_runs([folder])[0]
    read_episodes(run.path, run.n_envs)
    read_evaluations(run.path / "evaluations.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pipe("evaluations.npz"), "is not a regular file"),
        (pipe("0.monitor.csv"), "is not a regular file"),
        (link, "is a symbolic link"),
        (evaluations(timesteps=STEPS[:, None]), "its timesteps must have the shape (n,)"),
        (evaluations(timesteps=np.float64(STEPS)), "its timesteps must be whole numbers, but are of the type float64"),
        (evaluations(timesteps=STEPS.astype("datetime64[s]")), "its timesteps must be whole numbers"),
        (evaluations(timesteps=STEPS[::-1]), "its timesteps must increase"),
        (evaluations(timesteps=STEPS - 150), "its timesteps must increase, from 0"),
        (evaluations(timesteps=np.array([1, 2**63], np.uint64)), "to at most 1,000,000,000,000,000"),
        (evaluations(results=RESULTS.astype(str)), "its results must be numbers"),
        (evaluations(results=RESULTS.astype(complex)), "its results must be numbers"),
        (evaluations(results=RESULTS * np.nan), "its results must be finite"),
        (evaluations(results=RESULTS + np.inf), "its results must be finite"),
        (evaluations(results=RESULTS[:1]), "its results must have the shape (2, n)"),
        (evaluations(results=RESULTS[:, :0]), "with n episodes, at least one"),
        (evaluations(results=np.array([[{}], [{}]])), "its array 'results' cannot be read: Object arrays"),
        (lambda folder: np.savez(folder / "evaluations.npz", results=RESULTS), "it has no array 'timesteps'"),
        (monitor("l,t\n1,2"), "it has no column 'r'"),
        (monitor("r,l,t\n1,2"), "line 3 has 2 values, fewer than there are columns"),
        (monitor("r,l,t\n1,-1e13,1\n1,1e13,2"), "line 3 has an episode of -1e+13 steps"),
        (monitor("r,l,t\n1,2.5,1"), "line 3 has an episode of 2.5 steps"),
        (monitor("r,l,t\n1,1e18,1"), "more than 1,000,000,000,000,000 steps"),
        (monitor("r,l,t\nnan,1,1"), "line 3 has a number that is NaN or infinite"),
        (monitor("r,l,t\n1,1,x"), "line 3 has something else than numbers"),
        (lambda folder: (folder / "0.monitor.csv").write_bytes(b"#\nr,l,t\n\xff"), "it is not text"),
        (lambda folder: configure(folder, "h: &h {x: *h}\n"), "a value in it contains itself"),
        (n_envs(True), "n_envs in its config.yml must be a whole number in [1, 10000], not True"),
        (n_envs(0), "must be a whole number in [1, 10000], not 0"),
        (n_envs(10**30), "must be a whole number in [1, 10000]"),
        (settings(algo=".."), "'..' is no name of an algorithm"),
        (settings(hyperparameters={"x": "y" * 30_000}), "more than 20,000 letters"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused_in_a_sentence(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(a_run(tmp_path / "sac" / "Hopper-noise90" / "1"))
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        read(tmp_path)
    assert str(info.value).endswith(".")


def test_the_others_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = tmp_path / "sac" / "Hopper-noise90"
    a_run(parent / "1")
    pipe("evaluations.npz")(a_run(parent / "2"))
    n_envs(True)(a_run(parent / "3"))
    out = ["-o", str(tmp_path / "out.png")]
    assert main(["plot", str(tmp_path), *out]) == 0
    said = capsys.readouterr()
    assert "1 run" in said.out
    assert [line.count("does not count: ") for line in said.err.splitlines()] == [1, 1]
    assert main(["plot", str(parent / "2"), *out]) == 2


def test_links_stay_in_their_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(a_run(tmp_path / "runs" / "1"), algo="../.. $(x)")
    assert main(["plot", str(tmp_path / "runs"), "--export-rl-zoo", str(tmp_path / "my links")]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["my links"]
    assert [path.name for path in (tmp_path / "my links").iterdir()] == ["..-.. $(x)"]
    assert f"-a '..-.. $(x)' -e Hopper-noise90 -f '{tmp_path / 'my links'}'" in capsys.readouterr().out
