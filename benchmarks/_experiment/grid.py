"""An experiment as YAML: which runs there shall be. Its keys are the flags of ``train.py``; a list is an axis."""

import argparse
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sparse_rl.agents.recipe import override
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError, describe
from sparse_rl.names import unknown
from sparse_rl.storage import parse_yaml, read_yaml_text
from sparse_rl.training.making import learning_callbacks
from sparse_rl.training.plan import Plan

SECTIONS = ("options", "grid")
OF_THE_RUNNER = {"help", "log_folder", "resume", "tensorboard_log", "progress", "verbose"}  # not for a grid
COLUMNS_OF_THEIR_OWN = {"algo", "env", "replay", "seed"}  # in the table of results
# What decides a run, apart from names and threads; ``hyperparameters`` includes steps and evaluations.
SETTINGS = ("algo", "env", "seed", "hyperparameters", "env_kwargs", "n_eval_envs", "device", "trained_agent")


@dataclass(frozen=True)
class Cell:
    """
    One run of a grid.

    :param words: its command line, without ``train.py`` and folder
    :param plan: what it will do
    :param settings: what its part of the grid sets besides algorithm, environment, replay and seed
    """

    words: tuple[str, ...]
    plan: Plan
    settings: str

    def is_plan_of(self, config: Mapping[str, Any]) -> bool:
        """
        Tell whether a run was made with the settings of this cell.

        :param config: the run's ``config.yml``
        :return: whether all that decides a run is equal
        """
        return all(config.get(key) == getattr(self.plan, key) for key in SETTINGS)


def read_grid(file: Path, threads: int = 1) -> list[Cell]:
    """
    Read a grid, and check every run in it.

    :param file: the YAML file
    :param threads: threads of a run, unless the grid sets ``num-threads``
    :return: the runs in the order of the file; one that several blocks ask for is there once
    :raises InputError: if something in it is not known or not allowed
    :raises OSError: if it cannot be read
    """
    name = f"the grid {str(file)!r}"
    document = parse_yaml(read_yaml_text(file), name)
    if not isinstance(document, dict):
        raise InputError(f"There is an error in {name}: it must hold 'options' and 'grid', not {describe(document)}.")
    try:
        return _cells(document, {"num_threads": threads})
    except ValueError as error:
        raise InputError(f"There is an error in {name}: {error}") from error


def _cells(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Cell]:
    for section in document:
        if section not in SECTIONS:
            raise InputError(unknown("section", section, SECTIONS))
    parser = make_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse's own would end the process
    options = override(dict(defaults), _by_destination(parser, document.get("options") or {}))
    for key, value in options.items():
        if isinstance(value, list):
            raise InputError(f"{key!r} is a list, which is an axis: it belongs below 'grid'.")
    blocks = document.get("grid")
    if isinstance(blocks, dict):
        blocks = [blocks]
    if not isinstance(blocks, list) or not blocks:
        raise InputError(
            f"'grid' must hold runs such as {{algo: [sac, anf-sac], seed: [0, 1]}}, not {describe(blocks)}."
        )
    cells: list[Cell] = []
    for block in blocks:
        points = _points(_by_destination(parser, block))
        own = _each_once(_cell(parser, override(options, point), _describe(point)) for point in points)
        cells += [cell for cell in own if _same(cell, cells) is None]  # blocks may overlap
    return cells


def _each_once(cells: Iterable[Cell]) -> list[Cell]:
    """Refuse equal runs in one block: whoever wrote it expects one more."""
    found: list[Cell] = []
    for cell in cells:
        if (other := _same(cell, found)) is not None:
            one, two = (shlex.join(("train.py", *each.words)) for each in (other, cell))
            raise InputError(f"Two points of a block are the same run: `{one}` and `{two}`.")
        found.append(cell)
    return found


def _same(cell: Cell, others: Iterable[Cell]) -> Cell | None:
    return next((other for other in others if cell.is_plan_of(vars(other.plan))), None)


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}.")


def _by_destination(parser: argparse.ArgumentParser, keys: Any) -> dict[str, Any]:
    """Give keys the names that the parser stores them by, so that other spellings of a flag are the same key."""
    if not isinstance(keys, dict):
        raise InputError(f"Expected keys such as 'algo: sac', not {describe(keys)}.")
    actions = parser._option_string_actions  # there is no public list of flags
    known = {name[2:]: action for name, action in actions.items() if name.startswith("--")}
    known = {name: action for name, action in known.items() if action.dest not in OF_THE_RUNNER}
    result = {}
    for key, value in keys.items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise InputError(unknown("key", key, known))
        result[known[name].dest] = value
    return result


def _points(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Take one value from each list, in all ways."""
    axes = [value if isinstance(value, list) else [value] for value in block.values()]
    for key, axis in zip(block, axes, strict=True):
        if not axis:
            raise InputError(f"{key!r} is an empty list.")
    return (dict(zip(block, values, strict=True)) for values in itertools.product(*axes))


def _cell(parser: argparse.ArgumentParser, point: dict[str, Any], settings: str) -> Cell:
    words = list(itertools.chain.from_iterable(_words(parser, key, value) for key, value in point.items()))
    try:
        args = parser.parse_args(words)
        if args.seed < 0:
            raise InputError("Give every run its seed: by that it is known again.")
        plan = read_plan(args)
        learning_callbacks(plan.hyperparameters)  # complains of a method whose settings do not fit together
        if plan.num_threads < 1:
            raise InputError("num_threads must be at least 1: runs share the cores by it.")
        if EnvironmentId.parse(plan.env).permute is not None and plan.hyperparameters["n_envs"] > 1:
            raise InputError("n_envs must be 1 where features change places: tables tell of steps of one copy.")
        if plan.hyperparameters["eval_freq"] <= 0:
            raise InputError("eval_freq must be positive: evaluations are what the table is made of.")
    except ValueError as error:
        raise InputError(f"{error} This is the run `train.py {shlex.join(words)}`.") from error
    return Cell(tuple(words), plan, settings)


def _words(parser: argparse.ArgumentParser, key: str, value: Any) -> list[str]:
    """Write one key as words of the command line."""
    action = next(action for action in parser._actions if action.dest == key)
    flag = next(name for name in action.option_strings if name.startswith("--"))
    if action.nargs == "+":
        if not isinstance(value, dict):
            raise InputError(
                f"{key} must hold keys and values, such as {{learning_rate: 1e-3}}, not {describe(value)}."
            )
        try:
            return [flag, *(f"{name}:{json.dumps(part)}" for name, part in value.items())] if value else []
        except TypeError as error:  # YAML knows dates and bytes
            raise InputError(f"{key} may hold numbers, words, lists and keys, but: {error}.") from error
    if isinstance(value, dict | list | bool) or value is None:
        raise InputError(f"{key} must be a word or a number, not {describe(value)}.")
    return [flag, str(value)]


def _describe(point: Mapping[str, Any]) -> str:
    """Name what a point sets, for legends."""
    parts: list[tuple[str, Any]] = []
    for key, value in point.items():
        if key not in COLUMNS_OF_THEIR_OWN:
            parts += list(value.items()) if isinstance(value, dict) else [(key, value)]
    return ", ".join(f"{key} {value}" for key, value in parts)
