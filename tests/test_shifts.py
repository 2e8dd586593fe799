"""Features that change places: a replay that follows or does not, and how soon an agent has recovered."""

from pathlib import Path

import numpy as np
import pytest
from _experiment.curves import panels
from _experiment.recovery import recoveries
from _experiment.report import draw
from _experiment.results import Row, write_results
from experiment import main
from replay_cases import REAL, fill, noisy, spaces_of

from sparse_rl.agents.replay.batches import sample
from sparse_rl.agents.replay.buffers import RedrawnReplayBuffer
from sparse_rl.agents.replay.dynamic import DynamicRedrawnReplayBuffer
from sparse_rl.commands.train import main as train
from sparse_rl.envs import permutation_at
from sparse_rl.plots.curves import Agent, Curve, Record
from sparse_rl.plots.curves import panels as panels_of

ENV = "InvertedPendulum-noise50-permute100"


# The replay


@pytest.mark.parametrize("kind", [RedrawnReplayBuffer, DynamicRedrawnReplayBuffer])
@pytest.mark.parametrize("keep_order", [False, True])
def test_the_order_is_the_present_one_or_that_in_which_it_was_seen(kind, keep_order):
    env = noisy(permute_every=8)  # episodes of four steps
    buffer = kind(100, *spaces_of(env), "cpu", **kind.kwargs_for(env), keep_order=keep_order)
    fill(buffer, env, steps=20)
    uses = [buffer._get_samples(np.arange(20)) for _ in range(2)]
    for step in range(20):
        order = permutation_at(9, step // 8 if keep_order else 2, 10)
        for name in ("observations", "next_observations"):
            first, second = (getattr(use, name)[step, np.argsort(order)].numpy() for use in uses)
            np.testing.assert_array_equal(first[:REAL], getattr(buffer, name)[step, 0])
            assert not np.isin(first[REAL:], second[REAL:]).any()  # noise is redrawn in any case


def test_the_learners_get_the_order_that_was_seen():
    env = noisy(permute_every=8)
    kwargs = {**RedrawnReplayBuffer.kwargs_for(env), "keep_order": True}
    buffer = fill(RedrawnReplayBuffer(100, *spaces_of(env), "cpu", **kwargs), env, steps=20)
    np.random.seed(0)
    expected = buffer.sample(16)
    buffer.batches_drawn = 0
    np.random.seed(0)
    batch, n_features = sample(buffer, 16, None, 0.99), expected.observations.shape[1]
    np.testing.assert_array_equal(batch.inputs[:n_features, :16], expected.observations.t())


def test_an_order_that_never_changes_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--env InvertedPendulum-noise50 -n 20 -params replay_buffer_kwargs.keep_order:true -f"
    assert train([*words.split(), str(tmp_path / "runs")]) == 2
    assert "`keep_order` is for environments whose features change places" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# The recovery


def curve(returns: list[list[float]], permute: int | None = 100, every: int = 20) -> Curve:
    steps = every * np.arange(1, len(returns[0]) + 1)
    agent = Agent("sac", "redrawn noise", "")
    return Curve(agent, "Hopper-noise90", steps, np.array(returns), np.array(returns), permute)


def test_recovery_worked_by_hand() -> None:
    """Evaluations at 20, 40, ..., 280; features change places at 100 and 200."""
    first = [10, 20, 50, 100, 5, 20, 89, 90, 95, 7, 80, 85, 70, 60]
    never = [10, 20, 50, 100, 99, 20, 30, 40, 50, 99, 45, 10, 30, 40]
    one, two = recoveries(curve([first, never]))
    assert (one.shift, two.shift) == (100, 200)
    assert one.before.tolist() == [100, 100]  # at 80: that at 100 is on neither side
    assert one.lowest.tolist() == [20, 20]
    assert one.steps.tolist() == [60, np.inf]  # 90 at 160
    assert two.before.tolist() == [95, 50]
    assert two.lowest.tolist() == [60, 10]
    assert two.steps.tolist() == [np.inf, 20]  # 45 at 220: nine tenths of 50


def test_what_comes_after_the_next_shift_is_no_recovery() -> None:
    (one, two) = recoveries(curve([[100, 100, 100, 100, 0, 0, 0, 0, 0, 0, 100, 100]]))
    assert one.steps.tolist() == [np.inf]
    assert two.before.tolist() == [0]
    assert np.isnan(two.steps).all()  # there is nothing to regain


@pytest.mark.parametrize("permute", [None, 240, 1000])
def test_without_a_shift_that_is_seen_there_is_nothing_to_recover_from(permute: int | None) -> None:
    assert list(recoveries(curve([[1.0] * 12], permute))) == []


def test_a_shift_without_evaluations_on_both_sides_is_left_out() -> None:
    """Evaluations at 60, 120, 180, 240 and 300: none before 50, and none between 250 and 300."""
    found = list(recoveries(curve([[1.0] * 5], permute=50, every=60)))
    assert [each.shift for each in found] == [100, 150, 200]
    assert [each.steps.tolist() for each in found] == [[20], [30], [40]]


ROWS = [
    Row(algorithm, environment, replay, "", seed, step, step / 10, value, 1.0, 5, 7, None, "abc", f"{algorithm}/{seed}")
    for algorithm, environment, replay, seed, values in (
        ("anf-sac", ENV, "redrawn noise", 0, [100, 5, 20, 90, 95]),
        ("anf-sac", ENV, "redrawn noise", 1, [100, 5, 92, 90, 95]),
        ("anf-sac", ENV, "redrawn noise", 2, [100, 5, 80, 80, 80]),
        ("sac", ENV, "redrawn noise", 0, [100, 5, 20, 30, 40]),
        ("td3", ENV, "redrawn noise", 0, [-50, 5, 20, 30, 40]),
        ("sac", "InvertedPendulum-v5", "no noise", 0, [100, 100, 100, 100, 100]),
    )
    for step, value in zip((50, 100, 120, 150, 180), values, strict=True)
]


def test_the_report_tells_how_soon_agents_recover(tmp_path: Path) -> None:
    write_results(tmp_path, ROWS)
    assert main(["plot", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert [line for line in text.splitlines() if "redrawn noise | 100 |" in line] == [
        "| anf-sac, redrawn noise | 100 | 100 | 80 | 50 (2 of 3 runs) |",
        "| sac, redrawn noise | 100 | 100 | 20 | not before the next |",
        "| td3, redrawn noise | 100 | -50 | 20 | nothing to regain |",
    ]


def test_copies_of_an_environment_share_the_steps_to_a_shift() -> None:
    points = np.arange(1000, 10_000, 1000)
    one = np.ones(len(points))
    run = Record(Agent("sac", "redrawn noise", ""), "Hopper-noise90-permute1000", "1", points, one, one, one, n_envs=4)
    ((curve,),) = panels_of([run]).values()
    assert list(curve.shifts) == [4000, 8000]


def test_shifts_that_come_faster_than_evaluations_are_not_looked_at_one_by_one() -> None:
    steps = np.array([100, 10_000_000])
    one = np.ones(2)
    run = Record(Agent("sac", "redrawn noise", ""), "Pendulum-v1-noise50-permute1", "1", steps, one, one, one)
    ((curve,),) = panels_of([run]).values()
    assert list(curve.shifts) == []


def test_shifts_are_drawn_over_steps_and_where_there_are_none_nothing_is() -> None:
    for rows, expected in ((ROWS, [100]), (ROWS[-5:], [])):
        ((name, panel),) = panels(rows).items()
        by_steps, by_seconds = draw(name, panel).axes
        lines = [line.get_xdata() for axes in (by_steps, by_seconds) for line in axes.lines]
        assert [x[0] for x in lines if len(x) == 2 and x[0] == x[1]] == expected
