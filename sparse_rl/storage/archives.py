"""Zip archives of strangers: bounded before anything is unpacked, and unpacked into memory only."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

from sparse_rl.storage.reading import StorageError

MOST_DIRECTORY_BYTES = 2**20
MOST_RATIO = 20  # of unpacked to packed bytes; numbers of networks hardly shrink at all
_SMALL = 2**20  # what may unpack from nothing


class _Wary(io.BufferedReader):
    """A file that gives little at once: ``zipfile`` reads the directory in one piece, as long as it claims to be."""

    most: int | None = MOST_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise StorageError(f"its directory has more than {self.most:,} bytes")
        return super().read(size)


def read_members(
    file: BinaryIO,
    max_bytes: int,
    where: str,
    wanted: Mapping[str, int] | None = None,
    max_ratio: int = MOST_RATIO,
) -> dict[str, bytes]:
    """
    Read members of a zip archive into memory.

    :param file: the archive, open for reading
    :param max_bytes: how many bytes all members together may have, unpacked
    :param where: what is read, for error messages
    :param wanted: the names of the members to read, and how large each may be; all if ``None``. What is not there is
        left out.
    :param max_ratio: how many times its size a member may unpack to
    :return: the members' contents by name
    :raises StorageError: if it is no zip archive, damaged, encrypted or too large; if members overlap or shrink too
        well; if a name occurs twice, or leads out of the folder in which somebody might unpack it
    """
    wary = _Wary(file)  # type: ignore[arg-type]  # any file will do, says its documentation
    try:
        with zipfile.ZipFile(wary) as archive:
            wary.most = None
            members = _checked(archive.infolist(), wary.seek(0, io.SEEK_END), max_bytes, max_ratio)
            limits = dict.fromkeys(members, max_bytes) if wanted is None else wanted
            names = [name for name in limits if name in members]
            for name in names:
                if members[name].file_size > limits[name]:
                    raise StorageError(f"its member {name!r} has more than {limits[name]:,} bytes")
            return {name: archive.read(members[name]) for name in names}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise StorageError(f"{where} cannot be read: {error}.") from error
    finally:
        wary.detach()  # the file belongs to the caller


def _checked(infos: list[zipfile.ZipInfo], size: int, max_bytes: int, max_ratio: int) -> dict[str, zipfile.ZipInfo]:
    members = {info.filename: info for info in infos}
    if len(members) < len(infos):
        raise StorageError("one of its members occurs twice")
    if sum(info.file_size for info in infos) > max_bytes:
        raise StorageError(f"unpacked it has more than {max_bytes:,} bytes")
    if sum(info.compress_size for info in infos) > size:
        raise StorageError("its members overlap")
    for name, info in members.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise StorageError(f"its member {name[:80]!r} leads out of it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise StorageError(f"its member {name[:80]!r} is a symbolic link")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StorageError(f"its member {name[:80]!r} is encrypted, or compressed in an unusual way")
        if info.file_size > max_ratio * info.compress_size + _SMALL:
            raise StorageError(f"its member {name[:80]!r} unpacks to more than {max_ratio} times its size")
    return members
