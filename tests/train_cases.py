"""Runs of train.py for tests, and how to look into their folders."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_rl.commands.train import main

ROOT = Path(__file__).parents[1]
ENV = "InvertedPendulum-noise90"
WORDS = f"--algo anf-sac --env {ENV} -n 400 --seed 7 --update-interval 100 --eval-freq 200 --eval-episodes 2"
QUICK = "--eval-episodes 1 -params buffer_size:1000 policy_kwargs.net_arch:[16,16] --log-folder"


@dataclass(frozen=True)
class Run:
    folder: Path
    output: str

    def events(self) -> EventAccumulator:
        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        return events.Reload()

    def monitor(self) -> list[dict[str, str]]:
        lines = (self.folder / "0.monitor.csv").read_text().splitlines()
        assert lines[0].startswith("#{")
        return list(csv.DictReader(lines[1:]))

    def config(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self.folder / "config.yml").read_text())
        return content


def train(words: str, root: Path) -> int:
    return main([*words.split(), str(root)])
