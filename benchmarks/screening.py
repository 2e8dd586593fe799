"""
Which features screening finds, in several environments, and how many of those are noise.

    python benchmarks/screening.py

For each environment, --steps transitions with random actions are tested; several seeds.
"""

from collections.abc import Sequence

import numpy as np
import torch
from _report import Row, machine, parser, write

from sparse_rl.envs import make
from sparse_rl.topology import screen

ENVIRONMENTS = (
    "HalfCheetah-noise98", "HalfCheetah-noise90-real", "HalfCheetah-noise90-ar", "HalfCheetah-noise90-other",
    "Hopper-noise95", "Walker2d-noise95", "Swimmer-noise95", "InvertedPendulum-noise90", "Reacher-noise90",
    "Pusher-noise90", "Ant-noise90",
)  # fmt: skip


def collect(environment: str, steps: int, seed: int) -> tuple[tuple[torch.Tensor, ...], np.ndarray]:
    """Collect transitions with random actions; tell which features are real."""
    env = make(environment)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    columns: tuple[list[object], ...] = ([], [], [], [])
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        for column, value in zip(columns, (observation, following, action, reward), strict=True):
            column.append(value)
        observation = env.reset()[0] if terminated or truncated else following
    real = np.asarray(env.get_wrapper_attr("real_features"))
    env.close()
    return tuple(torch.as_tensor(np.array(column)) for column in columns), real


def judge(environment: str, steps: int, seeds: Sequence[int]) -> Row:
    """Screen one environment."""
    found, false, constant, n_real, n_features = [], [], 0, 0, 0
    for seed in seeds:
        (before, after, actions, rewards), real = collect(environment, steps, seed)
        chosen = screen(before, after, actions, rewards).chosen.numpy()
        n_real, n_features = int(real.sum()), len(real)
        constant = int((after.std(0).numpy()[real] == 0).sum())
        found.append(int(chosen[real].sum()))
        false.append(int(chosen[~real].sum()))
    return {
        "environment": environment,
        "features": n_features,
        "real": n_real,
        "real but constant": constant,
        "real ones found": f"{min(found)} to {max(found)}" if min(found) < max(found) else str(found[0]),
        "noise features chosen, mean": float(np.mean(false)),
    }


def main() -> None:
    """Read the command line, screen, write the table."""
    flags = parser("screening", __doc__ or "", threads=1, rounds=5)
    flags.add_argument("--steps", type=int, default=5000, help="default: %(default)s")
    flags.add_argument("--env", nargs="+", default=list(ENVIRONMENTS))
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    rows = [judge(environment, args.steps, range(args.rounds)) for environment in args.env]
    notes = [
        *machine(args.threads),
        f"{args.steps:,} transitions with random actions, level 0.01, {args.rounds} seeds; the noise is seen once",
    ]
    write(args.out, "screening", notes, rows)


if __name__ == "__main__":
    main()
