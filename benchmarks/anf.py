"""
Automatic Noise Filtering on HalfCheetah with 98 % noise: the table and the pictures of docs/methods/anf.md.

    python benchmarks/experiment.py run benchmarks/grids/anf.yml     # four runs of 200,000 steps
    python benchmarks/anf.py     # prints the tables and draws docs/images/anf-*.png from the run folders

The runs behind the published table are kept in benchmarks/results/anf: `--runs benchmarks/results/anf` shows it.
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

from _experiment.runs import Run, finished_runs
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sparse_rl.training.run_folder import MEANS

ROOT = Path(__file__).parents[1]
ENV = "HalfCheetah-noise98"
COLORS = {"anf-sac": "#0072b2", "static-sac": "#009e73", "sac": "#d55e00"}
STYLES = {"redrawn": "-", "observed": "--"}


class Agent(NamedTuple):
    """An algorithm under a noise protocol."""

    algo: str
    replay: str

    @property
    def label(self) -> str:
        """What it is called in tables and legends."""
        return f"{self.algo}, {self.replay}"


AGENTS = [
    Agent("anf-sac", "redrawn"),
    Agent("static-sac", "redrawn"),
    Agent("sac", "redrawn"),
    Agent("anf-sac", "observed"),
]


class AnfRun(Run):
    """A run, with its connections."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agent = Agent(self.config["algo"], self.config["hyperparameters"]["replay"])
        with (folder / MEANS).open() as file:
            self.connectivity = list(csv.DictReader(file))

    def connections(self, network: str, group: str) -> float:
        """Mean connections per feature of a group at the end of training."""
        return float([row for row in self.connectivity if row["network"] == network][-1][group])


def find_runs(folder: Path) -> dict[Agent, AnfRun]:
    """Find the newest finished run of each agent."""
    runs = {run.agent: run for run in (AnfRun(run.folder) for run in finished_runs(folder))}
    return {agent: runs[agent] for agent in AGENTS if agent in runs}


def report(runs: dict[Agent, AnfRun], images: Path) -> None:
    """Print the tables and draw the pictures."""
    for agent, run in runs.items():
        versions = ", ".join(f"{name} {version}" for name, version in run.config["versions"].items())
        print(f"- {agent.label}: seed {run.config['seed']}, commit {run.config['commit']}, {versions}")
    print("\n| steps | " + " | ".join(agent.label for agent in runs) + " |")
    print("|---:|" + "---:|" * len(runs))
    for step in sorted({int(step) for run in runs.values() for step in run.steps}):
        cells = []
        for run in runs.values():
            returns = run.returns[run.steps == step]
            cells.append(f"{returns.mean():.0f} +/- {returns.std():.0f}" if returns.size else "")
        print(f"| {step:,} | " + " | ".join(cells) + " |")
    print("\n| agent | last 5 evaluations | actor: real / noise | first critic: real / noise / action | hours |")
    print("|---|---:|---:|---:|---:|")
    for agent, run in runs.items():
        actor = " / ".join(f"{run.connections('actor', group):.1f}" for group in ("real", "noise"))
        critic = " / ".join(f"{run.connections('qf0', group):.1f}" for group in ("real", "noise", "action"))
        print(
            f"| {agent.label} | {run.returns[-5:].mean():.0f} | {actor} | {critic} | {run.seconds()[-1] / 3600:.1f} |"
        )
    images.mkdir(parents=True, exist_ok=True)
    draw_returns(runs).savefig(images / "anf-returns.png", dpi=110)
    draw_connectivity(runs).savefig(images / "anf-connectivity.png", dpi=110)


def draw_returns(runs: dict[Agent, AnfRun]) -> Figure:
    """Draw the learning curves."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for agent, run in runs.items():
        mean, std = run.returns.mean(1), run.returns.std(1)
        axes.plot(run.steps, mean, STYLES[agent.replay], color=COLORS[agent.algo], label=agent.label)
        axes.fill_between(run.steps, mean - std, mean + std, color=COLORS[agent.algo], alpha=0.15, linewidth=0)
    title = f"{ENV}: 17 real features, 833 of noise; one seed, 5 episodes an evaluation"
    axes.set(xlabel="environment steps", ylabel="return", title=title)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def draw_connectivity(runs: dict[Agent, AnfRun]) -> Figure:
    """Draw where the actor's connections went."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for agent, run in runs.items():
        if "sparsity" not in run.config["hyperparameters"]:
            continue
        rows = [row for row in run.connectivity if row["network"] == "actor"]
        steps = [int(row["step"]) for row in rows]
        for group, width in (("real", 2.5), ("noise", 1)):
            values = [float(row[group]) for row in rows]
            style, color = STYLES[agent.replay], COLORS[agent.algo]
            axes.plot(steps, values, style, color=color, linewidth=width, label=f"{agent.label}: {group}")
    axes.set(
        xlabel="environment steps", ylabel="connections per feature", title="The actor's input layer", ylim=(0, None)
    )
    axes.legend(fontsize="small", ncols=2)
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("experiments/anf/runs"))
    args = parser.parse_args()
    report(find_runs(args.runs), ROOT / "docs" / "images")


if __name__ == "__main__":
    main()
