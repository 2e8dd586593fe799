"""An agent that does not begin untrained: its networks are those of a saved one, and all else is the recipe's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sparse_rl.agents.learners import learner_class
from sparse_rl.agents.saved import load_agent, load_normalization, read_description
from sparse_rl.inputs import InputError
from sparse_rl.nn import sparse_layers


def load_pretrained(
    folder: Path, learner: str, vec_env: VecEnv, device: str, is_sparse: bool, arguments: Mapping[str, Any]
) -> BaseAlgorithm:
    """
    Load an agent that is to be trained further, by a recipe of its learner.

    Its networks and what else it has learnt are kept (an entropy coefficient, the statistics of normalized
    observations); counters, the replay buffer and the optimizers begin anew.

    :param folder: what :func:`sparse_rl.agents.save_agent` wrote to
    :param learner: the name of the learner by which it is to be trained
    :param vec_env: where; normalized, if the recipe says so, with statistics that have seen nothing yet
    :param device: where the networks live
    :param is_sparse: whether the recipe is one of sparse networks
    :param arguments: those of the learner, besides policy and environment
    :return: the agent
    :raises ValueError: if it is of another learner, cannot learn any more, or does not fit the recipe or ``vec_env``
    """
    where = f"The agent in {str(folder)!r}"
    description = read_description(folder)
    algorithm = learner_class(learner)
    if description.algorithm is not algorithm:
        raise InputError(
            f"{where} is one of {_full_name(description.algorithm)}, and {learner} is {_full_name(algorithm)}: choose "
            "the --algo with which it was trained, or another one of the same learner."
        )
    if description.acting_only:
        raise InputError(f"{where} was saved to act only, without critics: it cannot be trained further.")
    _show_as_before(vec_env, folder, where)
    model = load_agent(folder, vec_env, device, **arguments)
    if is_sparse != bool(sparse_layers(model.policy)):
        raise InputError(
            f"{where} has no sparse layers, so there is nothing to rewire: give --algo {learner}."
            if is_sparse
            else f"{where} has sparse layers: give --algo static-{learner} to leave them as they are wired, or another "
            "method."
        )
    model.num_timesteps = 0
    return model


def _show_as_before(vec_env: VecEnv, folder: Path, where: str) -> None:
    """Let observations be normalized as the agent knows them."""
    before, now = load_normalization(folder), unwrap_vec_normalize(vec_env)
    was = None if before is None else bool(before.settings["norm_obs"])
    if was != (None if now is None else bool(now.norm_obs)):
        hint = "leave out 'normalize'" if was is None else f"give -params normalize.norm_obs:{str(was).lower()}"
        raise InputError(f"{where} was trained on observations that were normalized otherwise than here: {hint}.")
    if before is not None and now is not None:
        before.put_into(now)


def _full_name(algorithm: type[BaseAlgorithm]) -> str:
    return f"{algorithm.__module__.partition('.')[0]}'s {algorithm.__name__}"
