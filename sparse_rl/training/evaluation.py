"""
Evaluate the agent of a run.

Nothing is unpickled. The agent of a run that was made before there were ``model.safetensors`` is built from
``config.yml``, and filled with the tensors of its zip file.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl.agents import as_trained, load_agent
from sparse_rl.agents.build import describe_networks, learner_defaults, make_model
from sparse_rl.agents.checks import InputError, check_recipe
from sparse_rl.agents.filling import fill
from sparse_rl.agents.foreign import read_zip
from sparse_rl.agents.learners import learner_class
from sparse_rl.agents.recipe import check_algorithm, learner_of
from sparse_rl.names import is_own
from sparse_rl.training.existing import read_config, read_yaml
from sparse_rl.training.run_folder import agent_folder, file_name
from sparse_rl.training.vec_envs import make_vec_env, set_phase


def evaluate(
    folder: Path, episodes: int = 10, best: bool = False, seed: int = 0, phase: int | None = None, trust: bool = False
) -> NDArray[np.float64]:
    """
    Let a trained agent act for some episodes, without exploration.

    :param folder: the folder of its run
    :param episodes: number of episodes
    :param best: whether to take the agent that did best in an evaluation, instead of the last one
    :param seed: seed of the environment
    :param phase: the phase of a permuted environment; by default the one in which the agent was saved
    :param trust: whether to import the package that the environment's id names, as in ``"package:Id"``: a run may be a
        stranger's, but a package is code; one that is imported already needs no trust
    :return: the return of each episode
    :raises ValueError: if the folder does not describe a run
    :raises OSError: if a file cannot be read
    """
    config = read_config(folder)
    environment, learner = str(config.get("env")), learner_of(str(config.get("algo")))
    for kind, name in (("environment", environment), ("learner", learner)):
        package = name.rpartition(":")[0]
        if package and package not in sys.modules and not trust:
            raise InputError(
                f"The {kind} {name!r} of {str(folder)!r} imports the package {package!r}, which can run any code: add "
                "--trust if you know it."
            )
    if is_own(learner):
        learner_class(learner)  # a description of its agents can name it from now on
    file = folder / ("best_model.zip" if best else f"{file_name(environment)}.zip")
    env = make_vec_env(environment, 1, seed, env_kwargs=config.get("env_kwargs"))
    try:
        if agent_folder(file).exists():
            model = load_agent(agent_folder(file))
            env = as_trained(env, agent_folder(file))
            model.set_env(env)  # refuses an environment with other spaces
        else:
            model = _from_zip(file, config, env, seed)
        set_phase(env, _phase_of_agent(folder, best) if phase is None else phase)
        returns, _ = evaluate_policy(model, env, episodes, return_episode_rewards=True)
    finally:
        env.close()
    return np.asarray(returns, dtype=np.float64)


def _from_zip(file: Path, config: dict[str, Any], env: VecEnv, seed: int) -> BaseAlgorithm:
    """Build the agent that ``config.yml`` describes, and fill in the tensors of its zip file."""
    algorithm = str(config.get("algo"))
    check_algorithm(algorithm)
    learner = learner_of(algorithm)
    defaults = learner_defaults(learner)
    # Nothing will be learnt: neither a large buffer nor fresh noise for it is needed.
    smallest = {"buffer_size": 1} if "buffer_size" in defaults else {"n_steps": 2, "batch_size": 2}
    smallest = {key: value for key, value in smallest.items() if key in defaults}
    hyperparameters = check_recipe(config["hyperparameters"] | {"replay": "observed"} | smallest, defaults)
    if not file.exists():
        raise InputError(f"There is no agent {str(file)!r}.")
    _, policy, variables = read_zip(file)
    describe_networks(learner, hyperparameters, env).check(repr(str(file.with_name("config.yml"))))
    model = make_model(learner, hyperparameters, env, seed, device="cpu")
    fill(model, policy, variables, repr(str(file)))
    return model


def _phase_of_agent(folder: Path, best: bool) -> int | None:
    file = folder / "phases.yml"
    if not file.exists():
        return None
    phases = read_yaml(file)
    phase = phases.get("best" if best else "last") if isinstance(phases, dict) else None
    if not isinstance(phase, int) or phase < 0:
        raise InputError(f"{str(file)!r} does not name a phase; give one with --phase.")
    return phase
