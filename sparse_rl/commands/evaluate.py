"""``sparse-rl evaluate``: let a trained agent act, and print its return."""

import argparse
from pathlib import Path

DESCRIPTION = "Let the agent of a run act, without exploration, and print its return."

EXAMPLES = """\
examples:
  sparse-rl evaluate runs/anf-sac/HalfCheetah-noise98/1                    the agent as it was when training ended
  sparse-rl evaluate runs/anf-sac/HalfCheetah-noise98/1 --best -n 20       the one that did best in an evaluation
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument(
        "-n", "--episodes", type=int, default=10, metavar="N", help="number of episodes (default: %(default)s)"
    )
    parser.add_argument(
        "--best", action="store_true", help="the agent that did best in an evaluation, not the last one"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the environment (default: %(default)s)"
    )
    parser.add_argument(
        "--phase",
        type=int,
        metavar="K",
        help="of a permuted environment: how often its features have changed places (default: as when it was saved)",
    )
    parser.add_argument("--trust", action="store_true", help="import the package of an environment 'package:Id'")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Evaluate an agent and print its return.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    if args.episodes < 1 or args.seed < 0:
        raise ValueError("--episodes must be at least 1 and --seed at least 0")

    import torch

    from sparse_rl.training.evaluation import evaluate
    from sparse_rl.training.existing import read_config

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one observation at a time: more threads only get in each other's way
    try:
        returns = evaluate(args.folder, args.episodes, args.best, args.seed, args.phase, args.trust)
    finally:
        torch.set_num_threads(threads)
    config = read_config(args.folder)
    agent = "best agent" if args.best else "last agent"
    noise = f"{config['hyperparameters'].get('replay')} noise"
    print(f"{config.get('algo')} on {config.get('env')}, trained with {noise}, {agent}")
    print(f"return {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} episodes, seed {args.seed}")
    return 0
