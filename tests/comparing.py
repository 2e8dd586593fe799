"""Runs of ``train.py``, stopped and continued, and what is left of two of them, number by number."""

import csv
import io
import math
import os
import signal
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

from sparse_rl.commands.train import main
from sparse_rl.training.guard import GuardCallback


def run(words: str, root: Path) -> Path:
    """Train to the end."""
    assert main([*words.split(), "--no-progress", "-f", str(root)]) == 0
    return only_run(root)


def only_run(root: Path) -> Path:
    (folder,) = root.glob("*/*/1")
    return folder


def interrupt(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let a signal come at a step."""
    on_step = GuardCallback._on_step

    def interrupted(self: GuardCallback) -> bool:
        if self.model.num_timesteps >= step and self.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return on_step(self)

    patch.setattr(GuardCallback, "_on_step", interrupted)


def stop_at(step: int, words: str, root: Path) -> Path:
    """Train to a step, where a signal comes."""
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


def run_in_parts(words: str, root: Path, stops: Sequence[int]) -> Path:
    """Train to each of these steps, where a signal comes, and go on from there; to the end at last."""
    command = [*words.split(), "-f", str(root)]
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, stop)
            assert main([*command, "--no-progress"]) == 128 + signal.SIGTERM
        command = ["--resume", str(only_run(root))]
    assert main([*command, "--no-progress"]) == 0
    return only_run(root)


def tensors_of(file: Path) -> dict[str, th.Tensor]:
    """Read all tensors of an agent: weights, topologies, moments."""
    with zipfile.ZipFile(file) as archive:
        parts = {
            name: th.load(io.BytesIO(archive.read(name)), weights_only=True)
            for name in archive.namelist()
            if name.endswith(".pth")
        }
    return dict(_tensors(parts, ""))


def _tensors(value: Any, path: str) -> Iterator[tuple[str, th.Tensor]]:
    if isinstance(value, th.Tensor):
        yield path, value
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(each, f"{path}/{key}")


def episodes_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Read all monitors, times aside."""
    return {
        file.name: [(row["r"], row["l"]) for row in csv.DictReader(file.read_text().splitlines()[1:])]
        for file in folder.glob("*.monitor.csv")
    }


def curves_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all curves as TensorBoard does, times aside; NaN becomes ``None``, which equals itself."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {
        tag: [(event.step, None if math.isnan(event.value) else event.value) for event in events.Scalars(tag)]
        for tag in tags
    }


def layouts_of(folder: Path) -> int:
    """Count how often TensorBoard's files lay out the page of custom scalars."""
    loaders = [EventFileLoader(str(file)) for file in folder.glob("events.out.tfevents.*")]
    values = [value for loader in loaders for event in loader.Load() for value in event.summary.value]
    return sum(value.tag == CONFIG_SUMMARY_TAG for value in values)


def assert_same_run(a: Path, b: Path) -> None:
    """Compare two runs, times aside, to the bit."""
    agents = sorted(file.name for file in a.glob("*.zip"))
    assert sorted(file.name for file in b.glob("*.zip")) == agents
    for name in agents:
        first, second = tensors_of(a / name), tensors_of(b / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not th.equal(first[key], second[key])] == []
    assert episodes_of(a) == episodes_of(b)
    with np.load(a / "evaluations.npz") as first, np.load(b / "evaluations.npz") as second:
        assert {key: first[key].tolist() for key in first} == {key: second[key].tolist() for key in second}
    assert (a / "connectivity.csv").read_text() == (b / "connectivity.csv").read_text()
    with np.load(a / "connectivity.npz") as first, np.load(b / "connectivity.npz") as second:
        assert {key: first[key].tolist() for key in first} == {key: second[key].tolist() for key in second}
    assert layouts_of(a) == layouts_of(b) == 1
    curves = curves_of(a)
    assert curves == curves_of(b)
    for points in curves.values():
        assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert {file.name for file in a.iterdir() if "tfevents" not in file.name} == {
        file.name for file in b.iterdir() if "tfevents" not in file.name
    }
