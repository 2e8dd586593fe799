"""``sparse-rl push``: upload an agent to the Hugging Face hub."""

import argparse
from pathlib import Path

from sparse_rl.agents.checks import InputError
from sparse_rl.commands.counts import whole
from sparse_rl.names import require

DESCRIPTION = """\
Upload an agent to the Hugging Face hub, with a card that says what it is and what return it has. Only files that are
safe to load are uploaded: no zip files. Needs a token: `hf auth login`, or HF_TOKEN."""

EXAMPLES = """\
examples:
  sparse-rl push runs/anf-sac/HalfCheetah-noise98/1 you/anf-sac-HalfCheetah-noise98          the last agent of a run
  sparse-rl push runs/anf-sac/HalfCheetah-noise98/1 you/anf-sac-HalfCheetah-noise98 --best   that of its best evaluation
  sparse-rl push my-agent you/my-agent --private                                             what save_agent wrote
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    parser.add_argument("folder", type=Path, help="a run's folder, or an agent's, with model.safetensors")
    parser.add_argument("repository", metavar="REPO", help="where to, as owner/name; it is made if need be")
    parser.add_argument(
        "--best", action="store_true", help="the agent that did best in an evaluation, not the last one"
    )
    parser.add_argument(
        "-n", "--episodes", type=whole, default=20, metavar="N",
        help="episodes of the evaluation that the card tells of; 0: none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="their seed (default: %(default)s)")
    parser.add_argument("--private", action="store_true", help="a new repository is for your eyes only")
    parser.add_argument("--trust", action="store_true", help="import the package of an environment 'package:Id'")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Evaluate an agent, and upload it.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    require("huggingface_hub", "huggingface_hub", "hub")
    if args.episodes < 0 or args.seed < 0:
        raise InputError("--episodes and --seed must be at least 0")

    from sparse_rl.commands.train_arguments import public_command
    from sparse_rl.sharing.bundle import collect
    from sparse_rl.sharing.hub import check_push, push

    check_push(args.repository)  # before the evaluation, which takes a while
    bundle = collect(args.folder, public_command, args.best, args.episodes, args.seed, args.trust)
    if bundle.returns is not None:
        returns = bundle.returns
        print(f"return {returns.mean():.1f} +/- {returns.std():.1f} over {len(returns)} episodes", flush=True)
    print(push(bundle, args.repository, args.private))
    return 0
