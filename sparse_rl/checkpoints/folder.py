"""The checkpoints of a run: the last few, each complete or not there."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sparse_rl.checkpoints.trees import Tree, pack, unpack
from sparse_rl.storage import StorageError, load_tensors, save_tensors

_NAME = re.compile(r"step_(\d+)\.safetensors")
_MOST_BYTES = 2**36  # what a user's own checkpoint may have: what memory holds


class CheckpointFolder:
    """
    A folder of checkpoints, numbered by environment steps.

    :param path: the folder
    :param keep: how many checkpoints are kept
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    @property
    def steps(self) -> list[int]:
        """The environment steps of the checkpoints that there are, the newest first."""
        if not self.path.is_dir():
            return []
        matches = (_NAME.fullmatch(file.name) for file in self.path.iterdir())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def save(self, step: int, state: Tree) -> None:
        """
        Write a checkpoint, and delete those that are too many.

        :param step: environment steps so far
        :param state: the state, as a tree
        :raises OSError: if it cannot be written; then those that were there are there still
        """
        save_tensors(self._file(step), pack(state))
        for old in self.steps[self.keep :]:
            self._file(old).unlink(missing_ok=True)

    def load(self, complain: Callable[[str], None]) -> Iterator[tuple[int, Tree]]:
        """
        Read the checkpoints, the newest first.

        :param complain: is told, in a sentence, of each that is damaged, which is left out
        :return: environment steps and state of each
        """
        for step in self.steps:
            try:
                tensors, _ = load_tensors(self._file(step), max_bytes=_MOST_BYTES)
                yield step, unpack(tensors)
            except (StorageError, OSError) as error:
                complain(f"The checkpoint at step {step:,} cannot be read: {error}")

    def forget_after(self, step: int) -> None:
        """
        Delete the checkpoints of a future that will be another one.

        :param step: environment steps of the newest one to keep
        """
        for newer in self.steps:
            if newer > step:
                self._file(newer).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, step: int) -> Path:
        return self.path / f"step_{step:012}.safetensors"
