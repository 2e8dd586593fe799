"""Compiled code on disk: what a process finds there is what it asked for, and runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from sparse_rl import caching


def test_two_processes_that_compile_for_different_types_do_not_take_each_others_file(tmp_path: Path) -> None:
    one, other = (IndexDataCacheFile(str(tmp_path), "multiply", "stamp") for _ in range(2))
    before = other._load_index()
    caching._save(one, ("float32",), "code for float32")
    other._load_index = lambda: before  # it looked before the first had written
    caching._save(other, ("float64",), "code for float64")
    # Entries may be forgotten, never mixed up.
    assert one.load(("float64",)) == "code for float64"
    assert one.load(("float32",)) in (None, "code for float32")


def test_what_is_compiled_is_announced_once_and_only_then(tmp_path: Path) -> None:
    said: list[str] = []
    file = IndexDataCacheFile(str(tmp_path), "multiply", "stamp")
    with caching.explaining_delays(lambda: said.append("compiling")):
        caching._save(file, ("float32",), "code")
        assert caching._load(file, file.load, ("float32",)) == "code"
        assert said == []
        for _ in range(2):
            assert caching._load(file, file.load, ("float64",)) is None
    caching._load(file, file.load, ("int32",))
    assert said == ["compiling"]


@pytest.mark.slow
def test_a_process_that_finds_everything_compiled_can_begin_with_any_pass(tmp_path: Path) -> None:
    program = """
import numpy as np, torch
from sparse_rl.agents.passes import act
from sparse_rl.nn import FeatureMajorMLP
torch.manual_seed(0)
body = [torch.nn.Linear(8, 16), torch.nn.ReLU()]
actor = FeatureMajorMLP(body, heads=[torch.nn.Linear(16, 2), torch.nn.Linear(16, 2)])
low, actions = -np.ones(2, np.float32), np.empty((1, 2), np.float32)
table = actor.prepare(1, remember=False).table
act(table, np.ones((1, 8), np.float32), actions[:, :0], low, -low, actions, 1)
print(actions.tolist())
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[0].stdout == runs[1].stdout
    assert np.isfinite(numbers(runs[0].stdout)).all()


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.replace("[", " ").replace("]", " ").replace(",", " ").split()])
