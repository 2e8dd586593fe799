"""A run's folder: numbered, explaining itself, and never holding a half-written file."""

import os
import re
import shutil
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from sparse_rl.inputs import InputError
from sparse_rl.storage import PARTIAL, move_into_place, write_atomically

SETTINGS = "config.yml"
COMMAND = "command.txt"
SUMMARY = "summary.yml"
EVALUATIONS = "evaluations.npz"
BEST_MODEL = "best_model.zip"
MEANS = "connectivity.csv"  # of real features' and of noise features' connections, over time
CONNECTIONS = "connectivity.npz"  # of every feature, over time
PICTURE = "connectivity.png"
EVENTS = "events.out.tfevents."  # begins the names of TensorBoard's files
STAGING = ".partial"  # in a run's folder; gone once the run has been closed
CHECKPOINTS = "checkpoints"  # in a run's folder; gone once the run is finished
LOCK = "lock"  # in the folder of checkpoints: held while the run goes on
_PARTIAL = f".*{PARTIAL}"  # files and folders that were being written when a process was killed
_OWNER = ".run"  # in a folder of curves that is not the run's own: which run it belongs to
# What a run writes as it goes, besides results; settings and command are written anew.
_LEFT_BEHIND = ("*.monitor.csv", "connectivity.*", f"{EVENTS}*", SUMMARY)
# What it was there for, and nobody shall lose: evaluations, and agents in both forms.
_RESULTS = (EVALUATIONS, "*.zip", "*/model.safetensors")


class RunFolder:
    """
    The folder ``<root>/<algorithm>/<environment>/<n>``, newly created.

    It is claimed at first, and closed in the end, as a context manager or by :meth:`close`. A folder that is closed
    before :meth:`begin` is removed: the run has not begun. From then on nothing removes it any more, whatever goes
    wrong, and closing only tidies it up.

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
        self.is_begun = self._is_closed = False
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
        folder.is_begun, folder._is_closed = True, False
        folder.staging.mkdir(exist_ok=True)
        folder.discard()
        for partial in [*path.glob(_PARTIAL), *path.glob(f"*.agent/{_PARTIAL}"), *folder.checkpoints.rglob(_PARTIAL)]:
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()
        return folder

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        return self.path / last_model(self.environment)

    @property
    def best_model(self) -> Path:
        """The file of the agent that did best in an evaluation."""
        return self.path / BEST_MODEL

    def claim_curves(self, wanted: Path, is_new: bool) -> Path:
        """
        Find a folder for the run's curves in which no other run writes: of its own, the curves so far included.

        :param wanted: the folder; if it belongs to another run, of which this one may be a copy, or which was where
            this one is and has been moved, one beside it is taken
        :param is_new: whether the run has no curves yet; then it gets a folder without any
        :return: the folder, which is there
        :raises OSError: if it cannot be written
        """
        if wanted == self.path:
            return wanted
        beside = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
        folder = next(f for f in chain([wanted], beside) if self._may_claim(f, is_new, f == wanted))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _OWNER, lambda file: file.write(os.fsencode(self.path.absolute())))
        if folder != wanted and not is_new and not any(folder.glob(f"{EVENTS}*")):
            for file in wanted.glob(f"{EVENTS}*"):
                shutil.copy2(file, folder)
        return folder

    def _may_claim(self, folder: Path, is_new: bool, is_wanted: bool) -> bool:
        """Tell whether a folder of curves is this run's, or nobody's."""
        has_curves = any(folder.glob(f"{EVENTS}*"))
        if is_new and has_curves:
            return False  # of whomever: a run that was in this place and has been moved has left the same name there
        has_curves_there = is_wanted and not is_new
        try:
            owner = Path(os.fsdecode((folder / _OWNER).read_bytes()))
        except FileNotFoundError:
            return has_curves_there or not has_curves
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

    def begin(self) -> None:
        """From now on the folder stays: training begins."""
        self.is_begun = True

    def begin_anew(self) -> None:
        """
        Remove what a run left that was cut off before it had a checkpoint, and nothing else.

        :raises InputError: if there are evaluations or agents: results are not thrown away
        """
        if has_results(self.path):
            raise InputError(
                f"The run in {str(self.path)!r} has results but no checkpoint, so it can neither be continued "
                "nor started again in the same folder. Start another run with the same command, and a smaller "
                "--checkpoint-freq if it is short."
            )
        for pattern in _LEFT_BEHIND:
            for file in self.path.glob(pattern):
                file.unlink()

    def discard(self) -> None:
        """Remove what lies in :attr:`staging`."""
        for entry in os.scandir(self.staging):
            os.remove(entry.path)

    def close(self) -> None:
        """Remove :attr:`staging`, with whatever has not been published; or all, if the run has not begun."""
        if self._is_closed:
            return  # what has this name now may be another run's
        self._is_closed = True
        if self.is_begun:
            shutil.rmtree(self.staging)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def has_results(folder: Path) -> bool:
    """
    Tell whether a run has something to show for itself: evaluations, or an agent.

    :param folder: its folder
    :return: whether it has
    """
    return any(any(folder.glob(pattern)) for pattern in _RESULTS)


def last_model(environment: str) -> str:
    """
    Name the file of the agent as it is when training ends.

    :param environment: id of the environment
    :return: for example ``"HalfCheetah-noise98.zip"``
    """
    return f"{file_name(environment)}.zip"


def agent_folder(file: Path) -> Path:
    """
    Name the folder of the same agent in the form that is safe to load.

    It has an ending of its own: Stable-Baselines3 looks for ``best_model`` before ``best_model.zip``.

    :param file: an agent's zip file in a run's folder
    :return: the folder beside it, for :func:`sparse_rl.agents.load_agent`
    """
    return file.with_suffix(".agent")


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
