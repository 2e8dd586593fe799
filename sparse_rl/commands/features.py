"""``sparse-rl features``: which of an agent's inputs matter."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.commands.counts import whole
from sparse_rl.commands.naming import add_agent, open_agent
from sparse_rl.commands.threads import one_thread
from sparse_rl.inputs import InputError

if TYPE_CHECKING:
    from sparse_rl.features import FeatureRanking
    from sparse_rl.training.trained import Trained

DESCRIPTION = """\
Find out which inputs of a trained agent matter, in three ways, and which to keep.

  connections   How strongly is the acting network connected to a feature? Instant, but says nothing about the task:
                a dense network is connected to noise too, and weights depend on the units of a feature.
  ablation      What does the agent lose without the feature? How much its actions change when the feature's values
                are shuffled (0: it ignores the feature; 1: as much as the actions vary at all) and, for the --top of
                these, how much its return falls. Shows only what this agent has learnt to use.
  intervention  Does the feature matter in the environment? Whether it responds to random actions, whether the reward
                depends on it, and whether it helps to predict such features. About the task, not the agent; misses
                what only a good policy reaches.

A feature is kept if ablation (a fall in return) or intervention finds it. --level bounds the expected fraction of false
discoveries among the kept features. With ablation, fresh episodes then show what the agent achieves with the kept
features alone.
"""

EXAMPLES = """\
columns of the table (the file has all features and more columns, see docs/features.md):
  conn., strength  weights on the feature, and the sum of their magnitudes     -> connections
  action           share of the actions' variance that is due to the feature   -> ablation
  return, p        mean fall in return without it, and the p-value of there being none; empty: not tried
  p(task)          p-value of the feature being irrelevant to the task         -> intervention

examples:
  sparse-rl features runs/anf-sac/HalfCheetah-noise98/1                        all methods; writes into that folder
  sparse-rl features runs/anf-sac/HalfCheetah-noise98/1 --methods connections  instant
  sparse-rl features runs/sac/Hopper-noise95/1 --best --top 40                 a closer look at the best agent
  sparse-rl features anf-sac Reacher-noise90 --out report                      an agent of the zoo
  sparse-rl features my_agent --env my_package:MyEnv-v0 --out report           an agent's folder, your environment
"""

# sparse_rl.features.METHODS, which takes PyTorch to import; tests/test_recipes.py ties it to that.
METHODS = ("connections", "ablation", "intervention")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_agent(parser)
    parser.add_argument(
        "--methods", type=_words, nargs="+", default=[METHODS], metavar="NAME",
        help=f"some of {', '.join(METHODS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--episodes", type=whole, metavar="N",
        help="ablation: episodes for each feature of which returns are compared (default: 10, more for a large --top)",
    )  # fmt: skip
    parser.add_argument(
        "--transitions", type=whole, default=5000, metavar="N",
        help="intervention: steps with random actions; fewer if there are many features (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--level", type=float, default=0.05, metavar="F",
        help="expected fraction of false discoveries among the kept features (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=whole, default=20, metavar="N",
        help="features to show in the table, and for which ablation compares returns (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="random seed (default: %(default)s)")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR",
        help="where to write features.csv and features.png, or features-best.csv, ... (default: the agent's folder; "
        "for agents of the zoo, the current folder)",
    )  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Rank an agent's features, print the first ones, and write all.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from sparse_rl.features import rank_features, save_ranking

    screen = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}"),
        TimeRemainingColumn(), console=screen, transient=True, disable=not screen.is_terminal,
    )  # fmt: skip
    stages: dict[str, Any] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=total)
        bars.update(stages[stage], completed=done)

    with one_thread():
        trained = open_agent(args)
        folder = _folder(args, trained)
        methods = [name for names in args.methods for name in names]
        with bars:
            ranking = rank_features(
                trained.model, trained.env, methods, args.episodes, args.transitions, args.level, args.top,
                args.seed, tell=tell,
            )  # fmt: skip
    _report(ranking, trained.title, args.top)
    for file in save_ranking(ranking, folder, trained.title, _name(args)):
        print(file)
    return 0


def _name(args: argparse.Namespace) -> str:
    """Name the files after what is looked at, so that agents of one run do not overwrite each other's."""
    phase = "" if args.phase is None else f"-phase{args.phase}"
    return f"features{'-best' if args.best else ''}{phase}"


def _folder(args: argparse.Namespace, trained: "Trained") -> Path:
    """Find where the files go, and whether they can, before any work is done."""
    folder: Path = args.out or trained.folder or Path()
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"nothing can be written into {str(folder)!r}: give another folder with --out")
    return folder


def _report(ranking: "FeatureRanking", title: str, top: int) -> None:
    """Print the first features, how rankings agree with what is known, and what the kept features achieve."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    columns = ranking.columns()
    shown = {
        "feature": "", "name": "name", "real": "real", "keep": "keep", "connections": "conn.", "strength": "strength",
        "action_change": "action", "return_drop": "return", "return_p": "p", "intervention_p": "p(task)",
    }  # fmt: skip
    first = ranking.order[:top]
    console.print(f"{title}\nthe first {len(first)} of {len(ranking.names)} features", highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name, heading in shown.items():
        if name in columns:
            table.add_column(heading, justify="left" if name == "name" else "right", no_wrap=name != "name")
    for j in first:
        cells = [escape(_cell(name, columns[name][j])) for name in shown if name in columns]
        table.add_row(*cells, style="bold" if ranking.keep is not None and ranking.keep[j] else "")
    console.print(table)
    if ranking.intervention is not None:
        console.print(f"p(task) is based on {ranking.intervention.transitions:,} random steps.", highlight=False)
    if ranking.agreement:
        console.print(_agreement(ranking))
    if ranking.keep is not None:
        kept = ", ".join(map(str, ranking.keep.nonzero()[0])) or "none"
        console.print(f"Keep {ranking.keep.sum()} of {len(ranking.keep)} features, at most {ranking.level:.0%} of them "
                      f"expected to be false: {kept}", highlight=False)  # fmt: skip
    if ranking.confirmation is not None:
        returns = vars(ranking.confirmation)
        texts = {"intact": "all features", "kept_only": "the kept ones alone", "kept_hidden": "all but the kept ones"}
        said = "; ".join(f"{returns[n].mean():.1f} +/- {returns[n].std():.1f} with {texts[n]}" for n in texts)
        episodes = len(ranking.confirmation.intact)
        console.print(f"Return over {episodes} fresh episodes: {said}.", highlight=False)
        if ranking.confirmation.lacks_something(ranking.level):
            console.print(
                "With the kept ones alone it is lower: something is missing. Try a larger --top, and more --episodes.",
                highlight=False,
            )


def _agreement(ranking: "FeatureRanking") -> Any:
    from rich import box
    from rich.table import Table

    assert ranking.real is not None
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for heading in (f"against the {ranking.real.sum()} real ones", "AUC", "features", "precision", "recall"):
        table.add_column(heading, justify="left" if heading.startswith("against") else "right")
    for name, each in ranking.agreement.items():
        area, first = ("", f"{each.chosen}") if each.area is None else (f"{each.area:.3f}", f"first {each.chosen}")
        table.add_row(name, area, first, f"{each.precision:.3f}", f"{each.recall:.3f}")
    return table


def _cell(name: str, value: Any) -> str:
    if name in ("real", "keep"):
        return "yes" if value else ""
    if not isinstance(value, float):
        return str(value)
    if value != value:  # not tried
        return ""
    if name in ("return_p", "intervention_p"):
        return f"{value:.1g}" if value else "<1e-300"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
