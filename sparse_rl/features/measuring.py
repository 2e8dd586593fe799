"""Rank the inputs of an agent: look at its network, let it act, and act at random."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from sparse_rl.envs import feature_names, make
from sparse_rl.features.actions import action_changes, input_layer
from sparse_rl.features.ranking import METHODS, Ablation, Confirmation, Connections, FeatureRanking, Intervention
from sparse_rl.features.rollouts import Episode, MakeEnv, Pool, independent, most_transitions, play, random_transitions
from sparse_rl.features.statistics import least_p_value, sign_flip_test
from sparse_rl.metrics import connections_per_feature
from sparse_rl.names import unknown
from sparse_rl.topology import fewest_transitions, run_tests

#: Is told a stage in words, how much of it is done, and how much there is to do.
Tell = Callable[[str, int, int], object]
_EPISODES = 10  # by default, if that is enough
_MANY = 20  # episodes, more of which do not make the least p-value any smaller
_OBSERVATIONS = 2000  # on which actions are compared
_MOST_EPISODES = 10  # times as many as asked for are played, if they are short, to see that many observations
_POOL, _PAIRS, _FRESH, _SHUFFLE, _RANDOM = range(5)  # what seeds are for


def rank_features(
    model: BaseAlgorithm,
    env: str | MakeEnv,
    methods: Sequence[str] = METHODS,
    episodes: int | None = None,
    transitions: int = 5000,
    level: float = 0.05,
    top: int = 20,
    seed: int = 0,
    normalize: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> FeatureRanking:
    """
    Ask which inputs of a trained agent matter, in up to three ways. docs/features.md says what each can tell.

    - ``"connections"``: how strongly the network that acts is wired to each feature.
    - ``"ablation"``: how much its actions change when a feature's values are shuffled among observations that the
      agent made; then, for the ``top`` features by that, by how much the return falls when the feature has the value of
      another moment at each step. Each episode is compared with one of the same seed in which it sees everything.
    - ``"intervention"``: whether the feature bears on the task, by tests on transitions with random actions; see
      :mod:`sparse_rl.topology.evidence`.

    :param model: an agent of Stable-Baselines3, sb3-contrib or this project that sees flat observations
    :param env: id of the environment, or what makes a copy of it. Of a permuted one, in the phase that is meant
    :param methods: some of these three
    :param episodes: episodes for each feature whose return is compared; ``None`` for ten, or as many
        more as it takes to find one of ``top`` features
    :param transitions: transitions with random actions; fewer if observations are very large
    :param level: the expected fraction of false discoveries among the kept features, in (0, 1)
    :param top: how many features' returns are compared
    :param seed: of everything that is drawn
    :param normalize: what observations go through before the agent sees them, such as ``VecNormalize.normalize_obs``
    :param tell: is told how far it is
    :return: the ranking
    :raises ValueError: if an argument is out of range, or agent and environment do not fit
    """
    numbers = {"episodes": _EPISODES if episodes is None else episodes, "transitions": transitions}
    _check(methods, numbers | {"top": top, "seed": seed}, level)
    share = level / max(sum(name in methods for name in METHODS[1:]), 1)  # of each method that tests something
    make_env: MakeEnv = env if callable(env) else lambda: make(env)
    names, real, n_transitions = _look_at(make_env, model)
    if "intervention" in methods and transitions < n_transitions:
        raise ValueError(f"transitions={transitions} are too few for tests: take at least {n_transitions}.")
    n_episodes = _enough(episodes, min(top, len(names)), level, share) if "ablation" in methods else 0
    agent = _Agent(model, make_env, normalize, seed, tell)
    connections = ablation = intervention = None
    if "connections" in methods:
        counts, strengths = connections_per_feature(input_layer(model.policy))
        connections = Connections(counts, strengths.astype(np.float64))
    if "intervention" in methods:
        intervention = agent.intervention(min(transitions, most_transitions(len(names))), share)
    if "ablation" in methods:
        ablation = agent.ablation(n_episodes, top)
    ranking = FeatureRanking(tuple(names), real, level, connections, ablation, intervention)
    if ablation is None or ranking.keep is None or not ranking.keep.any() or ranking.keep.all():
        return ranking
    return replace(ranking, confirmation=agent.confirmation(n_episodes, ranking.keep))


class _Agent:
    """An agent in its environment, and what has been seen of it."""

    def __init__(self, model: BaseAlgorithm, make_env: MakeEnv, normalize: Any, seed: int, tell: Tell) -> None:
        self._model, self._make_env, self._tell = model, make_env, tell
        self._normalize = normalize or (lambda observations: observations)
        self._seed = seed
        self._pool = Pool(input_layer(model.policy).in_features, seed)

    def intervention(self, transitions: int, level: float) -> Intervention:
        seed = int(self._seeds(_RANDOM, 1)[0])
        seen = random_transitions(
            self._make_env, transitions, seed, lambda done: self._tell("acting at random", done, transitions)
        )
        with torch.no_grad():
            tests = run_tests(seen.before, seen.after, seen.actions, seen.rewards, level)
        responds, pays, predicts, p_value = (
            p.numpy() for p in (tests.responds, tests.pays, tests.predicts, tests.p_values)
        )
        return Intervention(responds, pays, predicts, p_value, len(seen.rewards))

    def ablation(self, episodes: int, top: int) -> Ablation:
        self._watch(episodes)
        rows = np.random.default_rng([self._seed, _SHUFFLE]).permutation(len(self._pool.observations))[:_OBSERVATIONS]
        shown = torch.as_tensor(self._normalize(self._pool.observations[rows])).float().to(self._model.device)
        n = shown.shape[1]
        changes = action_changes(
            self._model.policy, shown, self._seed, lambda done: self._tell("shuffling features", done, n)
        )
        # Chosen by other episodes than those by which they are tested.
        tried = np.argsort(-changes, kind="stable")[:top]
        tried = tried[changes[tried] > 0]
        seeds = self._seeds(_PAIRS, episodes)
        hidden = [np.empty(0, np.int64), *tried.reshape(-1, 1)]
        returns = self._returns("comparing returns", [Episode(s, each) for each in hidden for s in seeds])
        differences = returns[:episodes] - returns.reshape(-1, episodes)
        drop, p_value = np.full(n, np.nan), np.full(n, np.nan)
        drop[tried] = differences[1:].mean(1)
        p_value[tried] = [sign_flip_test(each, self._seed) for each in differences[1:]]
        return Ablation(changes, drop, p_value)

    def confirmation(self, episodes: int, keep: NDArray[np.bool_]) -> Confirmation:
        hidden = [np.empty(0, np.int64), *(np.flatnonzero(each) for each in (~keep, keep))]
        seeds = self._seeds(_FRESH, episodes)
        returns = self._returns("confirming", [Episode(s, each) for each in hidden for s in seeds])
        return Confirmation(*returns.reshape(3, episodes))

    def _watch(self, episodes: int) -> None:
        """Let the agent act, until there are enough observations of what it sees."""
        seeds = self._seeds(_POOL, _MOST_EPISODES * episodes)
        for start in range(0, len(seeds), episodes):
            batch = [Episode(s) for s in seeds[start : start + episodes]]
            self._returns("watching the agent", batch, self._pool.show)
            if self._pool.seen >= _OBSERVATIONS:
                break

    def _returns(self, stage: str, episodes: Sequence[Episode], show: Any = None) -> NDArray[np.float64]:
        return play(
            self._act, self._make_env, episodes, self._pool, show, lambda done: self._tell(stage, done, len(episodes))
        )

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self._model.predict(self._normalize(observations), deterministic=True)[0]

    def _seeds(self, purpose: int, count: int) -> list[int]:
        sequence = np.random.SeedSequence([self._seed, purpose])
        return [int(s) for s in sequence.generate_state(count) >> 1]  # 31 bits, which every environment takes


def _check(methods: Sequence[str], numbers: Mapping[str, int], level: float) -> None:
    for method in methods:
        if method not in METHODS:
            raise ValueError(unknown("method", method, METHODS))
    if not methods:
        raise ValueError(f"Expected one of the methods {', '.join(METHODS)}, or more.")
    if not 0 < level < 1:
        raise ValueError(f"The level of false discoveries must lie in (0, 1), not {level}.")
    for name, value in numbers.items():
        if value < (name != "seed"):
            raise ValueError(f"{name} must be at least {int(name != 'seed')}, not {value}.")


def _enough(episodes: int | None, tried: int, level: float, share: float) -> int:
    """
    Check that an ablation can find something: a single feature, among all that are tried, whose return always falls.

    Benjamini and Hochberg's procedure asks of the least p-value that it is at most the level, divided by how many there
    are.
    """
    most = int(share / least_p_value(_MANY))
    if tried > most:
        raise ValueError(
            f"With top={tried} a fall in the return of one feature cannot be told from chance at a level of {level}, "
            f"with however many episodes: take {f'a top of at most {most}' if most else 'a larger level'}."
        )
    needed = next(n for n in range(1, _MANY + 1) if least_p_value(n) <= share / tried)
    if episodes is None:
        return max(_EPISODES, needed)
    if episodes < needed:
        raise ValueError(
            f"With episodes={episodes} and top={tried} a fall in the return of one feature cannot be told from chance "
            f"at a level of {level}: the least p-value is 1/2^{episodes}. Take at least {needed} episodes, better "
            f"{needed + 4}, or a smaller top."
        )
    return episodes


def _look_at(make_env: MakeEnv, model: BaseAlgorithm) -> tuple[list[str], NDArray[np.bool_] | None, int]:
    """Check that agent and environment fit; name features, tell which are real and how many transitions tests need."""
    input_layer(model.policy)  # complains about images and dictionaries
    env = make_env()
    try:
        space, own = env.observation_space, model.observation_space
        assert own.shape
        if not isinstance(space, spaces.Box) or space.shape != own.shape:
            shown = space.shape[0] if isinstance(space, spaces.Box) and len(space.shape) == 1 else space
            raise ValueError(f"The agent sees {own.shape[0]} features, but the environment shows {shown}.")
        if type(env.action_space) is not type(model.action_space) or env.action_space != model.action_space:
            raise ValueError(f"The agent's actions are {model.action_space}, but the environment's {env.action_space}.")
        env.reset(seed=0)  # a permutation is settled there
        real = None
        if env.has_wrapper_attr("real_features"):
            real = np.asarray(env.get_wrapper_attr("real_features"), dtype=bool)
        return feature_names(env), real, fewest_transitions(len(independent(env.action_space)))
    finally:
        env.close()
