"""``sparse-rl zoo``: the trained agents that come with the package."""

import argparse
import sys

from sparse_rl.inputs import InputError

DESCRIPTION = "List the trained agents that come with the package, or show the card of one."

EXAMPLES = """\
examples:
  sparse-rl zoo                                      list all agents, with their returns
  sparse-rl zoo show anf-sac HalfCheetah-noise98     how one was made, and how well it does
  sparse-rl evaluate anf-sac HalfCheetah-noise98     run it; also: enjoy, record

In Python: sparse_rl.agents.load("anf-sac", "HalfCheetah-noise98").
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    actions.add_parser("list", help="list all agents (the default)")
    show = actions.add_parser("show", help="show the card of an agent")
    show.add_argument("agent", nargs="+", metavar="ALGO ENV", help="for example anf-sac HalfCheetah-noise98")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    List agents or show one.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: if there is no such agent
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from sparse_rl.agents.zoo import find

    # What goes to a file or a pipe is not cut off at 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if args.action != "show":
        console.print(_table())
        return 0
    names = "/".join(args.agent).split("/")
    if len(names) != 2:
        raise InputError(f"expected ALGO ENV, for example anf-sac HalfCheetah-noise98, not {' '.join(args.agent)!r}")
    agent = find(*names)
    card = (agent.folder / "card.md").read_text(encoding="utf-8")
    if sys.stdout.isatty():
        console.print(Markdown(card))
    else:
        print(card, end="")
    print(f"Its files are in {str(agent.folder)!r}.")
    return 0


def _table() -> object:
    from rich.box import SIMPLE
    from rich.table import Table

    from sparse_rl.agents.zoo import zoo

    table = Table(box=SIMPLE)
    for title in ("environment", "algorithm", "noise"):
        table.add_column(title, no_wrap=True)
    for title in ("return", "steps", "weights", "of dense", "kB"):
        table.add_column(title, justify="right", no_wrap=True)
    for agent in zoo():
        result, cost, training = agent.card["return"], agent.card["cost"], agent.card["training"]
        table.add_row(
            agent.environment,
            agent.algorithm,
            agent.card["noise"].removesuffix(" noise"),
            f"{result['mean']:.1f} +/- {result['std']:.1f}",
            f"{training['steps']:,}",
            f"{cost['weights']:,}",
            f"{cost['weights'] / cost['dense_weights']:.0%}",
            f"{agent.size / 1000:,.0f}",
        )
    return table
