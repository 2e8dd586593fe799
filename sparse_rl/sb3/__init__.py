"""The plug into Stable-Baselines3: sparse policies for its learners, dynamic sparse training as its callback."""

from sparse_rl.sb3.callbacks import TopologyCallback
from sparse_rl.sb3.policies import SparseSACPolicy, SparseTD3Policy

__all__ = ["SparseSACPolicy", "SparseTD3Policy", "TopologyCallback"]
