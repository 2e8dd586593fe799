"""
Truly sparse networks and dynamic sparse training for deep reinforcement learning.

Importing this package registers its extremely noisy environments with Gymnasium and nothing more: PyTorch and
Stable-Baselines3 are imported by the subpackages that need them.
"""

from sparse_rl.envs import register_environments
from sparse_rl.version import __version__

__all__ = ["__version__"]

register_environments()
