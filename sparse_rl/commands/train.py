"""
``sparse-rl train``, which is ``train.py`` too: train an agent, or continue a run.

PyTorch is imported only once the words on the command line make sense.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.agents.recipe import learner_of
from sparse_rl.commands.main import fail, look_around, open_standard_streams
from sparse_rl.commands.train_arguments import DESCRIPTION, EXAMPLES, add_arguments, make_parser, read_plan
from sparse_rl.inputs import InputError
from sparse_rl.names import is_own
from sparse_rl.storage import LockedError, locked
from sparse_rl.training.console import forgiving_console
from sparse_rl.training.run_folder import CHECKPOINTS, LOCK, PICTURE, SETTINGS, RunFolder

if TYPE_CHECKING:
    from sparse_rl.training.experiment import Experiment

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "main", "run"]

# What may stand beside --resume: it does not change the run.
_OF_RESUMING = {"resume", "progress", "verbose", "checkpoint_freq", "keep_checkpoints"}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Train an agent: all of ``train.py``.

    :param arguments: the words of the command line; those of this process if ``None``
    :return: the exit code: 0; 2 for bad input; 130 or 143 if ended by SIGINT or SIGTERM
    """
    open_standard_streams()
    look_around()
    words = sys.argv[1:] if arguments is None else list(arguments)
    return run(make_parser().parse_args(words), words, "python train.py")


def run(args: argparse.Namespace, words: list[str], program: str = "sparse-rl train") -> int:
    """
    Train an agent.

    :param args: the parsed command line
    :param words: the same, not parsed, for ``command.txt``
    :param program: two words that go before those
    :return: the exit code, see :func:`main`
    """
    with forgiving_console():  # a run goes on when nobody reads what it says
        try:
            if args.resume is not None:
                return _resume(args, words)
            experiment = _prepare(args)
        except (ValueError, OSError) as error:
            return fail(error)
        except KeyboardInterrupt:
            return fail("interrupted before training began.", 128 + signal.SIGINT)
        with closing(experiment), experiment.guard:
            return _start(experiment, args, words, program)


def _start(experiment: "Experiment", args: argparse.Namespace, words: list[str], program: str) -> int:
    """Make the run's folder; from here on a signal ends training, not the process."""
    try:
        folder = RunFolder(args.log_folder, args.algo, args.env)
    except OSError as error:
        return fail(error)
    if args.seed < 0:
        words += ["--seed", str(experiment.plan.seed)]  # the one that was drawn
    command = shlex.join([*program.split(), *words])
    with folder, ExitStack() as held:
        try:
            held.enter_context(locked(folder.checkpoints / LOCK))
            wanted = folder.path if args.tensorboard_log is None else args.tensorboard_log / folder.name
            tensorboard = folder.claim_curves(wanted, is_new=True)
        except OSError as error:
            return _not_begun(folder, error)
        return _run(experiment, args, folder, tensorboard, command)


def _resume(args: argparse.Namespace, words: list[str]) -> int:
    """Continue a run, alone in its folder."""
    from sparse_rl.training.existing import check_unfinished, has_checkpoint, plan_of, read_config

    path: Path = args.resume
    config = read_config(path)
    check_unfinished(path)
    with ExitStack() as held:
        try:
            held.enter_context(locked(path / CHECKPOINTS / LOCK))
            check_unfinished(path)  # another process may just have finished it
            _settle_flags(args, config, words)
            from sparse_rl.training.experiment import Experiment

            try:
                plan = plan_of(config, path)
                wanted = Path(config.get("tensorboard", path))
                if args.num_threads > 0:
                    plan = replace(plan, num_threads=args.num_threads)
                experiment = held.enter_context(closing(Experiment(plan, is_continued=has_checkpoint(path))))
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{str(path / SETTINGS)!r} is not as train.py wrote it, so the run cannot be continued: "
                    f"{type(error).__name__}: {error}."
                ) from error
            held.enter_context(experiment.guard)
            folder = held.enter_context(RunFolder.reopen(path, plan.env))
            tensorboard = folder.claim_curves(wanted, is_new=False)
        except LockedError as error:
            raise InputError(
                f"The run in {str(path)!r} is going on, in process {error.holder}: wait for it, or end it first."
            ) from error
        except OSError as error:
            raise InputError(f"The run in {str(path)!r} cannot be continued. {_sentence(error)}") from error
        if tensorboard != wanted:
            print(f"Note: the curves in {str(wanted)!r} belong to the run that this is a copy of.", flush=True)
        return _run(experiment, args, folder, tensorboard, str(config.get("command")), config)


def _settle_flags(args: argparse.Namespace, config: dict[str, Any], words: list[str]) -> None:
    """Refuse flags that would make another run of it, and take those that are not given from the run's command."""
    from sparse_rl.training.existing import given_flags
    from sparse_rl.training.resuming import differences

    given = given_flags(make_parser(), words)
    former = shlex.split(str(config.get("command")))[2:]
    as_before = given_flags(make_parser(), former)
    for name in (_OF_RESUMING & as_before.keys()) - given.keys():
        setattr(args, name, as_before[name])
    if not given.keys() - _OF_RESUMING:
        return
    before, after = (vars(read_plan(make_parser().parse_args(each))) for each in (former, [*former, *words]))
    after["num_threads"] = before["num_threads"]  # may change, at the price of the last bits
    after["notes"] = before["notes"]  # say why of what is compared anyway
    different = differences(before, after)
    different += [f"{name} cannot be changed" for name in ("log_folder", "tensorboard_log") if name in given]
    if different:
        raise InputError(
            f"A run is continued as it was begun, but here {'; '.join(different)}. Leave that out, or start another "
            "run."
        )


def _run(
    experiment: "Experiment",
    args: argparse.Namespace,
    folder: RunFolder,
    tensorboard: Path,
    command: str,
    former: dict[str, Any] | None = None,
) -> int:
    """Train, and report."""
    from sparse_rl.training.existing import can_go_on

    print(f"{experiment.plan.title}\nlogs in {folder.path}", flush=True)
    if (hint := _hint(experiment.plan.num_threads)) is not None:
        print(hint, flush=True)
    progress = sys.stdout.isatty() if args.progress is None else args.progress
    try:
        experiment.run(
            folder, command, tensorboard, progress, args.verbose, args.checkpoint_freq, args.keep_checkpoints, former
        )
    except InputError as error:
        return fail(error)
    except OSError as error:  # a full disk, say
        if not folder.is_begun:
            return _not_begun(folder, error)
        resume = f"{' '.join(command.split()[:2])} --resume {shlex.quote(str(folder.path))}"
        return fail(
            f"{_sentence(error)} The run in {str(folder.path)!r} ended there; its files are complete up to then. "
            + (f"Once that is fixed: {resume}" if can_go_on(folder.path) else "It has no checkpoint to continue from.")
        )
    except KeyboardInterrupt:
        if not folder.is_begun:
            return fail("interrupted before training began.", 128 + signal.SIGINT)
        how = "interrupted" if experiment.guard.signal is None else "interrupted twice"
        return fail(f"{how}; {folder.path} may lack the last model.", 128 + signal.SIGINT)
    return _report(experiment, folder, tensorboard, " ".join(command.split()[:2]))


def _prepare(args: argparse.Namespace) -> "Experiment":
    """Check everything, and build the agent."""
    plan = read_plan(args)
    for note in plan.notes:
        print(f"Note: {note}", flush=True)

    from sparse_rl.training.experiment import Experiment

    return Experiment(plan)


def _not_begun(folder: RunFolder, error: OSError) -> int:
    return fail(f"{_sentence(error)} The run in {str(folder.path)!r} has not begun.")


def _hint(num_threads: int) -> str | None:
    """Say if others compute on the same cores: threads that wait for each other are slow then."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if num_threads > 0 or cores < 2 or load < cores / 2:
        return None
    return f"Hint: other programs are computing here (load {load:.1f}, {cores} cores): --num-threads 1 may be faster."


def _sentence(error: OSError) -> str:
    """Say what the operating system said; an error of this project's own is a sentence already."""
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}{'' if error.filename is None else f': {str(error.filename)!r}'}."


def _report(experiment: "Experiment", folder: RunFolder, tensorboard: Path, program: str) -> int:
    """Say how it went and what to type next."""
    import numpy as np

    guard = experiment.guard
    if guard.signal is not None:
        print(f"\nEnded by {guard.signal.name} at step {experiment.model.num_timesteps:,}; everything is saved.")
    evaluation = experiment.evaluation
    if evaluation is not None and evaluation.evaluations_timesteps:
        steps, returns = evaluation.evaluations_timesteps[-1], np.array(evaluation.evaluations_results[-1])
        episodes = "episode" if len(returns) == 1 else "episodes"
        print(
            f"\nreturn {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} {episodes}, "
            f"{'last ' if guard.signal else ''}evaluated at step {steps:,} with {experiment.plan.protocol}"
        )
    run = shlex.quote(str(folder.path))
    print(f"\nWhere everything is:    {run}")
    if "method" in experiment.plan.hyperparameters:
        print(f"What it looks at:       {run}/{PICTURE}")
    print(f"To see the curves:      tensorboard --logdir {shlex.quote(str(tensorboard))}")
    trust = " --trust" if ":" in experiment.plan.env or is_own(learner_of(experiment.plan.algo)) else ""
    print(f"To evaluate the agent:  sparse-rl evaluate {run}{trust}")
    if folder.checkpoints.exists():
        newest = experiment.resume.newest
        how = (
            "not possible, without a checkpoint"
            if newest is None
            else f"{program} --resume {run}  (from step {newest:,})"
        )
        print(f"To continue the run:    {how}")
    if guard.failure is not None:
        return fail(guard.failure)
    return 0 if guard.signal is None else 128 + guard.signal
