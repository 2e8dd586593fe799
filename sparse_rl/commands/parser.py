"""Command lines: a word that nobody knows is answered with the nearest that is known."""

import argparse
from typing import Any

from sparse_rl.names import unknown


class Parser(argparse.ArgumentParser):
    """
    A parser that takes no abbreviations, keeps the lines of its texts, and suggests flags.

    :param name: the command
    :param kwargs: for :class:`argparse.ArgumentParser`
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(kwargs.pop("prog", name), formatter_class=shape, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """
        Parse words; any flag that is unknown is an error, which ends the process.

        :param args: the words; those of the command line if ``None``
        :param namespace: where to put what they say
        :return: that, and words which are not flags and have no place
        """
        known, left = super().parse_known_args(args, namespace)
        flags = [word.partition("=")[0] for word in left if word.startswith("--")]
        if flags:
            self.error(unknown("option", flags[0], self._option_string_actions))
        return known, left
