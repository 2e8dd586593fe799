"""Whole numbers on the command line, read in one way by all commands."""

import argparse


def whole(text: str) -> int:
    """
    Read a whole number; ``1e6`` and ``1_000_000`` are welcome.

    :param text: the word
    :return: the number
    :raises ArgumentTypeError: if it is none
    """
    try:
        return int(text)  # exactly, however large
    except ValueError:
        number = float(text)
    if number != number // 1:  # also if it is infinite, or NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def positive(text: str) -> int:
    """
    Read a positive whole number.

    :param text: the word
    :return: the number
    :raises ArgumentTypeError: if it is none
    """
    return _at_least(1, text, "a positive whole number")


def natural(text: str) -> int:
    """
    Read a whole number of at least 0.

    :param text: the word
    :return: the number
    :raises ArgumentTypeError: if it is none
    """
    return _at_least(0, text, "a whole number of at least 0")


def _at_least(least: int, text: str, kind: str) -> int:
    number = whole(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return number


whole.__name__ = positive.__name__ = natural.__name__ = "whole number"  # argparse puts it into its messages
