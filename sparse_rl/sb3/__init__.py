"""The plug into Stable-Baselines3: sparse policies for its learners, dynamic sparse training as its callback."""

from sparse_rl.sb3.callbacks import TopologyCallback
from sparse_rl.sb3.general import sparse_policy
from sparse_rl.sb3.policies import SparseSACPolicy, SparseTD3Policy
from sparse_rl.sb3.screening import ScreeningCallback

__all__ = ["ScreeningCallback", "SparseSACPolicy", "SparseTD3Policy", "TopologyCallback", "sparse_policy"]
