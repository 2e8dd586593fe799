"""Messages for names that nobody knows, and for packages that are missing: one way of saying it everywhere."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

MOST_NAMES = 30  # in one message


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


def require(module: str, package: str, extra: str) -> None:
    """
    Check that an optional package is installed, without importing it.

    :param module: the name by which it is imported
    :param package: its name, for people
    :param extra: the extra of this project that installs it
    :raises ValueError: if it is not; the message says what to type
    """
    if find_spec(module) is None:
        raise ValueError(
            f"This needs {package}, which is not installed: pip install -c constraints.txt -e '.[{extra}]'"
        )
