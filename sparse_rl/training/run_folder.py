"""A run's folder: numbered, explaining itself, and never holding a half-written file."""

import os
import re
import shutil
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from sparse_rl.storage import move_into_place, write_atomically

STAGING = ".partial"  # in a run's folder; gone once the run has been closed
CHECKPOINTS = "checkpoints"  # in a run's folder; gone once the run is finished
LOCK = "lock"  # in the folder of checkpoints: held while the run goes on
_EVENTS = "events.out.tfevents.*"
_OWNER = ".run"  # in a folder of curves that is not the run's own: which run it belongs to
# What a run writes as it goes, besides agents in folders; config.yml and command.txt are written anew.
_LEFT_BEHIND = ("*.monitor.csv", "*.zip", "connectivity.*", _EVENTS, "phases.yml", "summary.yml")


class RunFolder:
    """
    The folder ``<root>/<algorithm>/<environment>/<n>``, newly created.

    Files that readers may meet at any time are written into :attr:`staging` and moved out, complete, by
    :meth:`publish`; so Stable-Baselines3's own callbacks, which write in place, need no change.

    :param root: the folder of all runs
    :param algorithm: name of the algorithm
    :param environment: id of the environment
    :raises OSError: if it cannot be created
    """

    def __init__(self, root: Path, algorithm: str, environment: str) -> None:
        self.environment = file_name(environment)
        parent = root / file_name(algorithm) / self.environment
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.path = _claim_next(parent)
        except OSError as error:
            raise OSError(f"The run's folder cannot be created in {str(parent)!r}: {error.strerror}.") from error
        self.name = self.path.relative_to(root)
        self.staging.mkdir()
        self.checkpoints.mkdir()

    @classmethod
    def reopen(cls, path: Path, environment: str) -> "RunFolder":
        """
        Open the folder of a run that goes on, and remove what was being written when it was cut off.

        :param path: the folder
        :param environment: id of the environment
        :return: the folder
        :raises OSError: if it cannot be written
        """
        folder = cls.__new__(cls)
        folder.environment, folder.path, folder.name = file_name(environment), path, Path(*path.absolute().parts[-3:])
        folder.staging.mkdir(exist_ok=True)
        folder.discard()
        for partial in [*path.glob(".*.partial"), *folder.checkpoints.rglob(".*.partial")]:
            if partial.is_file():
                partial.unlink()
        return folder

    @property
    def staging(self) -> Path:
        """The folder of files that are being written."""
        return self.path / STAGING

    @property
    def checkpoints(self) -> Path:
        """The folder of what it takes to continue the run."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """The file of the agent as it is when training ends."""
        return self.path / f"{self.environment}.zip"

    @property
    def best_model(self) -> Path:
        """The file of the agent that did best in an evaluation."""
        return self.path / "best_model.zip"

    def claim_curves(self, wanted: Path, is_new: bool) -> Path:
        """
        Find a folder for the run's curves in which no other run writes: of its own, the curves so far included.

        :param wanted: the folder; if it belongs to another run, of which this one may be a copy, one beside it is taken
        :param is_new: whether the run has no curves yet
        :return: the folder, which is there
        :raises OSError: if it cannot be written
        """
        if wanted == self.path:
            return wanted
        beside = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
        folder = next(f for f in chain([wanted], beside) if self._may_claim(f, f == wanted and not is_new))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _OWNER, lambda file: file.write(os.fsencode(self.path.absolute())))
        if folder != wanted and not is_new and not any(folder.glob(_EVENTS)):
            for file in wanted.glob(_EVENTS):
                shutil.copy2(file, folder)
        return folder

    def _may_claim(self, folder: Path, has_curves_there: bool) -> bool:
        """Tell whether a folder of curves is this run's, or nobody's."""
        try:
            owner = Path(os.fsdecode((folder / _OWNER).read_bytes()))
        except FileNotFoundError:
            return has_curves_there or not any(folder.glob(_EVENTS))
        return owner == self.path.absolute() or (has_curves_there and not owner.exists())

    def publish(self) -> None:
        """Move all files out of :attr:`staging`; each replaces its predecessor in one step."""
        for entry in os.scandir(self.staging):
            move_into_place(Path(entry.path), self.path / entry.name)

    def write_text(self, name: str, text: str) -> None:
        """
        Write a text file in one step.

        :param name: its name
        :param text: its content
        """
        write_atomically(self.path / name, lambda file: file.write(text.encode("utf-8")))

    def write_yaml(self, name: str, content: dict[str, Any]) -> None:
        """
        Write a plain YAML file in one step, keys in their own order.

        :param name: its name
        :param content: dictionaries, lists, strings, numbers
        """
        self.write_text(name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))

    def remove(self) -> None:
        """Remove the folder: the run has not begun."""
        shutil.rmtree(self.path)

    def begin_anew(self) -> None:
        """
        Remove what a run left that was cut off before it had a checkpoint, and nothing else.

        :raises FileExistsError: if it has been evaluated: results are not thrown away
        """
        if any((self.path / name).exists() for name in ("evaluations.npz", self.best_model.name)):
            raise FileExistsError(
                f"The run in {str(self.path)!r} has results but no checkpoint: it cannot be continued, and is not "
                "begun anew in the same folder. Start another run with the same command."
            )
        for pattern in _LEFT_BEHIND:
            for file in self.path.glob(pattern):
                file.unlink()
        for file in self.path.glob("*/model.safetensors"):
            shutil.rmtree(file.parent)

    def discard(self) -> None:
        """Remove what lies in :attr:`staging`."""
        for entry in os.scandir(self.staging):
            os.remove(entry.path)

    def close(self) -> None:
        """Remove :attr:`staging`, with whatever has not been published."""
        shutil.rmtree(self.staging)


def agent_folder(file: Path) -> Path:
    """
    Name the folder of the same agent in the form that is safe to load.

    It has an ending of its own: Stable-Baselines3 looks for ``best_model`` before ``best_model.zip``.

    :param file: an agent's zip file in a run's folder
    :return: the folder beside it, for :func:`sparse_rl.agents.load_agent`
    """
    former = file.with_suffix("")  # of runs of version 0.1
    folder = file.with_suffix(".agent")
    return former if (former / "model.safetensors").exists() and not folder.exists() else folder


def file_name(environment: str) -> str:
    """
    Turn an environment id into a file name, as rl-baselines3-zoo does.

    :param environment: for example ``"dm_control/walker-v0"``
    :return: for example ``"dm_control-walker-v0"``
    """
    return re.sub(r"[/:\\]", "-", environment)


def _claim_next(parent: Path) -> Path:
    """Create the folder with the next free number. ``mkdir`` is atomic: of two runs started together, one goes on."""
    while True:
        numbers = [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
        path = parent / str(max(numbers, default=0) + 1)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
