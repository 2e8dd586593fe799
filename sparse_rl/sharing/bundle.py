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
from sparse_rl.agents.saved import CONFIG, MODEL, MOST_CONFIG_BYTES
from sparse_rl.agents.zoo import CARD as ZOO_CARD
from sparse_rl.storage import StorageError, open_regular, read_yaml
from sparse_rl.training.evaluation import returns_of
from sparse_rl.training.existing import read_config
from sparse_rl.training.finding import FoundAgent
from sparse_rl.training.plan import EVALUATION_SEED
from sparse_rl.training.returns import MOST_BYTES as MOST_EVALUATION_BYTES
from sparse_rl.training.returns import read_evaluations
from sparse_rl.training.run_folder import EVALUATIONS, PICTURE, SETTINGS, SUMMARY, agent_folder, file_name
from sparse_rl.training.trained import open_found

CARD = "README.md"
#: The files that may be shared, and how many bytes each may have.
MOST_BYTES: Mapping[str, int] = {
    MODEL: 2**30,
    CONFIG: MOST_CONFIG_BYTES,
    CARD: 2**20,
    SETTINGS: 2**20,
    SUMMARY: 2**20,
    ZOO_CARD: 2**20,
    PICTURE: 2**24,
    EVALUATIONS: MOST_EVALUATION_BYTES,
}
_PRIVATE_KEYS = ("tensorboard", "platform")
# With which words what changed when a run was continued may begin; the platform is among the others.
_PUBLIC_CHANGES = ("versions.", "commit ")


@dataclass(frozen=True)
class Bundle:
    """
    An agent, ready to be shared.

    :param files: contents by name; the card is still missing
    :param settings: what the ``config.yml`` of its run says; ``None`` if it comes from no run
    :param summary: what its ``summary.yml`` says
    :param algorithm: name of its algorithm; ``None`` if nobody knows
    :param trained_in: id of the environment in which it was trained; ``None`` if nobody knows
    :param noise: protocol of the noise that it was trained with; ``None`` if nobody knows
    :param num_timesteps: environment steps that the agent has learnt for, in its own run
    :param evaluated_in: id of the environment in which it was evaluated; ``None`` if it was not
    :param returns: of the episodes there; none if it was not evaluated
    :param seed: of these episodes
    """

    files: Mapping[str, bytes]
    settings: Mapping[str, Any] | None
    summary: Mapping[str, Any]
    algorithm: str | None
    trained_in: str | None
    noise: str | None
    num_timesteps: int
    evaluated_in: str | None
    returns: np.ndarray[Any, Any]
    seed: int


def collect(
    found: FoundAgent,
    public_command: Callable[[str], str],
    env: str | None = None,
    phase: int | None = None,
    episodes: int = 20,
    seed: int = EVALUATION_SEED,
    trust: bool = False,
) -> Bundle:
    """
    Collect what is shared of an agent, and evaluate it, if it is known or said in which environment.

    :param found: the agent
    :param public_command: leaves out of a command where files lie; one that it refuses is not shared
    :param env: id of another environment to evaluate it in; see :func:`~sparse_rl.training.trained.open_trained`
    :param phase: see there
    :param episodes: episodes of the evaluation; 0 for none
    :param seed: their seed
    :param trust: whether to import the package that the environment's id names
    :return: the files, and what the card tells
    :raises ValueError: if there is no agent, it cannot be loaded, or it cannot be evaluated
    :raises OSError: if a file cannot be read
    """
    found.check()
    files = {name: _read(found.agent / name) for name in (MODEL, CONFIG)}
    with TemporaryDirectory() as temporary:
        # The run may go on, and save another agent: what is loaded and judged are the bytes that are shared.
        for name, content in files.items():
            (Path(temporary) / name).write_bytes(content)
        trained = open_found(replace(found, agent=Path(temporary)), env, phase, trust)
        evaluated_in = trained.environment if episodes > 0 else None
        returns = np.empty(0) if evaluated_in is None else returns_of(trained, episodes, seed)
    files |= _files_around(found)
    summary = read_yaml(found.run / SUMMARY) if found.run is not None and SUMMARY in files else {}
    settings = None if found.config is None else _without_private(found.config, public_command)
    if settings is not None:
        files[SETTINGS] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120).encode()
    known = (found.algorithm, found.environment, found.noise)
    return Bundle(files, settings, summary, *known, trained.model.num_timesteps, evaluated_in, returns, seed)


def _files_around(found: FoundAgent) -> dict[str, bytes]:
    """Read what lies beside an agent: of a run, or of an agent of the zoo."""
    if found.run is None:
        names = (ZOO_CARD, PICTURE) if found.card is not None else ()
        return {name: _read(found.agent / name) for name in names if (found.agent / name).exists()}
    return {name: _read(found.run / name) for name in (PICTURE, EVALUATIONS, SUMMARY) if (found.run / name).exists()}


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
    for name in (SUMMARY, ZOO_CARD):
        if (folder / name).exists() and not isinstance(read_yaml(folder / name), dict):
            raise StorageError(f"{name!r} does not hold keys and values.")
    if (folder / PICTURE).exists() and not _read(folder / PICTURE).startswith(b"\x89PNG\r\n\x1a\n"):
        raise StorageError(f"{PICTURE!r} is no picture.")
    if (folder / EVALUATIONS).exists():
        read_evaluations(folder / EVALUATIONS)


def _read(file: Path) -> bytes:
    with open_regular(file, MOST_BYTES[file.name]) as (stream, size):
        return stream.read(size)


def _without_private(config: Mapping[str, Any], public_command: Callable[[str], str]) -> dict[str, Any]:
    """Leave out where somebody's files lie, and on which machine."""
    result = {key: value for key, value in config.items() if key not in _PRIVATE_KEYS}
    if "trained_agent" in result:
        result["trained_agent"] = Path(str(result["trained_agent"])).name
    if "resumed" in result:
        records = result["resumed"] if isinstance(result["resumed"], list) else []
        result["resumed"] = [_public_record(record) for record in records if isinstance(record, dict)]
    command = result.pop("command", None)
    if isinstance(command, str):
        with suppress(ValueError):
            result["command"] = public_command(command)
    return result


def _public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Tell of a time when a run was continued only at which step, and of changes of versions."""
    changes = record.get("changes")
    each = changes if isinstance(changes, list) else []
    public = [text for text in each if isinstance(text, str) and text.startswith(_PUBLIC_CHANGES)]
    return {"step": record.get("step"), "changes": public}
