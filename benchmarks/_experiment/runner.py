"""Runs what a grid asks for and is not done yet, one runner to a folder."""

import signal
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from _report import ROOT, thread_variables

from _experiment.grid import Cell
from _experiment.launch import NO_ANSWER, Job
from _experiment.results import FILE, rows_of, write_results
from _experiment.runs import Run, cut_off_runs, finished_runs
from sparse_rl.inputs import InputError
from sparse_rl.storage import LockedError, locked
from sparse_rl.training.run_folder import file_name

Launcher = Callable[[Iterable[Job]], Generator[tuple[Job, int], None, None]]


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """
    Keep other runners out of a folder.

    :param folder: the folder of the experiment
    :raises InputError: if another runner is at work there
    """
    try:
        with locked(folder / "lock"):
            yield
    except LockedError as error:
        raise InputError(
            f"Another runner (process {error.holder}) is at work in {str(folder)!r}: wait for it, or give another "
            "--out."
        ) from error


class Experiment:
    """
    A grid and the folder of its runs.

    :param cells: the runs that there shall be
    :param folder: the folder; its ``runs`` are those of ``train.py``, and ``logs`` has what they printed
    """

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self.cells = cells
        self.folder = folder.absolute()
        self.runs = self.folder / "runs"

    def done(self) -> dict[int, Run]:
        """
        Find the finished runs.

        :return: the oldest one of each cell, by the cell's place in the grid
        """
        runs = list(finished_runs(self.runs))
        found = ((place, run) for place, cell in enumerate(self.cells) for run in runs if cell.is_plan_of(run.config))
        return dict(reversed(list(found)))

    def collect(self) -> dict[int, Run]:
        """
        Write the table of all finished runs.

        :return: what :meth:`done` returns
        """
        done = self.done()
        write_results(
            self.folder, (row for place in sorted(done) for row in rows_of(self.cells[place], done[place], self.folder))
        )
        return done

    def run(self, launch: Launcher) -> int:
        """
        Run what is not done yet, and keep the table up to date.

        :param launch: where to
        :return: how many runs failed
        :raises InputError: if another runner is at work in the folder
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder):
            done = self.collect()
            jobs = self._jobs(done)
            print(f"{len(self.cells)} runs, {len(done)} of them done, {len(jobs)} to do", flush=True)
            failed = 0
            with closing(launch(jobs)) as ended:
                for count, (job, code) in enumerate(ended, start=1):
                    run = self.collect().get(jobs[job])
                    failed += run is None
                    outcome = _reason(job, code) if run is None else _result(run)
                    print(f"[{count}/{len(jobs)}] {job.title}: {outcome}", flush=True)
        print(f"\nThe table is {self.folder / FILE}", flush=True)
        return failed

    def _jobs(self, done: Container[int]) -> dict[Job, int]:
        """List what is to do, and its place in the grid: new runs, and those that were cut off."""
        cut_off = list(cut_off_runs(self.runs))
        jobs = {}
        for place, cell in enumerate(self.cells):
            if place not in done:
                former = next((run for run in cut_off if cell.is_plan_of(run[1])), None)
                jobs[self._job(cell, former)] = place
        return jobs

    def _job(self, cell: Cell, former: tuple[Path, dict[str, Any]] | None) -> Job:
        plan, threads = cell.plan, cell.plan.num_threads
        words = (*cell.words, "--log-folder", str(self.runs), "--no-progress")
        if former is not None:  # it goes on as it was begun
            folder, config = former
            words, threads = ("--resume", str(folder), "--no-progress"), int(config["num_threads"])
        digest = blake2b("\0".join(cell.words).encode(), digest_size=3).hexdigest()
        log = self.folder / "logs" / f"{plan.algo}_{file_name(plan.env)}_seed{plan.seed}_{digest}.log"
        title = plan.title if not cell.settings else f"{plan.title}, {cell.settings}"
        variables = tuple(thread_variables(threads).items())
        return Job(title, ROOT / "train.py", words, log, threads, variables)


def _result(run: Run) -> str:
    last, seconds = run.returns[-1], run.seconds()[-1]
    return f"return {last.mean():.1f} +/- {last.std():.1f} after {seconds:,.0f} s"


def _reason(job: Job, code: int) -> str:
    """Say how a run failed: by a signal, or with a message at the end of its log."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; the next `run` continues it"
    if code == NO_ANSWER:
        return "lost with its machine; the next `run` continues it"
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines() if job.log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"failed with exit code {code}: {last} (log: {job.log})"
