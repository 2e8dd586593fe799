"""The learners by name: our own SAC and TD3, and the others as Stable-Baselines3 and sb3-contrib have them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sparse_rl.agents.classes import ANY_ACTIONS, LEARNERS, class_of, register
from sparse_rl.inputs import InputError
from sparse_rl.names import find, is_own, not_installed, unknown


def learner_class(learner: str) -> type[BaseAlgorithm]:
    """
    Find the class of a learner.

    :param learner: its name, for example ``"ppo"``
    :return: the class
    :raises InputError: if there is no such learner, or it is in a package that is not installed
    """
    if is_own(learner):
        return _own_learner(learner)
    if learner not in LEARNERS:
        raise InputError(unknown("learner", learner, LEARNERS))
    found = class_of(LEARNERS[learner][0])
    if found is None:
        raise InputError(f"The learner {learner!r} is in {not_installed('sb3-contrib', 'contrib')}")
    return found


def _own_learner(name: str) -> type[BaseAlgorithm]:
    """Find a learner of the user's own, whose agents can be described from then on."""
    found = find("learner", name)
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm) and "MlpPolicy" in found.policy_aliases):
        raise InputError(
            f"{name!r} is not a learner: expected a subclass of an algorithm of Stable-Baselines3 that has an "
            "'MlpPolicy'. See docs/extending.md."
        )
    register(found, name)
    return found


def dense_policy(learner: str) -> type[BasePolicy]:
    """
    Find the policy that a learner has without this project.

    :param learner: its name
    :return: the class that it calls ``MlpPolicy``
    :raises InputError: see :func:`learner_class`
    """
    return learner_class(learner).policy_aliases["MlpPolicy"]


def check_actions(learner: str, space: spaces.Space[Any], environment: str) -> None:
    """
    Check that a learner can choose the actions of an environment.

    :param learner: its name
    :param space: the environment's action space
    :param environment: its id, for the error message
    :raises InputError: if it cannot
    """
    # Of a learner of the user's own Stable-Baselines3 sees what it needs.
    kinds = ANY_ACTIONS if is_own(learner) else LEARNERS[learner][1]
    if not isinstance(space, kinds):
        others = ", ".join(sorted(name for name, (_, able) in LEARNERS.items() if isinstance(space, able)))
        raise InputError(
            f"{environment!r} has actions of kind {type(space).__name__}; {learner} needs {kinds[0].__name__} actions. "
            + (f"Learners for these actions: {others}." if others else "No learner here supports them.")
        )
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise InputError(
            f"{environment!r} has actions that begin at {space.start}: Stable-Baselines3 counts from 0. Wrap it in "
            "gymnasium.wrappers.TransformAction."
        )
    if isinstance(space, spaces.Box):
        if not np.issubdtype(space.dtype, np.floating):
            raise InputError(f"{environment!r} has actions of type {space.dtype}: they must be floating-point numbers.")
        if not space.shape or 0 in space.shape or not (space.low < space.high).all():
            raise InputError(f"{environment!r} has actions that leave nothing to choose: {space}.")
    is_off_policy = issubclass(learner_class(learner), OffPolicyAlgorithm)
    if isinstance(space, spaces.Box) and is_off_policy and not np.isfinite([space.low, space.high]).all():
        raise InputError(f"{environment!r} has unbounded actions; {learner} needs bounds.")
