"""What is kept on disk: written in one step, read with suspicion. Knows nothing of reinforcement learning."""

from sparse_rl.storage.archives import read_members
from sparse_rl.storage.atomic import move_into_place, write_atomically
from sparse_rl.storage.pth import load_pth
from sparse_rl.storage.reading import StorageError, open_regular, parse_json
from sparse_rl.storage.tensors import load_tensors, save_tensors

__all__ = [
    "StorageError",
    "load_pth",
    "load_tensors",
    "move_into_place",
    "open_regular",
    "parse_json",
    "read_members",
    "save_tensors",
    "write_atomically",
]
