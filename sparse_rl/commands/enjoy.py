"""``sparse-rl enjoy``: watch a trained agent in a window."""

import argparse

from sparse_rl.commands.counts import natural, positive
from sparse_rl.commands.naming import add_agent, open_agent
from sparse_rl.commands.threads import one_thread
from sparse_rl.inputs import InputError
from sparse_rl.training.plan import EVALUATION_SEED

DESCRIPTION = "Watch a trained agent in a window, and print its return after each episode."

EXAMPLES = """\
examples:
  sparse-rl enjoy runs/anf-sac/HalfCheetah-noise98/1 --best      the best agent of a run, by its evaluations
  sparse-rl enjoy anf-sac HalfCheetah-noise98                    an agent of the zoo
  sparse-rl enjoy anf-sac Hopper-noise95 --env Hopper-noise95-std2

Without a display, use `sparse-rl record`, which takes the same arguments.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_agent(parser)
    parser.add_argument(
        "-n", "--episodes", type=positive, default=5, metavar="N", help="episodes (default: %(default)s)"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="end each episode after this many steps")
    parser.add_argument(
        "--seed",
        type=natural,
        default=EVALUATION_SEED,
        metavar="N",
        help="the environment's seed (default: %(default)s)",
    )


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Show an agent.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input, or without a display
    """
    from itertools import islice

    from sparse_rl.training.videos import drawable, obstacle_to_windows, watch

    if (reason := obstacle_to_windows()) is not None:
        raise InputError(
            f"there is no display here ({reason}). To make a video instead: sparse-rl record {' '.join(args.agent)}"
        )
    trained = open_agent(args)
    print(trained.title)
    with one_thread(), drawable(trained, "human") as env:
        returns = watch(trained, env, args.seed, args.steps, lambda: None)  # a window is drawn by each step
        for episode, total in enumerate(islice(returns, args.episodes), 1):
            print(f"episode {episode}: return {total:.1f}", flush=True)
    return 0
