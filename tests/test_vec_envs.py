"""Environments side by side: which process answers signals."""

import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from sparse_rl.training.vec_envs import make_vec_env

ASKING = """\
import signal

import gymnasium as gym
import numpy as np


class Asking(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, True, {}

    def answered(self):
        return [signal.getsignal(each) is not signal.SIG_IGN for each in (signal.SIGINT, signal.SIGTERM)]


gym.register("Asking-v0", Asking, disable_env_checker=True)
"""


def answered_after_making(kind: str) -> tuple[list[bool], list[bool]]:
    """Say which signals this process answers, and which the process of the environment does."""
    for each in (signal.SIGINT, signal.SIGTERM):  # whoever started the tests may have had one ignored
        signal.signal(each, signal.default_int_handler)
    env = make_vec_env("asking_environment:Asking-v0", 1, 0, kind)
    (there,) = env.env_method("answered")
    env.close()
    return [signal.getsignal(each) is not signal.SIG_IGN for each in (signal.SIGINT, signal.SIGTERM)], there


def test_only_worker_processes_leave_signals_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that somebody started, such as a trial of ``sparse-rl tune``, has a run to end cleanly."""
    (tmp_path / "asking_environment.py").write_text(ASKING)
    monkeypatch.syspath_prepend(tmp_path)
    both, neither = [True, True], [False, False]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(answered_after_making, ("dummy", "subproc"))) == [(both, both), (both, neither)]
