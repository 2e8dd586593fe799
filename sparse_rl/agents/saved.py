"""
Agents on disk that are safe to load, whoever made them: ``model.safetensors`` and ``config.json`` in a folder.

``config.json`` is a :class:`~sparse_rl.agents.description.Description`, from which the agent is built;
``model.safetensors`` has the tensors. What an agent needs to go on learning exactly where it stopped (replay,
optimizers, generators) is not part of it. An agent that is saved to act only lacks critics and target networks too.
"""

import glob
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from sparse_rl.agents.acting import is_acting_only, tensors_to_act
from sparse_rl.agents.description import Description
from sparse_rl.agents.filling import fill, variables_of
from sparse_rl.agents.replay.normalization import METADATA, PREFIX, Normalization
from sparse_rl.storage import (
    PARTIAL,
    StorageError,
    load_tensors,
    move_into_place,
    open_regular,
    parse_json,
    save_tensors,
    write_atomically,
)

MODEL, CONFIG = "model.safetensors", "config.json"
FORMER = ".former"  # in an agent's folder, for a moment: the agent that is being replaced by another one
MOST_CONFIG_BYTES = 2**22
_POLICY = "policy."  # before the names of the policy's tensors
_PHASE = "phase"  # in the metadata of the file of tensors
_EXPLORATION = "exploration_rate"  # the same, of an agent that explores by chance


@dataclass(frozen=True)
class View:
    """
    How an agent sees observations: it is of no use to one that sees them otherwise.

    :param normalization: the statistics by which they are normalized; ``None`` if they are not
    :param phase: the phase of a permuted environment whose order of the features it knows; ``None`` if that is not
        known, or features are not permuted
    """

    normalization: Normalization | None = None
    phase: int | None = None


# Of agents that were loaded to act only, which have no environment that could tell.
_views: WeakKeyDictionary[BaseAlgorithm, View] = WeakKeyDictionary()


def view_of(model: BaseAlgorithm) -> View:
    """
    Tell how an agent that was loaded saw observations when it was saved.

    :param model: what :func:`load_agent` returned
    :return: what its file says; nothing for an agent from elsewhere
    """
    return _views.get(model, View())


def save_agent(model: BaseAlgorithm, folder: Path | str, acting_only: bool = False, phase: int | None = None) -> None:
    """
    Save an agent as ``model.safetensors`` and ``config.json``.

    Both files are complete before the first one gets its name, so whatever happens until then, an agent that is there
    already stays. One of the same description, as those that a run saves again and again, is replaced in one step: by
    then only the tensors differ. Of another one, two files have to be replaced, so it is moved into the folder's
    ``.former``, which is removed in the end; a process that is killed in that moment leaves a folder that holds no
    agent, which :func:`load_agent` says, and the whole former one in there.

    If its environment is normalized, the statistics are part of the first one. An agent that was loaded to act, without
    an environment, keeps those with which it was loaded, and its phase.

    :param model: the agent: of this project, Stable-Baselines3 or sb3-contrib
    :param folder: where to put the two files; it is made if need be, and an agent that is there already is replaced
    :param acting_only: whether to leave out what it does not take to act: critics, target networks, the entropy
        coefficient. The files are a fraction of the size; the agent can never go on learning. One that was loaded from
        such files is saved so in any case
    :param phase: of a permuted environment, the phase whose order of the features the agent has learnt
    :raises ValueError: if the agent has parts that have no description, such as a class of your own, or an environment
        that is not normalized as the one that it has learnt in
    :raises OSError: if a file cannot be written
    """
    folder = Path(folder)
    env = model.get_vec_normalize_env()
    acting_only = acting_only or is_acting_only(model.policy)
    description = replace(Description.of(model), acting_only=acting_only)
    config = json.dumps(description.to_json(), indent=1, allow_nan=False) + "\n"
    state = tensors_to_act(model) if acting_only else model.policy.state_dict()
    # Copies: some policies have one extractor of features under several names.
    tensors = {f"{_POLICY}{name}": tensor.clone() for name, tensor in state.items()}
    metadata: dict[str, Any] = {"num_timesteps": model.num_timesteps}
    tensors |= {} if acting_only else variables_of(model)
    if model.get_env() is not None and env is None and view_of(model).normalization is not None:
        raise ValueError(
            "This agent was trained on normalized observations, but its environment is not normalized, so it would see "
            "other values than its weights are for. Load it with `env=`, or give set_env() what "
            "load_normalization(folder).wrap(env) returns."
        )
    view = view_of(model) if model.get_env() is None else View()
    normalization = view.normalization if env is None else Normalization.of(env)
    phase = view.phase if phase is None else phase
    if phase is not None:
        metadata[_PHASE] = phase
    if (exploration := getattr(model, _EXPLORATION, None)) is not None:
        metadata[_EXPLORATION] = float(exploration)
    if normalization is not None:
        tensors |= normalization.tensors()
        metadata[METADATA] = dict(normalization.settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as complete:
        write_atomically(complete / CONFIG, lambda file: file.write(config.encode()))
        save_tensors(complete / MODEL, tensors, metadata)
        _set_aside(folder, config.encode())
        for name in (CONFIG, MODEL):
            move_into_place(complete / name, folder / name)
    _remove_former(folder)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a folder for files that are not complete yet; a killed process leaves it, and it may be removed then."""
    scratch = folder / f".{secrets.token_hex(8)}{PARTIAL}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _set_aside(folder: Path, config: bytes) -> None:
    """Move an agent of another description away: never may there be the description of one with the tensors of one."""
    if not all((folder / name).is_file() for name in (MODEL, CONFIG)):
        return
    description = (folder / CONFIG).read_bytes()
    if description == config:
        return
    (folder / FORMER).mkdir(exist_ok=True)
    write_atomically(folder / FORMER / CONFIG, lambda file: file.write(description))
    move_into_place(folder / MODEL, folder / FORMER / MODEL)


def _remove_former(folder: Path) -> None:
    """Remove what :func:`_set_aside` made, now or in a process that was killed, and nothing else."""
    with suppress(OSError):  # usually there is none; or somebody has put something else there
        for name in (MODEL, CONFIG):
            (folder / FORMER / name).unlink(missing_ok=True)
        (folder / FORMER).rmdir()


@dataclass(frozen=True)
class SavedAgent:
    """
    What a saved agent's files say; nothing is built from it yet.

    :param folder: where they are
    :param description: what it is, checked
    :param policy: the state of its policy; whether it fits the description is not checked
    :param variables: what else it has learnt, by name
    :param normalization: the statistics by which observations are normalized; ``None`` if they are not
    :param phase: see :class:`View`
    :param num_timesteps: environment steps that it has learnt for
    :param exploration_rate: of an agent that takes actions by chance (DQN), their fraction
    """

    folder: Path
    description: Description
    policy: Mapping[str, Tensor]
    variables: Mapping[str, Tensor]
    normalization: Normalization | None
    phase: int | None
    num_timesteps: int
    exploration_rate: float = 0.0


def read_agent(folder: Path | str, max_bytes: int = 2**30) -> SavedAgent:
    """
    Read an agent's files, which may be a stranger's, without building it.

    :param folder: what :func:`save_agent` wrote to
    :param max_bytes: how large the file of tensors may be
    :return: what they say
    :raises StorageError: if a file is damaged or lies
    :raises FileNotFoundError: if there is no such folder, or it does not hold an agent
    :raises OSError: if a file cannot be read
    """
    folder = Path(folder)
    _check_folder(folder)
    file, where = folder / MODEL, repr(str(folder / CONFIG))
    with open_regular(folder / CONFIG, MOST_CONFIG_BYTES) as (config, _):
        given = parse_json(config.read(MOST_CONFIG_BYTES), where)
    description = Description.from_json(given, where)
    tensors, metadata = load_tensors(file, max_bytes)
    steps = metadata.get("num_timesteps", 0)
    if type(steps) is not int or steps < 0:
        raise StorageError(f"num_timesteps in {str(file)!r} must be a whole number, not {str(steps)[:80]!r}.")
    phase = metadata.get(_PHASE)
    if phase is not None and (type(phase) is not int or phase < 0):
        raise StorageError(f"{_PHASE} in {str(file)!r} must be a whole number of at least 0, not {str(phase)[:80]!r}.")
    exploration = metadata.get(_EXPLORATION, 0.0)
    if not isinstance(exploration, float) or not 0 <= exploration <= 1:
        raise StorageError(f"{_EXPLORATION} in {str(file)!r} must lie in [0, 1], not be {str(exploration)[:80]!r}.")
    normalization = Normalization.read(tensors, metadata, repr(str(file)))
    if normalization is not None and "obs_mean" in normalization.statistics:
        shape = normalization.statistics["obs_mean"].shape
        if shape != description.observation_space.shape:
            raise StorageError(
                f"The statistics in {str(file)!r} are of observations of shape {shape}, but the agent's have "
                f"{description.observation_space.shape}."
            )
    policy = {name.removeprefix(_POLICY): each for name, each in tensors.items() if name.startswith(_POLICY)}
    variables = {name: each for name, each in tensors.items() if not name.startswith((_POLICY, PREFIX))}
    return SavedAgent(folder, description, policy, variables, normalization, phase, steps, exploration)


def load_agent(
    folder: Path | str, env: GymEnv | None = None, device: str = "cpu", max_bytes: int = 2**30, **changes: Any
) -> BaseAlgorithm:
    """
    Load an agent, which may be a stranger's: no code in its files is run, and no more memory taken than they justify.

    The agent is built from ``config.json``. Only when the tensors of ``model.safetensors`` have the names, shapes and
    dtypes that it needs, the topologies are valid and the numbers finite, are they copied.

    :param folder: what :func:`save_agent` wrote to
    :param env: where it is to go on learning, with an empty replay buffer and fresh optimizers; ``None`` to act only.
        If the agent was trained in a ``VecNormalize``, it is put into one, with the agent's statistics, unless it is
        one already, whose statistics stay (with a warning, if they are others)
    :param device: where the networks live
    :param max_bytes: how large the file of tensors may be
    :param changes: arguments of the algorithm that go before the stored ones, or are not stored: ``action_noise``,
        ``replay_buffer_class``, ``tensorboard_log``, ...
    :return: the agent
    :raises StorageError: if a file is damaged, lies, or does not fit the other one or ``env``; or if there is an
        ``env`` to learn in, but the agent was saved to act only
    :raises FileNotFoundError: if there is no such folder, or it does not hold an agent
    :raises OSError: if a file cannot be read
    """
    saved = read_agent(folder, max_bytes)
    normalization = saved.normalization
    if env is not None and normalization is not None:
        env = BaseAlgorithm._wrap_env(env)
        normalized = unwrap_vec_normalize(env)
        if normalized is None:
            env = normalization.wrap(env, training=True)
        elif not normalization.is_that_of(normalized):
            warnings.warn(
                "The environment's statistics of observations are not those that this agent was trained with: give the "
                "environment without VecNormalize, or the right statistics, load_normalization(folder).put_into(env).",
                stacklevel=2,
            )
    model = saved.description.build(env, device, repr(str(saved.folder / CONFIG)), **changes)
    fill(model, saved.policy, saved.variables, repr(str(saved.folder / MODEL)))
    model.num_timesteps = saved.num_timesteps
    if hasattr(model, _EXPLORATION):
        setattr(model, _EXPLORATION, saved.exploration_rate)
    _views[model] = View(normalization, saved.phase)
    return model


def load_normalization(folder: Path | str, max_bytes: int = 2**30) -> Normalization | None:
    """
    Read the statistics of a saved agent, which may be a stranger's.

    :param folder: what :func:`sparse_rl.agents.save_agent` wrote to
    :param max_bytes: how large the file may be
    :return: the statistics; ``None`` if the agent sees what there is
    :raises StorageError: if the file is damaged or lies
    :raises OSError: if it cannot be read
    """
    file = Path(folder) / MODEL
    return Normalization.read(*load_tensors(file, max_bytes), repr(str(file)))


def as_trained(env: VecEnv, folder: Path | str) -> VecEnv:
    """
    Show an environment to a saved agent as it saw it in training; the statistics are not updated any longer.

    :param env: the environment, not normalized
    :param folder: the folder of the agent
    :return: the environment, normalized if the agent was trained so; rewards stay the environment's
    :raises StorageError: if the file is damaged, or observations have another shape
    :raises OSError: if it cannot be read
    """
    normalization = load_normalization(folder)
    return env if normalization is None else normalization.wrap(env)


def _check_folder(folder: Path) -> None:
    """Say what is wrong with a path that leads to no agent, and where there is one."""
    missing = [name for name in (MODEL, CONFIG) if not os.path.lexists(folder / name)]
    if not missing:
        return
    if folder.is_file():
        what, help_ = "is a file", " A zip file of Stable-Baselines3 is read by safe_load." * (folder.suffix == ".zip")
    elif folder.is_dir():
        what = f"lacks {' and '.join(missing)}"
        help_ = _found("In it there are", sorted(file.parent for file in folder.glob(f"*/{CONFIG}")))
    else:
        what = "does not exist"
        beside = [*folder.parent.glob(f"{glob.escape(folder.stem)}*/{CONFIG}")]
        help_ = _found("Beside it there are", sorted(file.parent for file in beside))
    raise FileNotFoundError(
        f"There is no agent in {str(folder)!r}, which {what}: expected a folder with {MODEL} and {CONFIG}, as "
        f"save_agent and train.py write it.{help_}"
    )


def _found(where: str, folders: list[Path]) -> str:
    return f" {where} {', '.join(repr(str(folder)) for folder in folders[:5])}." if folders else ""
