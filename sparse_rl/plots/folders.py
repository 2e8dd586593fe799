"""Run folders: ours, ``<algo>/<env>/<n>``, and those of rl-baselines3-zoo, ``<algo>/<env>_<n>``."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparse_rl.agents.recipe import flatten
from sparse_rl.envs import EnvironmentIdError
from sparse_rl.inputs import Choice, InputError, Number
from sparse_rl.plots.files import EVALUATIONS, MONITORS
from sparse_rl.training.existing import read_config
from sparse_rl.training.plan import protocol
from sparse_rl.training.run_folder import CHECKPOINTS, SETTINGS, file_name

RL_ZOO = "rl-baselines3-zoo"  # "the zoo" is the one that comes with this package
_RL_ZOO_NAME = re.compile(r"(?P<environment>.+)_(?P<number>\d+)")
# Hyperparameters that change nothing of what is learnt.
_OF_LOOKING = ("eval_freq", "eval_episodes")
_MOST_ENVS = 10_000
_MOST_LETTERS = 200  # of a name
_MOST_SETTINGS = 20_000  # letters of all hyperparameters, which may have to stand in a legend


@dataclass(frozen=True)
class FoundRun:
    """
    A run's folder, and what it is a run of.

    :param path: the folder
    :param algorithm: name of the algorithm
    :param environment: id of the environment; in a folder of rl-zoo, the file name that stands for it
    :param replay: ``"redrawn noise"``, ``"observed noise"`` or ``"no noise"``
    :param number: which of its kind it is
    :param n_envs: copies of the environment; ``None`` if unknown
    :param tensorboard: folder of TensorBoard's files
    :param hyperparameters: flat; empty if unknown
    :param is_ours: whether it is a run of this project
    :param seed: its seed; ``None`` if unknown
    """

    path: Path
    algorithm: str
    environment: str
    replay: str
    number: int
    n_envs: int | None
    tensorboard: Path
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    is_ours: bool = True
    seed: int | None = None


def find_runs(paths: Sequence[Path]) -> tuple[list[FoundRun], list[str]]:
    """
    Find all runs in or below some folders.

    :param paths: the folders
    :return: the runs, each once; and a sentence for each folder that looks like one but is none
    :raises InputError: if a path is no folder, or there is no run at all
    """
    runs: list[FoundRun] = []
    notes: list[str] = []
    for folder in _candidates(paths, notes):
        try:
            runs.append(_identify(folder))
        except (ValueError, OSError) as error:
            notes.append(f"{str(folder)!r} does not count: {error}")
    if not runs:
        where = ", ".join(repr(str(path)) for path in paths)
        raise InputError(
            f"There is no run in {where}: expected folders such as runs/anf-sac/HalfCheetah-noise98/1, or "
            f"logs/sac/HalfCheetah-v5_1 of {RL_ZOO}, with {EVALUATIONS} or {MONITORS} in them."
            + "".join(f"\n{note}" for note in notes)
        )
    return runs, notes


def _candidates(paths: Iterable[Path], notes: list[str]) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if not path.is_dir():
            raise InputError(f"There is no folder {str(path)!r}: give a run's folder, or one with runs below it.")
        yield from _below(path, seen, notes)


def _below(folder: Path, seen: set[tuple[int, int]], notes: list[str]) -> Iterator[Path]:
    """Go down, also through links, which may lead round in circles; note what may not be read."""
    try:
        status = folder.stat()
        is_run = (folder / EVALUATIONS).exists() or any(folder.glob(MONITORS))
        entries = [] if is_run else sorted(os.scandir(folder), key=lambda entry: (len(entry.name), entry.name))
    except OSError as error:
        notes.append(f"{str(folder)!r} does not count: {error}")
        return
    if (key := (status.st_dev, status.st_ino)) in seen:
        return
    seen.add(key)
    if is_run:
        yield folder
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != CHECKPOINTS:
            yield from _below(Path(entry.path), seen, notes)


def _identify(folder: Path) -> FoundRun:
    path = folder.absolute()
    if (folder / SETTINGS).exists():
        return _ours(folder, read_config(folder))
    name = _RL_ZOO_NAME.fullmatch(path.name)
    if name is None or not path.parent.name:
        raise InputError(
            "it has no config.yml, as runs of this project have, and is not called <environment>_<n>, as those of "
            f"{RL_ZOO}."
        )
    environment = name["environment"]
    try:
        replay = protocol(environment, "observed")
    except EnvironmentIdError:
        replay = "no noise"
    number, algorithm = int(name["number"]), path.parent.name
    _check_names(algorithm, environment)
    return FoundRun(folder, algorithm, environment, replay, number, None, folder, is_ours=False)


def _ours(folder: Path, config: Mapping[str, Any]) -> FoundRun:
    algorithm, environment = config.get("algo"), config.get("env")
    if not isinstance(algorithm, str) or not isinstance(environment, str):
        raise InputError("its config.yml does not say what it is a run of.")
    _check_names(algorithm, environment)
    hyperparameters = config["hyperparameters"]
    n_envs = int(Number(1, _MOST_ENVS, whole=True)("n_envs in its config.yml", hyperparameters.get("n_envs", 1)))
    replay = Choice(("observed", "redrawn"))("replay in its config.yml", hyperparameters.get("replay", "observed"))
    settings = dict(flatten({**hyperparameters, "env_kwargs": config.get("env_kwargs") or {}}))
    if "trained_agent_steps" in config:  # not comparable with a run that began with new networks
        settings["trained_agent_steps"] = config["trained_agent_steps"]
    if len(str(settings)) > _MOST_SETTINGS:
        raise InputError(f"the hyperparameters in its config.yml have more than {_MOST_SETTINGS:,} letters.")
    for key in _OF_LOOKING:
        settings.pop(key, None)
    number = folder.absolute().name
    return FoundRun(
        folder,
        algorithm,
        environment,
        protocol(environment, replay),
        int(number) if number.isdecimal() else 1,
        n_envs,
        Path(str(config.get("tensorboard", folder))),
        settings,
        seed=seed if isinstance(seed := config.get("seed"), int) else None,
    )


def _check_names(*names: str) -> None:
    """Check what stands in legends, and becomes the name of a file when runs are exported."""
    for name in names:
        if not name.isprintable() or not 0 < len(name) <= _MOST_LETTERS or file_name(name) in (".", ".."):
            raise InputError(f"{name[:_MOST_LETTERS]!r} is no name of an algorithm or an environment.")


def settings_of(runs: Sequence[FoundRun]) -> list[str]:
    """
    Say what sets runs of the same algorithm, environment and noise protocol apart, besides their seeds.

    :param runs: the runs
    :return: for each the hyperparameters in which it differs from another one; of which project it is, if not of ours
    """
    kinds: dict[tuple[Any, ...], list[FoundRun]] = {}
    for run in runs:
        kinds.setdefault(_kind(run), []).append(run)
    return [_difference(run, kinds[_kind(run)]) if run.is_ours else RL_ZOO for run in runs]


def _kind(run: FoundRun) -> tuple[Any, ...]:
    return run.algorithm, run.environment, run.replay, run.is_ours


def _difference(run: FoundRun, others: Sequence[FoundRun]) -> str:
    keys = dict.fromkeys(key for other in others for key in other.hyperparameters)
    differing = [
        key for key in keys if any(other.hyperparameters.get(key) != run.hyperparameters.get(key) for other in others)
    ]
    return ", ".join(f"{key} {run.hyperparameters.get(key, 'unset')}" for key in differing)
