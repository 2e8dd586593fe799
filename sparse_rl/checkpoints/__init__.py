"""What it takes to go on with a training run as if nothing had happened: its whole state, on disk, in steps."""

from sparse_rl.checkpoints.agent import keep_agent, restore_agent
from sparse_rl.checkpoints.folder import CheckpointFolder
from sparse_rl.checkpoints.generators import keep_generators, restore_generators
from sparse_rl.checkpoints.replay import ReplayLog
from sparse_rl.checkpoints.trees import Tree, pack, unpack

__all__ = [
    "CheckpointFolder",
    "ReplayLog",
    "Tree",
    "keep_agent",
    "keep_generators",
    "pack",
    "restore_agent",
    "restore_generators",
    "unpack",
]
