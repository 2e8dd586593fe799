"""Pictures of learning curves: which panels there are, and what their lines, headings and legends say."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from sparse_rl.plots.curves import Agent, Curve, Record, panels
from sparse_rl.plots.drawing import draw, heading

ENV = "InvertedPendulum-noise90"


def curve(agent: Agent, low: float, high: float) -> Curve:
    steps = np.array([100, 200])
    return Curve(agent, ENV, steps, np.array([[low, high]]), np.array([[1.0, 2.0]]))


def test_lines_and_colours_say_what_is_what() -> None:
    agents = [
        Agent(name, replay, "")
        for name, replay in (("sac", "redrawn noise"), ("anf-sac", "redrawn noise"), ("anf-sac", "observed noise"))
    ]
    figure = draw({ENV: [curve(agent, -900.0, 50.0) for agent in (*agents, Agent("sac", "no noise", ""))]})
    (axes,) = figure.axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", ":"]
    dense, sparse = axes.lines[0].get_color(), axes.lines[1].get_color()
    assert len(set(to_rgb(dense))) == 1  # grey
    assert len(set(to_rgb(sparse))) > 1
    assert [line.get_color() for line in axes.lines] == [dense, sparse, sparse, dense]


def test_where_all_noise_is_observed_lines_are_whole_and_all_of_them_is_seen() -> None:
    agents = [Agent(name, "observed noise", "") for name in ("sac", "anf-sac")]
    shown = {ENV: [curve(agent, -900.0, value) for agent, value in zip(agents, (-800.0, 70.0), strict=True)]}
    (axes,) = draw(shown).axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-"]
    low, high = axes.get_ylim()
    assert low < -900
    assert high > 70


@pytest.mark.parametrize(
    ("runs", "statistic", "words"),
    [
        ((1, 1), "iqm", "one run each"),
        ((1, 3), "iqm", "mean over runs, 95 % intervals"),  # three have no quarters to leave out
        ((4, 5), "iqm", "IQM over runs, 95 % intervals"),
        ((1, 4), "iqm", "IQM (of fewer than four, mean) over runs, 95 % intervals"),
        ((1, 4), "mean", "mean over runs, 95 % intervals"),
    ],
)
def test_the_heading_says_no_more_than_there_is(runs: tuple[int, ...], statistic: str, words: str) -> None:
    agents = [Agent(name, "no noise", "") for name in ("sac", "anf-sac")]
    curves = [
        Curve(agent, ENV, np.array([100]), np.zeros((n, 1)), np.ones((n, 1)))
        for agent, n in zip(agents, runs, strict=True)
    ]
    assert heading({ENV: curves}, statistic) == words


@pytest.mark.parametrize("axes", [["steps"], ["steps", "time"]])
def test_a_legend_of_many_long_names_is_within_the_picture(axes: list[str]) -> None:
    agents = [Agent(f"screened-sac-{n}", "redrawn noise", "fully connected") for n in range(16)]
    figure = draw({ENV: [curve(agent, 0.0, 1.0) for agent in agents]}, axes)
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_a_picture_for_each_environment() -> None:
    agent = Agent("sac", "no noise", "")
    figure = draw({f"Env-v{n}": [curve(agent, 0.0, 1.0)] for n in range(4)}, ["time"])
    assert [axes.get_title() for axes in figure.axes] == ["Env-v0", "Env-v1", "Env-v2", "Env-v3"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"wall-clock seconds, evaluations included"}


def test_names_are_no_formulas(tmp_path: Path) -> None:
    agent = Agent("sac$^$", "no noise", "")  # as mathematics it cannot be read
    draw({"Env$_$-v0": [curve(agent, 0.0, 1.0)]}, title="$^$").savefig(tmp_path / "picture.png")


def record(environment: str, value: float) -> Record:
    agent = Agent("sac", "observed noise" if "noise" in environment else "no noise", "")
    one = np.array([1.0])
    return Record(agent, environment, environment, np.array([100]), value * one, one, one)


def drawn(*environments: str) -> dict[str, list[str]]:
    shown = panels([record(environment, place) for place, environment in enumerate(environments)])
    for panel in shown.values():
        for each in panel:
            assert each.returns.item() == environments.index(each.environment)
    return {name: [each.environment for each in panel] for name, panel in shown.items()}


def test_a_ceiling_is_of_the_same_version() -> None:
    assert drawn("Hopper-v4", "Hopper-v5", "Hopper-noise95", "Hopper-v4-noise90") == {
        "Hopper-noise95": ["Hopper-noise95", "Hopper-v5"],  # the newest
        "Hopper-v4-noise90": ["Hopper-v4-noise90", "Hopper-v4"],
    }
    assert drawn("Hopper-v4", "Hopper-noise95") == {
        "Hopper-v4": ["Hopper-v4"],
        "Hopper-noise95": ["Hopper-noise95"],
    }


def test_both_names_of_the_newest_version_are_ceilings() -> None:
    assert drawn("Hopper-v5", "Hopper", "Hopper-noise95") == {
        "Hopper-noise95": ["Hopper-noise95", "Hopper-v5", "Hopper"]
    }


def test_what_changes_places_is_no_ceiling() -> None:
    assert drawn("Hopper-permute1000000", "Hopper-noise95", "Hopper-noise95-permute1000000", "Hopper") == {
        "Hopper-permute1000000": ["Hopper-permute1000000"],
        "Hopper-noise95": ["Hopper-noise95", "Hopper"],
        "Hopper-noise95-permute1000000": ["Hopper-noise95-permute1000000", "Hopper"],
    }


def test_names_that_are_no_ids_have_pictures_of_their_own() -> None:
    for name in ("os:", "a:/b", "no such name!"):
        assert drawn(name, "Hopper-noise95") == {name: [name], "Hopper-noise95": ["Hopper-noise95"]}
