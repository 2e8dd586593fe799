"""
Running statistics that normalize what an agent sees: Stable-Baselines3's ``VecNormalize``, kept without pickles.

They are part of a saved agent, in the file of its weights, because it is of no use without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sparse_rl.agents.checks import NORMALIZE
from sparse_rl.agents.replay.gather import normalize
from sparse_rl.storage import StorageError

PREFIX = "normalization."  # before the names of these tensors of an agent's file
METADATA = "normalization"  # the settings, in that file's metadata


@dataclass(frozen=True)
class Normalization:
    """
    What a ``VecNormalize`` has seen so far, and how it uses that.

    :param settings: its arguments: ``norm_obs``, ``clip_obs``, ...
    :param statistics: ``obs_mean``, ``obs_var``, of the shape of observations, ``obs_count``, if it
        normalizes them; ``ret_mean``, ``ret_var``, ``ret_count``, of shape ``()``, of discounted returns
    """

    settings: Mapping[str, bool | float]
    statistics: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, env: VecNormalize) -> "Normalization":
        """
        Read it off.

        :param env: the normalized environment
        :return: copies
        :raises ValueError: if its observations are several arrays
        """
        if isinstance(getattr(env, "obs_rms", None), dict):
            raise ValueError("There is no safe format for statistics of Dict observations: save them separately.")
        return cls(
            {name: getattr(env, name) for name in NORMALIZE},
            {
                f"{kind}_{name}": np.array(getattr(getattr(env, f"{kind}_rms"), name), np.float64)
                for kind in _kinds(env.norm_obs)
                for name in _STATISTICS
            },
        )

    def put_into(self, env: VecNormalize) -> None:
        """
        Let an environment have these statistics.

        :param env: a normalized environment with the same settings
        :raises StorageError: if they are those of observations of another shape
        """
        shape = env.observation_space.shape
        if "obs_mean" in self.statistics and self.statistics["obs_mean"].shape != shape:
            raise StorageError(
                f"These statistics are of observations of shape {self.statistics['obs_mean'].shape}, but the "
                f"environment's have {shape}."
            )
        for kind in _kinds(env.norm_obs):
            moments = RunningMeanStd()
            mean, var, count = (self.statistics[f"{kind}_{name}"].copy() for name in _STATISTICS)
            moments.mean, moments.var, moments.count = mean, var, float(count)
            setattr(env, f"{kind}_rms", moments)

    def wrap(self, env: VecEnv, training: bool = False) -> VecNormalize:
        """
        Normalize an environment.

        :param env: the environment
        :param training: whether statistics go on being updated, and rewards are normalized if that was set; else
            rewards are what the environment gives
        :return: the normalized environment
        :raises StorageError: if its observations have another shape
        """
        settings: dict[str, Any] = {**self.settings}
        if not training:
            settings["norm_reward"] = False
        normalized = VecNormalize(env, training=training, **settings)
        self.put_into(normalized)
        return normalized

    def show(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """
        Show observations as the agent sees them, where there is no vectorised environment: on a robot, say.

        :param observations: what the environment gives, of shape ``(features,)`` or ``(batch, features)``
        :return: of the same shape
        """
        if not self.settings["norm_obs"]:
            return np.asarray(observations, np.float32)
        deviations = np.sqrt(self.statistics["obs_var"] + self.settings["epsilon"])
        clip = self.settings["clip_obs"]
        shown = np.clip((observations - self.statistics["obs_mean"]) / deviations, -clip, clip)
        return shown.astype(np.float32)

    def is_that_of(self, env: VecNormalize) -> bool:
        """
        Tell whether an environment has these statistics of observations.

        :param env: a normalized environment
        :return: whether mean and variance are equal, up to rounding; true where observations are not normalized
        """
        if not (env.norm_obs and self.settings["norm_obs"]):
            return bool(env.norm_obs) == self.settings["norm_obs"]
        moments = cast(RunningMeanStd, env.obs_rms)
        return all(
            mine.shape == its.shape and np.allclose(mine, its)
            for mine, its in ((self.statistics["obs_mean"], moments.mean), (self.statistics["obs_var"], moments.var))
        )

    def tensors(self) -> dict[str, th.Tensor]:
        """Give the statistics by the names that they have in an agent's file."""
        return {f"{PREFIX}{name}": th.from_numpy(array.copy()) for name, array in self.statistics.items()}

    @classmethod
    def read(cls, tensors: Mapping[str, th.Tensor], metadata: Mapping[str, Any], where: str) -> "Normalization | None":
        """
        Find it among the tensors of an agent, which may be a stranger's.

        :param tensors: all tensors of its file
        :param metadata: the file's metadata
        :param where: what is read, for error messages
        :return: the statistics; ``None`` if the agent sees what there is
        :raises StorageError: if they are incomplete, or no statistics
        """
        given = {name.removeprefix(PREFIX): each for name, each in tensors.items() if name.startswith(PREFIX)}
        settings = metadata.get(METADATA)
        if not given and settings is None:
            return None
        try:
            if not isinstance(settings, dict) or settings.keys() != NORMALIZE.keys():
                raise ValueError(f"the settings should be {', '.join(NORMALIZE)}")
            for name, value in settings.items():
                NORMALIZE[name](name, value)
            names = {f"{kind}_{name}" for kind in _kinds(settings["norm_obs"]) for name in _STATISTICS}
            if given.keys() != names:
                raise ValueError(f"there should be {', '.join(sorted(names))}")
            for name, tensor in given.items():
                _check(name, tensor)
            if settings["norm_obs"] and given["obs_mean"].shape != given["obs_var"].shape:
                raise ValueError("obs_mean and obs_var have different shapes")
        except ValueError as error:
            raise StorageError(f"The statistics in {where} cannot be used: {error}") from error
        return cls(settings, {name: tensor.numpy().copy() for name, tensor in given.items()})


_STATISTICS = ("mean", "var", "count")


def _kinds(norm_obs: object) -> tuple[str, ...]:
    return ("obs", "ret") if norm_obs else ("ret",)


def _check(name: str, tensor: th.Tensor) -> None:
    if tensor.dtype != th.float64 or not bool(th.isfinite(tensor).all()):
        raise ValueError(f"{name} does not consist of finite 64-bit numbers")
    if (tensor.dim() > 0) != (name in ("obs_mean", "obs_var")):
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
    if not name.endswith("_mean") and not bool((tensor >= 0).all()):
        raise ValueError(f"{name} is negative")


def normalize_rows(features: NDArray[np.float32], env: VecNormalize) -> None:
    """
    Normalize observations in place, with the present statistics.

    :param features: of shape ``(features, batch)``, with contiguous rows
    :param env: has the statistics
    """
    if not env.norm_obs:
        return
    if type(env) is not VecNormalize:  # a subclass may do something else
        features[:] = np.asarray(env.normalize_obs(features.T)).T
        return
    moments = cast(RunningMeanStd, env.obs_rms)
    normalize(features, moments.mean, np.sqrt(moments.var + env.epsilon), float(env.clip_obs))
