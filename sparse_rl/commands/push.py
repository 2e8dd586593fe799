"""``sparse-rl push``: upload an agent to the Hugging Face hub."""

import argparse

from sparse_rl.commands.counts import natural
from sparse_rl.commands.naming import add_agent, agent_name
from sparse_rl.names import require
from sparse_rl.training.plan import EVALUATION_SEED

DESCRIPTION = """\
Upload an agent to the Hugging Face hub, with a card that describes it and gives its return. Only files that are safe to
load are uploaded: no zip files. Needs a token: `hf auth login`, or HF_TOKEN."""

EXAMPLES = """\
examples:
  sparse-rl push runs/anf-sac/HalfCheetah-noise98/1 you/anf-sac-HalfCheetah-noise98          the last agent of a run
  sparse-rl push runs/anf-sac/HalfCheetah-noise98/1 you/anf-sac-HalfCheetah-noise98 --best   its best agent
  sparse-rl push my-agent you/my-agent --private --env HalfCheetah-noise98                   written by save_agent
  sparse-rl push anf-sac Hopper-noise95 you/anf-sac-Hopper-noise95                           an agent of the zoo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    add_agent(parser)
    parser.add_argument("repository", metavar="REPO", help="where to, as owner/name; it is created if need be")
    parser.add_argument(
        "-n", "--episodes", type=natural, default=20, metavar="N",
        help="episodes in the evaluation for the card; 0: no evaluation (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed",
        type=natural,
        default=EVALUATION_SEED,
        metavar="N",
        help="the evaluation's seed (default: %(default)s)",
    )
    parser.add_argument("--private", action="store_true", help="if the repository is new, make it private")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Evaluate an agent, and upload it.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    require("huggingface_hub", "huggingface_hub", "hub")

    from sparse_rl.commands.train_arguments import public_command
    from sparse_rl.sharing.bundle import collect
    from sparse_rl.sharing.hub import check_push, push
    from sparse_rl.training.finding import find_agent

    check_push(args.repository)  # before the evaluation, which takes a while
    found = find_agent(agent_name(args), args.best)
    bundle = collect(found, public_command, args.env, args.phase, args.episodes, args.seed, args.trust)
    if bundle.evaluated_in is not None:
        returns = bundle.returns
        print(f"return {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} episodes", flush=True)
    print(push(bundle, args.repository, args.private))
    return 0
