"""Where every input feature stood while the connections moved: what an animation is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from sparse_rl.metrics import connections_per_feature
from sparse_rl.sb3.networks import input_layers
from sparse_rl.storage import write_atomically
from sparse_rl.training.run_folder import CONNECTIONS, RunFolder
from sparse_rl.training.vec_envs import real_features

#: So many are kept at most; when there are more, every other one goes.
MOST_FRAMES = 128


@dataclass(frozen=True)
class Frame:
    """
    All input layers at one time.

    :param look: how often one had looked before
    :param step: environment steps so far
    :param real: which entries of the observation were real, of shape ``(observation,)``
    :param connections: connections per input feature, of shape ``(inputs,)``, for each network
    """

    look: int
    step: int
    real: NDArray[np.bool_]
    connections: Mapping[str, NDArray[np.unsignedinteger[Any]]]

    def shows_the_same_as(self, other: "Frame") -> bool:
        """
        Tell whether nothing has moved.

        :param other: another time of the same run
        :return: whether features and connections are the same
        """
        return np.array_equal(self.real, other.real) and all(
            np.array_equal(counts, other.connections[name]) for name, counts in self.connections.items()
        )


class FilmCallback(BaseCallback):
    """
    Keep the connections of every input feature, for ``connectivity.npz``: only when they have changed, and never more
    than :data:`MOST_FRAMES` times, however long a run is.

    :param folder: the folder of the run
    :param every: environment steps between two looks
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.frames: list[Frame] = []
        self._gap = 1  # looks between two frames at least
        self._looks = 0
        self._last_step = 0

    def keep(self) -> dict[str, Any]:
        """Give what has to be kept in a checkpoint: all frames, and when the next one is due."""
        return {"frames": _as_tables(self.frames), "gap": self._gap, "looks": self._looks, "step": self._last_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from where a checkpoint was taken.

        :param state: what :meth:`keep` gave
        """
        tables = state["frames"]
        self.frames = [
            Frame(int(look), int(step), real, {name: counts[place] for name, counts in tables["connections"].items()})
            for place, (look, step, real) in enumerate(
                zip(tables["looks"], tables["steps"], tables["real"], strict=True)
            )
        ]
        self._gap, self._looks, self._last_step = state["gap"], state["looks"], state["step"]

    def _on_training_start(self) -> None:
        self._look()

    def _on_step(self) -> bool:
        if self.num_timesteps - self._last_step >= self.every:
            self._look()
        return True

    def _on_training_end(self) -> None:
        if self.frames:
            self.save()

    def _look(self) -> None:
        frame = self._frame()
        self._looks, self._last_step = self._looks + 1, frame.step
        if self.frames and frame.look - self.frames[-1].look < self._gap:
            return
        if not self.frames or not frame.shows_the_same_as(self.frames[-1]):
            self.frames.append(frame)
        self._thin_out()

    def _thin_out(self) -> None:
        """Let every other frame go when there are too many; one place stays free for the last one, of :meth:`save`."""
        if len(self.frames) >= MOST_FRAMES:
            self.frames = self.frames[::2]
            self._gap *= 2

    def _frame(self) -> Frame:
        layers = input_layers(self.model.policy).items()
        counts = {name: _short(connections_per_feature(layer)[0], layer.out_features) for name, layer in layers}
        return Frame(self._looks, self.num_timesteps, real_features(self.training_env), counts)

    def save(self) -> None:
        """Write ``connectivity.npz``; its last frame is how the networks are now."""
        now = self._frame()
        is_new = not now.shows_the_same_as(self.frames[-1])
        tables = _as_tables([*self.frames, *([now] if is_new else [])])
        arrays = {"steps": tables["steps"], "real": tables["real"], **tables["connections"]}
        write_atomically(self.folder.path / CONNECTIONS, lambda file: np.savez_compressed(file, **arrays))


def _short(counts: NDArray[np.int64], most: int) -> NDArray[np.unsignedinteger[Any]]:
    """Take no more bytes than it needs: a wide observation has many features."""
    return counts.astype(np.min_scalar_type(most))


def _as_tables(frames: Sequence[Frame]) -> dict[str, Any]:
    names = frames[0].connections if frames else {}
    return {
        "looks": np.array([frame.look for frame in frames]),
        "steps": np.array([frame.step for frame in frames]),
        "real": np.array([frame.real for frame in frames]),
        "connections": {name: np.array([frame.connections[name] for frame in frames]) for name in names},
    }
