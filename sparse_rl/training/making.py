"""An algorithm by its name, for those who train from Python: the agent, and the callbacks that make it what it is."""

import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sparse_rl.agents.build import in_gradient_steps, learner_defaults, make_method, make_model, replay_callbacks
from sparse_rl.agents.learners import check_actions
from sparse_rl.agents.recipe import flatten, learner_of, load_recipe
from sparse_rl.agents.trained_agent import begin_with
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError
from sparse_rl.nn import sparse_layers
from sparse_rl.sb3 import ScreeningCallback, TopologyCallback
from sparse_rl.training.finding import read_found
from sparse_rl.training.plan import Plan, base_name, change_recipe, make_plan
from sparse_rl.training.vec_envs import make_vec_env, phase_of


class MadeAgent(NamedTuple):
    """An agent, and what goes with it into ``learn``."""

    model: BaseAlgorithm
    callbacks: list[BaseCallback]


def make_agent(
    algo: str,
    env: str,
    seed: int | None = None,
    variant: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str = "auto",
    trained_agent: str | Path | None = None,
    **hyperparameters: Any,
) -> MadeAgent:
    """
    Make the agent that ``train.py --algo ALGO --env ENV`` would train, with its recipe, its environment and its replay.

    >>> model, callbacks = make_agent("anf-sac", "HalfCheetah-noise98", seed=0, n_timesteps=100_000)
    >>> model.learn(100_000, callbacks)

    What the command line would note, for example that a run ends before its first topology update, is a warning here.

    :param algo: name of an algorithm, for example ``"anf-sac"``; ``sparse-rl train --help`` lists them
    :param env: id of the environment, for example ``"HalfCheetah-noise98"``
    :param seed: the seed of everything that is drawn; ``None`` for a random one
    :param variant: variant of the recipe, for example ``"paper"``
    :param env_kwargs: arguments of the environment
    :param device: where the networks live, for example ``"cpu"``
    :param trained_agent: a run or an agent whose networks are trained further; ``None`` for new networks
    :param hyperparameters: changes to the recipe, as after ``-params``: ``learning_rate=1e-3``,
        ``method={"update_interval": 500}``. ``n_timesteps`` is the length of a run, of which the times of some methods
        are fractions; give it if ``learn`` will take another number of steps than the recipe has
    :return: the agent, and the callbacks that rewire its networks or change its replay, in the order in which they act:
        without them the agent is static, with a replay that stays as it is
    :raises InputError: if a name is not known or a value not allowed
    """
    environment = EnvironmentId.parse(env)
    recipe = change_recipe(algo, load_recipe(algo, base_name(environment), variant), hyperparameters)
    words = Namespace(  # what a command line would hold; of ``hyperparams`` the plan looks at the keys alone
        algo=algo, env=env, seed=-1 if seed is None else seed, variant=variant, conf_file=None, env_kwargs=[],
        hyperparams=[f"{name}:0" for name, _ in flatten(hyperparameters)], vec_env="dummy", n_eval_envs=1, save_freq=-1,
        log_interval=4, device=device, num_threads=-1,
        trained_agent=None if trained_agent is None else Path(trained_agent),
    )  # fmt: skip
    plan = make_plan(words, environment, recipe, learner_defaults(learner_of(algo)))
    for note in plan.notes:
        warnings.warn(note, stacklevel=2)
    settled, learner = plan.hyperparameters, learner_of(algo)
    vec_env = make_vec_env(env, settled["n_envs"], plan.seed, "dummy", env_kwargs, settled.get("normalize"))
    try:
        check_actions(learner, vec_env.action_space, env)
        callbacks = learning_callbacks(settled)
        model = make_model(learner, settled, vec_env, plan.seed, device)
        if (shift := begin(plan, model)) is not None:
            warnings.warn(shift, stacklevel=2)
        check_methods(model, callbacks, algo)
    except BaseException:
        vec_env.close()
        raise
    return MadeAgent(model, callbacks)


def begin(plan: Plan, model: BaseAlgorithm) -> str | None:
    """
    Give a new agent what the trained agent has learnt that its run begins with, if it does.

    :param plan: the plan of the run
    :param model: the new agent
    :return: what the user should know about that, in a sentence
    :raises ValueError: if there is no such agent any more, it has learnt on since, or it does not fit
    """
    if plan.trained_agent is None:
        return None
    settled, agent = plan.hyperparameters, read_found(plan.trained_agent)
    if agent.num_timesteps != plan.trained_agent_steps:
        raise InputError(
            f"The agent in {str(agent.folder)!r} had learnt for {plan.trained_agent_steps} steps when this run was "
            f"begun, and for {agent.num_timesteps} now: start another run."
        )
    begin_with(model, agent, make_method(in_gradient_steps(settled)) if "method" in settled else None)
    env = model.get_env()
    if not agent.phase or env is None or agent.phase == phase_of(env):
        return None
    return (
        f"the trained agent knows the features in the order of phase {agent.phase}, but training does not begin in "
        "that phase: it sees them in another order."
    )


def learning_callbacks(hyperparameters: Mapping[str, Any], verbose: int = 0) -> list[BaseCallback]:
    """
    Make the callbacks that are part of learning itself.

    :param hyperparameters: a complete recipe, checked already
    :param verbose: 1 to print what screening finds
    :return: those for screening, the replay buffer and the topology, as far as the recipe has them
    :raises ValueError: if some hyperparameters do not fit together
    """
    callbacks: list[BaseCallback] = []
    if "screening" in hyperparameters:
        callbacks.append(ScreeningCallback(**hyperparameters["screening"], verbose=verbose))
    callbacks += replay_callbacks(hyperparameters)
    if "method" in hyperparameters:
        callbacks.append(TopologyCallback(make_method(in_gradient_steps(hyperparameters))))
    return callbacks


def check_methods(model: BaseAlgorithm, callbacks: Iterable[BaseCallback], algo: str) -> None:
    """
    Check that methods have layers to work on and can do what they shall with each, and screening enough to look at.

    :param model: the agent
    :param callbacks: what :func:`learning_callbacks` gave
    :param algo: the algorithm's name, for the message
    :raises InputError: if no layer is sparse, or the warm-up is too short for screening
    :raises ValueError: if a layer does not suit a method
    """
    for callback in callbacks:
        if isinstance(callback, ScreeningCallback):
            assert isinstance(model, OffPolicyAlgorithm)  # the plan has been checked for that
            callback.check(model)
        if isinstance(callback, TopologyCallback):
            if not sparse_layers(model.policy):
                raise InputError(
                    f"None of the networks' layers would be sparse, so there is nothing for {algo} to do: at this size "
                    "they keep all weights. Give a larger --sparsity (where there are lambdas: smaller ones), or "
                    "larger networks."
                )
            callback.check(model)
