"""Let trained agents act, without exploration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy

from sparse_rl.training.plan import EVALUATION_SEED
from sparse_rl.training.trained import Trained, open_trained


def evaluate(
    folder: Path | str,
    episodes: int = 10,
    best: bool = False,
    seed: int = EVALUATION_SEED,
    phase: int | None = None,
    trust: bool = False,
) -> NDArray[np.float64]:
    """
    Let a trained agent act for some episodes.

    :param folder: the folder of its run, or what else :func:`~sparse_rl.training.trained.open_trained` takes
    :param episodes: number of episodes
    :param best: whether to take the agent that did best in an evaluation, instead of the last one
    :param seed: seed of the environment; with that of its training, it would meet the same episodes and noise again
    :param phase: the phase of a permuted environment; by default the one in which the agent was saved
    :param trust: see :func:`~sparse_rl.training.trained.open_trained`
    :return: the return of each episode
    :raises ValueError: if there is no such agent
    :raises OSError: if a file cannot be read
    """
    return returns_of(open_trained(str(folder), best, phase=phase, trust=trust), episodes, seed)


def returns_of(trained: Trained, episodes: int, seed: int) -> NDArray[np.float64]:
    """
    Let an agent that is open act in its environment.

    :param trained: the agent
    :param episodes: number of episodes
    :param seed: seed of the environment
    :return: the return of each episode
    :raises ValueError: if its environment cannot be made, or is none that it can act in
    """
    env = trained.vec_env(seed)
    try:
        returns, _ = evaluate_policy(trained.model, env, episodes, return_episode_rewards=True)
    finally:
        env.close()
    return np.asarray(returns, dtype=np.float64)
