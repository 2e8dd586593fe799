"""What is kept on disk: written in one step, read with suspicion. Knows nothing of reinforcement learning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparse_rl.storage.archives import read_members
from sparse_rl.storage.atomic import PARTIAL, move_into_place, write_atomically
from sparse_rl.storage.lock import LockedError, locked
from sparse_rl.storage.reading import StorageError, open_regular, parse_json

if TYPE_CHECKING:
    from sparse_rl.storage.arrays import load_arrays
    from sparse_rl.storage.pth import load_pth
    from sparse_rl.storage.safe_yaml import parse_yaml, read_yaml, read_yaml_text
    from sparse_rl.storage.tensors import load_tensors, save_tensors

__all__ = [
    "PARTIAL",
    "LockedError",
    "StorageError",
    "load_arrays",
    "load_pth",
    "load_tensors",
    "locked",
    "move_into_place",
    "open_regular",
    "parse_json",
    "parse_yaml",
    "read_members",
    "read_yaml",
    "read_yaml_text",
    "save_tensors",
    "write_atomically",
]

# Found on first use (PEP 562): the command line locks folders before it needs NumPy and PyTorch.
_LAZY = {
    "load_arrays": "arrays",
    "load_pth": "pth",
    "load_tensors": "tensors",
    "parse_yaml": "safe_yaml",
    "read_yaml": "safe_yaml",
    "read_yaml_text": "safe_yaml",
    "save_tensors": "tensors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
