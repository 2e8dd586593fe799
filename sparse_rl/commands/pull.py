"""``sparse-rl pull``: download an agent from the Hugging Face hub, and check it."""

import argparse
import shlex
from pathlib import Path

from sparse_rl.names import require

DESCRIPTION = """\
Download an agent from the Hugging Face hub. Only files with known names, up to a certain size, are downloaded, and they
are moved into place only after they have been checked: you need not trust whoever made them."""

EXAMPLES = """\
examples:
  sparse-rl pull somebody/anf-sac-HalfCheetah-noise98                     into the folder anf-sac-HalfCheetah-noise98
  sparse-rl pull somebody/anf-sac-HalfCheetah-noise98 -o cheetah
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    parser.add_argument("repository", metavar="REPO", help="where from, as owner/name")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="a new folder (the repository's name, here)")
    parser.add_argument("--revision", metavar="NAME", help="a branch, tag or commit (the newest commit)")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Download an agent, and check it.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    :raises ValueError: for bad input
    """
    require("huggingface_hub", "huggingface_hub", "hub")

    from sparse_rl.sharing.hub import check_repository, pull
    from sparse_rl.training.finding import find_agent

    check_repository(args.repository)
    folder: Path = args.out or Path(args.repository.partition("/")[2])
    commit = pull(args.repository, folder, args.revision)
    where = shlex.quote(str(folder))
    print(f"{args.repository}, commit {commit[:7]}, checked")
    print(f"Where everything is:    {where}")
    env = "" if find_agent(str(folder)).environment else " --env ID"
    print(f"To evaluate the agent:  sparse-rl evaluate {where}{env}")
    return 0
