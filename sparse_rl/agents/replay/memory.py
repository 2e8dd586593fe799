"""How much memory a replay buffer takes, and how much there is, before any of it is taken."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.inputs import InputError

_NOISE = {
    ObservedReplayBuffer: "observed noise is regenerated, not stored",
    RedrawnReplayBuffer: "noise is redrawn, not stored",
}


@dataclass(frozen=True)
class Footprint:
    """
    The memory of a replay buffer.

    :param kind: which buffer it is
    :param transitions: how many it holds
    :param nbytes: what they take
    """

    kind: type[ReplayBuffer]
    transitions: int
    nbytes: int

    def describe(self, env: str, is_noisy: bool) -> str:
        """
        Describe the buffer in a line.

        :param env: id of the environment
        :param is_noisy: whether it has noise features
        :return: a line for the user
        """
        line = f"replay buffer: {self.transitions:,} transitions of {env}, {size(self.nbytes)}"
        noise = next((text for kind, text in _NOISE.items() if issubclass(self.kind, kind)), "observed noise is stored")
        return f"{line} ({noise})" if is_noisy else line

    def check(self, n_timesteps: int, available: int) -> None:
        """
        Check that what a run will store fits: memory that is never written to is never taken.

        :param n_timesteps: number of environment steps of the run
        :param available: bytes of memory
        :raises InputError: if it does not fit
        """
        per_transition, stored = self.nbytes / self.transitions, min(self.transitions, n_timesteps)
        if stored * per_transition > available:
            raise InputError(
                f"{stored:,} transitions in the replay buffer need {size(stored * per_transition)} of memory, but "
                f"{size(available)} are available: give a --buffer-size of at most {int(available / per_transition)}."
            )


def size(nbytes: float) -> str:
    """
    Write a number of bytes.

    :param nbytes: for example ``188e6``
    :return: for example ``"0.2 GB"``
    """
    unit, factor = next(((u, f) for u, f in (("GB", 1e9), ("MB", 1e6)) if nbytes >= f / 20), ("kB", 1e3))
    return f"{nbytes / factor:.1f} {unit}"


def nbytes(buffer: ReplayBuffer) -> int:
    """
    Add up the arrays of a replay buffer.

    :param buffer: the buffer
    :return: bytes
    """
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))


def available_memory(root: Path = Path("/")) -> int:
    """
    Find how much memory this process may take: what the machine has left, or its control groups, as in a container.

    :param root: where ``proc`` and ``sys`` are
    :return: bytes
    """
    try:
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        free = next(1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:")
    except (OSError, StopIteration):  # not Linux: at most what is built in
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([free, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Tell what is left below each limit that control groups set, of either version, this process's and those above."""
    try:
        entries = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in entries:
        if controllers == "":
            top, limit, used, reclaimable = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used, reclaimable = (
                "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )  # fmt: skip
        else:
            continue
        inner = root / top / path.strip("/")
        # Inside a container the path may be the host's, which is not to be seen: then only the top is.
        for group in (inner, *inner.parents):
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())  # "max" is no limit
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield left + int(statistics.get(reclaimable, 0))
            except (OSError, ValueError):
                pass
            if group == root / top:
                break
