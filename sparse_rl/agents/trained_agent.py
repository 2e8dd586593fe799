"""
A run that begins with the networks of a trained agent: what it takes from that agent, and what from its own recipe.

From the agent: how networks are made and how they see observations, all that they have learnt, and an entropy
coefficient that is learnt. All else is the recipe's, and counters, replay buffer and optimizers begin anew.
"""

from collections.abc import Collection, Mapping
from typing import Any

from gymnasium.spaces import Box
from stable_baselines3.common.base_class import BaseAlgorithm

from sparse_rl.agents.checks import NETWORK_KEYS, OPTIMIZER_KEYS, RESIZING_METHODS
from sparse_rl.agents.classes import LEARNERS, known_classes
from sparse_rl.agents.filling import fill, variables_of
from sparse_rl.agents.learners import dense_policy, learner_class
from sparse_rl.agents.recipe import Recipe, flatten
from sparse_rl.agents.saved import SavedAgent
from sparse_rl.inputs import InputError
from sparse_rl.names import is_own
from sparse_rl.nn import sparse_layers
from sparse_rl.sb3 import sparse_policy
from sparse_rl.storage import StorageError
from sparse_rl.topology.schedules import BudgetSchedule


def check_trained_agent(agent: SavedAgent, learner: str, is_sparse: bool) -> None:
    """
    Check that an agent can be trained further by a learner.

    :param agent: the agent
    :param learner: the learner's name
    :param is_sparse: whether its networks are to be sparse
    :raises InputError: if the agent is one of another learner, lacks what it takes to learn, or has other networks
    """
    where, known = f"The agent in {str(agent.folder)!r}", agent.description
    algorithm = learner_class(learner)
    if known.algorithm is not algorithm:
        raise InputError(
            f"{where} was trained by {_learner_name(known.algorithm)}, so {learner} cannot train it further: give an "
            "--algo with that learner."
        )
    if known.acting_only:
        raise InputError(f"{where} was saved to act only, without critics: it cannot be trained further.")
    dense, sparse = dense_policy(learner), sparse_policy(dense_policy(learner))
    if known.policy is dense and is_sparse:
        raise InputError(f"{where} has no sparse layers, so there is nothing to rewire: give --algo {learner}.")
    if known.policy is sparse and not is_sparse:
        raise InputError(
            f"{where} has sparse layers: give --algo static-{learner} to leave them as they are wired, or another "
            "method."
        )
    if known.policy not in (dense, sparse):
        raise InputError(f"{where} has a {known.policy.__name__}; only a {dense.__name__} can be trained further here.")


def with_networks_of(agent: SavedAgent, recipe: Recipe, chosen: Collection[str]) -> tuple[Recipe, list[str]]:
    """
    Say in a recipe how the networks of a trained agent are made, in place of what it says itself.

    :param agent: the agent, which has been checked
    :param recipe: the recipe, not checked yet
    :param chosen: dotted names of what the user has chosen
    :return: the changed recipe; and what of the recipe is not done, in sentences for the user
    :raises InputError: if the user has chosen something else than the agent has
    """
    mine = {key: recipe[key] for key in NETWORK_KEYS if key in recipe}
    optimizer: Recipe = {}
    if isinstance(settings := mine.get("policy_kwargs"), Mapping):
        optimizer = {key: settings[key] for key in OPTIMIZER_KEYS if key in settings}
        mine["policy_kwargs"] = {key: value for key, value in settings.items() if key not in optimizer}
    its = _networks_of(agent)
    if not _may_resize(recipe):  # however many weights there are, they stay as many
        its.pop("initial_sparsity", None)
    its_values = dict(flatten(its))
    for name, value in flatten(mine):
        is_chosen = any(name == each or name.startswith(f"{each}.") for each in chosen)
        is_the_same = bool(value) == ("normalize" in its) if name == "normalize" else its_values.get(name) == value
        if is_chosen and not is_the_same:
            has = its_values.get(name, its.get(name, "none"))
            raise InputError(
                f"With --trained-agent {name!r} is that of the agent, which has {has}, so it cannot be {value}: leave "
                "it out."
            )
    result = {key: value for key, value in recipe.items() if key not in (*NETWORK_KEYS, "screening")} | its
    if optimizer:
        result["policy_kwargs"] = {**its.get("policy_kwargs", {}), **optimizer}
    if recipe.get("screening") is None:
        return result, []
    if any(name.partition(".")[0] == "screening" for name in chosen):
        raise InputError("With --trained-agent the inputs are wired already, and not screened: leave out 'screening'.")
    return result, ["nothing is screened: the inputs are wired as those of the trained agent are."]


def _networks_of(agent: SavedAgent) -> Recipe:
    """Say with a recipe's keys how an agent's networks are made, and how they see observations."""
    not_its = (*OPTIMIZER_KEYS, "kernel", "use_sde")  # the last one Stable-Baselines3 takes from an argument
    settings = agent.description.policy_kwargs.items()
    stored = {key: value for key, value in settings if value is not None and key not in not_its}
    result: Recipe = {key: stored.pop(key) for key in NETWORK_KEYS if key in stored}
    if stored:
        result["policy_kwargs"] = stored
    if agent.description.arguments.get("use_sde"):
        result["use_sde"] = True
    if agent.normalization is not None:  # whose discount is the learner's
        result["normalize"] = {key: value for key, value in agent.normalization.settings.items() if key != "gamma"}
    return result


def _may_resize(recipe: Mapping[str, Any]) -> bool:
    name = (recipe.get("method") or {}).get("name", "")
    return name in RESIZING_METHODS or is_own(name)


def begin_with(model: BaseAlgorithm, agent: SavedAgent, method: object) -> None:
    """
    Give a new agent what a trained one has learnt.

    :param model: the new agent, built from a recipe that :func:`with_networks_of` gave
    :param agent: the trained one
    :param method: the sparse training method that is to go on; ``None`` for dense networks
    :raises InputError: if its networks or its environment were others, or there is nothing left to do for the method
    """
    where = f"The agent in {str(agent.folder)!r}"
    for kind, its, here in (
        ("observations", agent.description.observation_space, model.observation_space),
        ("actions", agent.description.action_space, model.action_space),
    ):
        # Bounds of actions are what networks scale them to; those of observations mean nothing to them.
        is_vector = kind == "observations" and isinstance(its, Box) and isinstance(here, Box)
        if (its.shape, its.dtype) != (here.shape, here.dtype) if is_vector else its != here:
            raise InputError(f"{where} has {kind} of {its}, but those of this environment are {here}.")
    variables = variables_of(model)
    # An entropy coefficient that is a number, or that is to begin at one, is a hyperparameter.
    is_learnt = getattr(model, "ent_coef", None) == "auto"
    kept = variables.keys() - {"ent_coef_tensor"} - (set() if is_learnt else {"log_ent_coef"})
    variables |= {name: agent.variables[name] for name in kept & agent.variables.keys()}
    try:
        fill(model, agent.policy, variables, where)
    except StorageError as error:
        raise InputError(f"The networks of this recipe are not those of the trained agent. {error}") from error
    env = model.get_vec_normalize_env()
    if agent.normalization is not None and env is not None:
        agent.normalization.put_into(env)
    layers = sparse_layers(model.policy).values()
    if isinstance(method, BudgetSchedule) and all(layer.values.numel() == layer.budget.end for layer in layers):
        raise InputError(
            f"{where} has all weights that it is to have in the end, so there is nothing to do for a method that "
            "changes their number: choose one that keeps it, such as static, anf or rigl."
        )


def _learner_name(algorithm: type[BaseAlgorithm]) -> str:
    """Name a learner as ``--algo`` does."""
    name = next(name for name, known in known_classes().items() if known is algorithm)
    return next((ours for ours, (its, _) in LEARNERS.items() if its == name), name.replace(".", ":"))
