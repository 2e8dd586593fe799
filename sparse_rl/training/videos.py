"""Look at agents: in a window, or in a video, with a display or without."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np

from sparse_rl.inputs import InputError
from sparse_rl.names import unknown
from sparse_rl.storage import move_into_place
from sparse_rl.training.plan import EVALUATION_SEED
from sparse_rl.training.trained import Trained

FORMATS = (".mp4", ".gif")
FRAMES_PER_SECOND = 30  # where an environment does not say

# Whether OpenGL can draw here, found out by another process: a driver may crash, and PyOpenGL settles for one platform.
_PROBE = """
import importlib, sys, mujoco
context = importlib.import_module(f"mujoco.{sys.argv[1]}").GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
"""
_MONITOR = "import glfw, sys; sys.exit(0 if glfw.init() and glfw.get_primary_monitor() else 1)"


def obstacle_to_windows(environ: Mapping[str, str] = os.environ) -> str | None:
    """
    Say why no window can be opened here.

    :param environ: the environment variables
    :return: the reason, in words; ``None`` if nothing speaks against it
    """
    if sys.platform == "linux" and not any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    # By another process: GLFW, with which Gymnasium opens MuJoCo's windows, ends its process if there is no monitor.
    done = subprocess.run([sys.executable, "-c", _MONITOR], env={**environ}, capture_output=True)
    return "GLFW finds no monitor" if done.returncode else None


def choose_gl(environ: MutableMapping[str, str] = os.environ, say: Callable[[str], object] = print) -> str | None:
    """
    Choose how MuJoCo draws without a display, and set ``MUJOCO_GL`` to it, unless that is set already.

    :param environ: the environment variables
    :param say: gets a sentence about what was chosen, and about what was tried before
    :return: ``"egl"`` or ``"osmesa"``, or what ``MUJOCO_GL`` is; ``None`` on systems where there is no choice
    :raises InputError: if nothing works, or not what ``MUJOCO_GL`` asks for
    """
    asked = environ.get("MUJOCO_GL") or None
    if asked is None and sys.platform != "linux":
        return None
    if asked is not None and asked not in ("egl", "osmesa", "glfw"):
        raise InputError(unknown("MUJOCO_GL", asked, ("egl", "osmesa", "glfw")))
    reasons: list[str] = []
    for name in (asked,) if asked else ("egl", "osmesa"):
        reason = _obstacle(name, environ)
        if reason is None:
            if asked is None:
                say("".join(f"{each}; " for each in reasons) + f"MuJoCo draws with MUJOCO_GL={name}.")
                environ["MUJOCO_GL"] = name
            return name
        reasons.append(f"MUJOCO_GL={name} does not work here ({reason})")
    remedy = "leave MUJOCO_GL out, and one that works is chosen" if asked else "apt-get install libegl1 libosmesa6"
    raise InputError(f"MuJoCo cannot draw: {'; '.join(reasons)}. Try this: {remedy}.")


def _obstacle(name: str, environ: Mapping[str, str]) -> str | None:
    """Say why MuJoCo cannot draw in a certain way; ``None`` if it can."""
    command = [sys.executable, "-c", _PROBE, name]
    done = subprocess.run(command, env={**environ, "MUJOCO_GL": name}, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def check_format(path: Path) -> None:
    """
    Check that a video can be written, before anything is drawn.

    :param path: the file
    :raises InputError: if its kind is not known, or what it takes to write it is not installed
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"Expected a file that ends in {' or '.join(FORMATS)}, not {str(path)!r}.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no folder {str(path.absolute().parent)!r} to write the video to.")
    if path.suffix.lower() == ".mp4" and not has_ffmpeg():
        raise InputError(
            "Writing .mp4 needs ffmpeg, which is not installed: pip install -c constraints.txt -e '.[video]', or "
            "give a file that ends in .gif, which needs nothing more."
        )


def has_ffmpeg() -> bool:
    """
    Tell whether there is an ffmpeg, which .mp4 needs.

    :return: whether there is
    """
    if find_spec("imageio_ffmpeg") is None:
        return False
    from imageio_ffmpeg import get_ffmpeg_exe

    with suppress(RuntimeError):
        return bool(get_ffmpeg_exe())
    return False


def watch(
    trained: Trained, env: gym.Env[Any, Any], seed: int, most_steps: int | None, each_step: Callable[[], object]
) -> Iterator[float]:
    """
    Let an agent act, without exploration, episode after episode.

    :param trained: the agent
    :param env: its environment, of :func:`drawable`
    :param seed: seed of the environment
    :param most_steps: steps after which an episode is cut off; ``None`` for none
    :param each_step: called at the start of an episode and after each step
    :return: the returns of the episodes, without end
    """
    for episode in count():
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        each_step()
        total, step, over = 0.0, 0, False
        while not over:
            # As evaluations have it: a batch of one, in the dtype of the space.
            batch = np.asarray(observation, env.observation_space.dtype)[None]
            actions, _ = trained.model.predict(batch, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(actions[0])
            total, step = total + float(reward), step + 1
            each_step()
            over = terminated or truncated or step == most_steps
        yield total


@contextmanager
def drawable(trained: Trained, render_mode: str) -> Iterator[gym.Env[Any, Any]]:
    """
    Make an agent's environment so that it can be seen.

    :param trained: the agent
    :param render_mode: ``"human"`` or ``"rgb_array"``
    :return: context manager that gives the environment
    :raises InputError: if it cannot be drawn
    """
    try:
        env = trained.env(render_mode)
    except TypeError as error:
        raise InputError(
            f"The environment {trained.environment!r} cannot be drawn: its class must accept render_mode ({error})."
        ) from error
    try:
        try:
            env.reset(seed=0)
            drawn = env.render()
        except Exception as error:  # it is other people's code
            raise InputError(
                f"The environment {trained.environment!r} cannot be drawn: {type(error).__name__}: {error}"
            ) from error
        if render_mode == "rgb_array" and not (isinstance(drawn, np.ndarray) and drawn.ndim == 3):
            raise InputError(f"The environment {trained.environment!r} cannot be drawn: it does not render images.")
        yield env
    finally:
        env.close()


def record(
    trained: Trained, path: Path, episodes: int = 1, seed: int = EVALUATION_SEED, most_steps: int | None = None
) -> tuple[list[float], int]:
    """
    Make a video of an agent.

    :param trained: the agent
    :param path: the file, ``*.mp4`` or ``*.gif``; it is there completely or not at all
    :param episodes: number of episodes
    :param seed: seed of the environment
    :param most_steps: steps after which an episode is cut off; ``None`` for none
    :return: the returns of the episodes, and the number of frames
    :raises InputError: if the environment cannot be drawn, or the video not be written
    :raises OSError: if the file cannot be written
    """
    import imageio.v2 as imageio
    from tqdm import tqdm

    check_format(path)
    n_frames = 0
    with drawable(trained, "rgb_array") as env, TemporaryDirectory(dir=path.absolute().parent, prefix=".") as folder:
        fps = int(env.metadata.get("render_fps") or FRAMES_PER_SECOND)
        how: dict[str, Any] = {"fps": fps} if path.suffix.lower() == ".mp4" else {"duration": 1000 / fps, "loop": 0}
        partial = Path(folder) / path.name
        writer: Any
        with (
            imageio.get_writer(partial, **how) as writer,
            tqdm(desc="frames", unit="", disable=None, leave=False) as progress,  # where there is a terminal
        ):

            def write_frame() -> None:
                nonlocal n_frames
                n_frames += 1
                progress.update()
                writer.append_data(np.asarray(env.render(), np.uint8))

            returns = list(islice(watch(trained, env, seed, most_steps, write_frame), episodes))
        move_into_place(partial, path)
    return returns, n_frames
