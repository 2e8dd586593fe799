"""
Where agents learn: extremely noisy environments.

Names are in :mod:`~sparse_rl.envs.ids`, wrappers in :mod:`~sparse_rl.envs.noise`, :mod:`~sparse_rl.envs.distractors`
and :mod:`~sparse_rl.envs.permute`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparse_rl.envs.ids import EnvironmentId, EnvironmentIdError, has_time_limit, is_mujoco, make, register_environments

if TYPE_CHECKING:
    from sparse_rl.envs.appended import NonFiniteObservationError, total_features
    from sparse_rl.envs.autoregressive import Autoregressive, time_constants
    from sparse_rl.envs.distractors import DistractorFeatures
    from sparse_rl.envs.distributions import Histograms, NoiseModel, Normal
    from sparse_rl.envs.names import feature_names
    from sparse_rl.envs.noise import NoiseFeatures
    from sparse_rl.envs.permute import PermuteFeatures, permutation_at
    from sparse_rl.envs.philox import Stream

__all__ = [
    "Autoregressive",
    "DistractorFeatures",
    "EnvironmentId",
    "EnvironmentIdError",
    "Histograms",
    "NoiseFeatures",
    "NoiseModel",
    "NonFiniteObservationError",
    "Normal",
    "PermuteFeatures",
    "Stream",
    "feature_names",
    "has_time_limit",
    "is_mujoco",
    "make",
    "permutation_at",
    "register_environments",
    "time_constants",
    "total_features",
]

# Found on first use: these need Numba, which takes longer to import than all the rest (PEP 562).
_LAZY = {
    "Autoregressive": "autoregressive",
    "DistractorFeatures": "distractors",
    "Histograms": "distributions",
    "NoiseFeatures": "noise",
    "NoiseModel": "distributions",
    "NonFiniteObservationError": "appended",
    "Normal": "distributions",
    "PermuteFeatures": "permute",
    "Stream": "philox",
    "feature_names": "names",
    "permutation_at": "permute",
    "time_constants": "autoregressive",
    "total_features": "appended",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
