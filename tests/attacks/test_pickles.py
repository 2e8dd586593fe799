"""Attack: pickles, which run code, wherever a file could hide one."""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from conftest import Payload, Warden, edit_data, edit_members, in_base64

from sparse_rl.agents import safe_load
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.training.returns import read_evaluations


@dataclass
class Stretched:
    """A tensor of any size, on a storage of three numbers."""

    offset: int
    size: int

    def __reduce__(self) -> tuple[Any, ...]:
        three = torch.storage.TypedStorage(
            wrap_storage=torch.zeros(3).untyped_storage(), dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (three, self.offset, (self.size,), (1,), False, OrderedDict())


def pth(pickled: bytes) -> bytes:
    """Wrap a pickle as ``torch.save`` does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def test_the_trap_is_armed(archive: Path, tmp_path: Path) -> None:
    """The same file runs its code when it is loaded in the usual way."""
    payload = Payload(tmp_path / "trace")
    edit_data(archive, lambda data: data.update(seed={":type:": "int", ":serialized:": in_base64(payload)}))
    stable_baselines3.SAC.load(archive, device="cpu")
    assert payload.trace.exists()


def test_pickles_in_the_data_of_a_zip_are_left_alone(archive: Path, payload: Payload) -> None:
    """Every attribute is a pickle that would run code; the agent loads all the same, from what is readable."""
    expected = safe_load(archive)

    def arm(data: dict[str, Any]) -> None:
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = in_base64(payload)
        data["action_noise"] = data["replay_buffer_kwargs"] = {":type:": "x", ":serialized:": in_base64(payload)}

    edit_data(archive, arm)
    observation = np.ones(3, np.float32)
    loaded = safe_load(archive).predict(observation, deterministic=True)[0]
    assert loaded == expected.predict(observation, deterministic=True)[0]


@pytest.mark.parametrize("member", ["policy_pth", "pytorch_variables_pth"])
@pytest.mark.parametrize("wrap", [pth, bytes], ids=["in an archive", "plain"])
def test_pickles_in_pth_files(archive: Path, payload: Payload, warden: Warden, member: str, wrap: Any) -> None:
    edit_members(archive, **{member: wrap(pickle.dumps({"x": payload}, protocol=2))})
    expected = (
        "names 'posix mkdir', which is no part of a tensor" if wrap is pth else "cannot be read: File is not a zip"
    )
    assert expected in warden.refusal("zip", archive)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.", "names 'builtins bytearray'"),
        (b"\x80\x02ctorch\nFloatTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.", "names 'torch FloatTensor'"),
        (b"\x80\x02}(" + b")" + b"\x85" * 19_000 + b"K\x01u.", "something else than tensors"),
        (b"\x80\x02" + b"N" * 30_000 + b".", "more than 20,000 opcodes"),
        (b"\x80\x02" + b"N" * 2**21 + b".", "more than 1,048,576 bytes"),
        (b"\x80\x04\x95", "is damaged"),
        (b"", "is damaged"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "something else than tensors"),
        (b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93.", "SHORT_BINUNICODE, which tensors do not need"),
        (b"\x80\x02iposix\nmkdir\n.", "INST, which tensors do not need"),
    ],
)
def test_pickles_that_only_ask_for_much(archive: Path, warden: Warden, pickled: bytes, message: str) -> None:
    """No code would run, but memory would be taken, or the interpreter brought down by what nests too deeply."""
    edit_members(archive, policy_pth=pth(pickled))
    assert message in warden.refusal("zip", archive)


@pytest.mark.parametrize(("offset", "size"), [(0, 2**40), (2**40, 1), (0, 2**28)])
def test_tensors_that_are_larger_than_what_is_stored(archive: Path, warden: Warden, offset: int, size: int) -> None:
    """PyTorch would make a small storage as large as a tensor says it is."""
    file = io.BytesIO()
    torch.save({"x": Stretched(offset, size)}, file)
    edit_members(archive, policy_pth=file.getvalue())
    assert "asks for more memory than it fills" in warden.refusal("zip", archive)


@pytest.mark.parametrize("name", [CONFIG, MODEL])
def test_pickles_instead_of_our_files(agent: Path, payload: Payload, warden: Warden, name: str) -> None:
    (agent / name).write_bytes(pickle.dumps(payload))
    expected = "There is an error in" if name == CONFIG else "is not a safetensors file"
    assert expected in warden.refusal("agent", agent)


def test_pickles_in_npz(tmp_path: Path, payload: Payload) -> None:
    np.savez(tmp_path / "evaluations.npz", timesteps=np.array([payload]), results=np.array([payload]))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_evaluations(tmp_path / "evaluations.npz")
