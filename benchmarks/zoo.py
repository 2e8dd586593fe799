"""
Publish finished runs of train.py as agents of the zoo.

    python benchmarks/zoo.py experiments/zoo/runs

Takes the first finished run of each algorithm in each environment, and of it the agent that did best in an evaluation.
What is published already, and has not changed, is left alone: the same command may be repeated. docs/zoo.md has more.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from _card import render, table
from _experiment.runs import Run, finished_runs
from _report import ROOT
from PIL import Image

from sparse_rl.agents import save_agent
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.agents.zoo import CARD, EXAMPLES, FOLDER, read_card, zoo
from sparse_rl.commands.train_arguments import public_command
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError
from sparse_rl.metrics import count_weights
from sparse_rl.storage import read_yaml, save_tensors
from sparse_rl.training.evaluation import returns_of
from sparse_rl.training.measurement import networks
from sparse_rl.training.plan import EVALUATION_SEED, protocol
from sparse_rl.training.run_folder import PICTURE, SUMMARY, file_name
from sparse_rl.training.trained import Trained, open_trained

EPISODES = 20
MOST_BYTES = 2_000_000
SIZE = (960, 64)  # width, colours
N_EXAMPLES = 16
BEGIN, END = "<!-- made by benchmarks/zoo.py -->\n", "<!-- until here -->\n"
COSTS = ("weights", "inference_flops", "training_flops")


def publish(run: Run, out: Path, episodes: int, seed: int, again: bool) -> str:
    """Make the entry of a run; say what was done."""
    config, summary = run.config, read_yaml(run.folder / SUMMARY)
    target = out / config["algo"] / config["env"]
    if file_name(config["env"]) != config["env"]:
        raise InputError(f"{config['env']} is of a package of its own, which others need not have.")
    if EnvironmentId.parse(config["env"]).permute is not None or config.get("env_kwargs"):
        raise InputError(f"{config['env']} is permuted, or has arguments of its own: a card has no place for these.")
    trained = open_trained(str(run.folder), best=True)
    if trained.normalization is not None:
        raise InputError("its observations are normalized, and load() shows an agent of the zoo what there is.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".partial-") as temporary:
        entry = Path(temporary) / "entry"
        save_agent(trained.model, entry, acting_only=True)
        if not again and _is_published(entry, target, episodes, seed):
            return "is published already"
        _write_examples(trained, entry, seed)
        # What is judged is what is published: without critics.
        returns = returns_of(open_trained(str(entry), env=config["env"]), episodes, seed)
        card = _card(run, summary, trained, returns, seed)
        (entry / CARD).write_text(yaml.safe_dump(card, sort_keys=False, width=120), encoding="utf-8")
        (entry / "card.md").write_text(render(card), encoding="utf-8")
        (entry / "learning_curve.csv").write_text(_curve(run), encoding="utf-8")
        _shrink(run.folder / PICTURE, entry / PICTURE)
        size = sum(file.stat().st_size for file in entry.iterdir())
        if size > MOST_BYTES:
            raise InputError(f"its files have {size:,} bytes, more than the {MOST_BYTES:,} that an agent may have.")
        _put_in_place(entry, target, Path(temporary) / "former")
    return f"return {returns.mean():.1f} +/- {returns.std():.1f}, {size / 1000:,.0f} kB"


def _put_in_place(entry: Path, target: Path, former: Path) -> None:
    """Replace a folder; if that fails, what was there is there again."""
    if target.exists():
        target.rename(former)
    try:
        entry.rename(target)
    except BaseException:
        if former.exists():
            former.rename(target)
        raise


def _is_published(entry: Path, target: Path, episodes: int, seed: int) -> bool:
    if not (target / CARD).exists():
        return False
    if any((entry / name).read_bytes() != (target / name).read_bytes() for name in (MODEL, CONFIG)):
        return False
    result = read_card(target)["return"]
    return (result["episodes"], result["seed"]) == (episodes, seed)


def _write_examples(trained: Trained, entry: Path, seed: int) -> None:
    """Keep some observations that the agent meets, and what it does then, to compare other machines with."""
    met = _observations(trained, seed)
    chosen = met[:: max(1, len(met) // N_EXAMPLES)][:N_EXAMPLES].astype(np.float32)
    actions, _ = trained.model.predict(chosen, deterministic=True)
    save_tensors(entry / EXAMPLES, {"observations": chosen, "actions": np.asarray(actions)})


def _observations(trained: Trained, seed: int) -> np.ndarray:
    """List what an agent sees in an episode, of shape ``(steps, features)``."""
    env, seen, over = trained.vec_env(seed), [], False
    try:
        observation = env.reset()
        while not over:
            assert isinstance(observation, np.ndarray)
            seen.append(observation[0])
            action, _ = trained.model.predict(observation, deterministic=True)
            observation, _, dones, _ = env.step(action)
            over = bool(dones[0])
    finally:
        env.close()
    return np.stack(seen)


def _card(run: Run, summary: dict[str, Any], trained: Trained, returns: np.ndarray, seed: int) -> dict[str, Any]:
    config = run.config
    acting = next(iter(networks(trained.model).values()))
    costs = {f"{dense}{key}": summary[f"{dense}{key}"] for key in COSTS for dense in ("", "dense_")}
    n_evaluations, eval_episodes = run.returns.shape
    return {
        "algorithm": config["algo"],
        "environment": config["env"],
        "noise": protocol(config["env"], config["hyperparameters"]["replay"]),
        "return": {
            "mean": round(float(returns.mean()), 3),
            "std": round(float(returns.std()), 3),
            "episodes": len(returns),
            "seed": seed,
            "each": [round(float(value), 3) for value in returns],
        },
        "agent": {
            "which": f"the best one in {n_evaluations} evaluations of {eval_episodes} episodes",
            "step": trained.model.num_timesteps,
            "eval_episodes": eval_episodes,
        },
        "training": {
            "steps": summary["steps"],
            "seed": config["seed"],
            "seconds": summary["seconds"],
            "command": public_command(config["command"]),
            "commit": config["commit"],
            "versions": config["versions"],
            "platform": config["platform"],
        },
        "cost": {**costs, "actor_weights": count_weights(acting)},
    }


def _curve(run: Run) -> str:
    lines = ["step,seconds,return_mean,return_std"]
    for step, seconds, returns in zip(run.steps, run.seconds(), run.returns, strict=True):
        lines.append(f"{step},{seconds:.1f},{returns.mean():.3f},{returns.std():.3f}")
    return "\n".join(lines) + "\n"


def _shrink(source: Path, target: Path) -> None:
    width, colours = SIZE
    with Image.open(source) as picture:
        size = (width, round(picture.height * width / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(colours)
    small.save(target, optimize=True)


def runs_to_publish(root: Path) -> Iterator[Run]:
    """Find the first finished run of each algorithm in each environment: none is chosen by its return."""
    seen = set()
    for run in finished_runs(root):
        summary = run.folder / SUMMARY
        name = (run.config["algo"], run.config["env"])
        if name not in seen and summary.exists() and read_yaml(summary).get("finished"):
            seen.add(name)
            yield run


def rewrite(out: Path, document: Path | None) -> None:
    """Write all cards, and the table of a document, as their machine-readable cards now say."""
    agents = zoo(out)
    for agent in agents:
        (agent.folder / "card.md").write_text(render(agent.card), encoding="utf-8")
    if document is not None:
        before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            raise InputError(f"{str(document)!r} has no lines {BEGIN!r} and {END!r}, between which its table belongs.")
        document.write_text(f"{before}{BEGIN}\n{table(agents)}\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, publish."""
    parser = argparse.ArgumentParser(
        "zoo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", type=Path, help="folder of runs, as train.py writes them")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the zoo (that of the package)")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="of the evaluation, default: %(default)s")
    parser.add_argument("--again", action="store_true", help="evaluate also what is published already")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    failed, n_runs = 0, 0
    for run in runs_to_publish(args.runs):
        n_runs += 1
        title = f"{run.config['algo']} on {run.config['env']}"
        try:
            print(f"{title}: {publish(run, args.out, args.episodes, args.seed, args.again)}", flush=True)
        except (ValueError, OSError, KeyError) as error:
            failed += 1
            print(f"error: {title} ({run.folder}): {error}", file=sys.stderr)
    rewrite(args.out, ROOT / "docs" / "zoo.md" if args.out == FOLDER else None)
    if not n_runs:
        print(f"There is no finished run in {str(args.runs)!r}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
