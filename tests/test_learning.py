"""It learns: minutes of training, until the task is solved."""

import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold

from sparse_rl.agents.recipe import load_recipe
from sparse_rl.nn import sparse_layers
from sparse_rl.sb3 import TopologyCallback
from sparse_rl.training import make_agent
from sparse_rl.training.vec_envs import make_vec_env

ENV = "InvertedPendulum-noise90"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_anf_sac_balances_the_pendulum_among_nine_times_as_much_noise(seed):
    """Within the recipe's steps the mean return reaches 900 of 1000, and real features outweigh noise everywhere."""
    model, (rewiring,) = make_agent("anf-sac", ENV, seed=seed)
    env = make_vec_env(ENV, 1, seed + 10_000)
    evaluation = EvalCallback(env, StopTrainingOnRewardThreshold(900), n_eval_episodes=5, eval_freq=1000, verbose=0)
    model.learn(load_recipe("anf-sac", "InvertedPendulum")["n_timesteps"], [rewiring, evaluation])

    assert isinstance(rewiring, TopologyCallback)
    assert evaluation.best_mean_reward >= 900
    assert rewiring.updates == model._n_updates // 1000
    real = env.get_attr("real_features")[0]
    for layer in sparse_layers(model.policy).values():
        connections = layer.topology.mask()[:, : len(real)].sum(0, dtype=th.float32)
        strength = layer.dense_weight()[:, : len(real)].abs().sum(0)
        assert connections[real].mean() > connections[~real].mean()
        # Which weights grow how much depends on rounding; that real features outweigh noise does not.
        assert strength[real].mean() > 2 * strength[~real].mean()
        assert strength[real].min() > strength[~real].mean()
