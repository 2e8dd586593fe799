"""Attack: zip archives that unpack to more than there is, or to somewhere else."""

import io
import re
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from conftest import MEBIBYTE, Warden, edit_members


def add(path: Path, name: str | zipfile.ZipInfo, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(name, content)


@pytest.mark.parametrize("name", ["policy.pth", "data", "other"])
def test_a_bomb(archive: Path, warden: Warden, name: str) -> None:
    edit_members(archive, **{name.replace(".pth", "_pth"): None})
    add(archive, name, bytes(100 * MEBIBYTE), zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < MEBIBYTE
    assert "unpacks to more than 20 times its size" in warden.refusal("zip", archive)


def test_a_member_that_claims_to_be_large(archive: Path, warden: Warden) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.getinfo("policy.pth").file_size = 2**31 - 1
        file.writestr("x", b"")  # so that the directory is written again
    assert "unpacked it has more than 1,073,741,824 bytes" in warden.refusal("zip", archive)


def test_a_bomb_inside_of_a_pth(archive: Path, warden: Warden) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as pth:
        pth.writestr("archive/data.pkl", bytes(100 * MEBIBYTE))
    edit_members(archive, policy_pth=inner.getvalue())
    assert "unpacked it has more than" in warden.refusal("zip", archive)


def test_members_that_overlap(archive: Path, warden: Warden) -> None:
    """Many names for the same bytes: small on the disk, large in memory, without any compression."""
    content = bytes(MEBIBYTE)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data", content)
        first = file.getinfo("data")
        for index in range(100):
            twin = zipfile.ZipInfo(f"twin{index}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            file.filelist.append(twin)
            file.NameToInfo[twin.filename] = twin
    assert "its members overlap" in warden.refusal("zip", archive)


def test_a_directory_that_claims_to_be_long(archive: Path, warden: Warden) -> None:
    content = bytearray(archive.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<L", content, end + 16)[0]
    content[end:end] = bytes(2 * MEBIBYTE)  # what looks like more of the directory
    struct.pack_into("<L", content, end + 2 * MEBIBYTE + 12, end + 2 * MEBIBYTE - start)
    archive.write_bytes(content)
    assert "its directory has more than 1,048,576 bytes" in warden.refusal("zip", archive)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "C:x"])
def test_names_that_lead_out(archive: Path, warden: Warden, name: str) -> None:
    """Nothing is unpacked to the disk; but who sends such a name means harm."""
    add(archive, name, b"")
    assert "leads out of it" in warden.refusal("zip", archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice(archive: Path, warden: Warden) -> None:
    """Of two readers each may take another one."""
    add(archive, "data", b"{}")
    assert "occurs twice" in warden.refusal("zip", archive)


def test_a_link(archive: Path, warden: Warden) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    add(archive, link, b"/etc/passwd")
    assert "is a symbolic link" in warden.refusal("zip", archive)


def test_unusual_compression(archive: Path, warden: Warden) -> None:
    add(archive, "x", b"x", zipfile.ZIP_LZMA)
    assert "compressed in an unusual way" in warden.refusal("zip", archive)


@pytest.mark.parametrize("member", ["data", "policy_pth"])
def test_a_missing_member(archive: Path, warden: Warden, member: str) -> None:
    edit_members(archive, **{member: None})
    assert f"it lacks '{member.replace('_', '.')}'" in warden.refusal("zip", archive)


@pytest.mark.parametrize("end", [0, 1, 100, -1, -30, -1000])
def test_a_truncated_archive(archive: Path, warden: Warden, end: int) -> None:
    archive.write_bytes(archive.read_bytes()[:end])
    # With the end missing, that of an archive inside of it may be taken for its own.
    assert re.search(r"cannot be read: |it lacks 'data'", warden.refusal("zip", archive))
