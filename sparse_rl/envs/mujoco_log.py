"""
Gymnasium's MuJoCo environments, with MuJoCo's warnings sent to Python's ``logging``.

By itself MuJoCo prints warnings to the console and appends them to ``MUJOCO_LOG.TXT`` in whatever folder one happens
to be. As the entry point of an environment, ``sparse_rl.envs.mujoco_log:half_cheetah_v5.HalfCheetahEnv`` is Gymnasium's
class ``gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv``; but then this module, and with it the lines at its end,
has been run before MuJoCo compiles a model, and only if there is one to compile.
"""

import logging
from typing import Any

import mujoco
from gymnasium.envs.registration import load_env_creator


def __getattr__(name: str) -> Any:
    module, dot, environment = name.partition(".")
    if not dot:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_env_creator(f"gymnasium.envs.mujoco.{module}:{environment}")


def _to_logging(message: str) -> None:
    # Since version 4, MuJoCo tells the users of Gymnasium's half_cheetah.xml that it is old. They cannot change it.
    if "settotalmass" not in message:
        logging.getLogger("mujoco").warning(message)


if mujoco.get_mju_user_warning() is None:  # whoever was here first had a reason
    mujoco.set_mju_user_warning(_to_logging)
