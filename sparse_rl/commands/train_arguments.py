"""The words that describe a run, on the command line of ``train.py`` and wherever else runs are planned."""

import argparse
import shlex
from pathlib import Path
from typing import NoReturn

from sparse_rl.agents.recipe import algorithms, learner_of, learners, methods
from sparse_rl.commands.counts import positive, whole
from sparse_rl.commands.parser import Parser
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError
from sparse_rl.training.existing import given_flags
from sparse_rl.training.plan import CHECKPOINT_FREQUENCY, Plan, make_plan, read_recipe

DESCRIPTION = """\
Train a sparse or dense agent, even where most of what it observes is noise. Defaults are in parentheses at the end of
each line."""

EXAMPLES = """\
examples:
  python train.py --algo anf-sac --env HalfCheetah-noise98          833 of 850 sensor readings are noise
  python train.py --algo sac --env HalfCheetah-noise98              the dense baseline
  python train.py --env HalfCheetah-noise98 -n 3000                 a short trial
  python train.py --env Ant-noise95-permute1000000                  all features change places every 1,000,000 steps
  python train.py --env Walker2d-noise90-real --replay observed     realistic noise, replayed as it was seen
  python train.py --env HalfCheetah-noise90-ar                      noise with a memory: AR(1) processes
  python train.py --env HalfCheetah-noise90-other                   the other features are other cheetahs'
  python train.py --algo rigl-tqc --env HalfCheetah-noise98         any method with any learner
  python train.py --algo set-ppo --env CartPole-v1-noise90          discrete actions too
  python train.py --env Hopper-v5 --sparsity 0.9 -params learning_rate:1e-3 policy_kwargs.net_arch:[400,300]

A run is written to runs/<algo>/<env>/<n>/. Ctrl-C ends it with everything saved (exit code 130; SIGTERM: 143). However
it was interrupted, this continues it as if nothing had happened:
  python train.py --resume runs/anf-sac/HalfCheetah-noise98/1
"""

_PRIVATE = {"log_folder", "tensorboard_log", "resume", "progress", "verbose"}


def make_parser() -> argparse.ArgumentParser:
    """
    Make the parser of ``train.py``.

    :return: the parser
    """
    parser = Parser("train.py", description=DESCRIPTION, epilog=EXAMPLES)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_plan_arguments(parser)
    _add_beginning(parser)
    _add_output(parser)
    _add_checkpoints(parser)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that say what is trained, and how: those that :func:`read_plan` reads, but for where to begin.

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
        help=f"a learner, for dense networks: {', '.join(learners())}; or METHOD-LEARNER, for sparse networks, where "
        f"METHOD is one of {', '.join(methods())}; or {', '.join(special)}; METHOD or LEARNER may be your own class, "
        "module:Class (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--env", default="HalfCheetah-noise98", metavar="ID",
        help="any Gymnasium id whose observations are vectors; module:Id if a module registers it; -noise98 makes "
        "98 %% of the features noise (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "-n", "--n-timesteps", "--total-timesteps", type=whole, metavar="N", help="environment steps (from the recipe)"
    )
    group.add_argument(
        "--seed", type=whole, default=-1, metavar="N", help="same seed, same run; -1: a random seed (-1)"
    )


def _add_beginning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to begin")
    group.add_argument(
        "-i", "--trained-agent", type=Path, metavar="FOLDER",
        help="a run or an agent whose networks are trained further, in a run of its own and by this recipe, with a new "
        "replay buffer (new networks)",
    )  # fmt: skip


def _add_sparsity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sparse training and noise (from the recipe)")
    group.add_argument("--sparsity", type=float, metavar="S", help="fraction of absent weights, in [0, 1)")
    group.add_argument(
        "--layers", metavar="NAME",
        help="which layers are sparse: input (only the first), hidden (all but the output layers), all",
    )  # fmt: skip
    group.add_argument(
        "--distribution", metavar="NAME", help="how layers share the sparsity: input, uniform, erdos_renyi, erk"
    )
    group.add_argument("--drop-fraction", type=float, metavar="F", help="fraction of weights that an update replaces")
    group.add_argument("--update-interval", type=whole, metavar="N", help="gradient steps between updates")
    group.add_argument("--kernel", metavar="NAME", help="implementation of sparse layers: auto, numba, scatter")
    group.add_argument(
        "--replay", metavar="NAME",
        help="redrawn: fresh noise each time a transition is used, as in the published ANF code (default in this "
        "project's noise environments); observed: the noise that was seen (default everywhere else, with -other, and "
        "with on-policy learners)",
    )  # fmt: skip


def _add_hyperparameters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hyperparameters")
    group.add_argument("--variant", metavar="NAME", help="a variant of the recipe; paper: the published settings")
    group.add_argument(
        "-params", "--hyperparams", nargs="+", default=[], action="extend", metavar="KEY:VALUE",
        help="changes to the recipe, such as learning_rate:1e-3 policy_kwargs.net_arch:[400,300]",
    )  # fmt: skip
    group.add_argument(
        "-conf", "--conf-file", type=Path, metavar="FILE", help="your own recipe (YAML), on top of the built-in one"
    )
    group.add_argument(
        "--buffer-size", type=whole, metavar="N", help="transitions in the replay buffer (from the recipe, or 1000000)"
    )
    group.add_argument("--n-envs", type=whole, metavar="N", help="copies of the environment (from the recipe, or 1)")
    group.add_argument(
        "--env-kwargs", nargs="+", default=[], action="extend", metavar="KEY:VALUE", help="arguments of the environment"
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--eval-freq", type=whole, metavar="N", help="steps between evaluations; -1: none (half of all, at most 10000)"
    )
    group.add_argument("--eval-episodes", type=whole, metavar="N", help="episodes in each evaluation (5)")
    group.add_argument(
        "--n-eval-envs", type=whole, default=1, metavar="N", help="environments to evaluate in (%(default)s)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save-freq", type=whole, default=-1, metavar="N", help="steps between saved rl_model_<n>_steps.zip (none)"
    )
    group.add_argument(
        "--log-interval",
        type=whole,
        default=4,
        metavar="N",
        help="episodes (on-policy: rollouts) between logs (%(default)s)",
    )
    group.add_argument(
        "-f", "--log-folder", type=Path, default=Path("runs"), metavar="DIR", help="folder for all runs (%(default)s)"
    )
    group.add_argument(
        "-tb", "--tensorboard-log", type=Path, metavar="DIR", help="folder for TensorBoard's files (the run's own)"
    )
    group.add_argument(
        "-P", "--progress", action=argparse.BooleanOptionalAction, default=None, help="progress bar (if at a terminal)"
    )
    group.add_argument("--verbose", type=whole, default=0, metavar="N", help="1: a table at each log (%(default)s)")


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--resume", type=Path, metavar="FOLDER", help="continue the run in this folder, bit for bit")
    group.add_argument(
        "--checkpoint-freq", type=whole, default=CHECKPOINT_FREQUENCY, metavar="N",
        help="steps between checkpoints, which are also taken every 10 minutes; 0: only when a signal ends the run "
        "(%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--keep-checkpoints", type=positive, default=2, metavar="N", help="checkpoints to keep (%(default)s)"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, auto (%(default)s)")
    group.add_argument("--num-threads", type=whole, default=-1, metavar="N", help="threads of PyTorch (its own choice)")
    group.add_argument(
        "--vec-env", choices=("dummy", "subproc"), default="dummy",
        help="all environments in one process, or each in its own (%(default)s)",
    )  # fmt: skip


def public_command(command: str) -> str:
    """
    Leave out of a command what says where files lie on somebody's disk, and how it was shown.

    :param command: of ``train``, for example ``"python train.py --algo sac -f/home/me/runs"``
    :return: the same run, for example ``"python train.py --algo sac"``; of a recipe's file only the name
    :raises InputError: if it is no such command: nobody knows what of it is private
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"The command cannot be read: {message}.")

    parser = make_parser()
    parser.error = refuse  # type: ignore[method-assign]
    words = shlex.split(command)
    given = given_flags(parser, words[2:])
    result = [Path(word).name for word in words[:2]]
    flags = {action.dest: action.option_strings[0] for action in parser._actions}  # there is no public list of flags
    for name, value in given.items():
        if name not in _PRIVATE:
            values = value if isinstance(value, list) else [value.absolute().name if isinstance(value, Path) else value]
            result += [flags[name], *map(str, values)]
    return shlex.join(result)


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
