"""``sparse-rl evaluate``: let a trained agent act, and print its return."""

import argparse

from sparse_rl.commands.counts import natural, positive
from sparse_rl.commands.naming import add_agent, open_agent
from sparse_rl.commands.threads import one_thread
from sparse_rl.training.plan import EVALUATION_SEED

DESCRIPTION = "Run a trained agent without exploration, and print its return."

EXAMPLES = """\
examples:
  sparse-rl evaluate runs/anf-sac/HalfCheetah-noise98/1                    the agent at the end of training
  sparse-rl evaluate runs/anf-sac/HalfCheetah-noise98/1 --best -n 20       the best one, by its evaluations
  sparse-rl evaluate runs/anf-sac/HalfCheetah-noise98/1/best_model.agent   an agent's own folder
  sparse-rl evaluate anf-sac HalfCheetah-noise98                           an agent of the zoo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_agent(parser)
    parser.add_argument(
        "-n", "--episodes", type=positive, default=10, metavar="N", help="number of episodes (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=EVALUATION_SEED,
        metavar="N",
        help="seed of the environment (default: %(default)s)",
    )


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Evaluate an agent and print its return.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    from sparse_rl.training.evaluation import returns_of

    with one_thread():
        trained = open_agent(args)
        returns = returns_of(trained, args.episodes, args.seed)
    print(trained.title)
    print(f"return {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} episodes, seed {args.seed}")
    return 0
