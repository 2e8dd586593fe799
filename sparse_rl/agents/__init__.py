"""Who learns: SAC and TD3 learners, their recipes, and replay buffers that draw noise again instead of storing it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_rl.agents.classes import register
    from sparse_rl.agents.foreign import safe_load
    from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
    from sparse_rl.agents.replay.callbacks import DynamicCapacityCallback, MultiStepCallback
    from sparse_rl.agents.replay.dynamic import DynamicReplayBuffer
    from sparse_rl.agents.sac import SAC
    from sparse_rl.agents.saved import as_trained, load_agent, load_normalization, save_agent
    from sparse_rl.agents.td3 import TD3
    from sparse_rl.agents.zoo import load

__all__ = [
    "SAC",
    "TD3",
    "DynamicCapacityCallback",
    "DynamicReplayBuffer",
    "MultiStepCallback",
    "ObservedReplayBuffer",
    "RedrawnReplayBuffer",
    "as_trained",
    "load",
    "load_agent",
    "load_normalization",
    "register",
    "safe_load",
    "save_agent",
]

# Found on first use (PEP 562): the command line reads recipes before it needs PyTorch.
_LAZY = {
    "SAC": "sac",
    "TD3": "td3",
    "DynamicCapacityCallback": "replay.callbacks",
    "DynamicReplayBuffer": "replay.dynamic",
    "MultiStepCallback": "replay.callbacks",
    "ObservedReplayBuffer": "replay.buffers",
    "RedrawnReplayBuffer": "replay.buffers",
    "as_trained": "saved",
    "load": "zoo",
    "load_agent": "saved",
    "load_normalization": "saved",
    "register": "classes",
    "safe_load": "foreign",
    "save_agent": "saved",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
