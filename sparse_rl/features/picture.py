"""
The picture of a ranking: each method's scores in order, real features against others.

It is drawn on a bare figure: ``pyplot`` would keep global state and look for a display.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparse_rl.colors import BLUE, GREY
from sparse_rl.features.ranking import Confirmation, FeatureRanking

REAL, OTHER = BLUE, GREY
_LEAST_P = 1e-300  # smaller ones are drawn there: they may be 0, by underflow
_LABELS = {
    "connections": ("Connections: how the agent is wired", "sum of |weights|"),
    "ablation": ("Ablation: what it acts on", "action change when shuffled"),
    "intervention": ("Intervention: what bears on the task", "-log10 p, random actions"),
}


def ranking_picture(ranking: FeatureRanking, title: str) -> Figure:
    """
    Draw each method's scores, the highest first, and what the kept features achieve.

    :param ranking: the ranking
    :param title: title of the picture
    :return: the picture
    """
    panels = len(ranking.scores) + (ranking.confirmation is not None)
    figure = Figure(figsize=(3.9 * panels, 3.6), layout="constrained")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    axes = np.atleast_1d(figure.subplots(1, panels))
    colored, names = _groups(ranking)
    for panel, (method, score) in zip(axes, ranking.scores.items(), strict=False):
        values = -np.log10(np.maximum(-score, _LEAST_P)) if method == "intervention" else score
        _draw_scores(panel, values, colored, names)
        agreement = ranking.agreement.get(method)
        area = f"\nAUC {agreement.area:.3f}" if agreement is not None and agreement.area is not None else ""
        heading, label = _LABELS[method]
        panel.set_title(heading + area, fontsize="small")
        panel.set_ylabel(label)
        if method == "intervention":
            panel.set_yscale("symlog", linthresh=1)
            panel.set_ylim(-0.1, 600)
    if ranking.confirmation is not None:
        _draw_returns(axes[-1], ranking.confirmation)
    return figure


def _groups(ranking: FeatureRanking) -> tuple[NDArray[np.bool_], tuple[str, str]]:
    """Tell which features are drawn in color, and what they and the others are called."""
    if ranking.real is not None and not ranking.real.all():
        return ranking.real, ("real", "noise")
    if ranking.keep is not None:
        return ranking.keep, ("kept", "others")
    return np.ones(len(ranking.names), dtype=bool), ("features", "")


def _draw_scores(axes: Axes, score: NDArray[np.float64], colored: NDArray[np.bool_], names: tuple[str, str]) -> None:
    order = np.argsort(-score, kind="stable")
    place = np.empty(len(score))
    place[order] = np.arange(1, len(score) + 1)
    for group, color, size, name in ((~colored, OTHER, 6, names[1]), (colored, REAL, 18, names[0])):
        if group.any():
            axes.scatter(place[group], score[group], s=size, color=color, label=f"{name} ({group.sum()})")
    axes.set_xlabel("rank")
    if len(score) > 50:
        axes.set_xscale("log")  # what matters is at the beginning
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _draw_returns(axes: Axes, confirmation: Confirmation) -> None:
    bars = {
        "all": confirmation.intact,
        "kept\nonly": confirmation.kept_only,
        "all but\nkept": confirmation.kept_hidden,
    }
    means = [returns.mean() for returns in bars.values()]
    spreads = [returns.std() for returns in bars.values()]
    axes.bar(list(bars), means, yerr=spreads, color=[OTHER, REAL, OTHER], capsize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_title("Return, fresh episodes\n(mean, std)", fontsize="small")
    axes.set_ylabel("return")
    axes.set_xlabel("features that are not resampled")
    axes.grid(alpha=0.3, axis="y")
