"""Files that are there completely or not at all, also when the process is killed or the power fails."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # ends the names of files that are being written; what a killed process leaves may be removed


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """
    Write a file in one step: readers see the old one or the new one, and what this function has written stays written.

    :param path: the file; one that is there already is replaced
    :param write: writes the content into the binary file that it is given
    :raises OSError: if it cannot be written; then everything is as it was before
    """
    # In the same folder, because only there it can be renamed in one step.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            write(file)
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_into_place(source: Path, target: Path) -> None:
    """
    Give a complete file its final name, in one step, once its content is on the disk.

    :param source: the file, closed, in the same file system as ``target``
    :param target: its new name; a file of that name is replaced
    :raises OSError: if it cannot be moved
    """
    _flush(source)  # or a new name could come to stand for a file whose content has been lost
    os.replace(source, target)
    _flush(target.parent)  # the name itself


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
