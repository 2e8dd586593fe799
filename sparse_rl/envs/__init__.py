"""
Where agents learn: extremely noisy environments.

Names are in :mod:`~sparse_rl.envs.ids`, wrappers in :mod:`~sparse_rl.envs.noise` and :mod:`~sparse_rl.envs.permute`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparse_rl.envs.ids import EnvironmentId, EnvironmentIdError, make, register_environments

if TYPE_CHECKING:
    from sparse_rl.envs.distributions import Histograms, NoiseModel, Normal
    from sparse_rl.envs.noise import NoiseFeatures, NonFiniteObservationError, total_features
    from sparse_rl.envs.permute import PermuteFeatures, permutation_at
    from sparse_rl.envs.philox import Stream

__all__ = [
    "EnvironmentId",
    "EnvironmentIdError",
    "Histograms",
    "NoiseFeatures",
    "NoiseModel",
    "NonFiniteObservationError",
    "Normal",
    "PermuteFeatures",
    "Stream",
    "make",
    "permutation_at",
    "register_environments",
    "total_features",
]

# Found on first use: these need Numba, which takes longer to import than all the rest (PEP 562).
_LAZY = {
    "Histograms": "distributions",
    "NoiseFeatures": "noise",
    "NoiseModel": "distributions",
    "NonFiniteObservationError": "noise",
    "Normal": "distributions",
    "PermuteFeatures": "permute",
    "Stream": "philox",
    "permutation_at": "permute",
    "total_features": "noise",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
