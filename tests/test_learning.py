"""It learns: minutes of training, until the task is solved."""

import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold

from sparse_rl.agents.build import learner_defaults
from sparse_rl.agents.recipe import learner_of
from sparse_rl.commands.train_arguments import make_parser
from sparse_rl.envs import EnvironmentId
from sparse_rl.nn import sparse_layers
from sparse_rl.sb3 import TopologyCallback
from sparse_rl.training.experiment import Experiment
from sparse_rl.training.plan import make_plan, read_recipe


def build(words: str) -> Experiment:
    """Build the run that these words ask ``train.py`` for."""
    args = make_parser().parse_args(words.split())
    environment = EnvironmentId.parse(args.env)
    recipe = read_recipe(args, environment)
    return Experiment(make_plan(args, environment, recipe, learner_defaults(learner_of(args.algo))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_anf_sac_balances_the_pendulum_among_nine_times_as_much_noise(seed):
    """Within the recipe's steps the mean return reaches 900 of 1000, and real features outweigh noise everywhere."""
    experiment = build(f"--algo anf-sac --env InvertedPendulum-noise90 --seed {seed}")
    assert experiment.eval_env is not None
    solved = StopTrainingOnRewardThreshold(900)
    evaluation = EvalCallback(experiment.eval_env, solved, n_eval_episodes=5, eval_freq=1000, verbose=0)
    rewiring = TopologyCallback(experiment.method)
    try:
        experiment.model.learn(experiment.hyperparameters["n_timesteps"], [rewiring, evaluation])
    finally:
        experiment.close()

    assert evaluation.best_mean_reward >= 900
    assert rewiring.updates == experiment.model._n_updates // 1000
    real = experiment.eval_env.get_attr("real_features")[0]
    for layer in sparse_layers(experiment.model.policy).values():
        connections = layer.topology.mask()[:, : len(real)].sum(0, dtype=th.float32)
        strength = layer.dense_weight()[:, : len(real)].abs().sum(0)
        assert connections[real].mean() > connections[~real].mean()
        # Which weights grow how much depends on rounding; that real features outweigh noise does not.
        assert strength[real].mean() > 2 * strength[~real].mean()
        assert strength[real].min() > strength[~real].mean()
