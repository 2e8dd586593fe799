"""
The files of an agent as it is shared: all plain data.

``model.safetensors`` and ``config.json`` are the agent. The others are of its run, and need not be there. Zip files of
Stable-Baselines3, which hold pickles, are never among them. On the hub all lie side by side; here, where there is a
``config.yml``, they are the folder of a run, with the agent where runs have it.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from sparse_rl.agents import load_agent
from sparse_rl.agents.checks import InputError
from sparse_rl.agents.recipe import read_yaml
from sparse_rl.agents.saved import CONFIG, MODEL, MOST_CONFIG_BYTES
from sparse_rl.storage import StorageError, open_regular
from sparse_rl.training.evaluation import returns_of
from sparse_rl.training.existing import read_config
from sparse_rl.training.finding import Found, find_agent
from sparse_rl.training.run_folder import agent_folder, file_name
from sparse_rl.training.trained import open_found

CARD, SETTINGS, PICTURE, EVALUATIONS = "README.md", "config.yml", "connectivity.png", "evaluations.npz"
SUMMARY, PHASES = "summary.yml", "phases.yml"
#: The files that may be shared, and how many bytes each may have.
MOST_BYTES: Mapping[str, int] = {
    MODEL: 2**30,
    CONFIG: MOST_CONFIG_BYTES,
    CARD: 2**20,
    SETTINGS: 2**20,
    SUMMARY: 2**20,
    PHASES: 2**16,
    PICTURE: 2**24,
    EVALUATIONS: 2**26,
}
_PRIVATE_KEYS = ("tensorboard", "platform")


@dataclass(frozen=True)
class Bundle:
    """
    An agent, ready to be shared.

    :param files: contents by name; the card is still missing
    :param settings: what its ``config.yml`` says; ``None`` if it comes from no run
    :param summary: what its ``summary.yml`` says
    :param num_timesteps: environment steps that the agent has learnt for
    :param returns: of evaluation episodes; ``None`` if it was not evaluated
    :param seed: of these episodes
    """

    files: Mapping[str, bytes]
    settings: Mapping[str, Any] | None
    summary: Mapping[str, Any]
    num_timesteps: int
    returns: np.ndarray[Any, Any] | None
    seed: int


def collect(
    folder: Path,
    public_command: Callable[[str], str],
    best: bool = False,
    episodes: int = 20,
    seed: int = 0,
    trust: bool = False,
) -> Bundle:
    """
    Collect what is shared of an agent, and evaluate it.

    :param folder: the folder of a run, or one with the two files of an agent
    :param public_command: leaves out of a command where files lie; one that it refuses is not shared
    :param best: of a run, the agent that did best in an evaluation, instead of the last one
    :param episodes: episodes of the evaluation; 0 for none
    :param seed: their seed
    :param trust: whether to import the package that the environment's id names
    :return: the files, and what the card tells
    :raises ValueError: if there is no agent, it cannot be loaded, or it cannot be evaluated
    :raises OSError: if a file cannot be read
    """
    config = read_config(folder) if (folder / SETTINGS).exists() else None
    if config is None and not (folder / MODEL).exists():
        raise InputError(
            f"There is no agent in {str(folder)!r}: expected the folder of a run, such as "
            f"runs/anf-sac/HalfCheetah-noise98/1, or one with {MODEL} and {CONFIG}."
        )
    if config is None and best:
        raise InputError(f"{str(folder)!r} is an agent and no run, so there is no best one: leave out --best.")
    agent = folder if config is None else agent_folder(folder / f"{'best_model' if best else agent_name(config)}.zip")
    if not agent.is_dir():
        raise InputError(f"There is no agent in {str(agent)!r}, or none yet.")
    files = {name: _read(agent / name) for name in (MODEL, CONFIG)}
    summary: dict[str, Any] = {}
    returns = None
    with TemporaryDirectory() as temporary:
        # The run may go on, and save another agent: what is loaded and judged are the bytes that are shared.
        for name, content in files.items():
            (Path(temporary) / name).write_bytes(content)
        found = Found(agent) if config is None else find_agent(str(folder), best)
        trained = open_found(replace(found, agent=Path(temporary)), trust=trust)
        if config is not None and episodes > 0:
            returns = returns_of(trained, episodes, seed)
    if config is not None:
        config = _without_private(config, public_command)
        files[SETTINGS] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120).encode()
        files |= {name: _read(folder / name) for name in (PICTURE, EVALUATIONS, SUMMARY) if (folder / name).exists()}
        if (folder / PHASES).exists():
            phases = read_yaml(folder / PHASES)
            files[PHASES] = yaml.safe_dump({"last": phases.get("best" if best else "last")}).encode()
        if SUMMARY in files:
            summary = read_yaml(folder / SUMMARY)
    return Bundle(files, config, summary, trained.model.num_timesteps, returns, seed)


def agent_name(config: Mapping[str, Any]) -> str:
    """
    Name a run's last agent.

    :param config: what the run's ``config.yml`` says, which may be a stranger's
    :return: the name of its zip file and of its folder, without their endings
    :raises StorageError: if the environment's id makes none
    """
    name = file_name(str(config.get("env")))
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or name in MOST_BYTES:
        raise StorageError(f"{SETTINGS!r} has an environment with an impossible name, {name[:80]!r}.")
    return name


def unpack(folder: Path) -> None:
    """
    Check the files of an agent that somebody has shared, and make them the folder of a run if they are of one.

    :param folder: the folder of these files and no others
    :raises ValueError: if a file is not what it should be, or should not be there
    :raises OSError: if a file cannot be read
    """
    for entry in folder.iterdir():
        if entry.name not in MOST_BYTES:
            raise StorageError(f"{entry.name!r} is no file of an agent.")
    load_agent(folder)
    if (folder / SETTINGS).exists():
        agent = agent_folder(folder / f"{agent_name(read_config(folder))}.zip")
        agent.mkdir()
        for name in (MODEL, CONFIG):
            (folder / name).rename(agent / name)
    for name in (SUMMARY, PHASES):
        if (folder / name).exists() and not isinstance(read_yaml(folder / name), dict):
            raise StorageError(f"{name!r} does not hold keys and values.")
    if (folder / PICTURE).exists() and not _read(folder / PICTURE).startswith(b"\x89PNG\r\n\x1a\n"):
        raise StorageError(f"{PICTURE!r} is no picture.")
    if (folder / EVALUATIONS).exists():
        _check_evaluations(folder / EVALUATIONS)


def _check_evaluations(file: Path) -> None:
    """Check that NumPy reads it without unpickling; its zip directory can claim nothing beyond the file's bound."""
    try:
        with np.load(file, allow_pickle=False) as evaluations:
            sizes = [member.file_size for member in evaluations.zip.infolist()]
            if sum(sizes) > MOST_BYTES[EVALUATIONS]:
                raise StorageError(f"{EVALUATIONS!r} would take {sum(sizes):,} bytes, unpacked.")
            for name in evaluations.files:
                _ = evaluations[name]
    except StorageError:
        raise
    except Exception as error:  # a damaged zip file can fail in any way
        raise StorageError(f"{EVALUATIONS!r} is damaged: {error}") from error


def _read(file: Path) -> bytes:
    with open_regular(file, MOST_BYTES[file.name]) as (stream, size):
        return stream.read(size)


def _without_private(config: Mapping[str, Any], public_command: Callable[[str], str]) -> dict[str, Any]:
    """Leave out where somebody's files lie."""
    result = {key: value for key, value in config.items() if key not in _PRIVATE_KEYS}
    command = result.pop("command", None)
    if isinstance(command, str):
        with suppress(ValueError):
            result["command"] = public_command(command)
    return result
