"""One training run: the plan, the folder it leaves, and what one sees meanwhile."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_rl.training.making import MadeAgent, make_agent

__all__ = ["MadeAgent", "make_agent"]


def __getattr__(name: str) -> Any:  # PEP 562: the command line makes plans before it needs PyTorch
    if name in __all__:
        return getattr(import_module(f"{__name__}.making"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
