"""What the entries of an observation are called, where that is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from sparse_rl.envs.appended import AppendFeatures
from sparse_rl.envs.distractors import DistractorFeatures
from sparse_rl.envs.permute import PermuteFeatures

__all__ = ["feature_names"]

# By the class of the base environment, from Gymnasium's documentation: those that do not describe themselves.
_KNOWN: Mapping[str, Sequence[str]] = {
    "CartPoleEnv": ("cart position", "cart velocity", "pole angle", "pole angular velocity"),
    "PendulumEnv": ("cos angle", "sin angle", "angular velocity"),
    "MountainCarEnv": ("position", "velocity"),
    "Continuous_MountainCarEnv": ("position", "velocity"),
    "AcrobotEnv": ("cos angle 1", "sin angle 1", "cos angle 2", "sin angle 2", "velocity 1", "velocity 2"),
    "InvertedDoublePendulumEnv": (
        "qpos slider",
        "sin hinge",
        "sin hinge2",
        "cos hinge",
        "cos hinge2",
        "qvel slider",
        "qvel hinge",
        "qvel hinge2",
        "qfrc_constraint slider",
    ),
    "ReacherEnv": (
        "cos joint0",
        "cos joint1",
        "sin joint0",
        "sin joint1",
        "target x",
        "target y",
        "qvel joint0",
        "qvel joint1",
        "fingertip - target x",
        "fingertip - target y",
    ),
}
_BY_JOINT = {"qpos": ("jnt_qposadr", (7, 4, 1, 1)), "qvel": ("jnt_dofadr", (6, 3, 1, 1))}  # sizes by type of joint
_COORDINATES = {7: ("x", "y", "z", "qw", "qx", "qy", "qz"), 6: ("x", "y", "z", "rx", "ry", "rz")}
_COORDINATES |= {4: ("qw", "qx", "qy", "qz"), 3: ("x", "y", "z")}


def feature_names(env: gym.Env[Any, Any]) -> list[str]:
    """
    Name the entries of an environment's observation, in their present order if they are permuted.

    An environment says them itself by an attribute ``feature_names``, a sequence of strings. Gymnasium's MuJoCo
    environments say which parts of the simulation they show (``observation_structure``), and the model knows the names
    of joints and bodies: ``"qvel bthigh"``. Appended features are called ``"noise 0"``, or ``"copy 0: qvel bthigh"``.

    :param env: an environment with flat observations; reset, if it is permuted
    :return: a name for each feature, ``"feature 0"``, ``"feature 1"``, ... where none is known

    >>> from sparse_rl.envs import make
    >>> feature_names(make("CartPole-v1-noise50"))[2:6]
    ['pole angle', 'pole angular velocity', 'noise 0', 'noise 1']
    """
    n_features = (env.observation_space.shape or (0,))[0]
    names = _names(env)
    return names if names is not None and len(names) == n_features else [f"feature {i}" for i in range(n_features)]


def _names(env: gym.Env[Any, Any]) -> list[str] | None:
    # Its own, or a property of its class: not what a wrapper hands on.
    has_own = "feature_names" in vars(env) or hasattr(type(env), "feature_names")
    own = getattr(env, "feature_names", None) if has_own else None
    if isinstance(own, Sequence) and not isinstance(own, str):
        return [str(name) for name in own]
    if isinstance(env, PermuteFeatures):
        inner = feature_names(env.env)
        return [inner[i] for i in env.permutation]
    if isinstance(env, AppendFeatures):
        inner = feature_names(env.env)
        if isinstance(env, DistractorFeatures):
            return inner + [f"copy {i // env.n_real}: {inner[i % env.n_real]}" for i in range(env.n_noise)]
        return inner + [f"noise {i}" for i in range(env.n_noise)]
    if isinstance(env, gym.Wrapper):
        # What changes observations may change their order too.
        is_transparent = env._observation_space is None and not isinstance(env, gym.ObservationWrapper)
        return _names(env.env) if is_transparent else None
    if not _is_gymnasiums(env):
        return None
    known = _KNOWN.get(next((c.__name__ for c in type(env).__mro__ if c.__name__ in _KNOWN), ""))
    return _names_in_simulation(env) if known is None else list(known)


def _is_gymnasiums(env: gym.Env[Any, Any]) -> bool:
    """Tell whether observations are made by code that we know, not by a subclass with ideas of its own."""
    maker = getattr(type(env), "_get_obs", getattr(type(env), "step", None))
    return str(getattr(maker, "__module__", "")).startswith("gymnasium.envs.")


def _names_in_simulation(env: Any) -> list[str] | None:
    structure, model = getattr(env, "observation_structure", None), getattr(env, "model", None)
    if not isinstance(structure, dict) or model is None:
        return None
    names: list[str] = []
    for part, size in structure.items():
        if part in _BY_JOINT:
            skipped = structure.get(f"skipped_{part}", 0)
            names += _of_joints(model, part)[skipped : skipped + size]
        elif part == "qfrc_actuator":
            names += [f"{part} {name.removeprefix('qvel ')}" for name in _of_joints(model, "qvel")[model.nv - size :]]
        elif not part.startswith("skipped_"):
            names += _of_bodies(model, part, size)
    return names


def _of_joints(model: Any, part: str) -> list[str]:
    """Name all entries of ``qpos`` or ``qvel``."""
    addresses, sizes = _BY_JOINT[part]
    names: dict[int, str] = {}
    for joint in range(model.njnt):
        size = sizes[int(model.jnt_type[joint])]
        for i, coordinate in enumerate(_COORDINATES.get(size, ("",))):
            address = int(getattr(model, addresses)[joint]) + i
            names[address] = f"{part} {model.joint(joint).name or joint} {coordinate}".strip()
    return [names[address] for address in sorted(names)]


def _of_bodies(model: Any, part: str, size: int) -> list[str]:
    """Name what there is of each body but the world, such as ``cfrc_ext``; else number it."""
    n_bodies = model.nbody - 1
    if size % n_bodies:
        return [f"{part} {i}" for i in range(size)]
    each = size // n_bodies
    return [f"{part} {model.body(1 + i // each).name or 1 + i // each} {i % each}" for i in range(size)]
