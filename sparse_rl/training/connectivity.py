"""Where a network looks: connections to real features against connections to noise, measured while it trains."""

from dataclasses import asdict, astuple, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure

from sparse_rl.metrics import connections_per_feature
from sparse_rl.sb3.networks import input_layers
from sparse_rl.training.measurement import FIGURES, Measurement, measure
from sparse_rl.training.pictures import connectivity_picture, features_picture
from sparse_rl.training.run_folder import MEANS, PICTURE, RunFolder
from sparse_rl.training.vec_envs import real_features

NOT_SCALAR = ("stdout", "log", "json", "csv")


class ConnectivityCallback(BaseCallback):
    """
    Log ``connectivity/*``, and keep every measurement for ``connectivity.csv`` and ``connectivity.png``.

    :param folder: the folder of the run
    :param every: environment steps between two measurements
    :param title: title of the pictures
    """

    def __init__(self, folder: RunFolder, every: int, title: str) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.title = title
        self.measurements: list[Measurement] = []

    def keep(self) -> list[Any]:
        """Give what has to be kept in a checkpoint: all measurements, figure by figure."""
        return [list(figures) for figures in zip(*map(astuple, self.measurements), strict=True)]

    def restore(self, state: list[Any]) -> None:
        """
        Go on from where a checkpoint was taken.

        :param state: what :meth:`keep` gave
        """
        self.measurements = [Measurement(*figures) for figures in zip(*state, strict=True)]

    def _on_training_start(self) -> None:
        self.take()

    def _on_step(self) -> bool:
        if self.num_timesteps - self.measurements[-1].step >= self.every:
            self.take()
        return True

    def _on_training_end(self) -> None:
        if not self.measurements:  # training has not begun
            return
        if self.measurements[-1].step < self.num_timesteps:
            self.take()
        self.save()

    def take(self) -> None:
        """Measure all networks now, and hand the figures to the logger."""
        real = real_features(self.training_env)
        for network, layer in input_layers(self.model.policy).items():
            measurement = measure(self.num_timesteps, network, layer, real)
            self.measurements.append(measurement)
            for figure in FIGURES:
                value = getattr(measurement, figure)
                if value is not None:
                    # Curves, not tables: on the console they would drown all else.
                    self.logger.record(f"connectivity/{network}_{figure}", value, exclude=("stdout", "log"))

    def record_picture(self) -> None:
        """Hand the logger a picture of the connections of every input feature, for TensorBoard."""
        picture = features_picture(self._connections(), real_features(self.training_env), self._heading())
        self.logger.record("connectivity/features", Figure(picture, close=True), exclude=NOT_SCALAR)

    def save(self) -> None:
        """Write ``connectivity.csv`` and ``connectivity.png`` into the run's folder."""
        header = [field.name for field in fields(Measurement)]
        rows = [asdict(measurement).values() for measurement in self.measurements]
        lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
        self.folder.write_text(MEANS, "\n".join([",".join(header), *lines, ""]))
        picture = connectivity_picture(
            self.measurements, self._connections(), real_features(self.training_env), self._heading()
        )
        picture.savefig(self.folder.staging / PICTURE, dpi=120)
        self.folder.publish()

    def _connections(self) -> dict[str, NDArray[np.int64]]:
        return {name: connections_per_feature(layer)[0] for name, layer in input_layers(self.model.policy).items()}

    def _heading(self) -> str:
        return f"{self.title}, {self.num_timesteps:,} steps"
