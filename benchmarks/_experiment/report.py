"""Curves as PNG and tables as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from _experiment.curves import costs, panels, reach, scores
from _experiment.recovery import REGAINED, recoveries
from _experiment.results import Row
from sparse_rl.inputs import InputError
from sparse_rl.names import unknown
from sparse_rl.plots import drawing
from sparse_rl.plots.curves import Agent, Panel
from sparse_rl.plots.intervals import interval, iqm
from sparse_rl.storage import write_atomically
from sparse_rl.training.run_folder import file_name


def write_report(rows: Sequence[Row], folder: Path, targets: Sequence[float], last: int, reference: str | None) -> None:
    """
    Draw the curves of each environment, and write ``results.md``.

    :param rows: the tidy table
    :param folder: where to
    :param targets: returns; the table says after how many steps and seconds they are reached
    :param last: how many evaluations at the end make a run's score
    :param reference: label of an agent; then there is a table over all environments, relative to it
    :raises InputError: if there are fewer evaluations than ``last``, or no such agent
    """
    shown = panels(rows)
    lines = [_explanation(last)]
    for environment, panel in shown.items():
        _check(environment, panel, last)
        lines += [f"\n## {environment}\n", *_table(panel, costs(rows), targets, last), *_recovery(panel)]
        lines.append(f"\n![{environment}]({file_name(environment)}.png)")
    if reference is not None:
        lines += [f"\n## All environments, relative to {reference}\n", *_relative(shown, reference, last)]
    folder.mkdir(parents=True, exist_ok=True)
    for environment, panel in shown.items():
        figure = draw(environment, panel)
        write_atomically(folder / f"{file_name(environment)}.png", partial(figure.savefig, format="png", dpi=110))
    text = "\n".join([*lines, "", f"Commits: {', '.join(sorted({row.commit or 'unknown' for row in rows}))}.", ""])
    write_atomically(folder / "results.md", lambda file: file.write(text.encode()))
    print(text)
    print(f"Tables and pictures are in {folder}")


def _explanation(last: int) -> str:
    score = "last evaluation" if last == 1 else f"last {last} evaluations"
    return (
        f"A run's score is its mean return in the {score}. IQM: interquartile mean over runs; in brackets its 95 % "
        "interval, from a stratified bootstrap (one run has none). With fewer than four runs the IQM is the mean. "
        "Seconds are wall-clock seconds, evaluations included; medians over runs."
    )


def _check(environment: str, panel: Panel, last: int) -> None:
    for curve in panel:
        if len(curve.steps) < last:
            raise InputError(
                f"{curve.agent.label} in {environment} has {len(curve.steps)} evaluations that all its runs share, "
                f"fewer than the {last} that make a score: give a smaller --last, or the same steps to all runs."
            )


def _table(
    panel: Panel,
    cost: Mapping[tuple[str, Agent], tuple[int | None, int | None]],
    targets: Sequence[float],
    last: int,
) -> Iterator[str]:
    header = ["agent", "runs", "steps", "weights", "training FLOPs", "return: IQM [95 %]", "seconds"]
    header += [f"{unit} to {target:g}" for target in targets for unit in ("steps", "seconds")]
    yield _line(header)
    yield "|---" + "|---:" * (len(header) - 1) + "|"
    for curve in panel:
        n_weights, n_operations = cost[curve.environment, curve.agent]
        weights = "" if n_weights is None else f"{n_weights:,}"
        flops = "" if n_operations is None else f"{n_operations:.3g}"
        score = _estimate([scores(curve, last)], ",.0f")
        cells = [curve.agent.label, str(len(curve.returns)), f"{curve.steps[-1]:,}", weights, flops, score]
        cells.append(_seconds(curve.clock[-1]))
        yield _line([*cells, *(each for target in targets for each in map(_reached, reach(curve, target)))])


def _recovery(panel: Panel) -> Iterator[str]:
    """Tell for each shift how low returns fall, and how soon they are back; nothing where features never shift."""
    found = [(curve.agent, recovery) for curve in panel for recovery in recoveries(curve)]
    if not found:
        return
    yield "\nAfter a shift of the features, medians over runs:\n"
    yield _line(["agent", "shift at step", "return before", "lowest after", f"steps to {100 * REGAINED:g} % of it"])
    yield "|---|---:|---:|---:|---:|"
    for agent, recovery in found:
        before, lowest = (f"{np.median(returns):,.0f}" for returns in (recovery.before, recovery.lowest))
        yield _line([agent.label, f"{recovery.shift:,}", before, lowest, _regained(recovery.steps)])


def _regained(steps: np.ndarray) -> str:
    """Write the median number of steps; runs that had nothing to regain do not count, those that never do are last."""
    counted = steps[~np.isnan(steps)]
    if not counted.size:
        return "nothing to regain"
    return _median(counted, "not before the next")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _estimate(strata: Sequence[np.ndarray], form: str) -> str:
    """Write the interquartile mean and its interval."""
    text = format(float(iqm(np.concatenate(strata))), form)
    if all(len(scores) == 1 for scores in strata):
        return text
    low, high = interval(strata)
    return f"{text} [{low:{form}}, {high:{form}}]"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else ""


def _reached(durations: np.ndarray) -> str:
    """Write the median time to a return; runs that never have it count as slower than all others."""
    return "unknown" if np.isnan(np.median(durations)) else _median(durations, "not reached")


def _median(durations: np.ndarray, never: str) -> str:
    """Write the median over runs, and how many of them got there if not all did: those that did not are infinite."""
    reached, middle = int(np.sum(durations < np.inf)), float(np.median(durations))
    if middle == np.inf:
        return f"only {reached} of {len(durations)} runs" if reached else never
    return f"{middle:,.0f}" + (f" ({reached} of {len(durations)} runs)" if reached < len(durations) else "")


def _relative(shown: Mapping[str, Panel], reference: str, last: int) -> Iterator[str]:
    """Compare agents over all environments, each environment a stratum."""
    labelled = {name: {curve.agent.label: curve for curve in panel} for name, panel in shown.items()}
    known = set.intersection(*(set(panel) for panel in labelled.values()))
    if reference not in known:
        raise InputError(unknown("agent with runs in every environment", reference, known))
    units = {name: float(iqm(scores(panel[reference], last))) for name, panel in labelled.items()}
    for name, unit in units.items():
        if unit <= 0:
            raise InputError(f"{reference} has a return of {unit:.0f} in {name}: nothing can be relative to that.")
    yield _line(["agent", "return / that of the reference: IQM [95 %]"])
    yield "|---|---:|"
    for label in (label for label in labelled[next(iter(labelled))] if label in known):
        counts = {len(panel[label].returns) for panel in labelled.values()}
        if len(counts) > 1:  # an interquartile mean would cut off the environment with fewest runs
            yield _line([label, f"unknown: {min(counts)} to {max(counts)} runs in an environment, not equally many"])
            continue
        yield _line([label, _estimate([scores(panel[label], last) / units[n] for n, panel in labelled.items()], ".2f")])


def draw(environment: str, panel: Panel) -> Figure:
    """
    Draw the learning curves of one environment, over steps and over wall-clock time.

    :param environment: its id
    :param panel: its curves
    :return: the picture
    """
    shown = {environment: panel}
    return drawing.draw(shown, ("steps", "time"), drawing.heading(shown, "iqm"))
