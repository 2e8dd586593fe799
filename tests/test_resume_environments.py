"""Environments that fail or cannot be kept, and numbers that explode: the run ends in a sentence, and can go on."""

import random
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
from comparing import checkpoints, content, interrupt, only_run, resume, stop_at
from stable_baselines3.common.buffers import ReplayBuffer

from sparse_rl.checkpoints import ReplayLog
from sparse_rl.commands.train import main
from sparse_rl.training.guard import EXPLODED, GuardCallback
from sparse_rl.training.vec_envs import RunMonitor


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
    folder = stop_at(100, FRAGILE.format("--env-kwargs has_device:true"), tmp_path)
    said = capsys.readouterr().out
    assert said.count("this environment's state cannot be kept, because of Fragile.device (a Device)") == 1
    assert resume(folder) == 0
    assert yaml.safe_load((folder / "summary.yml").read_text())["steps"] == 200


def test_an_episode_stays_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark on the last transition was set after it had been written, and has to outlive the next stop too."""
    folder = stop_at(100, FRAGILE.format("--env-kwargs has_device:true"), tmp_path)
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


def test_without_room_for_a_next_observation_an_episode_ends(tmp_path: Path) -> None:
    """With ``optimize_memory_usage`` it lies in the next row, which is another episode's: nothing follows."""
    for memory, expected in ((False, [1, 1]), (True, [1, 0])):
        space = gym.spaces.Box(-1, 1, (1,))
        buffer = ReplayBuffer(
            5, space, space, optimize_memory_usage=memory, handle_timeout_termination=not memory
        )  # fmt: skip
        ReplayLog(tmp_path, buffer).cut_off(3, 0)
        assert [buffer.dones[3, 0], buffer.timeouts[3, 0]] == expected


def test_a_workers_generators_are_kept() -> None:
    """PyTorch's too: an environment may draw from it."""
    env = RunMonitor(Fragile(), is_in_worker=True)
    env.reset(seed=1)
    state = env.keep_state()
    drawn = [random.random(), np.random.random(), th.rand(1).item()]
    assert env.restore_state(state) is None
    assert [random.random(), np.random.random(), th.rand(1).item()] == drawn


def test_a_function_that_is_another_one_now_begins_an_episode() -> None:
    env, other = RunMonitor(Fragile()), RunMonitor(Fragile())
    for each, tool in ((env, len), (other, max)):
        each.reset(seed=1)
        each.unwrapped.tool = tool
        each.step(np.zeros(1))
    assert other.restore_state(other.keep_state()) is None
    assert other.restore_state(env.keep_state()).shape == (3,)  # the first observation of an episode


def test_an_environment_that_fails_can_be_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = FRAGILE.format("--env-kwargs hot_at:100")
    assert main([*words.split(), "--no-progress", "-f", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "Training ended at step 99 (seed 1), and is saved. RuntimeError: the motor is hot" in said.err
    folder = only_run(tmp_path)
    assert f"--resume {folder}  (from step 80)" in said.out
    assert resume(folder) == 2  # it is the same motor
    assert "Training ended at step 99" in capsys.readouterr().err


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


def test_what_cannot_be_put_in_place_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_rl.training.experiment.__version__", "0.0.1")
    folder = stop_at(140, FRAGILE.format(""), tmp_path)
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
    folder = stop_at(140, FRAGILE.format("--n-envs 2"), tmp_path)
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
