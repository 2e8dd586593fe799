"""Replay of observed noise: it comes back as it was seen, bit for bit, and is not stored."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from replay_cases import (
    ACTION_SPACE,
    NOISE,
    REAL,
    Both,
    Count,
    Fickle,
    arrays,
    buffer_for,
    fill,
    noisy,
    spaces_of,
)
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.sac import SAC
from sparse_rl.envs import (
    Histograms,
    NoiseFeatures,
    NoiseModel,
    PermuteFeatures,
)
from sparse_rl.envs import make as make_env
from sparse_rl.sb3 import SparseSACPolicy


def observed_and_stock(size=60, n_envs=1, permute_every=None, distribution="normal", std=1.0, steps=50):
    """Make both buffers, and let them see one environment."""

    def create():
        env = NoiseFeatures(Fickle(), 0.7, "ar" if distribution == "ar" else "normal", std)
        if distribution == "real":  # of an environment without an id: give it histograms
            samples = np.random.default_rng(0).normal(size=(500, REAL))
            env.noise_model = NoiseModel(REAL, NOISE, Histograms.of(samples))
        return env if permute_every is None else PermuteFeatures(env, every=permute_every, seed=9)

    env = DummyVecEnv([create] * n_envs)
    spaces = (env.observation_space, env.action_space, "cpu", n_envs)
    ours = ObservedReplayBuffer(size, *spaces, **ObservedReplayBuffer.kwargs_for(env))
    theirs = ReplayBuffer(size, *spaces)
    env.seed(3)
    fill(Both(ours, theirs), env, steps)
    return ours, theirs


def assert_same_batches(ours, theirs, sizes=(1, 64, 256), env=None):
    """Also afterwards NumPy's generator is in the same state."""
    batches, states = [], []
    for buffer in (ours, theirs):
        np.random.seed(5)
        batches.append([buffer.sample(size, env=env) for size in sizes])
        states.append(np.random.random())
    assert states[0] == states[1]
    for own, stock in zip(*batches, strict=True):
        for name, expected in stock._asdict().items():
            value = getattr(own, name)
            assert (value is expected is None) or (value.dtype == expected.dtype and th.equal(value, expected)), name


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("permute_every", [None, 13])
@pytest.mark.parametrize(
    "distribution",
    [{}, {"std": 4.0}, {"distribution": "real"}, {"distribution": "ar"}],
    ids=["normal", "std", "real", "ar"],
)
@pytest.mark.parametrize("steps", [1, 25, 150])
def test_observed_batches_are_those_of_stable_baselines3_bit_for_bit(n_envs, permute_every, distribution, steps):
    ours, theirs = observed_and_stock(60, n_envs, permute_every, steps=steps, **distribution)
    if steps == 150:
        assert ours.full
        assert 0 < theirs.timeouts.sum() < theirs.dones.sum() < theirs.dones.size
        assert permute_every is None or len(np.unique(ours.phases)) > 2
    assert_same_batches(ours, theirs)


def test_observed_batches_are_the_same_with_another_seed_and_another_episode():
    env = noisy(n_envs=2)
    ours, theirs = buffer_for(env, ObservedReplayBuffer), ReplayBuffer(1000, *spaces_of(env), n_envs=2)
    for seed in (4, 2**63 - 2, 0):
        env.seed(seed)
        fill(Both(ours, theirs), env, steps=11)
    assert len(np.unique(ours.noise_seeds[ours.noise_seeds > 0])) >= 4
    assert_same_batches(ours, theirs)


@pytest.mark.parametrize(
    "name", ["Hopper-noise90-real", "InvertedPendulum-noise80-std2-permute5", "Reacher-noise80-ar"]
)
def test_what_an_agent_learns_from_is_what_it_would_with_stable_baselines3s_buffer(name):
    parameters = []
    for compact in (True, False):
        env = DummyVecEnv([lambda: make_env(name)] * 2)
        arguments = {
            "replay_buffer_class": ObservedReplayBuffer, "replay_buffer_kwargs": ObservedReplayBuffer.kwargs_for(env)
        } if compact else {}  # fmt: skip
        model = SAC(
            SparseSACPolicy, env, 1e-3, 50, 5, 8, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0, **arguments
        )
        model.learn(120)
        parameters.append(th.cat([p.flatten() for p in model.policy.parameters()]))
    assert th.equal(*parameters)


def test_observed_noise_can_be_normalized():
    env = VecNormalize(noisy(permute_every=20), clip_obs=5.0)
    ours, theirs = buffer_for(env, ObservedReplayBuffer), ReplayBuffer(1000, *spaces_of(env))
    fill(Both(ours, theirs), env.venv, steps=40)
    env.obs_rms.update(ours.sample(100).observations.numpy())
    env.ret_rms.update(np.arange(9.0))
    assert_same_batches(ours, theirs, env=env)


def test_observed_replay_keeps_twenty_bytes_more_than_the_real_features():
    stock, env = ReplayBuffer(100, gym.spaces.Box(-1, 1, (REAL,)), ACTION_SPACE), noisy(permute_every=20)
    assert arrays(buffer_for(env, ObservedReplayBuffer, 100)) == arrays(stock) + 100 * 20
    assert arrays(buffer_for(env, RedrawnReplayBuffer, 100)) == arrays(stock)


def test_a_saved_observed_buffer_gives_the_same_batches(tmp_path):
    ours, theirs = observed_and_stock(permute_every=13)
    save_to_pkl(tmp_path / "buffer.pkl", ours)
    assert_same_batches(load_from_pkl(tmp_path / "buffer.pkl"), theirs)


def test_observations_that_cannot_be_drawn_again_are_noticed_without_a_spec():
    louder = gym.wrappers.TransformObservation(NoiseFeatures(Count(), 0.7), lambda x: 100 * x, None)
    env = DummyVecEnv([lambda: louder])
    with pytest.raises(ValueError, match="is not what the noise model draws"):
        fill(buffer_for(env, ObservedReplayBuffer), env, steps=1)


@pytest.mark.parametrize("buffer", [RedrawnReplayBuffer, ObservedReplayBuffer])
@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("noise90", "noise90-std4"),
        ("noise90", "noise90-ar"),
        ("noise90", "noise90-permute50"),
        ("noise90-permute50", "noise90-std4"),
    ],
)
@pytest.mark.parametrize("how", ["set_env", "load"])
def test_another_noise_than_the_buffers_is_noticed(buffer, mine, other, how, tmp_path):
    """A buffer, and a saved model, keep the noise model of the environment that they were made with."""
    here, there = (DummyVecEnv([lambda each=each: make_env(f"InvertedPendulum-{each}")]) for each in (mine, other))
    model = SAC(
        SparseSACPolicy, here, buffer_size=100, learning_starts=1000, policy_kwargs={"net_arch": [8]}, device="cpu",
        replay_buffer_class=buffer, replay_buffer_kwargs=buffer.kwargs_for(here),
    )  # fmt: skip
    model.learn(10)
    if how == "set_env":
        model.set_env(there)
    else:
        model.save(tmp_path / "model.zip")
        model = SAC.load(tmp_path / "model.zip", env=there, device="cpu")
    with pytest.raises(ValueError, match=f"another environment.*Give {buffer.__name__}.kwargs_for"):
        model.learn(200, reset_num_timesteps=False)


class Repeat(gym.Wrapper):
    """Each action is taken twice: an episode's first transition skips an observation."""

    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


def test_transitions_that_skip_steps_are_noticed():
    env = DummyVecEnv([lambda: Repeat(NoiseFeatures(Count(), 0.7))])
    with pytest.raises(ValueError, match="is not what the noise model draws"):
        fill(buffer_for(env, ObservedReplayBuffer), env, steps=1)


@pytest.mark.parametrize("buffer", [RedrawnReplayBuffer, ObservedReplayBuffer])
def test_an_environment_that_is_not_permuted_is_noticed(buffer):
    permuted = DummyVecEnv([lambda: PermuteFeatures(NoiseFeatures(Count(), 0.7), 5)])
    plain = DummyVecEnv([lambda: NoiseFeatures(Count(), 0.7)])
    with pytest.raises(ValueError, match="another environment"):
        fill(buffer_for(permuted, buffer), plain, steps=1)


@pytest.mark.parametrize("buffer", [RedrawnReplayBuffer, ObservedReplayBuffer])
def test_copies_of_other_permutations_are_noticed(buffer):
    env = DummyVecEnv([lambda s=s: PermuteFeatures(NoiseFeatures(Count(), 0.7), 5, seed=s) for s in (1, 2)])
    with pytest.raises(ValueError, match="its copies differ"):
        fill(buffer_for(env, buffer), env, steps=60)
