"""
What more noise costs: time per step and memory of whole training loops at 0 to 99.5 % noise features.

    python benchmarks/scaling.py --threads 2

At each noise level the agents take turns, each in a process of its own, as in throughput.py. A straight line through
the levels gives what a feature more costs each of them. Draws docs/images/scaling.png.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _children import Agent, Child, children, interleave, sparse_agents, with_replay
from _report import ROOT, Row, machine, parser, spread, write
from matplotlib.figure import Figure

SB3 = ("SB3 SAC", "as seen")
Curves = dict[tuple[str, str], list[Child]]  # by agent and noise protocol: one child for each noise level


def agents(environment: str, noise: float, replay: str, fill: int) -> list[Agent]:
    """List the agents at a noise level, the reference first; without noise there is one protocol."""
    env = f"{environment}-noise{noise:g}" if noise else environment
    ours = [replace(agent, env=env) for agent in sparse_agents("sac") if agent.distribution == "input"]
    every = [Agent(SB3[0], "sb3", "sac", env), *with_replay(ours, replay, noise > 0)]
    return [replace(agent, fill=fill) for agent in every]


def curves_of(levels: Sequence[tuple[Sequence[Child], float]], replay: str) -> Curves:
    """Sort the children by agent and protocol; the agents without noise begin the curves of all protocols."""
    curves: Curves = {}
    for family, noise in levels:
        for child in family:
            protocols = [child.agent.replay]
            if child.agent.kind != "ours":
                protocols = [SB3[1]]
            elif not noise:
                protocols = ["redrawn", "observed"] if replay == "both" else [replay]
            for protocol in protocols:
                if child.turns:
                    curves.setdefault((child.agent.name, protocol), []).append(child)
    return curves


def slopes(curve: Sequence[Child]) -> list[float]:
    """Fit, in each round, the microseconds per step that a feature costs."""
    features = [child.about["features"] for child in curve]
    rounds = zip(*(child.milliseconds() for child in curve), strict=True)
    return [float(1e3 * np.polyfit(features, times, 1)[0]) for times in rounds]


def slope_rows(curves: Curves) -> list[Row]:
    """Compare what a feature costs."""
    rows: list[Row] = []
    for (name, protocol), curve in curves.items():
        row: dict[str, object] = {"agent": name, "noise replayed": protocol}
        if len({child.about["features"] for child in curve}) > 1:
            own = slopes(curve)
            row["us/step per feature"], row["us/step per feature, IQR"] = spread(own)
            if len(curves.get(SB3, [])) == len(curve):
                ratios = [a / b for a, b in zip(own, slopes(curves[SB3]), strict=True)]
                row["of SB3's"], row["of SB3's, IQR"] = spread(ratios)
            # Without noise nothing compiles the noise generator, which would look like the price of features.
            noisy = [child for child in curve if "-noise" in child.agent.env]
            if len(noisy) > 1:
                x, y = zip(*((c.about["features"], 1e3 * c.turns[-1]["peak_mb"]) for c in noisy), strict=True)
                row["kB of memory per feature"] = float(np.polyfit(x, y, 1)[0])
        rows.append(row)
    return rows


def draw(curves: Curves, title: str) -> Figure:
    """Draw time and memory over the number of features."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(name for name, _ in curves))}
    for (name, protocol), curve in curves.items():
        features = [child.about["features"] for child in curve]
        middle, low, high = np.quantile([child.milliseconds() for child in curve], [0.5, 0.25, 0.75], axis=1)
        style: dict[str, Any] = {"color": colors[name], "linestyle": "--" if protocol == "observed" else "-"}
        left.plot(features, middle, marker=".", label=f"{name}, {protocol}", **style)
        left.fill_between(features, low, high, color=colors[name], alpha=0.15, linewidth=0)
        right.plot(features, [child.turns[-1]["peak_mb"] for child in curve], marker=".", **style)
    left.set(xlabel="features", ylabel="ms per step", ylim=(0, None))
    right.set(xlabel="features", ylabel="peak memory of the process, MB", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def main() -> None:
    """Read the command line, time, write the tables and the picture."""
    flags = parser("scaling", __doc__ or "", threads=2, rounds=5)
    flags.add_argument("--env", default="HalfCheetah", help="without noise; default: %(default)s")
    flags.add_argument("--noise", type=float, nargs="+", default=[0, 50, 80, 90, 95, 98, 99, 99.5], help="percentages")
    flags.add_argument("--replay", default="both", choices=["redrawn", "observed", "both"], help="for this project's")
    flags.add_argument("--steps", type=int, default=60, help="in each turn; default: %(default)s")
    flags.add_argument("--fill", type=int, default=5_000, help="random transitions before; default: %(default)s")
    flags.add_argument("--image", type=Path, default=ROOT / "docs" / "images" / "scaling.png")
    args = flags.parse_args()
    levels = []
    rows: list[Row] = []
    for noise in args.noise:
        with children(agents(args.env, noise, args.replay, args.fill), args.threads) as family:
            interleave(family, args.rounds, args.steps)
        levels.append((family, noise))
        for child in family:
            rows.append({"noise, %": noise, "features": child.about.get("features"), **child.row(family[0])})
        print(f"{noise:g} % noise is done", flush=True)
    curves = curves_of(levels, args.replay)
    notes = [
        *machine(args.threads),
        f"{args.env}, batch 256, [256, 256] units, one gradient step per environment step, no evaluations or logs",
        f"median and interquartile range of {args.rounds} interleaved rounds of {args.steps} steps; `times SB3` is "
        "the median of the rounds' ratios to SB3 at the same level",
        f"peak memory is that of the whole process, with {args.fill + args.rounds * args.steps:,} transitions: "
        "at a million, SB3's grows by the bytes per transition",
        "topology updates (every 1000 gradient steps) are charged to all rounds alike, from those in the rounds or, if "
        "none came, from one made for the purpose",
    ]
    write(args.out, "scaling", notes, rows)
    write(
        args.out,
        "scaling-slopes",
        [*notes[:4], "least-squares lines through all noise levels; memory without that of no noise"],
        slope_rows(curves),
    )
    args.image.parent.mkdir(parents=True, exist_ok=True)
    title = f"{args.env} with noise features, {args.threads} thread(s), batch 256"
    draw(curves, title).savefig(args.image, dpi=110)


if __name__ == "__main__":
    main()
