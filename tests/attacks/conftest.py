"""Strangers' files, a trap that shows whether code ran, and a warden that watches over memory and time."""

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
from torch import Tensor

from sparse_rl.agents import SAC, save_agent
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.sb3 import SparseSACPolicy
from sparse_rl.storage import load_tensors, save_tensors

MEBIBYTE = 2**20
ROOM = 512 * MEBIBYTE  # address space that a load may take; a bomb wants more
MOST_SECONDS = 20  # of computing, however busy the machine is
# One process for all attacks, because importing takes seconds; that it still answers shows that nothing crashed it.
WARDEN = """
import json, resource, sys, time
from pathlib import Path
from sparse_rl.agents import load_agent, safe_load
from sparse_rl.storage import load_tensors
from sparse_rl.training.existing import read_config

LOADERS = {
    "agent": load_agent, "zip": safe_load, "config": lambda path: read_config(Path(path)),
    "tensors": lambda path: load_tensors(Path(path)),
}
load_agent(sys.argv[1])
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]),) * 2)
for line in sys.stdin:
    kind, path = json.loads(line)
    start = time.process_time()
    try:
        LOADERS[kind](path)
        answer = ["nothing", "it was loaded"]
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps([*answer, time.process_time() - start]), flush=True)
"""


class Payload:
    """What leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Warden:
    """Loads files in another process, whose memory is limited."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def refusal(self, kind: str, path: Path) -> str:
        """Give the message with which a file is refused."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the process died"
        error, message, seconds = json.loads(line)
        assert error in ("StorageError", "InputError"), f"{error}: {message}"
        assert seconds < MOST_SECONDS
        return str(message)


@pytest.fixture(scope="session")
def warden(template: Path) -> Iterator[Warden]:
    command = [sys.executable, "-c", WARDEN, str(template / "agent"), str(ROOM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Warden(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """Give something that must not be unpickled in this test."""
    trace = tmp_path / "code ran"
    yield Payload(trace)
    assert not trace.exists()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    sparse = {"net_arch": [16, 8], "sparsity": 0.5, "layers": "all", "distribution": "uniform"}
    model = SAC(SparseSACPolicy, "Pendulum-v1", buffer_size=1, policy_kwargs=sparse, device="cpu")
    save_agent(model, folder / "agent")
    save_agent(model, folder / "actor", acting_only=True)
    dense = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", buffer_size=1, policy_kwargs={"net_arch": [8]})
    dense.save(folder / "agent.zip")
    return folder


@pytest.fixture
def agent(template: Path, tmp_path: Path) -> Path:
    """Give the folder of a valid agent, with sparse layers."""
    return Path(shutil.copytree(template / "agent", tmp_path / "agent"))


@pytest.fixture
def actor(template: Path, tmp_path: Path) -> Path:
    """Give the folder of a valid agent that acts only, with sparse layers."""
    return Path(shutil.copytree(template / "actor", tmp_path / "actor"))


@pytest.fixture
def archive(template: Path, tmp_path: Path) -> Path:
    """Give the zip file of a valid agent."""
    return Path(shutil.copy(template / "agent.zip", tmp_path / "agent.zip"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what an agent's configuration says."""
    config = json.loads((folder / CONFIG).read_text())
    edit(config)
    (folder / CONFIG).write_text(json.dumps(config))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change an agent's tensors, with a checksum that is right, as anybody can."""
    tensors, metadata = load_tensors(folder / MODEL)
    edit(tensors)
    save_tensors(folder / MODEL, tensors, metadata)


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    """Write a safetensors file with a header of one's own: JSON, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_members(path: Path, **changes: bytes | None) -> None:
    """Replace members of a zip file, ``_`` in their names for a dot; ``None`` removes one."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    edited = {name.replace("_pth", ".pth"): content for name, content in changes.items()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in (members | edited).items():
            if content is not None:
                new.writestr(name, content)


def edit_data(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what the JSON of a Stable-Baselines3 file says."""
    with zipfile.ZipFile(path) as old:
        data = json.loads(old.read("data"))
    edit(data)
    edit_members(path, data=json.dumps(data).encode())


def in_base64(value: object) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()
