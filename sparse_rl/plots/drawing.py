"""Learning curves as pictures, and the table of what they show."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from sparse_rl.inputs import InputError
from sparse_rl.plots.curves import AXES, Agent, Curve, Panel, all_curves
from sparse_rl.storage import write_atomically
from sparse_rl.training.plan import PROTOCOLS

#: The formats of pictures, by the ending of the file.
ENDINGS = (".png", ".svg", ".pdf")
COLUMNS = (
    "environment", "algorithm", "settings", "replay", "networks", "runs", "statistic",
    "steps", "seconds", "flops", "return", "low", "high",
)  # fmt: skip
_COLORS = [colormaps["tab10"](place) for place in range(10) if place != 7]  # without its grey
_GREYS = ("0.15", "0.5", "0.7")
_ABREAST = 3  # pictures in a row
_LINE_WIDTH, _LETTER_WIDTH = 0.6, 0.065  # of a legend's entry, in inches


def draw(shown: Mapping[str, Panel], axes: Sequence[str] = ("steps",), title: str = "") -> Figure:
    """
    Draw learning curves: sparse agents in colours, dense ones in greys; a line style for each noise protocol.

    :param shown: the curves of each environment
    :param axes: what to draw them over, each in a picture of its own; see :data:`~sparse_rl.plots.curves.AXES`
    :param title: title of the whole
    :return: the picture
    """
    columns = len(axes) if len(axes) > 1 else min(_ABREAST, len(shown))
    rows = -(-len(shown) * len(axes) // columns)
    figure = Figure(figsize=(max(7.0, 5.5 * columns), 4.2 * rows + 0.8), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False, sharey="row" if len(axes) > 1 else False).ravel()
    figure.suptitle(title, parse_math=False)  # names may have a $
    looks = _looks([curve.agent for panel in shown.values() for curve in panel])
    for place, (environment, axis) in enumerate((name, axis) for name in shown for axis in axes):
        where: Axes = places[place]
        for curve in shown[environment]:
            _draw_curve(where, curve, axis, looks[curve.agent])
        if axis == "steps":  # over anything else every run has its shifts at places of its own
            for shift in sorted({shift for curve in shown[environment] for shift in curve.shifts}):
                where.axvline(shift, color="0.6", linewidth=1, zorder=0)
        where.set_xlabel(AXES[axis])
        where.set_title(environment, parse_math=False)
        if place % columns == 0:
            where.set_ylabel("return")
        where.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
        where.grid(alpha=0.3)
    for unused in places[len(shown) * len(axes) :]:
        unused.remove()
    _legend(figure, shown, looks, columns)
    return figure


def heading(shown: Mapping[str, Panel], statistic: str) -> str:
    """
    Say what curves show.

    :param shown: the curves of each environment
    :param statistic: ``"iqm"`` or ``"mean"``
    :return: the words; the interquartile mean of fewer than four runs is their mean
    """
    most = max(len(curve.returns) for curve in all_curves(shown))
    if most == 1:
        return "one run each"
    fewest = min(len(curve.returns) for curve in all_curves(shown))
    name = "mean" if statistic == "mean" or most < 4 else "IQM" if fewest > 3 else "IQM (of fewer than four, mean)"
    return f"{name} over runs, 95 % intervals"


def _looks(agents: Sequence[Agent]) -> dict[Agent, dict[str, Any]]:
    """Choose colours by what learns, and line styles by how noise is learnt from where that is not all the same."""
    dense, sparse = (
        list(dict.fromkeys((agent.algorithm, agent.settings) for agent in agents if agent.is_dense is is_dense))
        for is_dense in (True, False)
    )
    protocols = [name for name in PROTOCOLS if any(a.replay == name for a in agents)]
    styles = dict(zip(protocols, ("-", "--", ":"), strict=False))
    if len(protocols) > 1 and "no noise" in styles:
        styles["no noise"] = ":"
    looks: dict[Agent, dict[str, Any]] = {}
    for agent in agents:
        place = (dense if agent.is_dense else sparse).index((agent.algorithm, agent.settings))
        color = _GREYS[place % len(_GREYS)] if agent.is_dense else _COLORS[place % len(_COLORS)]
        looks[agent] = {"color": color, "linestyle": styles[agent.replay]}
    return looks


def _draw_curve(axes: Axes, curve: Curve, axis: str, look: Mapping[str, Any]) -> None:
    x = curve.along(axis)
    axes.plot(x, curve.middle(), marker="o" if len(x) == 1 else None, **look)
    if len(curve.returns) > 1:
        axes.fill_between(x, *curve.band(), color=look["color"], alpha=0.15, linewidth=0)


def _legend(figure: Figure, shown: Mapping[str, Panel], looks: Mapping[Agent, Mapping[str, Any]], columns: int) -> None:
    """Below the pictures, where it hides no curve."""
    lines = []
    for agent, look in looks.items():
        counts = sorted({len(curve.returns) for curve in all_curves(shown) if curve.agent == agent})
        runs = "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        plural = "run" if counts[-1] == 1 else "runs"
        lines.append(Line2D([], [], label=f"{agent.label} ({runs} {plural})", **look))
    is_mixed = len({agent.is_dense for agent in looks}) > 1
    widest = _LINE_WIDTH + _LETTER_WIDTH * max(len(str(line.get_label())) for line in lines)
    room = max(1, int(figure.get_figwidth() / widest))
    legend = figure.legend(
        handles=lines,
        loc="outside lower center",
        fontsize="small",
        ncols=min(len(lines), 2 * columns, room),
        title="dense networks in grey, sparse ones in colour" if is_mixed else None,
        title_fontsize="small",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def check_ending(file: Path) -> None:
    """
    Check that a picture can be written in the format that a file's name asks for.

    :param file: the file
    :raises InputError: if not
    """
    if file.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{str(file)!r} is not the name of a picture that can be written: it must end in {', '.join(ENDINGS)}."
        )


def check_table(file: Path) -> None:
    """
    Check that writing a table beside a picture, where nobody has named it, overwrites nothing but another such table.

    :param file: where the table would go
    :raises InputError: if something else is there
    :raises OSError: if it cannot be read
    """
    if not file.exists():
        return
    header = ",".join(COLUMNS).encode()
    with file.open("rb") as stream:
        if stream.read(len(header)) != header:
            raise InputError(
                f"{str(file)!r} is there already, and no table of curves: name another picture with --out."
            )


def save(figure: Figure, file: Path) -> None:
    """
    Write a picture in one step.

    :param figure: the picture
    :param file: where to; its ending says in which format
    :raises InputError: if there is no such format
    :raises OSError: if it cannot be written
    """
    check_ending(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda stream: figure.savefig(stream, format=file.suffix[1:].lower(), dpi=110))


def save_table(shown: Mapping[str, Panel], statistic: str, file: Path) -> None:
    """
    Write what is drawn as CSV, in one step: a row for each point of each curve.

    :param shown: the curves of each environment
    :param statistic: the name of what sums runs up
    :param file: where to
    :raises OSError: if it cannot be written
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for curve in all_curves(shown):
        agent = curve.agent
        head = [curve.environment, agent.algorithm, agent.settings, agent.replay]
        head += ["dense" if agent.is_dense else "sparse", str(len(curve.returns)), statistic]
        low, high = curve.band() if len(curve.returns) > 1 else np.full((2, len(curve.steps)), np.nan)
        columns = (curve.clock, curve.work, curve.middle(), low, high)
        for step, *values in zip(curve.steps.tolist(), *(column.tolist() for column in columns), strict=True):
            writer.writerow([*head, step, *("" if np.isnan(value) else value for value in values)])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda stream: stream.write(text.getvalue().encode("utf-8")))
