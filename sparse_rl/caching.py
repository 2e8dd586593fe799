"""
Compiled code is kept on disk, where several processes may find it, and out of date when a source of it has changed.

Numba looks at the file of the function alone. But a kernel contains those that it calls, from other files: after an
update it would run with the old ones inside, on data of the new layout, and crash. So what is kept is stamped with all
sources of the kernels, and the function's own.

And Numba numbers the files of a function's versions for different types: of two processes that compile different ones
at the same time, each takes the next number, and the index then names the other's file. Here the types name the file.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core import config

_first_time: list[Callable[[], object]] = []  # what is to be done before anything is compiled


@contextmanager
def explaining_delays(say: Callable[[], object]) -> Iterator[None]:
    """
    Have something said if anything has to be compiled meanwhile, which may take a minute or two.

    :param say: called before the first compilation, if there is one
    :return: context manager that does so
    """
    _first_time.append(say)
    try:
        yield
    finally:
        _first_time.clear()


@functools.cache
def _stamp(own: str) -> str:
    """Name the present state of all sources of the kernels, and of another file."""
    sources = [*sorted((Path(__file__).parent / "kernels").glob("*.py")), Path(own)]
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
            # Not documented; if Numba renames them, this fails at once, at the first import.
            assert all(hasattr(file, name) for name in ("_source_stamp", "_load_index", "_save_index", "_save_data"))
            file._source_stamp = _stamp(function.__code__.co_filename)
            file.save = functools.partial(_save, file)
            file.load = functools.partial(_load, file, file.load)
        return compiled

    return decorate


def _load(file: Any, load: Callable[[Any], Any], key: Any) -> Any:
    """Find the code for some types; what cannot be read is compiled again."""
    try:
        found = load(key)
    except Exception:  # a torn file may raise anything
        file.flush()
        found = None
    while found is None and _first_time:
        _first_time.pop()()
    return found


def _save(file: Any, key: Any, data: Any) -> None:
    """Keep the code for some types; another process that keeps the same at the same time writes the same."""
    name = hashlib.sha256(f"{file._source_stamp} {key}".encode()).hexdigest()[:16]
    name = f"{Path(file._index_name).stem}.{name}.nbc"
    file._save_data(name, data)  # first: whoever reads the index finds the file
    file._save_index({**file._load_index(), key: name})
