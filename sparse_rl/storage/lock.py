"""One process at a time in a folder."""

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What file systems answer that have no locks, such as some network file systems: there nobody is kept out.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class LockedError(OSError):
    """Another process, which is alive, holds the lock; :attr:`holder` says which."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"locked by process {holder}")
        self.holder = holder


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """
    Hold a lock. The operating system forgets the lock of a process that has died.

    :param file: the lock's file, which is made if need be; its content says who holds the lock
    :return: context manager that holds it
    :raises LockedError: if another process holds it
    :raises OSError: if the file cannot be written
    """
    with file.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise LockedError(stream.read().strip() or "unknown") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {platform.node()}\n")
        stream.flush()
        yield
