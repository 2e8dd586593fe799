"""Storage: files are there completely or not at all, and tensors come back bit for bit."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparse_rl.storage import StorageError, load_tensors, move_into_place, save_tensors, write_atomically
from sparse_rl.storage.tensors import DTYPES


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: Any) -> None:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")

    write_atomically(path, write)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: Any) -> None:
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), fsync(fd))
    )
    (tmp_path / "here").write_bytes(b"content")
    move_into_place(tmp_path / "here", tmp_path / "there")
    assert calls == ["file", "replace", "folder"]


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "ours", lambda file: None)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(tmp_path: Path, name: str) -> None:
    tensors = {"some": torch.tensor([[0, 1], [1, 1]]).to(DTYPES[name]), "one": torch.tensor(1).to(DTYPES[name])}
    tensors["none"] = torch.empty((0, 3), dtype=DTYPES[name])
    save_tensors(tmp_path / "t", tensors)
    loaded, _ = load_tensors(tmp_path / "t")
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert loaded[key].dtype == tensor.dtype
        assert loaded[key].shape == tensor.shape
        assert torch.equal(loaded[key], tensor)


@given(arrays(np.float32, st.lists(st.integers(0, 4), max_size=3).map(tuple), elements=st.floats(width=32)))
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "bits"
    save_tensors(file, {"array": array})
    assert load_tensors(file)[0]["array"].numpy().tobytes() == array.tobytes()


def test_views_and_constants_are_stored_as_they_look(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).view(2, 3)
    constant = np.arange(3)
    constant.setflags(write=False)
    save_tensors(tmp_path / "t", {"turned": matrix.T, "constant": constant})
    loaded, _ = load_tensors(tmp_path / "t")
    assert torch.equal(loaded["turned"], matrix.T)
    assert loaded["constant"].tolist() == [0, 1, 2]


def test_metadata_come_back(tmp_path: Path) -> None:
    metadata = {"step": 7, "state": 2**127, "names": ["é", None, True], "inner": {"x": 0.1}}
    save_tensors(tmp_path / "t", {}, metadata)
    assert load_tensors(tmp_path / "t") == ({}, metadata)


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    one, two = torch.ones(2), torch.zeros(3)
    save_tensors(tmp_path / "a", {"one": one, "two": two}, {"x": 1, "y": 2})
    save_tensors(tmp_path / "b", {"two": two, "one": one}, {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_peoples_files_are_understood_both_ways(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.tensor([True, False])}
    safetensors.torch.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    loaded, metadata = load_tensors(tmp_path / "theirs")
    assert metadata == {}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    save_tensors(tmp_path / "ours", tensors)
    assert all(torch.equal(t, tensors[n]) for n, t in safetensors.torch.load_file(tmp_path / "ours").items())


@given(st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.getbasetemp() / "flipped"
    save_tensors(file, {"weight": torch.arange(8.0), "mask": torch.ones(3, dtype=torch.bool)}, {"step": 7})
    content = bytearray(file.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    try:
        tensors, metadata = load_tensors(file)
    except StorageError:
        return
    # Only a word that nobody reads can have changed: the key of our metadata, which are then another program's.
    assert metadata == {}
    assert tensors["weight"].tolist() == list(range(8))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1, dtype=torch.complex64), "'x' cannot be stored: it is a tensor of torch.complex64"),
        (np.array(["word"]), "'x' cannot be stored: it is an array of <U4"),
        (np.array([object()]), "'x' cannot be stored: it is an array of object"),
    ],
)
def test_what_cannot_be_stored(tmp_path: Path, tensor: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_tensors(tmp_path / "t", {"x": tensor})
    assert not (tmp_path / "t").exists()


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 4,194,304 bytes: give fewer metadata"):
        save_tensors(tmp_path / "t", {}, {"x": "x" * 2**22})
    with pytest.raises(ValueError, match="JSON"):
        save_tensors(tmp_path / "t", {}, {"x": float("nan")})
    assert not (tmp_path / "t").exists()
