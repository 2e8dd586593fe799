"""Run folders: numbered without gaps or collisions, and no file is ever seen half-written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from sparse_rl.training.run_folder import RunFolder, file_name


def test_numbers_count_up(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path, "sac", "Hopper-v5") for _ in range(11)]
    assert [int(folder.path.name) for folder in folders] == list(range(1, 12))
    assert folders[0].path == tmp_path / "sac" / "Hopper-v5" / "1"
    assert folders[0].name == Path("sac/Hopper-v5/1")


def test_other_files_do_not_count(tmp_path: Path) -> None:
    parent = tmp_path / "sac" / "Hopper-v5"
    for name in ("notes", "7-old", "3"):
        (parent / name).mkdir(parents=True)
    assert RunFolder(tmp_path, "sac", "Hopper-v5").path.name == "4"


def test_runs_started_together_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: RunFolder(tmp_path, "sac", "Hopper-v5"), range(64)))
    assert sorted(int(folder.path.name) for folder in folders) == list(range(1, 65))


def test_files_appear_when_they_are_complete(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "sac", "Hopper-v5")
    (folder.staging / "best_model.zip").write_bytes(b"old")
    folder.publish()
    with (folder.staging / "best_model.zip").open("wb") as file:
        file.write(b"ne")
        assert folder.best_model.read_bytes() == b"old"
        file.write(b"w")
    folder.publish()
    assert folder.best_model.read_bytes() == b"new"
    folder.begin()
    folder.close()
    assert {path.name for path in folder.path.iterdir()} == {"best_model.zip", "checkpoints"}


def test_a_folder_that_was_cut_off_is_opened_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "sac", "Hopper-v5")
    folder.write_text("config.yml", "seed: 1")
    agent, replay = folder.path / "best_model.agent", folder.checkpoints / "replay"
    for where in (agent / ".c.partial", replay):
        where.mkdir(parents=True)
    for half in (
        folder.staging / "best_model.zip",
        folder.path / ".a.partial",
        folder.checkpoints / ".b.partial",
        replay / ".d.partial",
        agent / ".c.partial" / "config.json",
        agent / ".model.safetensors.e.partial",
    ):
        half.write_bytes(b"ha")
    (agent / "config.json").write_bytes(b"whole")
    again = RunFolder.reopen(folder.path, "Hopper-v5")
    assert (again.path, again.name, again.model) == (folder.path, folder.name, folder.model)
    assert {path.name for path in again.path.iterdir()} == {"config.yml", ".partial", "checkpoints", "best_model.agent"}
    assert [path.name for path in agent.iterdir()] == ["config.json"]
    assert not [*again.staging.iterdir(), *replay.iterdir()]


def test_only_a_folder_whose_run_has_not_begun_is_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "sac", "Hopper-v5") as claimed:
        assert claimed.path.exists()
    assert not claimed.path.exists()
    claimed.path.mkdir()  # by another run, which gets the same number
    claimed.close()
    claimed.path.rmdir()
    begun = RunFolder(tmp_path, "sac", "Hopper-v5")
    begun.begin()
    with pytest.raises(BrokenPipeError), begun:
        raise BrokenPipeError
    with RunFolder.reopen(begun.path, "Hopper-v5") as again:
        assert again.staging.exists()
    again.close()
    assert [path.name for path in begun.path.iterdir()] == ["checkpoints"]


def test_a_new_run_gets_curves_of_its_own(tmp_path: Path) -> None:
    """Also where another one was before it was moved: that one has the same name, but what it has learnt stays."""
    former = RunFolder(tmp_path / "runs", "sac", "Hopper-v5")
    wanted = tmp_path / "curves" / former.name
    assert former.claim_curves(wanted, is_new=True) == wanted
    (wanted / "events.out.tfevents.1").write_bytes(b"what it has learnt")
    archived = former.path.rename(tmp_path / "archived")
    new = RunFolder(tmp_path / "runs", "sac", "Hopper-v5")
    assert new.path == former.path
    curves = new.claim_curves(wanted, is_new=True)
    assert curves == wanted.with_name("1-2")
    (curves / "events.out.tfevents.2").write_bytes(b"what this one learns")
    assert new.claim_curves(curves, is_new=False) == curves
    beside = RunFolder.reopen(archived, "Hopper-v5").claim_curves(wanted, is_new=False)
    assert (beside / "events.out.tfevents.1").read_bytes() == b"what it has learnt"


def test_yaml_is_plain_and_ordered(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "sac", "Hopper-v5")
    content = {"seed": 1, "env": "Hopper-v5", "list": [1, 2.5, None, "é"]}
    folder.write_yaml("config.yml", content)
    text = (folder.path / "config.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == content
    assert text.startswith("seed: 1\nenv: Hopper-v5\n")


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "sac").write_text("a file stands in the way")
    with pytest.raises(OSError, match=r"The run's folder cannot be created in '.*Hopper-v5': .+\."):
        RunFolder(tmp_path, "sac", "Hopper-v5")


def test_file_name_is_that_of_the_zoo() -> None:
    assert file_name("HalfCheetah-noise98") == "HalfCheetah-noise98"
    assert file_name("dm_control/walker-walk-v0") == "dm_control-walker-walk-v0"
    assert file_name("sparse_rl:Hopper-noise90") == "sparse_rl-Hopper-noise90"
