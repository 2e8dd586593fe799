"""Reading what a stranger may have written: bounded, and nothing but data."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn


class StorageError(ValueError):
    """A file is not what it should be; the message is a sentence for whoever wanted to read it."""


@contextmanager
def open_regular(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """
    Open a file for reading, if it is a regular one of a reasonable size.

    :param path: the file
    :param max_bytes: how large it may be
    :return: context manager that gives the open file and its size in bytes
    :raises StorageError: if it is a symbolic link, no regular file (a pipe, a device, a folder), or too large
    :raises OSError: if it cannot be read
    """
    with open(path, "rb", opener=_open_warily) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise StorageError(f"{str(path)!r} has {size:,} bytes, more than the {max_bytes:,} that may be read.")
        yield file, size


def _open_warily(path: str, flags: int) -> int:
    try:
        # Without waiting: a pipe would let us wait for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(f"{str(path)!r} is a symbolic link; give the file itself.") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageError(f"{str(path)!r} is not a regular file.")
    return descriptor


def parse_json(text: bytes | str, where: str) -> Any:
    """
    Parse JSON strictly.

    :param text: the JSON, in UTF-8 if ``bytes``
    :param where: what is parsed, for the error message
    :return: dictionaries, lists, strings, numbers, truth values, ``None``
    :raises StorageError: if it is not JSON, is nested too deeply, or has a key twice or a number that is not finite
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(
            decoded, object_pairs_hook=_without_repetition, parse_float=_finite, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise StorageError(f"There is an error in {where}: it is nested too deeply.") from error
    except ValueError as error:  # also UnicodeDecodeError, and integers of thousands of digits
        raise StorageError(f"There is an error in {where}: {error}.") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text[:80]} is too large a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
