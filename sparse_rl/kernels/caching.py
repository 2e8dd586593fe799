"""
Compiled kernels are kept on disk, and are out of date when any of the kernels' sources has changed.

Numba looks at the file of the function alone. But a kernel contains those that it calls, from other files: after an
update it would run with the old ones inside, on data of the new layout, and crash. So what is kept is stamped with all
sources of the kernels, and the function's own.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config


@functools.cache
def _stamp(own: str) -> str:
    """Name the present state of all sources of the kernels, and of another file."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), Path(own)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """
    Compile a function without Python objects, and keep the result on disk.

    :param options: see ``numba.njit``
    :return: a decorator
    """

    def decorate(function: Callable[..., Any]) -> Any:
        compiled: Any = numba.njit(cache=True, **options)(function)
        if not vars(config)["DISABLE_JIT"]:
            file = compiled._cache._cache_file
            # Not documented; if Numba renames it, this fails at once, at the first import.
            assert hasattr(file, "_source_stamp")
            file._source_stamp = _stamp(function.__code__.co_filename)
        return compiled

    return decorate
