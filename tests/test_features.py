"""Which inputs matter: agents whose answer is known, and statistics that keep what they promise."""

import doctest
import io
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3 import DQN, PPO

from sparse_rl.agents.sac import SAC
from sparse_rl.agents.td3 import TD3
from sparse_rl.envs import make
from sparse_rl.features import (
    Ablation,
    Connections,
    FeatureRanking,
    Intervention,
    action_changes,
    area_under_curve,
    as_csv,
    measuring,
    rank_features,
    ranking_picture,
    sign_flip_test,
    statistics,
    total_effect,
)
from sparse_rl.features.actions import _cycle, as_numbers
from sparse_rl.features.rollouts import Episode, Pool, independent, play, random_transitions
from sparse_rl.features.statistics import ranks
from sparse_rl.sb3 import SparseSACPolicy
from sparse_rl.topology import run_tests

ANGLE, VELOCITY = "pole angle", "pole angular velocity"


# --- Statistics ---


def test_examples() -> None:
    assert doctest.testmod(statistics).attempted >= 6
    assert doctest.testmod(statistics).failed == 0


def test_total_effects_of_a_linear_agent_are_the_shares_of_its_variance() -> None:
    generator = th.Generator().manual_seed(0)
    x, weights = th.randn(20_000, 3, generator=generator), th.tensor([2.0, 1.0, 0.0])
    actions = (x @ weights)[:, None]
    for j, share in enumerate((0.8, 0.2, 0.0)):
        shuffled = x.clone()
        shuffled[:, j] = x[_cycle(len(x), 1), j]
        assert total_effect(actions, (shuffled @ weights)[:, None]) == pytest.approx(share, abs=0.02)


def test_an_agent_that_always_does_the_same() -> None:
    still = th.zeros(5, 2)
    assert total_effect(still, still) == 0
    assert total_effect(still, still + 1) == 1


def test_p_values_of_falls_in_return_are_not_too_small_by_chance() -> None:
    differences = np.random.default_rng(0).standard_t(2, size=(3000, 8))  # heavy tails
    p_values = np.array([sign_flip_test(each) for each in differences])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= level + 3 * (level / 3000) ** 0.5
    assert p_values.min() >= 2**-8


def test_many_differences_are_tested_by_random_signs() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, size=14)
    exact = sign_flip_test(differences)
    assert sign_flip_test(np.append(differences, [0.0, 0.0])) == pytest.approx(exact, abs=0.01)  # zeros change nothing
    assert sign_flip_test(np.ones(40)) == 2**-14  # never 0


@given(hnp.arrays(np.float64, st.integers(2, 12), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])), st.data())
@settings(max_examples=60, deadline=None)
def test_area_and_ranks_by_counting(scores: np.ndarray, data: st.DataObject) -> None:
    real = np.zeros(len(scores), dtype=bool)
    real[: data.draw(st.integers(1, len(scores) - 1))] = True
    pairs = [(a > b) + (a == b) / 2 for a in scores[real] for b in scores[~real]]
    assert area_under_curve(scores, real) == pytest.approx(np.mean(pairs))
    assert ranks(scores).tolist() == [1 + int((scores > s).sum()) for s in scores]


def test_of_the_kept_features_no_more_than_the_level_is_false() -> None:
    rng, n, n_real, level = np.random.default_rng(0), 200, 10, 0.2
    real = np.arange(n) < n_real
    nan, false = np.full(n, np.nan), []
    for _ in range(400):
        returns, task = rng.uniform(size=(2, n))
        returns[:5], task[5:n_real] = 1e-7, 1e-7  # each method sees half of them
        returns[100:] = np.nan  # not tried
        ranking = FeatureRanking(
            tuple("x" * n), real, level,
            ablation=Ablation(np.zeros(n), nan, returns), intervention=Intervention(task, task, task, task),
        )  # fmt: skip
        keep = ranking.keep
        assert keep is not None
        assert keep[:n_real].all()
        assert not (keep[100:] & ~ranking.discoveries["intervention"][100:]).any()
        false.append((keep & ~real).sum() / keep.sum())
    assert 0.02 < np.mean(false) <= level


def test_without_tests_there_is_no_recommendation() -> None:
    ranking = FeatureRanking(("a", "b"), None, 0.05, Connections(np.array([1, 2]), np.array([1.0, 2.0])))
    assert ranking.keep is None
    assert ranking.agreement == {}
    assert ranking.order.tolist() == [1, 0]
    assert "keep" not in ranking.columns()


# --- Networks ---

AGENTS = {
    "sac": lambda: SAC(SparseSACPolicy, make("InvertedPendulum-noise80"), policy_kwargs={"net_arch": [16, 16]}, seed=0),
    "td3": lambda: TD3("MlpPolicy", make("InvertedPendulum-noise80"), policy_kwargs={"net_arch": [16, 16]}, seed=0),
    "ppo": lambda: PPO("MlpPolicy", make("InvertedPendulum-noise80"), device="cpu", seed=0),
    "ppo, discrete": lambda: PPO("MlpPolicy", make("CartPole-v1-noise80"), device="cpu", seed=0),
    "dqn": lambda: DQN("MlpPolicy", make("CartPole-v1-noise80"), buffer_size=1, device="cpu", seed=0),
}


@pytest.mark.parametrize("name", AGENTS)
def test_changes_of_actions_are_what_the_agent_does_when_a_feature_is_shuffled(name: str) -> None:
    model = AGENTS[name]()
    for parameter in model.policy.parameters():
        parameter.data *= 3  # so that actions differ
    observations = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    before = model.predict(observations, deterministic=True)[0]
    effects = action_changes(model.policy, th.as_tensor(observations), seed=5)
    assert (model.predict(observations, deterministic=True)[0] == before).all()  # the agent is as it was
    by_hand = []
    for j in range(20):
        shuffled = observations.copy()
        shuffled[:, j] = observations[_cycle(200, 5), j]
        after = model.predict(shuffled, deterministic=True)[0]
        if isinstance(model.action_space, gym.spaces.Discrete):
            shares = np.bincount(before) / 200
            by_hand.append((before != after).mean() / (1 - (shares**2).sum()))
        else:
            by_hand.append(((before - after) ** 2).mean() / (2 * before.var()))
    assert max(by_hand) > 0.01
    np.testing.assert_allclose(effects, by_hand, rtol=2e-3, atol=1e-6)


class Bounded(gym.Env[Any, Any]):
    """Its two actions have any bounds that one likes."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)

    def __init__(self, low: Any, high: Any) -> None:
        self.action_space = spaces.Box(np.float32(low), np.float32(high), dtype=np.float32)


@pytest.mark.parametrize(
    ("low", "high"), [([-0.01, -0.01], [0.01, 0.01]), ([0, 0], [1, 1]), ([-1, -100], [1, 100]), ([-1, -1], [1, 1])]
)
def test_bounds_of_actions_change_nothing(low: list[float], high: list[float]) -> None:
    model = TD3("MlpPolicy", Bounded(low, high), policy_kwargs={"net_arch": [16]}, device="cpu", seed=0)
    model.policy.set_training_mode(True)
    same = TD3("MlpPolicy", Bounded([-1, -1], [1, 1]), policy_kwargs={"net_arch": [16]}, device="cpu", seed=0)
    observations = th.randn(100, 4, generator=th.Generator().manual_seed(0))
    effects = action_changes(model.policy, observations)
    assert (effects > 0).all()
    np.testing.assert_array_equal(effects, action_changes(same.policy, observations))
    assert model.policy.training


def test_a_feature_without_connections_has_no_effect_and_order_does_not_matter() -> None:
    model = AGENTS["td3"]()
    layer = model.actor.mu[0]
    layer.weight.data[:, [3, 7]] = 0
    observations = th.randn(100, 20, generator=th.Generator().manual_seed(0))
    effects = action_changes(model.policy, observations)
    assert effects[3] == effects[7] == 0
    assert (np.delete(effects, [3, 7]) > 0).all()
    order = th.randperm(20, generator=th.Generator().manual_seed(1))
    layer.weight.data = layer.weight.data[:, order].clone()
    np.testing.assert_allclose(action_changes(model.policy, observations[:, order]), effects[order], rtol=1e-4)


def test_each_feature_stays_in_no_place() -> None:
    for n in (2, 3, 50):
        cycle = _cycle(n, 0)
        assert sorted(cycle.tolist()) == list(range(n))
        assert (cycle != th.arange(n)).all()


# --- Agents whose answer is known ---


def balancer(environment: str, phase: int | None = None) -> tuple[DQN, Any]:
    """Make an agent that balances CartPole by the pole's angle and velocity, and sees nothing else."""

    def make_env() -> gym.Env:
        env = make(environment)
        if phase is not None:
            env.get_wrapper_attr("set_phase")(phase)
        return gym.wrappers.TimeLimit(env, 100)

    env = make_env()
    env.reset(seed=0)
    inner = np.arange(8) if phase is None else env.get_wrapper_attr("permutation")
    model = DQN("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": [2]}, device="cpu")
    first, _, last = model.q_net.q_net
    for tensor in model.q_net.parameters():
        tensor.data.zero_()
    for feature, gain in ((2, 1.0), (3, 0.5)):
        first.weight.data[:, inner.tolist().index(feature)] = th.tensor([gain, -gain])
    last.weight.data[:] = th.tensor([[0.0, 1.0], [1.0, 0.0]])  # to the right if the pole falls there
    return model, make_env


@pytest.mark.parametrize("phase", [None, 3])
def test_a_ranking_of_an_agent_whose_answer_is_known(phase: int | None) -> None:
    environment = "CartPole-v1-noise50" + ("-permute1000" if phase else "")
    ranking = rank_features(*balancer(environment, phase), episodes=9, transitions=1500, seed=1)
    used = np.array([name in (ANGLE, VELOCITY) for name in ranking.names])
    real = np.array([not name.startswith("noise") for name in ranking.names])
    as_they_were = (np.arange(8) // 2 == 1).tolist()
    if phase is None:
        assert used.tolist() == as_they_were
    else:  # the permutation has moved them
        assert used.tolist() != as_they_were
    assert ranking.real.tolist() == real.tolist()
    assert (ranking.connections.count == 2).all()
    assert (ranking.connections.strength[used] > 0).all()
    assert (ranking.connections.strength[~used] == 0).all()
    assert (ranking.ablation.action_change[used] > 0.1).all()
    assert (ranking.ablation.action_change[~used] == 0).all()
    assert np.isnan(ranking.ablation.p_value[~used]).all()  # what is ignored is not tried
    drop = dict(zip(ranking.names, ranking.ablation.return_drop, strict=True))
    assert drop[VELOCITY] > 30  # without it the pole falls; without the angle it stays up for so long
    assert drop[ANGLE] == 0
    assert ranking.discoveries["ablation"].tolist() == [name == VELOCITY for name in ranking.names]
    assert ranking.keep.tolist() == real.tolist()  # all four answer to the push
    assert {ranking.names[j] for j in ranking.order[:2]} == {ANGLE, VELOCITY}
    confirmation = ranking.confirmation
    assert confirmation.kept_only.tolist() == confirmation.intact.tolist() == [100] * 9  # noise is ignored, to the bit
    assert confirmation.kept_hidden.mean() < 45
    assert not confirmation.lacks_something(0.05)
    assert replace(confirmation, kept_only=confirmation.kept_hidden).lacks_something(0.05)
    assert ranking.agreement["keep"].precision == ranking.agreement["keep"].recall == 1
    assert ranking.agreement["ablation"].area == 0.75  # two real ones before, two among the noise


def test_the_same_seed_gives_the_same_ranking() -> None:
    agent = balancer("CartPole-v1-noise50")
    first, again = (rank_features(*agent, episodes=6, transitions=300, top=1, seed=2) for _ in range(2))
    for name, column in first.columns().items():
        np.testing.assert_array_equal(column, again.columns()[name])


def test_episodes_of_a_seed_begin_alike_and_differ_by_what_is_resampled_alone() -> None:
    model, make_env = balancer("CartPole-v1-noise50")

    def act(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations, deterministic=True)[0]

    pool = Pool(8, 0)
    seen: list[np.ndarray] = []
    play(act, make_env, [Episode(s) for s in range(3)], show=lambda each: (pool.show(each), seen.append(each)))
    assert pool.seen == len(seen) == 300
    ignored, velocity = np.array([0, 1, 4, 5, 6, 7]), np.array([3])
    episodes = [Episode(s, hidden) for hidden in (ignored[:0], ignored, velocity) for s in (5, 6)]
    returns = play(act, make_env, episodes, pool, copies=4).reshape(3, 2)
    assert returns[0].tolist() == returns[1].tolist()
    assert (returns[2] < returns[0]).all()


def test_an_episode_is_the_same_whatever_is_played_beside_it() -> None:
    """Dense networks, whose products may be rounded differently in batches of another size; contacts amplify that."""
    model = TD3("MlpPolicy", make("HalfCheetah-noise50"), policy_kwargs={"net_arch": [400, 300]}, seed=0)

    def act(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations, deterministic=True)[0]

    def make_env() -> gym.Env:
        return gym.wrappers.TimeLimit(make("HalfCheetah-noise50"), 150)

    together = play(act, make_env, [Episode(s) for s in range(11)])
    assert [play(act, make_env, [Episode(s)])[0] for s in (0, 3, 10)] == together[[0, 3, 10]].tolist()
    assert play(act, make_env, [Episode(s) for s in (10, 3)]).tolist() == together[[10, 3]].tolist()


def test_where_tests_have_their_share_of_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    def spy(*arguments: Any) -> Any:
        levels.append(arguments[-1])
        return run_tests(*arguments)

    monkeypatch.setattr(measuring, "run_tests", spy)
    agent = balancer("CartPole-v1-noise50")
    for methods in (["intervention"], ["intervention", "ablation"]):
        rank_features(*agent, methods, transitions=100, episodes=6, top=1, level=0.1)
    assert levels == [0.1, 0.05]


def test_more_features_take_more_episodes_by_default() -> None:
    assert [measuring._enough(None, tried, 0.05, 0.025) for tried in (1, 20, 40, 400)] == [10, 10, 11, 14]


def test_wide_observations_are_told_how_many_transitions_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "most_transitions", lambda n_features: 200)
    told: list[tuple[int, int]] = []
    ranking = rank_features(
        *balancer("CartPole-v1-noise50"), ["intervention"], tell=lambda stage, done, total: told.append((done, total))
    )
    assert ranking.intervention.transitions == 200
    assert told[-1] == (200, 200)  # the bar fills


def test_a_pool_is_a_fair_sample() -> None:
    pool = Pool(1, 0)
    pool._kept = np.empty((100, 1), np.float32)
    for i in range(10_000):
        pool.show(np.array([i]))
    assert len(np.unique(pool.observations)) == 100
    assert pool.observations.mean() == pytest.approx(5000, abs=4 * 2887 / 10)


def test_random_transitions_follow_each_other_but_at_the_ends_of_episodes() -> None:
    seen = random_transitions(lambda: make("CartPole-v1-noise50"), 300, seed=0)
    follows = (seen.after[:-1] == seen.before[1:]).all(1)
    assert 3 < int((~follows).sum()) < 60  # episodes
    assert seen.actions.unique().tolist() == [0, 1]
    assert seen.actions.shape == (300, 1)  # the second indicator follows from the first


def test_the_agent_sees_what_normalization_leaves() -> None:
    model, make_env = balancer("CartPole-v1-noise50")
    ranking = rank_features(model, make_env, ["ablation"], episodes=8, normalize=lambda observations: 0 * observations)
    assert (ranking.ablation.action_change == 0).all()
    assert not ranking.keep.any()
    assert ranking.confirmation is None


def test_an_environment_that_knows_no_noise_and_continuous_actions_of_an_on_policy_learner() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", device="cpu", seed=0)
    ranking = rank_features(model, "Pendulum-v1", ["connections", "intervention"], transitions=1000)
    assert ranking.names == ("cos angle", "sin angle", "angular velocity")
    assert ranking.real is None
    assert ranking.agreement == {}
    assert ranking.keep.all()
    assert as_csv(ranking).startswith("feature,name,keep,connections,strength,response_p,")
    ranking_picture(ranking, "Pendulum").savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("space", "action", "numbers", "free"),
    [
        (spaces.Discrete(3, start=5), [6], [0, 1, 0], [0, 1]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0]], [0, 1, 1, 0, 0], [0, 2, 3]),
        (spaces.MultiBinary(2), [[1, 0]], [1, 0], [0, 1]),
        (spaces.Box(-2, 2, (2,)), [[1.0, 9.0]], [0.25, 0.5], [0, 1]),  # clipped, and as a share of the range
        (spaces.Box(-np.inf, np.inf, (1,)), [[7.0]], [7], [0]),
    ],
)
def test_actions_as_numbers(space: Any, action: Any, numbers: list[float], free: list[int]) -> None:
    assert as_numbers(th.tensor(action), space).tolist() == [numbers]
    assert independent(space) == free


# --- Bad input ---


class Tank(gym.Env):
    """An environment with several kinds of observations."""

    observation_space = gym.spaces.Dict({"level": gym.spaces.Box(-1, 1, (2,)), "heat": gym.spaces.Box(-1, 1, (3,))})
    action_space = gym.spaces.Box(-1, 1, (1,))


def test_dictionaries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected flat observations .* without images, dictionaries"):
        rank_features(PPO("MultiInputPolicy", Tank(), device="cpu"), Tank)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["ablatoin"]}, "Unknown method 'ablatoin'. Did you mean 'ablation'"),
        ({"methods": []}, "one of the methods connections, ablation, intervention"),
        ({"level": 1.5}, r"must lie in \(0, 1\), not 1.5"),
        ({"top": 0}, "top must be at least 1, not 0"),
        ({"episodes": 0}, "episodes must be at least 1, not 0"),
        ({"episodes": 4, "top": 1}, r"least p-value is 1/2\^4. Take at least 6 episodes, better 10, or a smaller top"),
        ({"episodes": 6}, r"episodes=6 and top=8 .* Take at least 9 episodes"),
        ({"level": 1e-5}, "with however many episodes: take a larger level"),
        ({"transitions": 10}, "transitions=10 are too few for tests: take at least 60"),
        ({"env": "CartPole-v1-noise80"}, "agent sees 8 features, but the environment shows 20"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    model, make_env = balancer("CartPole-v1-noise50")
    with pytest.raises(ValueError, match=message):
        rank_features(model, **{"env": make_env, **arguments})
