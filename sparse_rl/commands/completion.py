"""``sparse-rl completion``: what a shell needs to complete the words of ``sparse-rl``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

DESCRIPTION = """\
Print a script with which Tab completes the commands, flags, algorithms and files of sparse-rl."""

EXAMPLES = """\
to install it:
  bash   sparse-rl completion bash > ~/.local/share/bash-completion/completions/sparse-rl
         (needs the package bash-completion; without it:  sparse-rl completion bash >> ~/.bashrc)
  zsh    sparse-rl completion zsh > DIR/_sparse-rl, where DIR is one of the folders in $fpath
  tcsh   sparse-rl completion tcsh >> ~/.tcshrc
for the current bash only:
  eval "$(sparse-rl completion bash)"
"""

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add this command's arguments.

    :param parser: the parser
    """
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace, words: list[str]) -> int:
    """
    Print the script.

    :param args: the parsed command line
    :param words: the same, not parsed
    :return: the exit code
    """
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """
    Write what a shell has to read.

    :param shell: one of :data:`SHELLS`
    :return: the script
    """
    import shtab

    from sparse_rl.agents.recipe import algorithms
    from sparse_rl.commands.main import make_parser

    parser = make_parser()
    for action in _actions(parser):
        if "--algo" in action.option_strings:
            action.choices = algorithms()  # the commands themselves answer typos better than argparse would
        elif action.type is Path or action.dest == "agent":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own attribute
    text: str = shtab.complete(parser, shell)
    return text


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # there is no public list of flags
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
        else:
            yield action
