"""``sparse-rl``: finds the command that the first word names, and has it parse and do the rest."""

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from sparse_rl.commands.parser import Parser
from sparse_rl.names import look_in, unknown
from sparse_rl.version import __version__

EXIT_BAD_INPUT = 2
#: Each command's module in this package, and what it does.
COMMANDS: Mapping[str, str] = {
    "train": "train an agent, or continue a run",
    "evaluate": "run a trained agent, and print its return",
    "plot": "draw learning curves of runs, or animate a run's connections",
    "features": "find out which inputs of an agent matter",
    "enjoy": "watch a trained agent in a window",
    "record": "make a video of a trained agent",
    "zoo": "list the trained agents that come with the package",
    "tune": "find hyperparameters that suit an environment",
    "push": "upload an agent to the Hugging Face hub",
    "pull": "download an agent from the Hugging Face hub, and check it",
    "completion": "print a completion script for your shell",
}

_EPILOG = """\
Each command has its own help, with examples, such as: sparse-rl train --help
SPARSE_RL_DEBUG=1 shows where an error comes from.
"""


def make_parser(commands: Sequence[str] = tuple(COMMANDS)) -> Parser:
    """
    Make the parser of ``sparse-rl``.

    :param commands: the commands whose arguments it shall know; to import no more than it takes
    :return: the parser
    """
    what = "Train, inspect and compare agents with sparse networks."
    parser = Parser("sparse-rl", description=what, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"sparse_rl {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, what in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=what)
        if name in commands:
            module = import_module(f"sparse_rl.commands.{name}")
            subparser.description, subparser.epilog = module.DESCRIPTION, module.EXAMPLES
            module.add_arguments(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Carry out a command.

    :param arguments: the words of the command line; those of this process if ``None``
    :return: the exit code: 0; 1 if something went wrong; 2 for bad input; 130 if interrupted
    """
    open_standard_streams()
    look_around()
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _carry_out(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        return fail(error)
    except KeyboardInterrupt:  # during the imports too, which take a moment
        return fail("interrupted.", 128 + signal.SIGINT)
    return code


def _carry_out(words: Sequence[str]) -> int:
    name = words[0] if words else "--help"
    if not name.startswith("-") and name not in COMMANDS:
        raise ValueError(unknown("command", name, COMMANDS))
    args = make_parser([name]).parse_args(words or [name])
    code: int = import_module(f"sparse_rl.commands.{name}").run(args, list(words[1:]))
    return code


def open_standard_streams() -> None:
    """Put a file in the place of standard streams that are closed: or the next one opened would be taken for them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It takes the lowest number that is free; processes that are started here need one too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def look_around() -> None:
    """Let modules in the current folder be found if they are the user's own, which ``--env module:Id`` names."""
    with suppress(OSError):  # the folder may be gone
        look_in(os.getcwd())


def fail(why: str | Exception, code: int = EXIT_BAD_INPUT) -> int:
    """
    Say why a command has not done what it should: in a sentence, and with ``SPARSE_RL_DEBUG=1`` with its traceback.

    Not every ``ValueError`` is about what a user gave: that is how to find out.

    :param why: a sentence, or an error whose message is one
    :param code: the exit code
    :return: that code
    """
    if os.environ.get("SPARSE_RL_DEBUG", "") not in ("", "0") and isinstance(why, Exception):
        traceback.print_exception(why)
    print(f"error: {why}", file=sys.stderr)
    return code
