"""
``sparse-rl train``, which is ``train.py`` too: train an agent, or continue a run.

PyTorch is imported only once the words on the command line make sense.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.agents.checks import InputError
from sparse_rl.agents.recipe import algorithms, learner_of, learners, methods
from sparse_rl.commands.main import look_around
from sparse_rl.envs import EnvironmentId
from sparse_rl.names import is_own
from sparse_rl.storage import LockedError, locked
from sparse_rl.training.plan import Plan, make_plan, read_recipe
from sparse_rl.training.run_folder import CHECKPOINTS, LOCK, RunFolder

if TYPE_CHECKING:
    from sparse_rl.training.experiment import Experiment

EXIT_BAD_INPUT = 2

DESCRIPTION = """\
Train a sparse (or dense) agent, also where most of what it observes is noise. Defaults stand in parentheses at the end
of each line."""

EXAMPLES = """\
examples:
  python train.py --algo anf-sac --env HalfCheetah-noise98          833 of 850 sensor readings are noise
  python train.py --algo sac --env HalfCheetah-noise98              the dense baseline
  python train.py --env HalfCheetah-noise98 -n 3000                 a short trial
  python train.py --env Ant-noise95-permute1000000                  all features change places every million steps
  python train.py --env Walker2d-noise90-real --replay observed     realistic noise, learnt from as it was seen
  python train.py --env HalfCheetah-noise90-ar                      noise that remembers: AR(1) processes
  python train.py --env HalfCheetah-noise90-other                   the other features are those of other cheetahs
  python train.py --algo rigl-tqc --env HalfCheetah-noise98         any method with any learner
  python train.py --algo set-ppo --env CartPole-v1-noise90          discrete actions too
  python train.py --env Hopper-v5 --sparsity 0.9 -params learning_rate:1e-3 policy_kwargs.net_arch:[400,300]

A run goes into runs/<algo>/<env>/<n>/. Ctrl-C ends it with everything saved (exit code 130; SIGTERM: 143); however it
was cut off, this goes on as if nothing had happened:
  python train.py --resume runs/anf-sac/HalfCheetah-noise98/1
"""

# What may stand beside --resume: it does not change the run.
_OF_RESUMING = {"resume", "progress", "verbose", "checkpoint_freq", "keep_checkpoints"}


def make_parser() -> argparse.ArgumentParser:
    """
    Make the parser of ``train.py``.

    :return: the parser
    """
    parser = argparse.ArgumentParser(
        "train.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_plan_arguments(parser)
    _add_output(parser)
    _add_checkpoints(parser)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that say what is trained, and how: those that :func:`read_plan` reads.

    :param parser: the parser, of this command or of another that trains
    """
    _add_basics(parser)
    _add_sparsity(parser)
    _add_hyperparameters(parser)
    _add_evaluation(parser)
    _add_machine(parser)


def _add_basics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to train")
    special = [name for name in algorithms() if "-" in name and name.rpartition("-")[0] not in methods()]
    group.add_argument(
        "--algo", default="anf-sac", metavar="NAME",
        help=f"a learner, dense: {', '.join(learners())}; or METHOD-LEARNER, sparse, with one of the methods "
        f"{', '.join(methods())}; or {', '.join(special)}; METHOD or LEARNER may be a class of "
        "your own, module:Class (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--env", default="HalfCheetah-noise98", metavar="ID",
        help="any Gymnasium id that shows vectors, module:Id if a module registers it; -noise98 makes 98 %% of the "
        "features noise (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "-n", "--n-timesteps", "--total-timesteps", type=_whole, metavar="N", help="environment steps (from the recipe)"
    )
    group.add_argument("--seed", type=_whole, default=-1, metavar="N", help="same seed, same run; -1: random (-1)")


def _add_sparsity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sparse training and noise (from the recipe)")
    group.add_argument("--sparsity", type=float, metavar="S", help="fraction of absent weights, in [0, 1)")
    group.add_argument(
        "--layers", metavar="NAME",
        help="which layers are sparse: input (the first alone), hidden (all but the output layers), all",
    )  # fmt: skip
    group.add_argument(
        "--distribution", metavar="NAME", help="how layers share the sparsity: input, uniform, erdos_renyi, erk"
    )
    group.add_argument("--drop-fraction", type=float, metavar="F", help="fraction of weights replaced by each update")
    group.add_argument("--update-interval", type=_whole, metavar="N", help="gradient steps between two updates")
    group.add_argument("--kernel", metavar="NAME", help="arithmetic of sparse layers: auto, numba, scatter")
    group.add_argument(
        "--replay", metavar="NAME",
        help="redrawn: fresh noise each time a transition is used, as the published ANF code does (in this project's "
        "noise environments); observed: learn from the noise that was seen (everywhere else, with -other, and with "
        "on-policy learners)",
    )  # fmt: skip


def _add_hyperparameters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hyperparameters")
    group.add_argument("--variant", metavar="NAME", help="a variant of the recipe; paper: the published settings")
    group.add_argument(
        "-params", "--hyperparams", nargs="+", default=[], action="extend", metavar="KEY:VALUE",
        help="change the recipe: learning_rate:1e-3 policy_kwargs.net_arch:[400,300]",
    )  # fmt: skip
    group.add_argument(
        "-conf", "--conf-file", type=Path, metavar="FILE", help="your own recipe (YAML), on top of the built-in one"
    )
    group.add_argument(
        "--buffer-size", type=_whole, metavar="N", help="transitions in the replay buffer (from the recipe, or 1000000)"
    )
    group.add_argument("--n-envs", type=_whole, metavar="N", help="copies of the environment (from the recipe, or 1)")
    group.add_argument(
        "--env-kwargs", nargs="+", default=[], action="extend", metavar="KEY:VALUE", help="arguments of the environment"
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--eval-freq", type=_whole, metavar="N", help="steps between evaluations; -1: none (half of all, at most 10000)"
    )
    group.add_argument("--eval-episodes", type=_whole, metavar="N", help="episodes of each evaluation (5)")
    group.add_argument("--n-eval-envs", type=_whole, default=1, metavar="N", help="environments for it (%(default)s)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save-freq", type=_whole, default=-1, metavar="N", help="steps between agents rl_model_<n>_steps.zip (none)"
    )
    group.add_argument(
        "--log-interval",
        type=_whole,
        default=4,
        metavar="N",
        help="episodes (on-policy: rollouts) between logs (%(default)s)",
    )
    group.add_argument(
        "-f", "--log-folder", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (%(default)s)"
    )
    group.add_argument(
        "-tb", "--tensorboard-log", type=Path, metavar="DIR", help="folder of TensorBoard's files (the run's own)"
    )
    group.add_argument(
        "-P", "--progress", action=argparse.BooleanOptionalAction, default=None, help="progress bar (at a terminal)"
    )
    group.add_argument("--verbose", type=_whole, default=0, metavar="N", help="1: tables of all logs (%(default)s)")


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--resume", type=Path, metavar="FOLDER", help="continue the run in this folder, exactly")
    group.add_argument(
        "--checkpoint-freq", type=_whole, default=10_000, metavar="N",
        help="steps between checkpoints, also every 10 minutes; 0: only when it is ended by a signal (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--keep-checkpoints", type=positive, default=2, metavar="N", help="how many are kept (%(default)s)"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, auto (%(default)s)")
    group.add_argument(
        "--num-threads", type=_whole, default=-1, metavar="N", help="threads of PyTorch (its own choice)"
    )
    group.add_argument(
        "--vec-env", choices=("dummy", "subproc"), default="dummy",
        help="all environments in one process, or one process each (%(default)s)",
    )  # fmt: skip


def _whole(text: str) -> int:
    """Read a whole number; ``1e6`` and ``1_000_000`` are welcome."""
    number = float(text)
    if number != number // 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def positive(text: str) -> int:
    """
    Read a positive whole number.

    :param text: the word
    :return: the number
    :raises ArgumentTypeError: if it is none
    """
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number


_whole.__name__ = positive.__name__ = "whole number"  # argparse puts it into its messages


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Train an agent: all of ``train.py``.

    :param arguments: the words of the command line; those of this process if ``None``
    :return: the exit code: 0; 2 for bad input; 130 or 143 if ended by SIGINT or SIGTERM
    """
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
    try:
        if args.resume is not None:
            return _resume(args, words)
        experiment = _prepare(args)
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted before the training began.", 128 + signal.SIGINT)
    with experiment.guard:
        return _start(experiment, args, words, program)


def _start(experiment: "Experiment", args: argparse.Namespace, words: list[str], program: str) -> int:
    """Make the run's folder; from here on a signal ends training, not the process."""
    try:
        folder = RunFolder(args.log_folder, args.algo, args.env)
    except OSError as error:
        experiment.close()
        return _fail(str(error))
    if args.seed < 0:
        words += ["--seed", str(experiment.plan.seed)]  # the one that was drawn
    command = shlex.join([*program.split(), *words])
    try:
        with locked(folder.checkpoints / LOCK):
            wanted = folder.path if args.tensorboard_log is None else args.tensorboard_log / folder.name
            tensorboard = folder.claim_curves(wanted, is_new=True)
            return _run(experiment, args, folder, tensorboard, command)
    except OSError as error:  # the lock's own: what goes wrong later is said there
        experiment.close()
        return _fail(f"{_sentence(error)} The run in {str(folder.path)!r} has not begun.")


def _resume(args: argparse.Namespace, words: list[str]) -> int:
    """Continue a run, alone in its folder."""
    from sparse_rl.training.existing import check_unfinished, plan_of, read_config

    path: Path = args.resume
    config = read_config(path)
    check_unfinished(path)
    try:
        with locked(path / CHECKPOINTS / LOCK):
            check_unfinished(path)  # another process may just have finished it
            _settle_flags(args, config, words)
            from sparse_rl.training.experiment import Experiment

            try:
                plan = plan_of(config, path)
                experiment = Experiment(plan)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{str(path / 'config.yml')!r} is not as train.py wrote it, so the run cannot be continued: "
                    f"{type(error).__name__}: {error}."
                ) from error
            with experiment.guard:
                folder = RunFolder.reopen(path, plan.env)
                wanted = Path(config["tensorboard"]) if "tensorboard" in config else folder.path
                tensorboard = folder.claim_curves(wanted, is_new=False)
                if tensorboard != wanted:
                    print(f"Note: the curves in {str(wanted)!r} belong to the run that this is a copy of.", flush=True)
                return _run(experiment, args, folder, tensorboard, str(config.get("command")), config)
    except LockedError as error:
        raise InputError(
            f"The run in {str(path)!r} is going on, in process {error.holder}: wait for it, or end it first."
        ) from error
    except OSError as error:
        raise InputError(f"The run in {str(path)!r} cannot be continued. {_sentence(error)}") from error


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
    print(f"{experiment.plan.title}\nlogs in {folder.path}", flush=True)
    progress = sys.stdout.isatty() if args.progress is None else args.progress
    try:
        experiment.run(
            folder, command, tensorboard, progress, args.verbose, args.checkpoint_freq, args.keep_checkpoints, former
        )
    except InputError as error:
        return _fail(str(error))
    except OSError as error:  # a full disk, say
        return _fail(
            f"{_sentence(error)} The run in {str(folder.path)!r} ended there; its files are complete up to then. When "
            f"that is mended: {' '.join(command.split()[:2])} --resume {shlex.quote(str(folder.path))}"
        )
    except KeyboardInterrupt:
        return _fail(f"interrupted twice; {folder.path} may lack the last model.", 128 + signal.SIGINT)
    return _report(experiment, folder, tensorboard, " ".join(command.split()[:2]))


def read_plan(args: argparse.Namespace) -> Plan:
    """
    Check everything that can be checked without building the agent, the quick things first.

    :param args: a command line, parsed by :func:`make_parser`
    :return: the plan of the run
    :raises ValueError: if the environment, the algorithm or a setting is not known or not allowed
    """
    environment = EnvironmentId.parse(args.env)
    try:
        environment.base_spec()
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # the module that an id names is somebody else's code
        raise InputError(
            f"The environment id {args.env!r} names a module that cannot be imported: {type(error).__name__}: {error}."
        ) from error
    recipe = read_recipe(args, environment)

    from sparse_rl.agents.build import learner_defaults

    return make_plan(args, environment, recipe, learner_defaults(learner_of(args.algo)))


def _prepare(args: argparse.Namespace) -> "Experiment":
    """Check everything, and build the agent."""
    plan = read_plan(args)
    for note in plan.notes:
        print(f"Note: {note}", flush=True)

    from sparse_rl.training.experiment import Experiment

    return Experiment(plan)


def _fail(sentence: str, code: int = EXIT_BAD_INPUT) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _sentence(error: OSError) -> str:
    """Say what the operating system said; an error of this project's own is a sentence already."""
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}{'' if error.filename is None else f': {str(error.filename)!r}'}."


def _report(experiment: "Experiment", folder: RunFolder, tensorboard: Path, program: str) -> int:
    """Say how it went and what to type next."""
    from sparse_rl.training.experiment import last_evaluation

    guard = experiment.guard
    if guard.signal is not None:
        print(f"\nEnded by {guard.signal.name} at step {experiment.model.num_timesteps:,}; everything is saved.")
    evaluation = last_evaluation(folder)
    if evaluation is not None:
        steps, returns = evaluation
        episodes = "episode" if len(returns) == 1 else "episodes"
        print(
            f"\nreturn {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} {episodes}, "
            f"{'last ' if guard.signal else ''}evaluated at step {steps:,} with {experiment.plan.protocol}"
        )
    run = shlex.quote(str(folder.path))
    print(f"\nWhere everything is:    {run}")
    print(f"What it looks at:       {run}/connectivity.png")
    print(f"To see the curves:      tensorboard --logdir {shlex.quote(str(tensorboard))}")
    trust = " --trust" if ":" in experiment.plan.env or is_own(learner_of(experiment.plan.algo)) else ""
    print(f"To evaluate the agent:  sparse-rl evaluate {run}{trust}")
    if folder.checkpoints.exists():
        newest = experiment.resume.newest
        where = "from its beginning" if newest is None else f"from step {newest:,}"
        print(f"To continue the run:    {program} --resume {run}  ({where})")
    if guard.failure is not None:
        return _fail(guard.failure)
    return 0 if guard.signal is None else 128 + guard.signal
