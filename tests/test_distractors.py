"""Distractors are other copies of the environment: they live their own lives, and leave the agent's alone."""

import doctest
import multiprocessing
import pickle
import re
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv

from sparse_rl.envs import DistractorFeatures, distractors, make
from sparse_rl.envs.distractors import Distractor


def rollout(env, steps, seed=1):
    """Observations, rewards and ends under the same random actions."""
    env.action_space.seed(0)
    observations, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            observations.append(env.reset()[0])
    return np.array(observations), rewards, ends


@pytest.mark.parametrize("base", ["HalfCheetah", "Hopper"])
@pytest.mark.parametrize("kind", ["ar", "other"])
def test_base_trajectory_is_that_of_the_environment_without_noise(base, kind):
    plain, rewards, ends = rollout(make(base, max_episode_steps=60), 150)
    assert any(terminated or truncated for terminated, truncated in ends)
    for percent in (0, 50, 85):
        env = make(f"{base}-noise{percent}-{kind}", max_episode_steps=60)
        noisy, noisy_rewards, noisy_ends = rollout(env, 150)
        np.testing.assert_array_equal(noisy[:, : plain.shape[1]], plain.astype(np.float32))
        assert noisy_rewards == rewards
        assert noisy_ends == ends


@pytest.mark.parametrize("seed", [1, 8, 13])
@pytest.mark.parametrize("base", ["HalfCheetah-v5", "Hopper-v5", "CartPole-v1"])
def test_a_distractor_is_the_environment_under_the_same_seeds_and_actions(base, seed):
    env = DistractorFeatures(gym.make(base, max_episode_steps=40), 0.7)
    n_real, (first, second, _) = env.n_real, env.distractors
    shown = [env.reset(seed=seed)[0][n_real : 2 * n_real]]
    actions, resets = [], {0: first.reset_seed(0)}
    for step in range(100):
        actions.append(first.random_action())
        assert env.action_space.contains(actions[-1])
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        shown.append(observation[n_real : 2 * n_real])
        if terminated or truncated:
            env.reset()
        if first.began == step + 1:
            resets[step + 1] = first.reset_seed(first.episode)
    assert len(resets) >= 3
    alone = gym.make(base, max_episode_steps=40)
    expected, lengths = [alone.reset(seed=resets[0])[0]], []
    for step, action in enumerate(actions, 1):
        observation, _, terminated, truncated, _ = alone.step(action)
        if step in resets:
            lengths.append((step - sum(length for length, *_ in lengths), terminated or truncated))
            observation, _ = alone.reset(seed=resets[step])
        else:
            assert not terminated
            assert not truncated
        expected.append(observation)
    np.testing.assert_array_equal(shown, np.array(expected, np.float32))
    # Only the first episode may end before the environment says so.
    assert all(ended for _, ended in lengths[1:])
    assert second.reset_seed(0) != first.reset_seed(0) != first.reset_seed(1)


def test_copies_do_not_start_their_episodes_together():
    env = make("HalfCheetah-noise90-other", max_episode_steps=50)
    env.reset(seed=0)
    for _ in range(75):
        env.step(env.action_space.sample())
    began = [began for _, began, _ in env.get_wrapper_attr("distractor_counters")]
    assert len(began) == 9
    assert len(set(began)) > 5
    assert all(25 < start <= 75 for start in began)


def test_first_episodes_end_at_uniform_steps_up_to_the_time_limit():
    copy = Distractor(gym.spec("Pendulum-v1"), 0)
    lengths = []
    for seed in range(300):
        copy.restore(seed, (0, 0, 0))
        lengths.append(copy._end_of_first_episode)
    assert min(lengths) >= 1
    assert max(lengths) <= 200
    assert abs(np.mean(lengths) - 100.5) < 4.5 * (200 / 12**0.5) / 300**0.5


def test_without_a_time_limit_episodes_end_by_themselves():
    spec = gym.spec("CartPole-v1")
    spec.max_episode_steps = None
    copy = Distractor(spec, 0)
    copy.restore(5, (0, 0, 0))
    while copy.episode < 3:
        copy.advance()
    assert copy.clock == copy.began < 300


def test_actions_are_uniform_and_differ_between_copies_and_steps():
    one, other = (Distractor(gym.spec("HalfCheetah-v5"), index) for index in (0, 1))
    drawn = []
    for copy in (one, other):
        copy.seed = 3
        for copy.clock in range(500):
            drawn.append(copy.random_action())
    actions = np.array(drawn)
    assert len(np.unique(actions)) > 5900
    assert actions.dtype == np.float32
    assert np.abs(actions.mean(0)).max() < 4.5 * 3**-0.5 / 1000**0.5
    assert actions.std() == pytest.approx(3**-0.5, rel=0.05)
    assert abs(np.corrcoef(actions[:500].ravel(), actions[500:].ravel())[0, 1]) < 4.5 / 3000**0.5
    cart = Distractor(gym.spec("CartPole-v1"), 0)
    taken = set()
    for cart.clock in range(50):
        taken.add(int(cart.random_action()))
    assert taken == {0, 1}


def test_actions_that_are_whole_numbers_are_uniform_too():
    copy = Distractor(gym.spec("HalfCheetah-v5"), 0)
    copy.env = SimpleNamespace(action_space=gym.spaces.Box(-2, 2, (1,), np.int8), close=copy.env.close)
    counts = dict.fromkeys(range(-2, 3), 0)
    for copy.clock in range(2000):
        counts[int(copy.random_action()[0])] += 1
    assert all(abs(count - 400) < 4.5 * (2000 * 0.2 * 0.8) ** 0.5 for count in counts.values())


def test_less_is_a_prefix_of_more_and_the_last_copy_is_cut():
    few, *_ = rollout(make("HalfCheetah-noise60-other"), 30)
    many, *_ = rollout(make("HalfCheetah-noise80-other"), 30)
    assert few.shape[1] == 43  # 17 + 17 + 9
    np.testing.assert_array_equal(many[:, :43], few)
    np.testing.assert_array_equal(
        make("HalfCheetah-noise60-other").get_wrapper_attr("real_features"), np.arange(43) < 17
    )


def test_same_seed_same_distractors_whatever_came_before():
    env = make("Hopper-noise80-other")
    first, *_ = rollout(env, 50)
    for other in (env, make("Hopper-noise80-other")):
        np.testing.assert_array_equal(rollout(other, 50)[0], first)
    assert not np.array_equal(rollout(env, 50, seed=2)[0][:, 11:], first[:, 11:])
    unseeded = [make("Hopper-noise80-other").reset()[0][11:] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_the_agent_cannot_move_them():
    shown = []
    for scale in (0, 1):
        env = make("HalfCheetah-noise80-other")
        env.reset(seed=0)
        shown.append(np.array([env.step(scale * np.ones(6, np.float32))[0] for _ in range(30)]))
    still, moved = shown
    np.testing.assert_array_equal(still[:, 17:], moved[:, 17:])
    assert not np.array_equal(still[:, :17], moved[:, :17])


def test_a_reset_without_a_seed_leaves_them_alone():
    env = make("Hopper-noise80-other")
    env.reset(seed=0)
    before = env.step(env.action_space.sample())[0]
    after = env.reset()[0]
    np.testing.assert_array_equal(before[11:], after[11:])
    assert not np.array_equal(before[:11], after[:11])


@pytest.mark.parametrize("base", ["HalfCheetah", "Hopper", "CartPole"])
def test_their_state_is_three_numbers_each(base):
    env = make(f"{base}-noise80-other", max_episode_steps=40)
    rollout(env, 97, seed=6)
    seed, counters = env.get_wrapper_attr("noise_seed"), env.get_wrapper_attr("distractor_counters")
    assert all(episode > 0 for episode, *_ in counters)
    other = make(f"{base}-noise80-other", max_episode_steps=40)
    rollout(other, 13, seed=7)
    other.get_wrapper_attr("restore_distractors")(seed, counters)
    assert other.get_wrapper_attr("distractor_counters") == counters
    n_real = env.get_wrapper_attr("n_real")
    env.reset(), other.reset()  # in the environment itself they differ
    for _ in range(60):
        one, two = (each.step(each.action_space.sample())[0] for each in (env, other))
        np.testing.assert_array_equal(one[n_real:], two[n_real:])
        if env.get_wrapper_attr("step_in_episode") >= 5:
            env.reset(), other.reset()
    with pytest.raises(ValueError, match="Expected the counters of 4 copies, got those of 1"):
        env.get_wrapper_attr("restore_distractors")(seed, counters[:1])


def test_a_pickled_environment_is_the_same_from_its_next_seeded_reset_on():
    # More than that Gymnasium's MuJoCo environments do not promise: they are pickled by their arguments.
    env = make("HalfCheetah-noise80-other", max_episode_steps=40)
    again = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(rollout(again, 60)[0], rollout(env, 60)[0])


def _shown_in_this_process(text):
    return rollout(make(text), 20)[0]


@pytest.mark.parametrize("text", ["HalfCheetah-noise80-other", "HalfCheetah-noise80-ar"])
def test_all_processes_show_the_same(text):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(_shown_in_this_process, (text,))
    np.testing.assert_array_equal(_shown_in_this_process(text), elsewhere)


def test_in_worker_processes():
    text = "Hopper-noise80-other"
    vector = SubprocVecEnv([lambda: make(text)] * 2)
    vector.seed(5)
    singles = [make(text) for _ in range(2)]
    np.testing.assert_array_equal(vector.reset(), [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    for _ in range(5):
        shown = vector.step(np.zeros((2, 3), np.float32))[0]
    expected = [[env.step(np.zeros(3, np.float32))[0] for _ in range(5)][-1] for env in singles]
    np.testing.assert_array_equal(shown, expected)
    assert vector.get_attr("distractor_counters") == [env.get_wrapper_attr("distractor_counters") for env in singles]
    vector.close()


def test_bounds_are_those_of_the_real_features():
    space = DistractorFeatures(gym.make("CartPole-v1"), 0.6).observation_space
    real = gym.make("CartPole-v1").observation_space
    np.testing.assert_array_equal(space.low, np.resize(real.low, 10))
    np.testing.assert_array_equal(space.high, np.resize(real.high, 10))


class Odd(gym.Env):
    """Shows NaN at its third step; or has strange actions."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, action_space=None):
        self.action_space = action_space or gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, np.nan if self.steps == 3 else self.steps), 0.0, False, False, {}


@pytest.fixture
def odd():
    gym.register("test-ns/Odd-v0", Odd, disable_env_checker=True)
    yield "test-ns/Odd-v0"
    del gym.registry["test-ns/Odd-v0"]


def test_a_copy_that_diverges_starts_anew(odd):
    copy = Distractor(gym.spec(odd), 0)
    copy.restore(0, (0, 0, 0))
    shown = []
    for _ in range(6):
        copy.advance()
        shown.append(copy.observation[0])
    assert shown == [1, 2, 0, 1, 2, 0]
    assert copy.counters == (2, 6, 6)


def test_actions_must_have_a_uniform_distribution():
    unbounded = gym.spaces.Box(-np.inf, np.inf, (1,))
    for space in (unbounded, gym.spaces.MultiBinary(2)):
        spec = gym.envs.registration.EnvSpec("test-ns/Odd-v0", Odd, kwargs={"action_space": space})
        with pytest.raises(ValueError, match=re.escape(f"bounded Box and Discrete spaces, not {space}")):
            Distractor(spec, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fraction": 1.0}, ValueError, "must be in [0, 1), got 1.0"),
        ({"fraction": "0.9"}, TypeError, "must be a number in [0, 1)"),
        ({"seed": -1}, ValueError, "DistractorFeatures expects a seed from 0 to 2**63 - 1, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        DistractorFeatures(gym.make("CartPole-v1"), **{"fraction": 0.5, **arguments})


def test_environments_that_cannot_be_copied_are_refused():
    with pytest.raises(gym.error.Error, match=r"DistractorFeatures needs a second copy .* without a spec\. Make it"):
        DistractorFeatures(Odd(), 0.5)
    with pytest.raises(TypeError, match=r"FlattenObservation before DistractorFeatures"):
        DistractorFeatures(gym.make("FrozenLake-v1"), 0.5)


def test_closing_closes_the_copies():
    env = make("HalfCheetah-noise80-other", render_mode="rgb_array")
    assert all(copy.env.render_mode is None for copy in env.get_wrapper_attr("distractors"))
    closed = []
    for copy in env.get_wrapper_attr("distractors"):
        copy.env.unwrapped.close = lambda: closed.append(True)
    env.close()
    assert len(closed) == 4


def test_examples_in_the_documentation():
    assert doctest.testmod(distractors).attempted
    assert doctest.testmod(distractors).failed == 0
