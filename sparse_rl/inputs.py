"""What the user gave: the error of what cannot be used, and checks of single values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_rl.names import unknown


class InputError(ValueError):
    """Something that the user gave cannot be used; the message is a sentence for them."""


#: Gives back a value, or says of which kind it must be: ``check(key, value)``.
Check = Callable[[str, Any], Any]


def describe(value: object) -> str:
    """
    Name a wrong value in an error message.

    :param value: the value
    :return: its ``repr``; "nothing" for an empty YAML value
    """
    return "nothing" if value is None else repr(value)


def counted(number: int, noun: str) -> str:
    """
    Count things.

    :param number: how many there are
    :param noun: one of them
    :return: for example ``"1 run"``, ``"2 runs"``
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """
    Say in one line what another library found wrong.

    :param error: what it raised
    :return: the first line of its message; its kind if there is none
    """
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class Number:
    """
    The check of a number.

    :param low: the least value allowed
    :param high: the greatest value allowed
    :param whole: whether it must be a whole number; ``1e6`` is one
    :param above: whether ``low`` itself is not allowed
    :param below: whether ``high`` itself is not allowed
    """

    low: float = float("-inf")
    high: float = float("inf")
    whole: bool = False
    above: bool = False
    below: bool = False

    def __call__(self, key: str, value: Any) -> int | float:
        """
        Check a value.

        :param key: its key, for the error message
        :param value: the value
        :return: the value, as ``int`` if whole numbers are asked for
        :raises InputError: if it is not such a number
        """
        if not isinstance(value, int | float) or isinstance(value, bool) or not self._holds(value):
            kind = "whole number" if self.whole else "number"
            raise InputError(f"{key} must be a {kind}{self._range()}, not {describe(value)}.")
        return int(value) if self.whole else value

    def _holds(self, value: float) -> bool:
        if not abs(value) < float("inf") or (self.whole and value != int(value)):
            return False
        above = value > self.low if self.above else value >= self.low
        below = value < self.high if self.below else value <= self.high
        return above and below

    def _range(self) -> str:
        if self.low == float("-inf") and self.high < float("inf"):
            return f" below {self.high:g}" if self.below else f" of at most {self.high:g}"
        if self.high < float("inf"):
            return f" in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
        if self.low > float("-inf"):
            return f" above {self.low:g}" if self.above else f" of at least {self.low:g}"
        return ""


@dataclass(frozen=True)
class Choice:
    """
    The check of a word.

    :param words: the words allowed
    """

    words: Sequence[str]

    def __call__(self, key: str, value: Any) -> str:
        """
        Check a value.

        :param key: its key, for the error message
        :param value: the value
        :return: the value
        :raises InputError: if it is none of the words
        """
        if value not in self.words:
            raise InputError(unknown(key, value, self.words))
        return str(value)
