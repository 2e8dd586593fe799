"""``sparse-rl plot``: learning curves of runs, the animation of one run's connections."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_rl.commands.counts import positive
from sparse_rl.inputs import InputError, counted
from sparse_rl.names import unknown

if TYPE_CHECKING:
    from sparse_rl.plots.folders import FoundRun

DESCRIPTION = """\
Draw learning curves: one for each algorithm, environment and noise protocol, over all seeds, with 95 % intervals. Runs
of this project and of rl-baselines3-zoo can be mixed. The curves are also written as a table (CSV), beside the
picture."""

EXAMPLES = """\
examples:
  sparse-rl plot                                              all runs below runs/: learning_curves.png and .csv
  sparse-rl plot runs -e HalfCheetah-noise98 -x time          over wall-clock time
  sparse-rl plot runs -a sac anf-sac -x flops --out cost.pdf  dense against sparse, over FLOPs of training
  sparse-rl plot runs ~/rl-baselines3-zoo/logs --mean         runs of rl-baselines3-zoo beside them
  sparse-rl plot runs --training -w 50                        training episodes instead of evaluations
  sparse-rl plot runs/anf-sac/HalfCheetah-noise98/1 --connectivity             connectivity.gif
  sparse-rl plot runs --export-rl-zoo logs                    links for the zoo's own plot scripts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    parser.add_argument(
        "runs", type=Path, nargs="*", default=[Path("runs")], metavar="RUNS",
        help="run folders, or folders with runs below them (default: runs)",
    )  # fmt: skip
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--connectivity", action="store_true", help="animate the connections of one run instead (.gif)")
    kind.add_argument(
        "--export-rl-zoo", type=Path, metavar="DIR",
        help="draw nothing; link the runs as DIR/<algo>/<env>_<n>, where rl_zoo3's plot scripts look",
    )  # fmt: skip
    group = parser.add_argument_group("curves")
    group.add_argument("-a", "--algo", nargs="+", metavar="NAME", help="only these algorithms")
    group.add_argument("-e", "--env", nargs="+", metavar="ID", help="only these environments")
    group.add_argument(
        "-x", choices=("steps", "time", "flops"), default="steps",
        help="x-axis: environment steps, wall-clock time, or floating-point operations of training (%(default)s)",
    )  # fmt: skip
    group.add_argument("--mean", action="store_true", help="mean over runs instead of the interquartile mean")
    group.add_argument("--training", action="store_true", help="returns of training episodes instead of evaluations")
    group.add_argument(
        "-w", "--window", type=positive, default=100, metavar="N",
        help="with --training: average the last N episodes (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE",
        help="the picture, .png, .svg or .pdf (learning_curves.png), with a table, .csv, beside it; or the animation, "
        ".gif (connectivity.gif)",
    )  # fmt: skip


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Draw what is asked for, and say where it is.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    if args.connectivity:
        return _animate(args)

    from sparse_rl.plots.drawing import check_ending, check_table
    from sparse_rl.plots.folders import find_runs

    out = args.out or Path("learning_curves.png")
    if args.export_rl_zoo is None:
        check_ending(out)
        check_table(out.with_suffix(".csv"))
    runs, notes = find_runs(args.runs)
    runs = _chosen(runs, args.algo, "algorithm", lambda run: run.algorithm)
    runs = _chosen(runs, args.env, "environment", lambda run: run.environment)
    _say(notes)
    if args.export_rl_zoo is not None:
        return _export(runs, args.export_rl_zoo)
    return _draw(runs, args, out)


def _chosen(
    runs: "list[FoundRun]", names: Sequence[str] | None, kind: str, name_of: "Callable[[FoundRun], str]"
) -> "list[FoundRun]":
    known = {name_of(run) for run in runs}
    for name in names or ():
        if name not in known:
            raise InputError(unknown(f"{kind} among these runs", name, known))
    return [run for run in runs if names is None or name_of(run) in names]


def _draw(runs: "list[FoundRun]", args: argparse.Namespace, out: Path) -> int:
    from sparse_rl.plots.curves import all_curves, panels
    from sparse_rl.plots.drawing import draw, heading, save, save_table
    from sparse_rl.plots.gathering import gather
    from sparse_rl.plots.intervals import STATISTICS

    statistic = "mean" if args.mean else "iqm"
    records, notes = gather(runs, args.x, args.window if args.training else None)
    _say(notes)
    shown = panels(records, STATISTICS[statistic])
    episodes = f"training episodes, last {args.window}" if args.training else "evaluations"
    save(draw(shown, [args.x], f"{heading(shown, statistic)}; {episodes}"), out)
    table = out.with_suffix(".csv")
    save_table(shown, statistic, table)
    print(f"{counted(len(records), 'run')}, {counted(len(all_curves(shown)), 'curve')}: {out}, {table}")
    return 0


def _export(runs: "list[FoundRun]", folder: Path) -> int:
    from sparse_rl.plots.exporting import export

    links = export(runs, folder)
    print(f"Linked in {folder}: {counted(len(links), 'run')}. For example:")
    link = links[0]
    names = shlex.join(["-a", link.parent.name, "-e", link.name.rpartition("_")[0], "-f", str(folder)])
    print(f"  python -m rl_zoo3.cli all_plots {names} -o curves")
    print(f"  python -m rl_zoo3.cli plot_train {names}")
    return 0


def _animate(args: argparse.Namespace) -> int:
    from sparse_rl.plots.animation import animate, check_ending, read_film
    from sparse_rl.plots.folders import find_runs
    from sparse_rl.training.run_folder import CONNECTIONS, MEANS, SETTINGS

    if len(args.runs) != 1:
        raise InputError(f"--connectivity animates one run, not {len(args.runs)}: give its folder.")
    out = args.out or Path("connectivity.gif")
    check_ending(out)
    if not (args.runs[0] / SETTINGS).exists():
        runs = [str(run.path) for run in find_runs(args.runs)[0] if run.is_ours]
        raise InputError(f"{str(args.runs[0])!r} is not a run's folder. Runs below it: {', '.join(runs) or 'none'}.")
    film = read_film(args.runs[0])
    if not film.connections:
        _say([f"this run has kept only means, in {MEANS}, not every feature, in {CONNECTIONS}."])
    animate(film, out)
    print(f"{len(film.steps)} frames: {out}")
    return 0


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
