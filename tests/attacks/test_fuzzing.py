"""Attack: valid files with some bytes changed. Whatever still loads has valid topologies, and acts."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm

from sparse_rl.agents import load_agent, safe_load
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.nn import sparse_layers
from sparse_rl.storage import StorageError, load_tensors

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Damage = Callable[[bytes], bytes]


def flips(low: int = 0, high: int | None = None) -> st.SearchStrategy[Damage]:
    """Change up to four bytes at places from ``low`` on."""
    changes = st.lists(st.tuples(st.integers(0, 2**30), st.integers(1, 255)), min_size=1, max_size=4)

    def damage(places: list[tuple[int, int]]) -> Damage:
        def apply(content: bytes) -> bytes:
            result = bytearray(content)
            for place, bits in places:
                result[low + place % ((high or len(result)) - low)] ^= bits
            return bytes(result)

        return apply

    return changes.map(damage)


CUTS: st.SearchStrategy[Damage] = st.floats(0, 1, exclude_max=True).map(lambda x: lambda c: c[: int(x * len(c))])
ADDITIONS: st.SearchStrategy[Damage] = st.binary(min_size=1, max_size=64).map(lambda more: lambda c: c + more)
DAMAGES = st.one_of(flips(), CUTS, ADDITIONS)


def check(load: Callable[[Path], BaseAlgorithm], path: Path) -> None:
    """Load what may be damaged; if it loads, no kernel must go astray in it."""
    try:
        model = load(path)
    except (StorageError, FileNotFoundError):
        return
    for layer in sparse_layers(model.policy).values():
        layer.topology.validate()
    action, _ = model.predict(np.ones((2, 3), np.float32), deterministic=True)
    assert action.shape == (2, 1)


@FUZZ
@given(DAMAGES)
@example(lambda content: content.replace(b"sparse_rl", b"sparse-rl", 1))
def test_tensors_with_a_checksum(template: Path, agent: Path, damage: Damage) -> None:
    """No change of a number is loaded: at most one of the word that announces the checksum."""
    content = (template / "agent" / MODEL).read_bytes()
    assume(damage(content) != content)  # two changes can undo each other
    (agent / MODEL).write_bytes(damage(content))
    try:
        loaded = load_agent(agent).policy.state_dict()
    except StorageError:
        return
    expected = load_agent(template / "agent").policy.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def without_checksum(folder: Path) -> bytes:
    """Store an agent's tensors as others do, so that a change of them can only be seen in what they say."""
    tensors, _ = load_tensors(folder / MODEL)
    save_file(tensors, folder / MODEL)
    return (folder / MODEL).read_bytes()


@FUZZ
@given(DAMAGES)
def test_tensors_without_a_checksum(agent: Path, damage: Damage) -> None:
    content = without_checksum(agent)
    (agent / MODEL).write_bytes(damage(content))
    check(load_agent, agent)
    (agent / MODEL).write_bytes(content)


@FUZZ
@given(st.data())
def test_indices(agent: Path, data: st.DataObject) -> None:
    """The same, aimed at what kernels follow."""
    content = without_checksum(agent)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    names = sorted(name for name in header if name.endswith(("columns", "row_ptr")))
    start, end = header[data.draw(st.sampled_from(names))]["data_offsets"]
    damage = data.draw(flips(8 + length + start, 8 + length + end))
    (agent / MODEL).write_bytes(damage(content))
    check(load_agent, agent)
    (agent / MODEL).write_bytes(content)


@FUZZ
@given(DAMAGES)
def test_configurations(template: Path, agent: Path, damage: Damage) -> None:
    (agent / CONFIG).write_bytes(damage((template / "agent" / CONFIG).read_bytes()))
    check(load_agent, agent)


@FUZZ
@given(DAMAGES, st.sampled_from([CONFIG, MODEL]))
def test_agents_that_act_only(template: Path, actor: Path, damage: Damage, name: str) -> None:
    """Both files, one at a time; the tensors without a checksum."""
    for file in (CONFIG, MODEL):
        shutil.copy(template / "actor" / file, actor)
    without_checksum(actor)
    (actor / name).write_bytes(damage((actor / name).read_bytes()))
    check(load_agent, actor)


@FUZZ
@given(DAMAGES)
def test_archives(template: Path, archive: Path, damage: Damage) -> None:
    archive.write_bytes(damage((template / "agent.zip").read_bytes()))
    check(safe_load, archive)


@FUZZ
@given(DAMAGES, st.sampled_from(["data", "policy.pth", "pytorch_variables.pth"]))
def test_members_of_archives(template: Path, archive: Path, damage: Damage, member: str) -> None:
    """The same, with checksums of the archive that are right."""
    with zipfile.ZipFile(template / "agent.zip") as old, zipfile.ZipFile(archive, "w") as new:
        for name in old.namelist():
            new.writestr(name, damage(old.read(name)) if name == member else old.read(name))
    check(safe_load, archive)


def test_undamaged_files_load(agent: Path, archive: Path, tmp_path: Path) -> None:
    """So that the tests above fail for the right reason."""
    check_loads = [load_agent(agent), safe_load(archive)]
    shutil.copytree(agent, tmp_path / "other")
    without_checksum(tmp_path / "other")
    check_loads.append(load_agent(tmp_path / "other"))
    assert [type(model).__name__ for model in check_loads] == ["SAC"] * 3
