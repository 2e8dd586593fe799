"""
The process of one trial: an ordinary run, in an ordinary folder, which tells the tuner of each evaluation.

What passes between the two are the tuples of :class:`Message`, through a pipe. The tuner answers each return; if it is
gone, so that nobody answers, the run ends as at a signal: with a checkpoint.
"""

import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sparse_rl.inputs import InputError
from sparse_rl.storage import LockedError, locked
from sparse_rl.training.console import forgive_console
from sparse_rl.training.plan import Plan
from sparse_rl.training.run_folder import CHECKPOINTS, EVALUATIONS, LOCK, SUMMARY, RunFolder

if TYPE_CHECKING:
    from sparse_rl.training.experiment import Experiment

_PATIENCE = 60.0  # seconds for the process of a killed tuner to write its checkpoint


class Message(NamedTuple):
    """
    What a trial says.

    :param kind: ``"folder"``: where its run is; ``"return"``: of an evaluation, to be answered by whether to go on;
        ``"end"``: it has taken all of its steps, or was told not to go on; ``"stopped"``: it can be continued;
        ``"failed"``: it cannot
    :param step: environment steps, of a return
    :param value: the mean return
    :param text: the folder, or why it failed
    """

    kind: Literal["folder", "return", "end", "stopped", "failed"]
    step: int = 0
    value: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Task:
    """
    What a trial is to do.

    :param plan: the run
    :param words: the words of ``train.py`` that make the same run, for ``command.txt``
    :param root: the folder of all runs of the study
    :param log: the file for what the run prints
    :param folder: the folder of its run, if it has been begun; then it goes on from there if it can
    """

    plan: Plan
    words: tuple[str, ...]
    root: Path
    log: Path
    folder: Path | None = None


def work(task: Task, connection: Connection) -> None:
    """
    Carry out a trial: all of its process.

    :param task: what to do
    :param connection: where to tell of it
    """
    descriptor = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    forgive_console()  # the disk may be full
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        message = _Trial(task, connection).run()
    except (ValueError, OSError) as error:
        message = Message("failed", text=str(error))
    except Exception as error:  # a fault of one trial is not the end of the study
        traceback.print_exc()
        message = Message("failed", text=f"{type(error).__name__}: {error}")
    with suppress(OSError):  # nobody is there any longer
        connection.send(message)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


class _Trial:
    def __init__(self, task: Task, connection: Connection) -> None:
        self.task = task
        self.connection = connection
        self._is_pruned = False

    def run(self) -> Message:
        folder = self.task.folder
        if folder is not None:
            try:
                return self._continue(folder)
            except InputError as error:
                print(f"Note: the run in {str(folder)!r} cannot be continued, so the trial begins anew: {error}")
        return self._begin()

    def _begin(self) -> Message:
        from sparse_rl.training.experiment import Experiment

        experiment = Experiment(self.task.plan, self._report)
        experiment.guard.ends_at_second = False  # a scheduler signals to this process, and so does the tuner
        with (
            closing(experiment),
            experiment.guard,
            RunFolder(self.task.root, self.task.plan.algo, self.task.plan.env) as folder,
            locked(folder.checkpoints / LOCK),
        ):
            self.connection.send(Message("folder", text=str(folder.path)))
            return self._carry_out(experiment, folder)

    def _continue(self, path: Path) -> Message:
        """
        Go on with a run.

        :raises InputError: if that is not possible; what goes wrong once it goes on is another matter
        """
        from sparse_rl.training.existing import check_unfinished, read_config
        from sparse_rl.training.experiment import Experiment

        with ExitStack() as held:
            try:
                if self._has_finished(path):
                    return Message("end")
                former = read_config(path)
                check_unfinished(path)
                held.enter_context(_locked(path / CHECKPOINTS / LOCK))
                experiment = held.enter_context(closing(Experiment(self.task.plan, self._report)))
                experiment.guard.ends_at_second = False
                held.enter_context(experiment.guard)
                folder = held.enter_context(RunFolder.reopen(path, self.task.plan.env))
            except OSError as error:
                raise InputError(str(error)) from error
            return self._carry_out(experiment, folder, former)

    def _has_finished(self, path: Path) -> bool:
        """Tell again of a run that was complete when its tuner died."""
        from sparse_rl.storage import read_yaml
        from sparse_rl.training.returns import read_evaluations

        if not (path / SUMMARY).exists() or not read_yaml(path / SUMMARY).get("finished"):
            return False
        for step, returns in zip(*read_evaluations(path / EVALUATIONS), strict=True):
            self._report(int(step), float(returns.mean()))
        return True

    def _carry_out(
        self, experiment: "Experiment", folder: RunFolder, former: Mapping[str, Any] | None = None
    ) -> Message:
        print(experiment.plan.title, flush=True)
        experiment.run(folder, shlex.join(["python", "train.py", *self.task.words]), folder.path, former=former)
        guard = experiment.guard
        if guard.failure is not None:
            return Message("failed", text=guard.failure)
        if self._is_pruned:
            shutil.rmtree(folder.checkpoints, ignore_errors=True)  # it will not go on
            return Message("end")
        return Message("end" if guard.signal is None else "stopped")

    def _report(self, step: int, value: float) -> bool:
        """Tell the tuner of an evaluation, and ask whether to go on."""
        try:
            self.connection.send(Message("return", step, value))
            goes_on: bool = self.connection.recv()
        except (EOFError, OSError):
            return True  # the tuner is gone, and SIGTERM on its way
        self._is_pruned = self._is_pruned or not goes_on
        return goes_on


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a run; the process of a tuner that was killed may take a moment to end."""
    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(file))
                break
            except LockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield
