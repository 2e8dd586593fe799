"""YAML that a stranger may have written: bounded, and nothing but data."""

import re
from pathlib import Path
from typing import Any

import yaml

from sparse_rl.inputs import InputError, first_line
from sparse_rl.storage.reading import open_regular

MOST_BYTES = 2**18  # of a file: parsing takes PyYAML a second or so
MOST_VALUES = 10_000  # in a file; a few aliases of aliases would make billions
MOST_DEPTH = 50  # levels of values in values; so whoever goes down them need not fear to run out of stack


class _Loader(yaml.SafeLoader):
    """
    PyYAML's safe loader, without what YAML 1.1 has of surprises.

    It takes ``1e-3`` for a number, where YAML 1.1 wants ``1.0e-3``, and ``1:30`` for a word, where that has base 60. It
    refuses a key that is there twice, and bounds what merge keys (``<<``) bring: they multiply before there is a value
    to be counted.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._merged = 0
        self._seen: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """
        Put what merge keys refer to in their place, which the base class does before it constructs a mapping.

        :param node: the mapping
        :raises yaml.constructor.ConstructorError: if a key is there twice, or too much is merged
        """
        if id(node) not in self._seen:  # nodes live as long as this loader
            self._seen.add(id(node))
            keys = set()
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    self._count(value)
                elif isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        problem = f"the key {key.value!r} is there twice"
                        raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                    keys.add((key.tag, key.value))
        super().flatten_mapping(node)

    def _count(self, merged: yaml.Node) -> None:
        for part in merged.value if isinstance(merged, yaml.SequenceNode) else [merged]:
            if isinstance(part, yaml.MappingNode):
                self.flatten_mapping(part)
                self._merged += len(part.value)
            if self._merged > MOST_VALUES:
                problem = f"merge keys bring more than {MOST_VALUES:,} values"
                raise yaml.constructor.ConstructorError(None, None, problem, merged.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Construct a whole number, or a word that only looks like one of base 60."""
        return node.value if ":" in node.value else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """Construct a number, or a word that only looks like one of base 60."""
        return node.value if ":" in node.value else super().construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """
    Parse YAML safely.

    :param text: the YAML
    :param where: what is parsed, for the error message
    :return: the parsed value: dictionaries, lists, strings, numbers
    :raises InputError: if the text is not YAML
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        size, depth = _measure(value, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"There is an error in {where}{line}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"There is an error in {where}: {first_line(error)}.") from error
    if size > MOST_VALUES:
        raise InputError(f"There are more than {MOST_VALUES:,} values in {where}.")
    if depth > MOST_DEPTH:
        raise InputError(f"There is an error in {where}: values are nested more than {MOST_DEPTH} deep.")
    return value


def read_yaml(file: Path) -> Any:
    """
    Read a YAML file that a stranger may have made.

    :param file: the file
    :return: its content
    :raises ValueError: if it is no regular file, too large, no text, or no YAML
    :raises OSError: if it cannot be read
    """
    return parse_yaml(read_yaml_text(file), repr(str(file)))


def read_yaml_text(file: Path) -> str:
    """
    Read a file of YAML without parsing it.

    :param file: the file
    :return: its text
    :raises ValueError: if it is no regular file, too large, or no text
    :raises OSError: if it cannot be read
    """
    with open_regular(file, MOST_BYTES) as (stream, size):
        content = stream.read(size)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"There is an error in {str(file)!r}: it is not text.") from error


def _measure(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """
    Count the values in a value, those behind YAML's aliases as often as they are referred to, and its levels.

    :param value: the value
    :param known: what is known of the values in it, by identity
    :return: how many values there are, and how deep they are nested
    :raises ValueError: if it contains itself
    """
    if not isinstance(value, dict | list):
        return 1, 0
    if id(value) not in known:
        known[id(value)] = 0, 0  # not known yet: should it contain itself
        parts = [_measure(part, known) for part in (value.values() if isinstance(value, dict) else value)]
        known[id(value)] = 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)
    elif known[id(value)] == (0, 0):
        raise ValueError("a value in it contains itself")
    return known[id(value)]
