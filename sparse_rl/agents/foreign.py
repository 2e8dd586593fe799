"""
Stable-Baselines3's zip files, read without unpickling.

Such a file has JSON, in which whatever JSON cannot say is a pickle in base64 (``":serialized:"``), with a readable
rendering beside it; and tensors in PyTorch's files. The pickles are left alone: what they hold is made anew from the
readable part where that is clear, and asked for where it is not.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium.spaces import Space
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from sparse_rl.agents.classes import POLICY_CLASSES, known_classes, policies
from sparse_rl.agents.description import Description, arguments_of
from sparse_rl.agents.filling import fill, variables_of
from sparse_rl.agents.spaces import make_space
from sparse_rl.storage import StorageError, load_pth, open_regular, parse_json, read_members

MOST_DATA_BYTES = 2**23
_SERIALIZED = ":serialized:"
_TYPE = ":type:"
# Arguments by which the file of an algorithm is recognised, the most special ones first.
_MARKS: Mapping[str, tuple[str, ...]] = {
    "sb3_contrib.TQC": ("top_quantiles_to_drop_per_net",),
    "sb3_contrib.TRPO": ("cg_max_steps",),
    "stable_baselines3.PPO": ("clip_range", "n_epochs"),
    "stable_baselines3.A2C": ("gae_lambda", "vf_coef"),
    "stable_baselines3.SAC": ("ent_coef", "target_entropy", "tau"),
    "stable_baselines3.TD3": ("policy_delay", "target_policy_noise"),
    "stable_baselines3.DQN": ("exploration_fraction", "exploration_final_eps"),
}


def safe_load(
    path: Path | str,
    algorithm: type[BaseAlgorithm] | None = None,
    env: GymEnv | None = None,
    device: str = "cpu",
    max_bytes: int = 2**30,
    **changes: Any,
) -> BaseAlgorithm:
    """
    Load an agent from a zip file of Stable-Baselines3, which may be a stranger's, without unpickling anything.

    What ``save()`` pickles is made anew: spaces and classes from their readable renderings, schedules if they are
    constant (else the algorithm's default stands). Replay buffers, optimizers' states and noise are left behind.

    :param path: the zip file; as for Stable-Baselines3, its ``.zip`` need not be given
    :param algorithm: its class, which has to be one of :func:`sparse_rl.agents.classes.algorithms`; found out if
        ``None``, where A2C, DQN, PPO, SAC, TD3 (also for DDPG, which is the same), TQC and TRPO are told apart
    :param env: where it is to go on learning, or to take the spaces from if they cannot be read; ``None`` to act only
    :param device: where the networks live
    :param max_bytes: how large the file may be, packed and unpacked
    :param changes: arguments of the algorithm that go before the stored ones
    :return: the agent
    :raises StorageError: if the file is damaged, lies, or says too little without its pickles
    :raises FileNotFoundError: if there is no such file
    :raises OSError: if it cannot be read
    """
    path = _existing(Path(path))
    where = repr(str(path))
    data, policy, variables = read_zip(path, max_bytes)
    kind = _algorithm(data, where) if algorithm is None else algorithm
    if kind not in known_classes().values():
        raise StorageError(f"{kind} is not an algorithm that can be read safely. Known: {', '.join(known_classes())}.")
    description = _describe(data, kind, env, where)
    description.check(where)
    model = description.build(env, device, where, **changes)
    fill(model, policy, {name: each for name, each in variables.items() if name in variables_of(model)}, where)
    steps = data.get("num_timesteps")
    model.num_timesteps = steps if type(steps) is int and steps >= 0 else 0
    exploration = data.get("exploration_rate")
    if hasattr(model, "exploration_rate") and isinstance(exploration, int | float) and 0 <= exploration <= 1:
        model.exploration_rate = float(exploration)
    return model


def _existing(path: Path) -> Path:
    with_ending = path.with_name(f"{path.name}.zip")
    if not os.path.lexists(path) and os.path.lexists(with_ending):
        return with_ending
    if path.is_dir():
        raise FileNotFoundError(
            f"{str(path)!r} is a folder, not a zip file of Stable-Baselines3: if it holds an agent of save_agent or "
            "train.py, load_agent reads it."
        )
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no file {str(path)!r}: expected a zip file of Stable-Baselines3, as model.save() writes it."
        )
    return path


def read_zip(path: Path, max_bytes: int = 2**30) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """
    Read a zip file of Stable-Baselines3 without unpickling anything.

    :param path: the zip file
    :param max_bytes: how large it may be, packed and unpacked
    :return: what its JSON says, the tensors of the policy, and those of variables besides
    :raises StorageError: if it is damaged, or made to harm
    :raises OSError: if it cannot be read
    """
    where = repr(str(path))
    with open_regular(path, max_bytes) as (file, _):
        wanted = {"data": MOST_DATA_BYTES, "policy.pth": max_bytes, "pytorch_variables.pth": 2**20}
        members = read_members(file, max_bytes, where, wanted)
    for name in ("data", "policy.pth"):
        if name not in members:
            raise StorageError(f"{where} is not a file of Stable-Baselines3: it lacks {name!r}.")
    data = parse_json(members["data"], f"'data' in {where}")
    if not isinstance(data, dict):
        raise StorageError(f"'data' in {where} is not a dictionary.")
    variables = members.get("pytorch_variables.pth")
    return (
        data,
        load_pth(members["policy.pth"], f"'policy.pth' in {where}"),
        {} if variables is None else load_pth(variables, f"'pytorch_variables.pth' in {where}"),
    )


def _algorithm(data: Mapping[str, Any], where: str) -> type[BaseAlgorithm]:
    for name, marks in _MARKS.items():
        if name in known_classes() and all(mark in data for mark in marks):
            return known_classes()[name]
    raise StorageError(f"Nothing says which algorithm made {where}: name it, for example safe_load(path, PPO).")


def _describe(data: Mapping[str, Any], algorithm: type[BaseAlgorithm], env: GymEnv | None, where: str) -> Description:
    arguments = {name: _constant(data[name]) for name in arguments_of(algorithm) if name in data}
    observations, actions = (_space(data, f"{name}_space", env, where) for name in ("observation", "action"))
    return Description(
        algorithm,
        _policy(data.get("policy_class"), algorithm, where),
        observations,
        actions,
        _settings(data.get("policy_kwargs"), where),
        {name: value for name, value in arguments.items() if value is not _UNREADABLE},
    )


_UNREADABLE = object()


def _constant(value: Any) -> Any:
    """Read an argument; of a pickled one only what is surely a constant."""
    if not isinstance(value, dict):
        return value
    rendered = re.fullmatch(r"ConstantSchedule\(val=([-+.e0-9]{1,40})\)", str(value.get("value_schedule")))
    return _number(rendered[1]) if rendered else _UNREADABLE


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return _UNREADABLE


def _policy(given: Any, algorithm: type[BaseAlgorithm], where: str) -> type[BasePolicy]:
    """Find the policy by the name of its class, which stands before that of each of its methods."""
    known = policies(algorithm)
    text = " ".join(str(value) for value in given.values()) if isinstance(given, dict) else ""
    names = {name for name in re.findall(r"<function (\w{1,80})\.", text) if name in known}
    if isinstance(given, dict) and (made := re.match(r"(\w{1,80}) with sparse layers: ", str(given.get("__doc__")))):
        names = {f"Sparse{made[1]}"} & known.keys()  # of sparse_policy(), whose classes have no methods of their own
    if len(names) == 1:
        return known[names.pop()]
    raise StorageError(f"{where} does not say which of the policies {', '.join(sorted(known))} it has.")


def _settings(given: Any, where: str) -> dict[str, Any]:
    """Read ``policy_kwargs``, classes by their names."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise StorageError(f"policy_kwargs in {where} must be a dictionary.")
    settings = {key: value for key, value in given.items() if key not in (_SERIALIZED, _TYPE)}
    for key in POLICY_CLASSES.keys() & settings.keys():
        rendered = re.fullmatch(r"<class '[\w.]{0,200}?(\w{1,80})'>", str(settings[key]))
        settings[key] = rendered[1] if rendered else settings[key]
    return settings


def _space(data: Mapping[str, Any], key: str, env: GymEnv | None, where: str) -> Space[Any]:
    try:
        space = _read_space(data[key])
        if key == "action_space" and "..." in str(data[key]):  # the middle matters: actions are scaled by it
            raise ValueError("some bounds are missing")
        return space
    except Exception as error:  # renderings are made for people
        if env is not None:
            return getattr(env, key)  # type: ignore[no-any-return]
        raise StorageError(
            f"The {key} of {where} cannot be read without unpickling: give an environment, safe_load(path, env=env)."
        ) from error


def _read_space(given: Mapping[str, Any]) -> Space[Any]:
    """Read the renderings of a space's attributes, through the checks for our own files."""
    kind = str(given[_TYPE]).rpartition(".")[2].removesuffix("'>")
    description: dict[str, Any] = {"kind": kind}
    if kind == "Box":
        description |= {"shape": given["_shape"], "dtype": given["dtype"]}
        description |= {bound: _bound(given, bound) for bound in ("low", "high")}
    elif kind == "Discrete":
        description |= {"n": int(given["n"]), "start": int(given["start"])}
    return make_space(description, "it")


def _bound(given: Mapping[str, Any], key: str) -> Any:
    """Read an array as NumPy prints it: of a long one only its ends, which have to agree."""
    numbers = [_word(word) for word in re.findall(r"[^\s\[\]]+", str(given[key])) if word != "..."]
    if "..." not in str(given[key]):
        return numbers
    if len(set(numbers)) != 1:
        raise ValueError("the middle is missing")
    return numbers[0]


def _word(text: str) -> Any:
    return text if text in ("inf", "-inf") else float(text)
