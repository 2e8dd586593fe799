"""How commands are told which trained agent is meant: one way for all of them."""

import argparse
from typing import TYPE_CHECKING

from sparse_rl.commands.counts import whole
from sparse_rl.inputs import InputError

if TYPE_CHECKING:
    from sparse_rl.training.trained import Trained


def add_agent(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments that name a trained agent.

    :param parser: the parser of a command
    """
    parser.add_argument(
        "agent",
        nargs="+",
        metavar="AGENT",
        help="a run's folder, an agent's folder (with a model.safetensors), or an agent of the zoo: ALGO ENV",
    )
    parser.add_argument(
        "--best", action="store_true", help="for a run: the agent with the best evaluation instead of the last one"
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        help="an environment other than that of its training, whose --env-kwargs are then not used",
    )
    parser.add_argument(
        "--phase",
        type=whole,
        metavar="K",
        help="for a permuted environment: how often its features have changed places (default: as when it was saved)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the packages that the agent's files name, of an environment package:Id or a learner package:Class",
    )


def agent_name(args: argparse.Namespace) -> str:
    """
    Give the name of the agent that a command line names.

    :param args: the parsed command line, with the arguments of :func:`add_agent`
    :return: the name, as :func:`~sparse_rl.training.finding.find_agent` takes it
    :raises InputError: if there are too many words
    """
    if len(args.agent) > 2:
        raise InputError(f"expected one agent: a folder, or ALGO ENV of the zoo, not {' '.join(args.agent)!r}")
    return "/".join(args.agent)


def open_agent(args: argparse.Namespace) -> "Trained":
    """
    Open the agent that a command line names.

    :param args: the parsed command line, with the arguments of :func:`add_agent`
    :return: the agent
    :raises ValueError: if there is none, or a file is damaged
    :raises OSError: if a file cannot be read
    """
    from sparse_rl.training.trained import open_trained

    return open_trained(agent_name(args), args.best, args.env, args.phase, args.trust)
