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
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number


def natural(text: str) -> int:
    """
    Read a whole number of at least 0.

    :param text: the word
    :return: the number
    :raises ArgumentTypeError: if it is none
    """
    number = whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return number


whole.__name__ = positive.__name__ = natural.__name__ = "whole number"  # argparse puts it into its messages
