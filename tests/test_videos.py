"""Videos and windows: frames of real episodes where something can draw, and a sentence where nothing can."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
from gymnasium import spaces
from imageio_ffmpeg import get_ffmpeg_exe
from stable_baselines3 import SAC

from sparse_rl.agents import save_agent
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.inputs import InputError
from sparse_rl.training import videos
from sparse_rl.training.videos import check_format, choose_gl, obstacle_to_windows

ROOT = Path(__file__).parents[1]
AGENT = ["anf-sac", "Reacher-noise90"]
STEPS, SIZE = 6, (32, 48)


class Painted(gym.Env[Any, Any]):
    """An environment that draws without OpenGL: the n-th frame is n times as bright."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium has it
    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None, draws: bool = True) -> None:
        self.render_mode, self.draws, self.step_number = render_mode, draws, 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self.step_number = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return np.zeros(3, np.float32), 1.0, self.step_number == STEPS, False, {}

    def render(self) -> Any:
        if not self.draws:
            raise RuntimeError("there is no paint")
        return np.full((*SIZE, 3), 30 * self.step_number, np.uint8)


gym.register("Painted-v0", Painted)
gym.register("Unpainted-v0", Painted, kwargs={"draws": False})


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    save_agent(SAC("MlpPolicy", "Painted-v0", buffer_size=1, policy_kwargs={"net_arch": [4]}), folder)
    return folder


def read(file: Path) -> np.ndarray[Any, Any]:
    if file.suffix == ".gif":
        return iio.imread(file)
    # Not by imageio, which leaves its pipes to the garbage collector.
    command = [get_ffmpeg_exe(), "-i", file, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *SIZE)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_has_every_frame(agent: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"video{suffix}"
    assert sparse_rl(["record", str(agent), "--env", "Painted-v0", "-n", "2", "-o", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"episode 1: return {STEPS}.0\nepisode 2: return {STEPS}.0\n" in out
    frames = read(file)
    assert len(frames) == 2 * (STEPS + 1)  # also how an episode begins
    brightness = frames.reshape(len(frames), -1).mean(1)
    assert np.allclose(brightness, 2 * [30.0 * n for n in range(STEPS + 1)], atol=6)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_episode_can_be_cut_off(agent: Path, tmp_path: Path) -> None:
    file = tmp_path / "video.gif"
    assert sparse_rl(["record", str(agent), "--env", "Painted-v0", "--steps", "2", "-o", str(file)]) == 0
    assert len(iio.imread(file)) == 3


def test_a_video_that_fails_leaves_the_old_one(agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "video.gif"
    file.write_bytes(b"old")
    assert sparse_rl(["record", str(agent), "--env", "Unpainted-v0", "-o", str(file)]) == 2
    assert "The environment 'Unpainted-v0' cannot be drawn: RuntimeError: there is no paint" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.slow
def test_mujoco_is_drawn_or_a_sentence_says_what_is_missing(tmp_path: Path) -> None:
    """In a process of its own, as from a command line: PyOpenGL settles for one platform when it is imported."""
    file = tmp_path / "reacher.gif"
    command = [sys.executable, "-m", "sparse_rl", "record", *AGENT, "--steps", "3", "-o", file]
    environ = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode == 0:
        assert "MuJoCo draws with MUJOCO_GL=" in done.stdout
        assert np.ptp(iio.imread(file)) > 50  # there is something to see
    else:
        assert done.returncode == 2, done.stderr
        assert "apt-get install libegl1 libosmesa6" in done.stderr


def test_what_draws_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    environ: dict[str, str] = {}
    monkeypatch.setattr(videos, "_obstacle", lambda name, _: None if name == "osmesa" else "no driver")
    assert choose_gl(environ, said.append) == "osmesa"
    assert environ == {"MUJOCO_GL": "osmesa"}
    assert said == ["MUJOCO_GL=egl does not work here (no driver); MuJoCo draws with MUJOCO_GL=osmesa."]
    with pytest.raises(InputError, match=r"MUJOCO_GL=egl does not work here \(no driver\)\. Try this: leave MUJOCO_GL"):
        choose_gl({"MUJOCO_GL": "egl"}, said.append)
    monkeypatch.setattr(videos, "_obstacle", lambda name, _: f"no {name}")
    with pytest.raises(
        InputError, match=r"cannot draw: .*\(no egl\); .*\(no osmesa\)\. Try this: apt-get install libegl1"
    ):
        choose_gl({}, said.append)
    with pytest.raises(InputError, match=r"Unknown MUJOCO_GL 'elg'\. Did you mean 'egl'"):
        choose_gl({"MUJOCO_GL": "elg"}, said.append)
    assert len(said) == 1


def test_a_driver_that_fails_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "_PROBE", "raise ImportError('no library')")
    with pytest.raises(InputError, match=r"MUJOCO_GL=egl does not work here \(ImportError: no library\)"):
        choose_gl(dict(os.environ) | {"MUJOCO_GL": "egl"})
    monkeypatch.setattr(videos, "_PROBE", "import os; os.abort()")
    with pytest.raises(InputError, match=r"\(exit code -6\)"):
        choose_gl(dict(os.environ) | {"MUJOCO_GL": "egl"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("video.avi", "Expected a file that ends in .mp4 or .gif, not 'video.avi'"),
        ("video", "Expected a file that ends in .mp4 or .gif"),
        ("nowhere/video.gif", "There is no folder '.*nowhere' to write the video to"),
    ],
)
def test_files_that_cannot_be_written(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_format(Path(path))


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    assert not videos.has_ffmpeg()
    assert sparse_rl(["record", *AGENT, "-o", "video.mp4"]) == 2
    error = capsys.readouterr().err
    assert "Writing .mp4 needs ffmpeg" in error
    assert "ends in .gif" in error


def test_without_a_display(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert sparse_rl(["enjoy", *AGENT]) == 2
    error = capsys.readouterr().err
    assert "there is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set)" in error
    assert "sparse-rl record anf-sac Reacher-noise90" in error


def test_a_display_that_is_not_there() -> None:
    """GLFW would end the process."""
    assert obstacle_to_windows({**os.environ, "DISPLAY": ":98765"}) == "GLFW finds no monitor"


@pytest.mark.parametrize("words", [["-n", "0"], ["--steps", "0"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    least = "positive whole number" if words[1] == "0" else "whole number of at least 0"
    for command in ("enjoy", "record"):
        with pytest.raises(SystemExit) as ended:
            sparse_rl([command, *AGENT, *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert f"{words[0]}" in error
        assert f"{words[1]!r} is not a {least}" in error
