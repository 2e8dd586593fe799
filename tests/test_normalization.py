"""Normalized observations: the statistics are right in training, evaluation, checkpoints and saved agents."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from comparing import assert_same_run, run, run_in_parts
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sparse_rl
from sparse_rl.agents import as_trained, load_agent, load_normalization, save_agent
from sparse_rl.agents.replay.normalization import normalize_rows
from sparse_rl.commands.train import main
from sparse_rl.envs import feature_names
from sparse_rl.storage import StorageError, load_tensors, save_tensors
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.experiment import EVALUATION_SEED_OFFSET
from sparse_rl.training.trained import open_trained

SEED = 3
SHORT = (
    f"--seed {SEED} -n 150 --eval-freq 1000 --eval-episodes 1 "
    "-params buffer_size:100 learning_starts:60 policy_kwargs.net_arch:[16,16] batch_size:32"
)
OFF_POLICY = f"{SHORT} normalize:true --algo anf-sac --env Reacher-noise80 --update-interval 30"


def normalized(seed: int = 0, **settings: object) -> VecNormalize:
    env = VecNormalize(DummyVecEnv([lambda: sparse_rl.envs.make("Pendulum-v1-noise50")]), **settings)
    env.seed(seed)
    env.reset()
    for _ in range(20):
        env.step(np.zeros((1, 1), np.float32))
    return env


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(OFF_POLICY, tmp_path_factory.mktemp("normalized"))


def test_batches_are_normalized_as_stable_baselines3_does_to_the_bit() -> None:
    env = normalized(clip_obs=1.5)
    rows = np.random.default_rng(0).normal(0, 2, (6, 50)).astype(np.float32)
    rows[2, 3], rows[4, 5] = np.nan, np.inf
    expected = np.asarray(env.normalize_obs(rows.T)).T
    normalize_rows(rows, env)
    assert rows.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert np.nanmax(rows) == 1.5


def test_a_run_that_is_continued_goes_on_with_its_statistics(trained: Path, tmp_path: Path) -> None:
    parts = run_in_parts(OFF_POLICY, tmp_path, (97,))
    assert_same_run(trained, parts)
    for agent in ("best_model.agent", "Reacher-noise80.agent"):
        ours, theirs = (load_normalization(folder / agent) for folder in (trained, parts))
        assert ours is not None
        assert theirs is not None
        assert ours.settings == theirs.settings
        for name, array in ours.statistics.items():
            assert array.tobytes() == theirs.statistics[name].tobytes(), name
        assert ours.statistics["obs_count"] == pytest.approx(151, abs=0.01)


@pytest.mark.slow
def test_rollouts_too_with_several_copies(tmp_path: Path) -> None:
    words = (
        "--algo static-ppo --env CartPole-v1-noise50 --n-envs 2 --seed 1 -n 128 --log-interval 1 --eval-freq 64 "
        "--eval-episodes 1 -params normalize.clip_obs:5 n_steps:16 batch_size:16 n_epochs:2 policy_kwargs.net_arch:[8]"
    )
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", (70,)))


def test_evaluations_use_the_agents_statistics_and_the_environments_rewards(trained: Path) -> None:
    with np.load(trained / "evaluations.npz") as evaluations:
        in_training = evaluations["results"][-1]
    # The only evaluation of that run is the first episode of an environment with this seed.
    assert evaluate(trained, 1, seed=SEED + EVALUATION_SEED_OFFSET).tolist() == in_training.tolist()
    assert evaluate(trained, 1, best=True, seed=SEED + EVALUATION_SEED_OFFSET).tolist() == in_training.tolist()


def test_features_keep_their_names(trained: Path) -> None:
    """Normalization changes values, and nothing else."""
    names = feature_names(open_trained(str(trained)).env())
    assert names[:2] == ["cos joint0", "cos joint1"]
    assert names[-1] == "noise 39"


def test_the_recipe_is_the_zoos(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yml").read_text())
    assert config["hyperparameters"]["normalize"] == {"gamma": 0.99}  # the learner's


def test_an_agent_carries_its_statistics(tmp_path: Path) -> None:
    env = normalized(gamma=0.9)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8)
    save_agent(model, tmp_path)
    shown = as_trained(DummyVecEnv([lambda: sparse_rl.envs.make("Pendulum-v1-noise50")]), tmp_path)
    assert isinstance(shown, VecNormalize)
    assert not shown.training
    assert not shown.norm_reward
    shown.seed(5)
    env.seed(5)
    env.training = False
    seen = shown.reset()
    assert np.array_equal(seen, env.reset())
    statistics = load_normalization(tmp_path)
    assert statistics is not None
    assert np.array_equal(statistics.show(shown.get_original_obs()), seen)

    again = load_agent(tmp_path, sparse_rl.envs.make("Pendulum-v1-noise50"))
    learning = again.get_vec_normalize_env()
    assert learning is not None
    assert (learning.training, learning.norm_reward, learning.gamma) == (True, True, 0.9)
    assert np.array_equal(learning.obs_rms.var, env.obs_rms.var)
    again.learn(8)
    assert learning.obs_rms.count > env.obs_rms.count


@pytest.mark.parametrize("acting_only", [False, True])
def test_an_agent_that_was_loaded_to_act_keeps_its_statistics(tmp_path: Path, acting_only: bool) -> None:
    save_agent(PPO("MlpPolicy", normalized(), n_steps=8, batch_size=8), tmp_path / "first")
    save_agent(load_agent(tmp_path / "first"), tmp_path / "second", acting_only)
    first, second = (load_normalization(tmp_path / name) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert first.settings == second.settings
    assert all(np.array_equal(array, second.statistics[name]) for name, array in first.statistics.items())


def test_statistics_are_not_lost_in_silence(tmp_path: Path) -> None:
    save_agent(PPO("MlpPolicy", normalized(), n_steps=8, batch_size=8), tmp_path)
    statistics = load_normalization(tmp_path)
    assert statistics is not None

    def env() -> DummyVecEnv:
        return DummyVecEnv([lambda: sparse_rl.envs.make("Pendulum-v1-noise50")])

    with pytest.warns(UserWarning, match="statistics of observations are not those that this agent was trained with"):
        load_agent(tmp_path, VecNormalize(env()))
    load_agent(tmp_path, statistics.wrap(env(), training=True))  # these are
    agent = load_agent(tmp_path)
    agent.set_env(env())
    with pytest.raises(ValueError, match="was trained on normalized observations, but its environment is not"):
        save_agent(agent, tmp_path / "other")
    agent.set_env(statistics.wrap(env()))
    save_agent(agent, tmp_path / "other")
    again = load_normalization(tmp_path / "other")
    assert again is not None
    assert np.array_equal(again.statistics["obs_mean"], statistics.statistics["obs_mean"])


def test_statistics_of_a_table(tmp_path: Path) -> None:
    class Table(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (3, 4), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    env = VecNormalize(DummyVecEnv([Table]))
    env.obs_rms.mean[:] = np.arange(12).reshape(3, 4)
    save_agent(PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu"), tmp_path)
    again = load_agent(tmp_path, DummyVecEnv([Table])).get_vec_normalize_env()
    assert again is not None
    assert again.obs_rms.mean.tolist() == env.obs_rms.mean.tolist()


def test_an_agent_without_statistics_sees_what_there_is(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: sparse_rl.envs.make("Pendulum-v1")])
    save_agent(PPO("MlpPolicy", env, n_steps=8, batch_size=8), tmp_path)
    assert load_normalization(tmp_path) is None
    assert as_trained(env, tmp_path) is env


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("obs_mean", th.full((6,), th.nan, dtype=th.float64), "finite"),
        ("obs_mean", th.zeros(6), "64-bit"),
        ("obs_var", th.full((6,), -1, dtype=th.float64), "negative"),
        ("obs_var", th.ones(5, dtype=th.float64), "different shapes"),
        ("obs_count", th.ones(2, dtype=th.float64), "shape"),
        ("obs_other", th.ones(6, dtype=th.float64), "there should be"),
    ],
)
def test_statistics_of_a_stranger_are_looked_at_first(
    tmp_path: Path, name: str, value: th.Tensor, message: str
) -> None:
    save_agent(PPO("MlpPolicy", normalized(), n_steps=8, batch_size=8), tmp_path)
    tensors, metadata = load_tensors(tmp_path / "model.safetensors")
    save_tensors(tmp_path / "model.safetensors", {**tensors, f"normalization.{name}": value}, metadata)
    with pytest.raises(StorageError, match=message):
        load_normalization(tmp_path)
    with pytest.raises(StorageError, match=message):
        load_agent(tmp_path)


def test_settings_of_a_stranger_too(tmp_path: Path) -> None:
    save_agent(PPO("MlpPolicy", normalized(), n_steps=8, batch_size=8), tmp_path)
    tensors, metadata = load_tensors(tmp_path / "model.safetensors")
    for settings in (None, {}, {**metadata["normalization"], "epsilon": -1}, {**metadata["normalization"], "x": 1}):
        save_tensors(tmp_path / "model.safetensors", tensors, {**metadata, "normalization": settings})
        with pytest.raises(StorageError, match="cannot be used"):
            load_normalization(tmp_path)


def test_another_environments_observations_are_refused(trained: Path) -> None:
    env = DummyVecEnv([lambda: sparse_rl.envs.make("Pendulum-v1")])
    with pytest.raises(StorageError, match="shape"):
        as_trained(env, trained / "best_model.agent")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--env Reacher-noise80-permute50 -params normalize:true", "another feature"),
        ("--env Reacher-v5 -params normalize:yes!", "must be true, false or a mapping"),
        ("--env Reacher-v5 -params normalize.clip_ob:3", "Did you mean 'clip_obs'"),
        ("--env Reacher-v5 -params normalize.clip_obs:-3", "above 0"),
    ],
)
def test_what_cannot_be_normalized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main([*words.split(), "-n", "10", "-f", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
