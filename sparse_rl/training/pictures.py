"""
Pictures of where a network looks.

They are drawn on bare figures: ``pyplot`` would keep global state and look for a display.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from sparse_rl.colors import BLUE, GREY, ORANGE
from sparse_rl.training.groups import groups_of

if TYPE_CHECKING:  # it would bring PyTorch
    from sparse_rl.training.measurement import Measurement

REAL, NOISE, ACTION = BLUE, GREY, ORANGE
LINES = ("-", "--", ":", "-.")


def connectivity_picture(
    measurements: "Sequence[Measurement]",
    connections: Mapping[str, NDArray[np.int64]],
    real: NDArray[np.bool_],
    title: str,
) -> Figure:
    """
    Draw how all networks' connections moved over time, and where those of the one that acts are now.

    :param measurements: all measurements of a run
    :param connections: connections per input feature, for each network; the one that acts is the first
    :param real: which entries of the observation are real
    :param title: title of the picture
    :return: the picture
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    figure.suptitle(title, parse_math=False)
    left, right = figure.subplots(1, 2)
    networks = list(dict.fromkeys(m.network for m in measurements))
    for network, line in zip(networks, cycle(LINES), strict=False):
        rows = [m for m in measurements if m.network == network]
        steps = [m.step for m in rows]
        for group, color in (("real", REAL), ("noise", NOISE)):
            values = [getattr(m, group) for m in rows]
            if None not in values:
                left.plot(steps, values, line, color=color, label=f"{network}: {group}")
    left.set(xlabel="environment steps", ylabel="mean connections per feature", title="Over time")
    left.set_ylim(bottom=0)
    left.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
    left.legend(fontsize="small", ncols=2)
    left.grid(alpha=0.3)
    acting, counts = next(iter(connections.items()))
    _draw_features(right, counts, real)
    right.set_title(f"{acting.capitalize()}, now")
    return figure


def features_picture(connections: Mapping[str, NDArray[np.int64]], real: NDArray[np.bool_], title: str) -> Figure:
    """
    Draw the connections of every input feature, one panel for each network.

    :param connections: connections per input feature, for each network
    :param real: which entries of the observation are real
    :param title: title of the picture
    :return: the picture
    """
    figure = Figure(figsize=(10, 2.5 * len(connections)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = np.atleast_1d(figure.subplots(len(connections), 1))
    for panel, (network, counts) in zip(panels, connections.items(), strict=True):
        _draw_features(panel, counts, real)
        panel.set_title(network)
    return figure


def _draw_features(axes: Axes, connections: NDArray[np.int64], real: NDArray[np.bool_]) -> None:
    """Draw noise first, so that a few real features stand out among many others."""
    index, groups = np.arange(len(connections)), groups_of(real, len(connections))
    for label, name, color, size in (
        ("noise features", "noise", NOISE, 6),
        ("real features", "real", REAL, 18),
        ("actions", "action", ACTION, 18),
    ):
        group = groups[name]
        if group.any():
            mean = connections[group].mean()
            axes.scatter(index[group], connections[group], s=size, color=color, label=f"{label} (mean {mean:.1f})")
            axes.axhline(mean, color=color, linewidth=1)
    axes.set(xlabel="input feature", ylabel="connections")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
