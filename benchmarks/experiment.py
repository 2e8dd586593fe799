"""
Experiments: a grid of runs of train.py, one table of all their evaluations, and what it says.

    python benchmarks/experiment.py run benchmarks/grids/noise98.yml     # what is not done yet, on all cores
    python benchmarks/experiment.py plot experiments/noise98 --reach 3000 5000

`run` may be stopped, or killed, at any time: the same command goes on. docs/experiments.md has the rest.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from _report import cores

from sparse_rl.commands.counts import positive
from sparse_rl.commands.main import look_around

EXIT_FAILED_RUNS = 1
EXIT_BAD_INPUT = 2


def make_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(
        "experiment.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run what a grid asks for and is not done yet", allow_abbrev=False)
    run.add_argument("grid", type=Path, help="the grid, a YAML file")
    run.add_argument("--out", type=Path, help="folder of the experiment (experiments/<name of the grid>)")
    run.add_argument("--launcher", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    run.add_argument("--cores", type=positive, default=len(cores()), help="for --launcher local (%(default)s)")
    run.add_argument("--threads", type=positive, default=1, help="of each run (%(default)s)")
    run.add_argument("--dry-run", action="store_true", help="only list the runs, and which of them are done")

    plot = commands.add_parser("plot", help="draw curves and tables of an experiment", allow_abbrev=False)
    plot.add_argument("folder", type=Path, help="folder of the experiment")
    plot.add_argument(
        "--reach", type=float, nargs="+", default=[], help="returns: after how many seconds are they met?"
    )
    plot.add_argument("--last", type=positive, default=1, help="evaluations that make a run's score (%(default)s)")
    plot.add_argument("--reference", help="an agent, as tables name it: all environments in one table, relative to it")
    plot.add_argument("--out", type=Path, help="folder of tables and pictures (the experiment's)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run a grid, or list it."""
    from _experiment.grid import read_grid
    from _experiment.launch import on_ray, on_this_machine
    from _experiment.runner import Experiment

    cells = read_grid(args.grid, args.threads)
    experiment = Experiment(cells, args.out or Path("experiments") / args.grid.stem)
    if args.dry_run:
        done = experiment.done()
        for place, cell in enumerate(cells):
            print("done " if place in done else "to do", "train.py", shlex.join(cell.words))
        return 0
    launch = on_ray if args.launcher == "ray" else partial(on_this_machine, cores=args.cores)
    failed = experiment.run(launch)
    if failed:
        print(f"error: {failed} of the runs failed; `run` again goes on with them.", file=sys.stderr)
    return EXIT_FAILED_RUNS if failed else 0


def plot(args: argparse.Namespace) -> int:
    """Draw an experiment."""
    from _experiment.report import write_report
    from _experiment.results import read_results

    write_report(read_results(args.folder), args.out or args.folder, args.reach, args.last, args.reference)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    args = make_parser().parse_args(arguments)
    look_around()  # a grid may name methods and learners of the user's own, as train.py may
    try:
        return run(args) if args.command == "run" else plot(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        what_next = "; the next `run` goes on with what was running" if args.command == "run" else ""
        print(f"\nInterrupted{what_next}.", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    raise SystemExit(main())
