"""The replay buffer on disk: written as it grows, so that a checkpoint costs what has changed since the last one."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from sparse_rl.storage import StorageError, load_tensors, save_tensors

_MOST_BYTES = 2**28  # of a segment
_COUNTERS = ("pos", "full", "batches_drawn", "phase", "_kept", "n_steps")  # as far as a buffer has them
_NAME = re.compile(r"rows_(\d+)_(\d+)\.safetensors")


class ReplayLog:
    """
    The rows of a replay buffer, in the order in which they came, in files of some rows each (segments).

    A row is what one step in all environments adds. The buffer is a ring: row ``n`` is at index ``n % buffer_size`` of
    all its arrays. What was written is not written again, and segments are deleted once no checkpoint needs them.

    :param folder: the folder of the segments, which exists
    :param buffer: any buffer whose arrays have rows in their first dimension
    """

    def __init__(self, folder: Path, buffer: ReplayBuffer) -> None:
        self.folder = folder
        self.buffer = buffer
        self.size = buffer.buffer_size
        #: Segments that are needed, in order: first row, and the one behind the last.
        self.segments: list[tuple[int, int]] = []
        #: Transitions that were cut off after their row had been written: row and copy of the environment.
        self.cuts: list[tuple[int, int]] = []

    @property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {name: value for name, value in vars(self.buffer).items() if isinstance(value, np.ndarray)}
        return {name: array for name, array in arrays.items() if array.size and len(array) == self.size}

    def write(self, rows: int) -> dict[str, Any]:
        """
        Write the rows that have been added since the last call.

        :param rows: how many have been added in all
        :return: what :meth:`read` and :meth:`restore` need, as plain values and arrays
        :raises OSError: if they cannot be written
        """
        arrays = self._arrays
        written = self.segments[-1][1] if self.segments else 0
        first = max(written, rows - self.size)
        row_bytes = sum(array.nbytes for array in arrays.values()) // self.size
        step = max(1, _MOST_BYTES // max(1, row_bytes))
        for start in range(first, rows, step):
            end = min(start + step, rows)
            indices = np.arange(start, end) % self.size
            save_tensors(self._file(start, end), {name: array[indices] for name, array in arrays.items()})
            self.segments.append((start, end))
        self.segments = [segment for segment in self.segments if segment[1] > rows - self.size]
        self.cuts = [cut for cut in self.cuts if cut[0] >= rows - self.size]
        state = {"rows": rows, "segments": list(self.segments), "cuts": list(self.cuts), "head": None}
        if self.buffer.optimize_memory_usage:  # the next observation of the last row is in the next one
            state["head"] = self.buffer.observations[self.buffer.pos].copy()
        return state | {name: int(getattr(self.buffer, name)) for name in _COUNTERS if hasattr(self.buffer, name)}

    def read(self, state: dict[str, Any]) -> None:
        """
        Read the rows into the buffer, which is empty as before until :meth:`restore`.

        :param state: what :meth:`write` gave
        :raises StorageError: if a segment is missing or damaged, or is that of another buffer
        :raises OSError: if one cannot be read
        """
        arrays = self._arrays
        for start, end in state["segments"]:
            file = self._file(start, end)
            if not file.exists():
                raise StorageError(f"{str(file)!r} is missing.")
            rows, _ = load_tensors(file, max_bytes=2 * _MOST_BYTES)
            expected = {name: (end - start, *array.shape[1:]) for name, array in arrays.items()}
            if {name: tuple(tensor.shape) for name, tensor in rows.items()} != expected:
                raise StorageError(f"{str(file)!r} holds rows of another replay buffer.")
            indices = np.arange(start, end) % self.size
            for name, array in arrays.items():
                if rows[name].numpy().dtype != array.dtype:
                    raise StorageError(f"{str(file)!r} holds {name} of another type.")
                array[indices] = rows[name].numpy()
        self.segments = [(start, end) for start, end in state["segments"]]

    def restore(self, state: dict[str, Any]) -> None:
        """
        Let the buffer have the rows that were read.

        :param state: what :meth:`write` gave
        """
        if state["head"] is not None:
            self.buffer.observations[state["pos"]] = state["head"]
        for name in _COUNTERS:
            if name in state:
                setattr(self.buffer, name, type(getattr(self.buffer, name))(state[name]))
        for row, rank in state.get("cuts", ()):
            self.cut_off(row, rank)

    def cut_off(self, row: int, rank: int) -> None:
        """
        Let an episode end, if it did not, with a transition that is in the buffer already: as if for a time limit, if
        the buffer has the observation after it.

        :param row: how many rows had been added before it
        :param rank: the copy of the environment
        """
        index = row % self.size
        if self.buffer.dones[index, rank]:
            return
        self.buffer.dones[index, rank] = 1
        if not self.buffer.optimize_memory_usage:  # else the next observation is the next row's, of another episode
            self.buffer.timeouts[index, rank] = 1
        self.cuts.append((row, rank))

    def prune(self, rows_of_checkpoints: Iterable[int]) -> None:
        """
        Delete segments that no checkpoint needs: rows that the ring has overwritten, or that came after all of them, or
        that a process wrote which was killed before its checkpoint was there.

        :param rows_of_checkpoints: how many rows had been added at each checkpoint
        """
        kept = list(rows_of_checkpoints)
        for file in self.folder.iterdir():
            if match := _NAME.fullmatch(file.name):
                start, end = map(int, match.groups())
                is_known = (start, end) in self.segments or not self.segments or end <= self.segments[0][0]
                if not is_known or not any(start < rows and end > rows - self.size for rows in kept):
                    file.unlink(missing_ok=True)

    def _file(self, start: int, end: int) -> Path:
        return self.folder / f"rows_{start:010}_{end:010}.safetensors"
