"""The tuner: has trials carried out, some at a time, ends those that fall behind, and keeps what they came to."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from sparse_rl.inputs import InputError
from sparse_rl.training.signals import ending_signals
from sparse_rl.tuning.report import describe_trial
from sparse_rl.tuning.space import PlanFor, Space, Value, words_of
from sparse_rl.tuning.study import PRUNED, RUN, WHY, ask, best_of, cut_off, ended, suggest
from sparse_rl.tuning.worker import Message, Task, work

_LOOK_AROUND = 0.5  # seconds between two looks at clock and signals
_MOST_FAILURES = 3  # in a row, at first


@dataclass
class _Running:
    """A trial, its process, and what has been heard of it."""

    trial: Trial
    process: BaseProcess
    connection: Connection
    steps: int
    returns: dict[int, float] = field(default_factory=dict)
    is_pruned: bool = False


class Tuner:
    """
    Carry out trials.

    :param study: the study; the lock of its folder is held
    :param space: what is varied
    :param folder: that folder
    :param plan_for: makes the plan of a trial
    :param train_words: the words of ``train.py`` that all trials have, the last ones after ``-params``
    :param seed: the study's seed
    :param first: the parameters of the first trial, if they are not to be drawn
    :param on_end: called after each trial that has ended
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        folder: Path,
        plan_for: PlanFor,
        train_words: Sequence[str],
        seed: int,
        first: dict[str, Value] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.study = study
        self.folder = folder
        self.space = space
        self.plan_for = plan_for
        self.train_words = tuple(train_words)
        self.seed = seed
        self.first = first
        self.on_end = on_end
        self.signal: signal.Signals | None = None
        self._n_signals = 0
        self._n_failed = self._n_good = 0
        self._running: list[_Running] = []

    def run(self, n_trials: int, jobs: int = 1, timeout: float | None = None) -> None:
        """
        Carry out trials until there are so many of them, time is up, or a signal comes.

        Then those that are going on take a checkpoint, from which they go on next time; a second signal ends them as
        they are.

        :param n_trials: how many trials the study shall have in all
        :param jobs: processes at a time
        :param timeout: seconds after which none is begun or goes on
        """
        (self.folder / "logs").mkdir(exist_ok=True)
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        waiting = [trial for trial in cut_off(self.study) if not self._was_pruned(trial)]
        is_ending = False
        with self._signals():
            try:
                while True:
                    if not is_ending and (self._n_signals or self.is_hopeless or time.monotonic() > deadline):
                        is_ending = True
                        for each in self._running:
                            each.process.terminate()
                    if self._n_signals > 1:
                        for each in self._running:
                            each.process.kill()
                    while not (is_ending or self.is_hopeless) and self._has_room(jobs, n_trials, waiting):
                        self._start(waiting.pop(0) if waiting else ask(self.study, self.space, self.seed, self.first))
                    if not self._running:
                        return
                    for connection in wait([each.connection for each in self._running], _LOOK_AROUND):
                        self._hear(next(each for each in self._running if each.connection is connection), is_ending)
            finally:
                for each in self._running:
                    each.process.kill()

    @property
    def is_hopeless(self) -> bool:
        """Whether the first trials of this call have all failed: whatever ails them, it would ail the others."""
        return self._n_failed >= _MOST_FAILURES and self._n_good == 0

    @property
    def n_waiting(self) -> int:
        """How many trials have been begun and have not ended."""
        return len(cut_off(self.study))

    def _has_room(self, jobs: int, n_trials: int, waiting: Sequence[Trial]) -> bool:
        """Tell whether there is something to start, and a process for it."""
        begun = sum(trial.state != TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))
        return len(self._running) < jobs and (len(waiting) > 0 or begun < n_trials)

    def _start(self, trial: Trial) -> None:
        words = words_of(suggest(trial, self.space))
        try:
            plan = self.plan_for(words)
        except InputError as error:  # each value for itself is allowed, but not together
            self._fail(trial, str(error))
            return
        known = trial.user_attrs.get(RUN)
        task = Task(
            plan,
            (*self.train_words, *words),
            self.folder / "runs",
            self.folder / "logs" / f"{trial.number}.txt",
            None if known is None else self.folder / known,
        )
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(task, theirs), name=f"trial {trial.number}"
        )
        with _without_interrupts():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        running = _Running(trial, process, ours, plan.hyperparameters["n_timesteps"])
        running.returns = dict(self._frozen(trial).intermediate_values)
        self._running.append(running)

    def _hear(self, running: _Running, is_ending: bool) -> None:
        trial = running.trial
        try:
            message: Message = running.connection.recv()
        except (EOFError, OSError):
            running.process.join()
            self._leave(running)
            if not is_ending:
                self._fail(trial, f"its process died, with exit code {running.process.exitcode}")
            return
        if message.kind == "folder":
            trial.set_user_attr(RUN, str(Path(message.text).relative_to(self.folder)))
        elif message.kind == "return":
            self._take(running, message)
        else:
            running.process.join()
            self._leave(running)
            if message.kind == "failed":
                self._fail(trial, message.text)
            elif message.kind == "end":
                self._end(running)

    def _take(self, running: _Running, message: Message) -> None:
        """Keep a return, and answer whether the trial goes on."""
        if message.step not in running.returns:  # a continued run tells of its earlier ones again
            running.trial.report(message.value, message.step)
        running.returns[message.step] = message.value
        if message.step < running.steps and running.trial.should_prune():
            running.is_pruned = True
            running.trial.set_user_attr(PRUNED, True)  # known before anything is done about it
        try:
            running.connection.send(not running.is_pruned)
        except OSError:
            return  # it has died; that will be heard

    def _end(self, running: _Running) -> None:
        trial = running.trial
        if running.is_pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif running.returns:
            self.study.tell(trial, running.returns[max(running.returns)])
        else:
            self._fail(trial, "it ended without an evaluation")
            return
        self._n_good += 1
        self._say(trial)

    def _was_pruned(self, trial: Trial) -> bool:
        """End a trial that a tuner told not to go on, and died before it could note that it had ended."""
        if PRUNED not in trial.user_attrs:
            return False
        self.study.tell(trial, state=TrialState.PRUNED)
        self._say(trial)
        return True

    def _fail(self, trial: Trial, why: str) -> None:
        trial.set_user_attr(WHY, why)
        self.study.tell(trial, state=TrialState.FAIL)
        self._n_failed += 1
        self._say(trial)

    def _say(self, trial: Trial) -> None:
        best = best_of(self.study)
        is_best = best is not None and best.number == trial.number and len(ended(self.study)) > 1
        print(describe_trial(self._frozen(trial)) + ("  (best so far)" if is_best else ""), flush=True)
        self.on_end()

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _leave(self, running: _Running) -> None:
        running.connection.close()
        self._running.remove(running)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Count signals instead of dying of them."""

        def count(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            self._n_signals += 1

        previous: dict[int, Any] = {each: signal.signal(each, count) for each in ending_signals()}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never gets Ctrl-C, which a terminal sends to all of its processes: it has to end cleanly."""
    resource_tracker.ensure_running()  # its start would undo this
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
