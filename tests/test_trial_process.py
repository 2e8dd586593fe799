"""The process of a trial: an ordinary run, which is never thrown away once it has begun."""

import signal
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from comparing import interrupt, only_run

from sparse_rl.commands.train import main
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.training.experiment import Experiment
from sparse_rl.tuning.worker import Task, _Trial

WORDS = "--algo static-a2c --env CartPole-v1 --kernel scatter -n 60 --n-envs 1 --eval-episodes 1 --seed 0"


def test_a_trial_that_fails_as_it_goes_on_is_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has learnt is there to be continued once the disk has room again."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 30)
        assert main([*WORDS.split(), "-f", str(tmp_path / "runs")]) == 128 + signal.SIGTERM
    folder = only_run(tmp_path / "runs")
    task = Task(read_plan(make_parser().parse_args(WORDS.split())), (), tmp_path / "runs", tmp_path / "log.txt", folder)
    monkeypatch.setattr(Experiment, "_learn", full)
    ours, theirs = Pipe()
    with ours, theirs, pytest.raises(OSError, match="No space left"):
        _Trial(task, theirs).run()
    assert list((tmp_path / "runs").glob("*/*/*")) == [folder]
    assert any((folder / "checkpoints").glob("step_*"))
