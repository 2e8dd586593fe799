"""Tests on random transitions find the features that bear on a task, and hardly ever others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_rl.topology import benjamini_hochberg, run_tests, screen
from sparse_rl.topology.evidence import _correlation, _normal_scores, _powers, _response

REAL, NOISE, STEPS = 6, 300, 2000


def world(seed: int, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Simulate a small task, and put noise beside it.

    Of its features 0 and 1 answer to the action, 2 is what the reward is paid for (a goal that wanders by itself), and
    3 drives 0; 4 is constant, and 5 is an echo of the last action.
    """
    generator = torch.Generator().manual_seed(seed)
    actions = 2 * torch.rand(STEPS, 2, generator=generator) - 1
    state = torch.zeros(STEPS + 1, REAL)
    for t in range(STEPS):
        shock = torch.randn(REAL, generator=generator)
        state[t + 1, 0] = 0.9 * state[t, 0] + 0.3 * actions[t, 0] + 0.6 * state[t, 3] + 0.2 * shock[0]
        state[t + 1, 1] = 0.8 * state[t, 1] + 0.3 * actions[t, 1] ** 3 + 0.2 * shock[1]
        state[t + 1, 2] = 0.95 * state[t, 2] + 0.3 * shock[2]
        state[t + 1, 3] = 0.5 * state[t, 3] + 0.5 * shock[3]
        state[t + 1, 5] = actions[t, 0]
    rewards = -((state[1:, 2] - state[1:, 1]) ** 2)
    state[:, 4] = 7
    observations = torch.cat([state, noise], dim=1)
    return observations[:-1], observations[1:], actions, rewards


def white(seed: int) -> Tensor:
    return torch.randn(STEPS + 1, NOISE, generator=torch.Generator().manual_seed(seed))


def autoregressive(seed: int) -> Tensor:
    noise, memory = white(seed), torch.linspace(0, 0.99, NOISE)
    for t in range(STEPS):
        noise[t + 1] = memory * noise[t] + (1 - memory**2).sqrt() * noise[t + 1]
    return noise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [white, autoregressive])
def test_what_bears_on_the_task_is_found(noise, seed: int) -> None:
    evidence = screen(*world(seed, noise(100 + seed)))
    assert evidence.chosen[:REAL].tolist() == [True, True, True, True, False, True]
    assert int(evidence.chosen[REAL:].sum()) <= 2


@pytest.mark.parametrize("noise", [white, autoregressive])
def test_of_noise_alone_hardly_anything_is_found(noise) -> None:
    found = 0
    for seed in range(10):
        before, after, actions, _ = world(seed, noise(seed))
        rewards = autoregressive(1000 + seed)[1:, -1]  # it wanders, as the noise does
        found += int(screen(before[:, REAL:], after[:, REAL:], actions, rewards).chosen.sum())
    assert found <= 3  # of 3000


def test_p_values_are_not_too_small_by_chance() -> None:
    """Far out in the tail, where the choice is made, and from few transitions."""
    generator, n, tests = torch.Generator().manual_seed(0), 60, 20_000
    before, after = torch.randn(2, n, tests, generator=generator).double()
    actions = torch.randn(n, 1, generator=generator).double()
    assert int((_response(before, after, actions) < 1e-3).sum()) == pytest.approx(20, abs=4.5 * 20**0.5)

    steps, tests, memory = 2000, 10_000, 0.97
    noise = torch.randn(steps, tests, generator=generator).double()
    reward = torch.randn(steps, generator=generator).double()
    for t in range(1, steps):
        noise[t] = memory * noise[t - 1] + (1 - memory**2) ** 0.5 * noise[t]
        reward[t] = memory * reward[t - 1] + (1 - memory**2) ** 0.5 * reward[t]
    p_values = _correlation(_powers(noise), _normal_scores(reward)[:, None])
    # (Tests against one and the same reward are not independent.)
    assert int((p_values < 1e-3).sum()) < 20


def test_a_constant_in_double_precision_says_nothing() -> None:
    before, after, actions, rewards = world(0, white(0))
    after = after.double()
    after[:, 4] = 0.1
    p_values = run_tests(before.double(), after, actions, rewards).p_values
    assert torch.isfinite(p_values).all()
    assert p_values[4] == 1


def test_the_order_of_the_features_does_not_matter() -> None:
    before, after, actions, rewards = world(0, white(5))
    order = torch.randperm(REAL + NOISE, generator=torch.Generator().manual_seed(1))
    plain = screen(before, after, actions, rewards)
    shuffled = screen(before[:, order], after[:, order], actions, rewards)
    torch.testing.assert_close(plain.p_values[order], shuffled.p_values, rtol=1e-6, atol=1e-300)
    assert torch.equal(plain.chosen[order], shuffled.chosen)


def test_units_do_not_matter() -> None:
    before, after, actions, rewards = world(0, white(5))
    scale = torch.logspace(-3, 3, REAL + NOISE)
    plain = screen(before, after, actions, rewards)
    scaled = screen(before * scale, after * scale, 10 * actions, 1000 * rewards)
    assert torch.equal(plain.chosen, scaled.chosen)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.001, 0.5))
@settings(max_examples=100)
def test_benjamini_and_hochbergs_procedure(p_values: list[float], level: float) -> None:
    p = torch.tensor(p_values, dtype=torch.float64)
    ordered = sorted(p_values)
    most = max((k for k in range(1, len(p) + 1) if ordered[k - 1] <= level * k / len(p)), default=0)
    chosen = benjamini_hochberg(p, level)
    assert int(chosen.sum()) == most
    assert not most or p[chosen].max() <= level
    assert most in (0, len(p)) or p[chosen].max() <= p[~chosen].min()


def test_bad_input() -> None:
    before, after, actions, rewards = world(0, white(0))
    with pytest.raises(ValueError, match=r"79 transitions are too few .* at least 80"):
        screen(before[:79], after[:79], actions[:79], rewards[:79])
    with pytest.raises(ValueError, match=r"level of false discoveries must lie in \(0, 1\), not 1"):
        screen(before, after, actions, rewards, level=1)


def test_rewards_that_are_all_equal_say_nothing_and_equal_ones_do_not_count_by_their_order() -> None:
    before, after, actions, _ = world(0, white(0))
    assert run_tests(before, after, actions, torch.ones(STEPS)).pays.min() == 1
    trend = torch.arange(STEPS).float()[:, None]  # of no meaning, but in order
    after = torch.cat([after, trend], dim=1)
    coin = (torch.rand(STEPS, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert run_tests(torch.cat([before, trend], 1), after, actions, coin).pays[-1] > 0.01


def test_a_screening_is_made_of_its_tests() -> None:
    tests = run_tests(*world(0, white(5)))
    evidence = screen(*world(0, white(5)))
    assert torch.equal(tests.p_values, evidence.p_values)
    found = [bool(p[0] < 1e-6) for p in (tests.responds, tests.pays, tests.predicts)]
    assert found == [True, False, False]  # feature 0 answers to the action, and is not paid for
    assert tests.pays[2] < 1e-6 < tests.responds[2]  # the goal
    assert tests.predicts[3] < 1e-6 < tests.responds[3]  # what drives feature 0
