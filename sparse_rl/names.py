"""Names: typos and missing packages are answered in one way, and ``module:Name`` is found in the user's own code."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MOST_NAMES = 30  # in one message
_places: list[str] = []  # where else modules of the user's own may be


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """
    Say that ``name`` is not a known ``kind``, and which known names come nearest.

    :param kind: what was looked up, for example ``"algorithm"``
    :param name: the name that was not found
    :param known: all names that would have been accepted
    :return: one sentence for an error message
    """
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=3, cutoff=0.5)
    if nearest:
        return f"Unknown {kind} {str(name)!r}. Did you mean {' or '.join(repr(n) for n in nearest)}?"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"Unknown {kind} {str(name)!r}. Known: {', '.join(names[:MOST_NAMES])}{more}."


def is_own(name: object) -> bool:
    """
    Tell whether a name is that of something of the user's own.

    :param name: a name
    :return: whether it is ``module:Name``
    """
    return isinstance(name, str) and ":" in name


def find(kind: str, name: str) -> Any:
    """
    Find something of the user's own. Its module is imported, which runs code: only for names that the user gave.

    :param kind: what is looked up, for example ``"method"``
    :param name: ``module:Name``
    :return: what has this name
    :raises ValueError: if the module cannot be imported, or there is no such name in it
    """
    module, _, attribute = name.partition(":")
    try:
        found = import_own(module)
    except (Exception, SystemExit) as error:  # it is somebody else's code
        raise ValueError(
            f"The {kind} {name!r} names a module that cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not hasattr(found, attribute):
        raise ValueError(unknown(f"{kind} in the module {module!r}", attribute, vars(found)))
    return getattr(found, attribute)


def look_in(folder: str) -> None:
    """
    Let modules of the user's own be found in a folder too, last of all.

    Only once the user has named one: many packages import others if they happen to be there, and the folder may be a
    stranger's.

    :param folder: the folder
    """
    _places[:] = [folder]


def import_own(module: str) -> ModuleType:
    """
    Import a module of the user's own, which runs code: only for names that the user gave.

    :param module: its name
    :return: the module
    """
    if module not in sys.modules:  # such a name may be a stranger's: then nothing new is to be found
        sys.path += [place for place in _places if place not in sys.path]
    return import_module(module)


def require(module: str, package: str, extra: str) -> None:
    """
    Check that an optional package is installed, without importing it.

    :param module: the name by which it is imported
    :param package: its name, for people
    :param extra: the extra of this project that installs it
    :raises ValueError: if it is not; the message says what to type
    """
    if find_spec(module) is None:
        raise ValueError(f"This needs {not_installed(package, extra)}")


def not_installed(package: str, extra: str) -> str:
    """
    End the sentence that says that an optional package is missing.

    :param package: its name, for people
    :param extra: the extra of this project that installs it
    :return: the package, and what to type
    """
    return f"{package}, which is not installed: pip install -c constraints.txt -e '.[{extra}]'"
