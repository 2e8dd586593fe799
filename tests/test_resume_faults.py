"""What can go wrong between stopping and continuing: each thing is said in a sentence, and nothing is lost."""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from comparing import assert_same_run, curves_of, interrupt, only_run, run
from stable_baselines3.common.buffers import ReplayBuffer

import sparse_rl.checkpoints.folder
from sparse_rl.checkpoints import ReplayLog
from sparse_rl.commands.train import main
from sparse_rl.storage import locked, save_tensors
from sparse_rl.training.guard import EXPLODED, GuardCallback

WORDS = (
    "--algo anf-sac --env Reacher-noise80 --seed 3 -n 220 --eval-freq 90 --eval-episodes 1 --update-interval 30 "
    "--checkpoint-freq 40 -params buffer_size:150 learning_starts:60 policy_kwargs.net_arch:[16,16] batch_size:32"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(WORDS, tmp_path_factory.mktemp("whole"))


def stopped(root: Path, step: int = 140, words: str = WORDS) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, step)
        assert main([*words.split(), "--no-progress", "-f", str(root)]) == 128 + signal.SIGTERM
    return only_run(root)


def resume(folder: Path, *words: str) -> int:
    return main(["--resume", str(folder), "--no-progress", *words])


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != "lock"}


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step_*.safetensors"))


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


def test_agents_without_a_checkpoint_are_not_thrown_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = FRAGILE.format("--env-kwargs hot_at:100 --save-freq 40").replace("-freq 40 ", "-freq 0 ", 1)
    assert main([*words.split(), "--no-progress", "-f", str(tmp_path)]) == 2
    assert "--resume" not in capsys.readouterr().out  # it would be refused
    folder = only_run(tmp_path)
    assert (folder / "rl_model_80_steps.zip").exists()
    for missing in ("rl_model_*_steps.zip", "rl_model_*_steps.agent", "*.zip", "*.agent"):
        before = content(folder)
        assert resume(folder) == 2
        assert "has results but no checkpoint" in capsys.readouterr().err
        assert content(folder) == before
        for path in folder.glob(missing):  # any that is left is reason enough
            path.unlink() if path.is_file() else shutil.rmtree(path)


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


# Environments and numbers


class Device:
    """Something whose state nobody knows."""


class Fragile(gym.Env[np.ndarray[Any, Any], np.ndarray[Any, Any]]):
    """An environment with a device in it, whose motor gets hot."""

    def __init__(self, hot_at: int = 10**6, has_device: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.hot_at, self.steps = hot_at, 0
        if has_device:
            self.device = Device()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps >= self.hot_at:
            raise RuntimeError("the motor is hot")
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, float(action[0]), False, self.steps % 30 == 0, {}


@pytest.fixture(scope="module", autouse=True)
def _fragile() -> Iterator[None]:
    gym.register("Fragile-v0", Fragile, disable_env_checker=True)
    yield
    del gym.registry["Fragile-v0"]


FRAGILE = (
    "--algo sac --env Fragile-v0 --seed 1 -n 200 --eval-freq -1 --checkpoint-freq 40 {} -params learning_starts:50"
)
FRAGILE += " policy_kwargs.net_arch:[16,16] batch_size:32 buffer_size:1000"


def test_a_state_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on in a new episode, and says so when there is time to think about it."""
    folder = stopped(tmp_path, 100, FRAGILE.format("--env-kwargs has_device:true"))
    said = capsys.readouterr().out
    assert said.count("this environment's state cannot be kept, because of Fragile.device (a Device)") == 1
    assert resume(folder) == 0
    assert yaml.safe_load((folder / "summary.yml").read_text())["steps"] == 200


def test_an_episode_stays_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark on the last transition was set after it had been written, and has to outlive the next stop too."""
    folder = stopped(tmp_path, 100, FRAGILE.format("--env-kwargs has_device:true"))
    for step in (110, 120):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, step)
            assert resume(folder) == 128 + signal.SIGTERM
    buffers = []
    original = ReplayLog.restore
    monkeypatch.setattr(
        ReplayLog, "restore", lambda self, state: original(self, state) or buffers.append(self.buffer.timeouts.copy())
    )
    assert resume(folder) == 0
    assert np.flatnonzero(buffers[0]).tolist() == [29, 59, 89, 99, 109]


def test_an_episode_that_had_ended_is_not_cut_off(tmp_path: Path) -> None:
    """A failure would become a time limit, beyond which there are returns."""
    space, one = gym.spaces.Box(-1, 1, (1,)), np.ones((1, 1))
    buffer = ReplayBuffer(4, space, space, "cpu")
    for is_done in (True, False):
        buffer.add(one, one, one, np.ones(1), np.array([is_done]), [{}])
    log = ReplayLog(tmp_path, buffer)
    for row in (0, 1, 1):
        log.cut_off(row, 0)
    assert buffer.dones[:2].tolist() == [[1], [1]]
    assert buffer.timeouts[:2].tolist() == [[0], [1]]
    assert log.cuts == [(1, 0)]


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


def test_an_environment_that_fails_can_be_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = FRAGILE.format("--env-kwargs hot_at:100")
    assert main([*words.split(), "--no-progress", "-f", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "Training ended at step 99 (seed 1), and is saved. RuntimeError: the motor is hot" in said.err
    folder = only_run(tmp_path)
    assert f"--resume {folder}  (from step 80)" in said.out
    assert resume(folder) == 2  # it is the same motor
    assert "Training ended at step 99" in capsys.readouterr().err


def test_what_cannot_be_put_in_place_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_rl.training.experiment.__version__", "0.0.1")
    folder = stopped(tmp_path, 140, FRAGILE.format(""))
    monkeypatch.undo()  # config.yml will have something to say
    before = content(folder)
    resets = []

    def reset(self: Fragile, **_: Any) -> Any:
        resets.append(self)
        if len(resets) > 1:
            raise IndexError("no such joint")
        return np.zeros(3, np.float32), {}

    monkeypatch.setattr(Fragile, "reset", reset)
    assert resume(folder) == 2
    assert "could not be continued, and is unchanged." in capsys.readouterr().err
    assert content(folder) == before


def test_no_log_is_cut_before_all_have_been_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped(tmp_path, 140, f"{FRAGILE.format('--n-envs 2')}")
    (folder / "1.monitor.csv").write_text("")
    with (folder / "0.monitor.csv").open("a") as file:
        file.write("1,2,3\n")
    before = content(folder)
    assert resume(folder) == 2
    assert "1.monitor.csv' is shorter than when the checkpoint was taken" in capsys.readouterr().err
    assert content(folder) == before


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"{FRAGILE.format('')} learning_rate:1000"
    assert main([*words.split(), "--no-progress", "-f", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    found = re.search(r"ended at step (\d+) \(gradient step \d+, seed 1\): the loss of the \w+ is (\S+)\.\n", error)
    assert found is not None, error
    assert not abs(float(found[2])) < EXPLODED
    steps = [int(file.stem.removeprefix("step_")) for file in checkpoints(only_run(tmp_path))]
    assert max(steps) == int(found[1]) // 40 * 40


def test_weights_that_are_no_numbers_are_found_before_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a network that nobody has used since: losses do not tell."""
    on_step = GuardCallback._on_step

    def poison(self: GuardCallback) -> bool:
        if self.model.num_timesteps == 30:  # in the warm-up
            with th.no_grad():
                self.model.policy.critic.qf1[2].bias[3] = float("nan")
        return on_step(self)

    monkeypatch.setattr(GuardCallback, "_on_step", poison)
    assert main([*FRAGILE.format("").split(), "--no-progress", "-f", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "ended at step 40 (gradient step 0, seed 1): critic.qf1.2.bias has weights that are NaN" in error
    assert not checkpoints(only_run(tmp_path))
