"""Attack: what is no regular file, or leads elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Warden

from sparse_rl.agents.saved import CONFIG, MODEL


@pytest.mark.parametrize("name", [CONFIG, MODEL])
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "elsewhere", "itself"])
def test_links(agent: Path, warden: Warden, name: str, target: str) -> None:
    (agent / "elsewhere").write_bytes((agent / name).read_bytes())
    (agent / name).unlink()
    (agent / name).symlink_to(name if target == "itself" else target)
    assert "is a symbolic link" in warden.refusal("agent", agent)


def test_a_link_to_a_zip(archive: Path, warden: Warden) -> None:
    link = archive.with_name("link.zip")
    link.symlink_to(archive)
    assert "is a symbolic link" in warden.refusal("zip", link)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders(agent: Path, warden: Warden, name: str, make: Callable[[Path], None]) -> None:
    """A pipe would let a reader wait for ever."""
    (agent / name).unlink()
    make(agent / name)
    assert "is not a regular file" in warden.refusal("agent", agent)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_a_file_of_a_terabyte(agent: Path, warden: Warden, name: str) -> None:
    """Full of holes, it takes no place on the disk."""
    os.truncate(agent / name, 2**40)
    assert "has 1,099,511,627,776 bytes, more than the" in warden.refusal("agent", agent)
