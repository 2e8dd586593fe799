"""What a run says: nothing that happens to that is a reason to end the run."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

_NOBODY = (errno.EPIPE, errno.EIO)  # the other end of the pipe is closed, or the terminal


class _Forgiving:
    """
    A stream that never fails: what cannot be written is lost, and once nobody can be reading, so is all that follows.

    :param stream: where it goes
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, say: Callable[[], object]) -> None:
        try:
            say()
        except OSError as error:
            if error.errno in _NOBODY:
                self._leave()

    def _leave(self) -> None:
        """Let all that goes to the same file go nowhere: what Python still holds, and what others write there."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Nowhere(io.TextIOBase):
    """A stream in the place of one that whoever started this process has closed."""

    def write(self, text: str) -> int:
        return len(text)


def forgive_console() -> None:
    """Let nothing that is printed from now on raise an ``OSError``: nobody may be reading, or the disk may be full."""
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)


@contextmanager
def forgiving_console() -> Iterator[None]:
    """
    Let nothing that is printed meanwhile raise an ``OSError``, see :func:`forgive_console`.

    :return: context manager that does so
    """
    former = sys.stdout, sys.stderr
    forgive_console()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or it would fail when Python ends
        sys.stdout, sys.stderr = former


def _forgiving(stream: TextIO | None) -> TextIO:
    return cast(TextIO, _Nowhere() if stream is None else _Forgiving(stream))
