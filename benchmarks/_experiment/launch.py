"""Where runs go: to the cores of this machine, or to a Ray cluster."""

import importlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from sparse_rl.inputs import InputError

LIFELINE = Path(__file__).with_name("lifeline.py")
POLL = 0.1  # seconds
NO_ANSWER = 255  # the exit code of a run whose machine went away


@dataclass(frozen=True)
class Job:
    """
    A process to be run.

    :param title: what it does, for people
    :param script: the Python script
    :param words: its command line
    :param log: the file for what it prints
    :param threads: how many threads it uses
    :param variables: environment variables that say so to libraries
    """

    title: str
    script: Path
    words: tuple[str, ...]
    log: Path
    threads: int
    variables: tuple[tuple[str, str], ...]


def start(job: Job) -> "subprocess.Popen[bytes]":
    """
    Start a process that ends with this one; see ``lifeline.py``.

    :param job: what to run
    :return: the process
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, LIFELINE, job.script, *job.words],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict(job.variables)},
            start_new_session=True,  # Ctrl-C is for this process, which then ends the others
        )


def on_this_machine(jobs: Iterable[Job], cores: int) -> Generator[tuple[Job, int], None, None]:
    """
    Run jobs on the cores of this machine.

    :param jobs: what to run, in this order
    :param cores: how many threads there may be at a time
    :return: jobs and their exit codes, as they end
    """
    waiting, running = deque(jobs), list[tuple[Job, subprocess.Popen[bytes]]]()
    try:
        while waiting or running:
            free = cores - sum(job.threads for job, _ in running)
            while waiting and (waiting[0].threads <= free or not running):
                running.append((waiting[0], start(waiting[0])))
                free -= waiting.popleft().threads
            for job, process in list(running):
                if process.poll() is not None:
                    running.remove((job, process))
                    process.communicate()  # lets go of the lifeline
                    yield job, process.returncode
            time.sleep(POLL)
    finally:
        for _, process in running:
            process.kill()
            process.communicate()


def on_ray(jobs: Iterable[Job]) -> Generator[tuple[Job, int], None, None]:
    """
    Run jobs on a Ray cluster whose machines share this folder, as many at a time as it has cores.

    It is the cluster that ``RAY_ADDRESS`` or ``ray start`` names; if there is none, Ray makes one of this machine.

    :param jobs: what to run
    :return: jobs and their exit codes, as they end
    :raises InputError: if Ray is not installed
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise InputError("--launcher ray needs Ray: `pip install -c constraints.txt -e '.[ray]'`.") from error
    here = os.getcwd()

    def execute(job: Job) -> int:
        os.chdir(here)
        with start(job) as process:
            return process.wait()

    try:
        ray.init(log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise InputError(f"There is no Ray cluster to be had: {error}") from error
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers need not find this file
        task = ray.remote(max_retries=0)(execute)
        pending = {task.options(num_cpus=job.threads).remote(job): job for job in jobs}
        while pending:
            (done,), _ = ray.wait(list(pending))
            try:
                code = ray.get(done)
            except ray.exceptions.RayTaskError:  # what start() raises, say for want of a shared folder
                raise
            except ray.exceptions.RayError:
                code = NO_ANSWER
            yield pending.pop(done), code
    finally:
        ray.shutdown()
