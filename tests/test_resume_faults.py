"""What can go wrong between stopping and continuing: each thing is said in a sentence, and nothing is lost."""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from comparing import assert_same_run, checkpoints, content, curves_of, interrupt, resume, run, stop_at

import sparse_rl.checkpoints.folder
from sparse_rl.storage import locked, save_tensors

WORDS = (
    "--algo anf-sac --env Reacher-noise80 --seed 3 -n 220 --eval-freq 90 --eval-episodes 1 --update-interval 30 "
    "--checkpoint-freq 40 -params buffer_size:150 learning_starts:60 policy_kwargs.net_arch:[16,16] batch_size:32"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(WORDS, tmp_path_factory.mktemp("whole"))


def stopped(root: Path, step: int = 140, words: str = WORDS) -> Path:
    return stop_at(step, words, root)


# What is left behind


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    assert [int(file.stem.removeprefix("step_")) for file in checkpoints(folder)] == [120, 140]
    rows = sorted(file.name for file in (folder / "checkpoints" / "replay").iterdir())
    assert [tuple(map(int, name.removesuffix(".safetensors").split("_")[1:])) for name in rows] == [
        (0, 40), (40, 80), (80, 120), (120, 140)
    ]  # fmt: skip


def test_rows_that_were_overwritten_are_deleted(tmp_path: Path) -> None:
    folder = stopped(tmp_path, 210, f"{WORDS} buffer_size:50 --keep-checkpoints 1")
    rows = sorted(file.name for file in (folder / "checkpoints" / "replay").iterdir())
    assert rows == ["rows_0000000160_0000000200.safetensors", "rows_0000000200_0000000210.safetensors"]


def test_a_finished_run_leaves_no_checkpoints(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (whole / "checkpoints").exists()
    assert yaml.safe_load((whole / "summary.yml").read_text())["finished"] is True
    before = content(whole)
    assert resume(whole) == 2
    assert "is finished: it has taken all of its 220 steps" in capsys.readouterr().err
    assert content(whole) == before


def test_what_a_finished_run_left_is_removed_unless_its_process_is_at_it(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "checkpoints").mkdir()
    (folder / ".partial").mkdir()
    with locked(folder / "checkpoints" / "lock"):
        assert resume(folder) == 2
        assert (folder / "checkpoints").exists()
        assert (folder / ".partial").exists()
    assert resume(folder) == 2
    assert content(folder) == content(whole)
    assert not (folder / "checkpoints").exists()
    assert not (folder / ".partial").exists()


# Damage


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_left_out(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = stopped(tmp_path)
    newest = checkpoints(folder)[-1]
    good = bytearray(newest.read_bytes())
    good[-100] ^= 1
    newest.write_bytes({"cut": good[: len(good) // 2], "flipped": good, "empty": b""}[damage])
    capsys.readouterr()
    assert resume(folder) == 0
    assert "Note: The checkpoint at step 140 cannot be read: " in capsys.readouterr().out
    assert_same_run(whole, folder)


def test_damaged_rows_of_the_replay(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    segments = sorted((folder / "checkpoints" / "replay").iterdir())
    segments[-1].unlink()
    assert resume(folder) == 0
    assert "Note: The checkpoint of step 140 cannot be used: " in capsys.readouterr().out
    assert_same_run(whole, folder)


def test_nothing_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    for file in checkpoints(folder):
        file.write_bytes(b"")
    before = content(folder)
    assert resume(folder) == 2
    assert "is intact, so this run cannot be continued" in capsys.readouterr().err
    assert content(folder) == before


def test_cut_off_before_the_first_checkpoint(whole: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path, 30)
    for file in [*checkpoints(folder), *folder.glob("*.zip")]:  # as if it had been killed
        file.unlink()
    shutil.rmtree(folder / "Reacher-noise80.agent")
    assert resume(folder) == 0
    assert_same_run(whole, folder)


def test_results_without_a_checkpoint_are_not_thrown_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    for file in checkpoints(folder):
        file.unlink()
    before = content(folder)
    assert resume(folder) == 2
    assert "has results but no checkpoint" in capsys.readouterr().err
    assert content(folder) == before


def test_a_log_that_somebody_has_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    agent = (folder / "Reacher-noise80.zip").read_bytes()
    (folder / "0.monitor.csv").write_text("")
    assert resume(folder) == 2
    assert "is shorter than when the checkpoint was taken" in capsys.readouterr().err
    assert (folder / "Reacher-noise80.zip").read_bytes() == agent


# Copies


def test_a_copy_has_curves_of_its_own(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a folder for TensorBoard elsewhere, which a copied run would share with the original."""
    folder = stopped(tmp_path / "runs", words=WORDS.replace("-params", f"-tb {tmp_path / 'curves'} -params"))
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    originals = tmp_path / "curves" / "anf-sac" / "Reacher-noise80" / "1"
    before = {file.name: file.read_bytes() for file in originals.glob("events.*")}
    capsys.readouterr()
    assert resume(copy) == 0
    said = capsys.readouterr().out
    assert f"Note: the curves in {str(originals)!r} belong to the run that this is a copy of." in said
    assert f"tensorboard --logdir {originals.with_name('1-2')}\n" in said
    assert {file.name: file.read_bytes() for file in originals.glob("events.*")} == before
    assert resume(folder) == 0
    assert "Note: " not in capsys.readouterr().out
    assert curves_of(originals) == curves_of(originals.with_name("1-2")) == curves_of(whole)


def test_a_run_that_was_moved_keeps_its_curves(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "runs", 70, WORDS.replace("-params", f"-tb {tmp_path / 'curves'} -params"))
    moved = folder.rename(tmp_path / "moved")
    assert resume(moved) == 0
    assert [each.name for each in (tmp_path / "curves" / "anf-sac" / "Reacher-noise80").iterdir()] == ["1"]


# Another process, another configuration, other versions


def test_one_process_to_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path)
    before = content(folder)
    with locked(folder / "checkpoints" / "lock"):
        assert resume(folder) == 2
    error = capsys.readouterr().err
    assert f"is going on, in process {os.getpid()} on " in error
    assert content(folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed 4", "here seed is 4 instead of 3"),
        ("-n 500", "here hyperparameters.n_timesteps is 500 instead of 220"),
        # It would also end before its first topology update: a note of its plan, which is nothing that was asked for.
        ("-n 80", "here hyperparameters.n_timesteps is 80 instead of 220. Leave that out"),
        ("--algo sac", "sac is dense"),
        ("-params gamma:0.9", "here hyperparameters.gamma is 0.9 instead of 0.99"),
        ("-f elsewhere", "here log_folder cannot be changed"),
    ],
)
def test_flags_that_would_make_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    folder = stopped(tmp_path, 70)
    before = content(folder)
    assert resume(folder, *words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert content(folder) == before


def test_another_number_of_threads_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path, 140, WORDS.replace("--seed", "--num-threads 2 --seed"))
    threads = th.get_num_threads()
    try:
        assert resume(folder, "--num-threads", "1") == 0
    finally:
        th.set_num_threads(threads)
    assert "num_threads is 1 instead of 2" in capsys.readouterr().out
    config = yaml.safe_load((folder / "config.yml").read_text())
    assert config["num_threads"] == 1
    assert config["resumed"][0]["changes"] == ["num_threads is 1 instead of 2"]


def test_flags_that_change_nothing(whole: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    assert resume(folder, "--seed", "3", "-n", "220", "--checkpoint-freq", "70", "--keep-checkpoints", "1") == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize(("key", "value"), [("n_eval_envs", -1), ("save_freq", {}), ("tensorboard", [1])])
def test_a_configuration_with_a_value_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    folder = stopped(tmp_path)
    config = yaml.safe_load((folder / "config.yml").read_text())
    (folder / "config.yml").write_text(yaml.safe_dump({**config, key: value}))
    before = content(folder)
    capsys.readouterr()
    assert resume(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert key in error or "is not as train.py wrote it" in error
    assert content(folder) == before


def test_a_configuration_that_somebody_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path, 70)
    text = (folder / "config.yml").read_text()
    (folder / "config.yml").write_text(text.replace("gamma: 0.99", "gamma: 0.98"))
    before = content(folder)
    assert resume(folder) == 2
    assert "hyperparameters.gamma is 0.98 instead of 0.99" in capsys.readouterr().err
    assert content(folder) == before


def test_other_versions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_rl.training.experiment.__version__", "0.0.1")
    folder = stopped(tmp_path)
    monkeypatch.undo()
    assert resume(folder) == 0
    assert "may no longer be the same bit for bit, because of versions.sparse_rl" in capsys.readouterr().out
    (record,) = yaml.safe_load((folder / "config.yml").read_text())["resumed"]
    assert record["step"] == 140
    assert "instead of '0.0.1'" in record["changes"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "There is no run in"),
        (lambda folder: (folder / "config.yml").write_text("algo: sac\nhyperparameters: {}\n"), "has no checkpoints"),
    ],
)
def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str) -> None:
    make(tmp_path)
    assert resume(tmp_path) == 2
    assert message in capsys.readouterr().err


# Disks


def test_a_full_disk_costs_a_checkpoint(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *args: Any) -> None:
        if "80" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_tensors(path, *args)

    monkeypatch.setattr(sparse_rl.checkpoints.folder, "save_tensors", full)
    folder = stopped(tmp_path)
    said = capsys.readouterr().out
    assert (
        "Note: the checkpoint of step 80 could not be written (No space left on device); the newest one is of step 40."
        in said
    )
    assert resume(folder) == 0
    assert_same_run(whole, folder)


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path, 70)
    before = content(folder)
    original = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "r" not in mode and self.is_relative_to(folder):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert resume(folder) == 2
    error = capsys.readouterr().err
    assert "cannot be continued" in error
    assert "Read-only file system" in error
    monkeypatch.undo()
    assert content(folder) == before


def test_segments_that_a_killed_process_left_are_deleted(whole: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    replay = folder / "checkpoints" / "replay"
    shutil.copy(replay / "rows_0000000080_0000000120.safetensors", replay / "rows_0000000100_0000000130.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 141)
        assert resume(folder) == 128 + signal.SIGTERM
    assert not (replay / "rows_0000000100_0000000130.safetensors").exists()
    assert resume(folder) == 0
    assert_same_run(whole, folder)


def test_a_signal_is_answered_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stopped(tmp_path, 30)
    said = capfd.readouterr().err
    assert said.count("Ending after this step") == 1
    assert "A second signal (Ctrl-C) ends the process at once." in said
