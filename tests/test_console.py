"""What is printed while nobody reads, or the disk is full, is lost, and that is all."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from sparse_rl.training.console import forgiving_console


def _deserted_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _closed_terminal() -> int:
    master, slave = pty.openpty()
    os.close(master)
    return slave


@pytest.fixture(params=[_deserted_pipe, _closed_terminal])
def deserted(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    with os.fdopen(request.param(), "w") as stream:
        yield stream


def test_nobody_reads(deserted: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", deserted)
    with forgiving_console():
        for _ in range(3):
            print("step 1", flush=True)
        sys.stdout.writelines(["step 2\n"] * 10_000)
    assert sys.stdout is deserted
    print("as nobody can be reading, all of it goes nowhere", flush=True)


def test_a_disk_may_have_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with forgiving_console():
            print("step 1", file=sys.stderr, flush=True)
            assert os.path.samestat(os.fstat(sys.stderr.fileno()), os.stat("/dev/full"))


def test_what_can_be_read_is_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        monkeypatch.setattr(sys, "stderr", None)  # closed by whoever started this process
        with forgiving_console():
            print("step", 1, "é")
            print("nowhere", file=sys.stderr)
            assert not sys.stdout.isatty()
        assert (tmp_path / "log.txt").read_text() == "step 1 é\n"
        assert sys.stderr is None


def test_no_other_error_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(ConnectionRefusedError), forgiving_console():
        raise ConnectionRefusedError


def test_closed_streams(tmp_path: Path) -> None:
    """What is opened next would take their numbers."""
    words = "train --algo static-a2c --env InvertedPendulum-noise50 --kernel scatter -n 10 --eval-freq -1 -f runs"
    command = f"{sys.executable} -m sparse_rl {words} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=120).returncode == 0
    assert list(tmp_path.rglob("summary.yml"))
