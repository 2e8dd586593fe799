"""``sparse-rl tune``: find hyperparameters that suit an environment, with Optuna."""

import argparse
import shlex
from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.agents.recipe import flatten, load_recipe, parse_assignments
from sparse_rl.commands.counts import positive
from sparse_rl.commands.train_arguments import add_plan_arguments, make_parser, read_plan
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError
from sparse_rl.names import require
from sparse_rl.storage import LockedError, locked
from sparse_rl.training.console import forgiving_console
from sparse_rl.training.plan import METHOD_FLAGS, RECIPE_FLAGS, Plan, base_name, read_recipe
from sparse_rl.training.run_folder import file_name

if TYPE_CHECKING:
    from sparse_rl.tuning.report import Report
    from sparse_rl.tuning.space import Space
    from sparse_rl.tuning.tuner import Tuner

DESCRIPTION = """\
Find hyperparameters that suit an environment, with Optuna: by default the learning rate, sparsity, drop fraction and
update interval, as far as the algorithm has them. Each trial is an ordinary run; trials that fall behind end early. The
flags are those of `train`, but with the defaults -n 100000, --seed 0, --num-threads 1, and ten evaluations."""

EXAMPLES = """\
examples:
  sparse-rl tune --algo anf-sac --env Hopper-noise95 -n 100000 --trials 50 --jobs 2
  sparse-rl tune --algo rigl-td3 --env Walker2d-v5 --sparsity 0.9                  sparsity is not varied
  sparse-rl tune --algo sac --env Hopper-v5 --space space.yml                      your own ranges, with lines such as
                                                                                     batch_size: [128, 256, 512]
                                                                                     gamma: {low: 0.95, high: 0.999}

Ctrl-C ends the study and keeps what is done; trials in progress take a checkpoint. The same command continues it. For
more trials, give a larger --trials.
"""
_TIMESTEPS = 100_000
_EVALUATIONS = 10  # of a trial: often enough to prune, seldom enough not to cost much
_LOCK = "lock"
# What the recipe that comes out has, and what is about trials alone.
_NOT_LASTING = (*RECIPE_FLAGS, *METHOD_FLAGS, "hyperparams", "conf_file", "seed", "num_threads", "n_eval_envs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments: its own, and those of ``train`` that say what a run is.

    :param parser: the parser
    """
    group = parser.add_argument_group("tuning")
    group.add_argument(
        "--space", type=Path, metavar="FILE", help="search space, in YAML (learning rate, sparsity, ...: see above)"
    )
    group.add_argument(
        "--trials", type=positive, default=30, metavar="N", help="trials of the study in total (%(default)s)"
    )
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="end after this time (none)")
    group.add_argument("--jobs", type=positive, default=1, metavar="N", help="trials at the same time (%(default)s)")
    group.add_argument("-o", "--out", type=Path, metavar="DIR", help="the study's folder (tuning/<algo>/<env>)")
    add_plan_arguments(parser)
    # Of these the parser of train.py has other defaults; help shows what holds here.
    parser.set_defaults(n_timesteps=_TIMESTEPS, seed=0, num_threads=1, save_freq=-1, log_interval=4, trained_agent=None)
    helps = {
        "seed": "seed of all trials and of the search: same seed, same study (%(default)s)",
        "n_timesteps": "environment steps of a trial (%(default)s)",
        "eval_freq": f"steps between evaluations (those of the trial / {_EVALUATIONS})",
        "num_threads": "threads of each trial (%(default)s)",
    }
    for action in parser._actions:  # there is no public list of flags
        action.help = helps.get(action.dest, action.help)


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Tune, and say what came out.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code: 0; 1 if no trial was completed; 130 or 143 if ended by SIGINT or SIGTERM
    :raises ValueError: for bad input
    """
    require("optuna", "Optuna", "tune")
    if args.timeout is not None and not args.timeout > 0:
        raise InputError(f"--timeout must be above 0 seconds, not {args.timeout:g}.")
    if args.seed < 0:
        raise InputError("Give a --seed of 0 or more: all trials have it, and the study can be repeated.")
    if args.eval_freq is None:
        args.eval_freq = max(1, args.n_timesteps // _EVALUATIONS)
    if args.eval_freq <= 0:
        raise InputError("Trials are compared by their evaluations: give an --eval-freq above 0, or leave it out.")
    plan = read_plan(args)
    space = _space(args, plan)
    folder = (args.out or Path("tuning") / args.algo / file_name(args.env)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK), forgiving_console():  # trials go on when nobody reads how
            return _tune(args, plan, space, folder, words)
    except LockedError as error:
        raise InputError(
            f"The study in {str(folder)!r} is going on, in process {error.holder}: wait for it, or end it first. For "
            "several trials at a time there is --jobs."
        ) from error


def _space(args: argparse.Namespace, plan: Plan) -> "Space":
    from sparse_rl.tuning.space import check_space, default_space, read_space

    fixed = {name for name, _ in flatten(parse_assignments(args.hyperparams))}
    flags = {
        "sparsity": "sparsity",
        "drop_fraction": "method.drop_fraction",
        "update_interval": "method.update_interval",
    }
    fixed |= {name for flag, name in flags.items() if getattr(args, flag) is not None}
    space = default_space(plan, fixed) if args.space is None else read_space(args.space, plan, fixed)
    check_space(space, lambda words: read_plan(_with(args, words)))
    return space


def _tune(args: argparse.Namespace, plan: Plan, space: "Space", folder: Path, words: list[str]) -> int:
    from sparse_rl.tuning.report import Report
    from sparse_rl.tuning.space import as_it_is
    from sparse_rl.tuning.study import ended, open_study, subject_of
    from sparse_rl.tuning.tuner import Tuner

    study = open_study(folder, subject_of(plan, space), plan.hyperparameters["n_timesteps"])
    print(f"tuning {', '.join(space)} of {plan.title}")
    print(f"{args.trials} trials of {plan.hyperparameters['n_timesteps']:,} steps, in {folder}")
    for note in plan.notes:
        print(f"Note: {note}")
    first = as_it_is(space, plan)
    if n_ended := len(ended(study)):
        print(f"{n_ended} trials are done already", flush=True)
    elif first is not None and not study.get_trials(deepcopy=False):
        print("trial 0 is the recipe as it is", flush=True)
    train_words = _train_words(args)
    report = Report(
        study, space, folder, plan.title, args.variant, train_words, _train_words(args, _NOT_LASTING),
        lambda words: _changes(args, words),
    )  # fmt: skip
    tuner = Tuner(
        study, space, folder, lambda words: read_plan(_with(args, words)), train_words, args.seed, first, report.write
    )
    tuner.run(args.trials, args.jobs, args.timeout)
    report.write()
    return _conclude(tuner, report, shlex.join(["sparse-rl", "tune", *words]))


def _conclude(tuner: "Tuner", report: "Report", command: str) -> int:
    """Say what came out, and what to type next."""
    if tuner.signal is not None:
        print(f"\nEnded by {tuner.signal.name}; what is done is kept.")
    if tuner.is_hopeless:
        print("\nThe first trials have all failed, so the others were not tried.")
    if tuner.n_waiting:
        trials = "trial" if tuner.n_waiting == 1 else "trials"
        print(f"{tuner.n_waiting} {trials} can be continued: {command}")
    from sparse_rl.tuning.report import PICTURE, TABLE, describe_trial
    from sparse_rl.tuning.study import best_of

    best = best_of(tuner.study)
    if best is None:
        print(f"\nNo trial has been completed. What they printed: {tuner.folder / 'logs'}")
    else:
        print(f"\nbest: {describe_trial(best)}")
        print(f"\nThe same run again:      {report.command(best)}")
        print(f"With these values:       {report.short_command}")
        print(f"All trials:              {tuner.folder / TABLE}")
        print(f"The picture:             {tuner.folder / PICTURE}")
    if tuner.signal is not None:
        return 128 + tuner.signal
    return 1 if tuner.is_hopeless or (best is None and not tuner.n_waiting) else 0


def _with(args: argparse.Namespace, words: Sequence[str]) -> argparse.Namespace:
    """Give a command line with more words after ``-params``."""
    result = copy(args)
    result.hyperparams = [*args.hyperparams, *words]
    return result


def _changes(args: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Give what a trial's recipe has otherwise than the built-in one."""
    environment = EnvironmentId.parse(args.env)
    ours = load_recipe(args.algo, base_name(environment), args.variant)
    recipe = read_recipe(_with(args, words), environment)
    return {key: value for key, value in recipe.items() if key not in ours or value != ours[key]}


def _train_words(args: argparse.Namespace, without: Collection[str] = ()) -> list[str]:
    """Write down the words of ``train.py`` that make the run of a trial; its own parameters go at the end."""
    parser = make_parser()
    words = ["--algo", args.algo, "--env", args.env]
    for action in parser._actions:  # there is no public list of flags
        value = getattr(args, action.dest, None)
        if (
            action.dest in ("algo", "env", "hyperparams", *without)
            or value is None
            or value == parser.get_default(action.dest)
        ):
            continue
        words += [action.option_strings[0], *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words if "hyperparams" in without else [*words, "-params", *args.hyperparams]
