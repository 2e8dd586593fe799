"""Where a network looks: connections to real features against connections to noise, measured while it trains."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sparse_rl.metrics import connections_per_feature
from sparse_rl.nn import SparseLinear
from sparse_rl.training.run_folder import RunFolder
from sparse_rl.training.vec_envs import real_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

NOT_SCALAR = ("stdout", "log", "json", "csv")


@dataclass(frozen=True)
class Measurement:
    """
    The input layer of one network at one time; a figure that does not exist is ``None``.

    :param step: environment steps so far
    :param network: ``"actor"``, ``"qf0"``, ``"qf1"``
    :param real: active weights per real feature
    :param noise: active weights per noise feature
    :param action: active weights per action entry, which only critics have
    :param real_abs: mean magnitude of the active weights at real features
    :param noise_abs: the same at noise features
    :param action_abs: the same at action entries
    """

    step: int
    network: str
    real: float | None
    noise: float | None
    action: float | None
    real_abs: float | None
    noise_abs: float | None
    action_abs: float | None


FIGURES = [field.name for field in fields(Measurement)][2:]


def input_layers(model: OffPolicyAlgorithm) -> Mapping[str, SparseLinear | nn.Linear]:
    """
    Find the input layers of an agent's networks.

    :param model: a SAC or TD3 agent
    :return: ``{"actor": ..., "qf0": ..., "qf1": ...}``
    """
    networks = {"actor": model.actor}
    networks |= {f"qf{i}": network for i, network in enumerate(model.critic.q_networks)}  # type: ignore[attr-defined]
    return {name: _first_layer(network) for name, network in networks.items()}


def _first_layer(network: nn.Module) -> SparseLinear | nn.Linear:
    return next(module for module in network.modules() if isinstance(module, SparseLinear | nn.Linear))


def measure(step: int, network: str, layer: SparseLinear | nn.Linear, real: NDArray[np.bool_]) -> Measurement:
    """
    Measure one input layer. Its inputs are ``[observation]`` or, in a critic, ``[observation | action]``.

    :param step: environment steps so far
    :param network: name of the network
    :param layer: its input layer
    :param real: which entries of the observation are real
    :return: the measurement
    """
    counts, strengths = connections_per_feature(layer)
    is_action = np.arange(len(counts)) >= len(real)
    is_real = np.append(real, np.zeros(len(counts) - len(real), dtype=bool))
    groups = {"real": is_real, "noise": ~is_real & ~is_action, "action": is_action}
    values: dict[str, float | None] = {}
    for name, group in groups.items():
        present = bool(group.any())
        values[name] = float(counts[group].mean()) if present else None
        values[f"{name}_abs"] = float(strengths[group].sum() / max(counts[group].sum(), 1)) if present else None
    return Measurement(step, network, **values)


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

    def _on_training_start(self) -> None:
        self.take()

    def _on_step(self) -> bool:
        if self.num_timesteps - self.measurements[-1].step >= self.every:
            self.take()
        return True

    def _on_training_end(self) -> None:
        if self.measurements[-1].step < self.num_timesteps:
            self.take()
        self.save()

    def take(self) -> None:
        """Measure all networks now, and hand the figures to the logger."""
        assert isinstance(self.model, OffPolicyAlgorithm)
        real = real_features(self.training_env)
        for network, layer in input_layers(self.model).items():
            measurement = measure(self.num_timesteps, network, layer, real)
            self.measurements.append(measurement)
            for figure in FIGURES:
                value = getattr(measurement, figure)
                if value is not None:
                    # Curves, not tables: on the console they would drown all else.
                    self.logger.record(f"connectivity/{network}_{figure}", value, exclude=("stdout", "log"))

    def record_picture(self) -> None:
        """Hand the logger a picture of the connections of every input feature, for TensorBoard."""
        from sparse_rl.training.pictures import features_picture

        picture = features_picture(self._connections(), real_features(self.training_env), self._heading())
        self.logger.record("connectivity/features", Figure(picture, close=True), exclude=NOT_SCALAR)

    def save(self) -> None:
        """Write ``connectivity.csv`` and ``connectivity.png`` into the run's folder."""
        from sparse_rl.training.pictures import connectivity_picture

        header = [field.name for field in fields(Measurement)]
        rows = [asdict(measurement).values() for measurement in self.measurements]
        lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
        self.folder.write_text("connectivity.csv", "\n".join([",".join(header), *lines, ""]))
        picture: Picture = connectivity_picture(
            self.measurements, self._connections()["actor"], real_features(self.training_env), self._heading()
        )
        picture.savefig(self.folder.staging / "connectivity.png", dpi=120)
        self.folder.publish()

    def _connections(self) -> dict[str, NDArray[np.int64]]:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return {name: connections_per_feature(layer)[0] for name, layer in input_layers(self.model).items()}

    def _heading(self) -> str:
        return f"{self.title}, {self.num_timesteps:,} steps"
