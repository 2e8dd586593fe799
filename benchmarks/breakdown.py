"""
Where the time of a gradient step goes: its parts, within a real training loop.

    python benchmarks/breakdown.py --threads 2

Each part is timed where it runs, in the loop, with the caches as it finds them there. The last columns say how many
multiply-adds a pass over a network makes, and how long they would take at the speed of a large dense product on this
machine: a floor that only dense layers can come near. Timing costs a few percent itself.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from _report import machine, parser, restart_with, write


def dense_speed(threads: int) -> float:
    """Measure the speed of a large dense product, in multiply-adds per second."""
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(1024, 1024)
    best = min(_seconds(lambda: torch.mm(a, a)) for _ in range(20))
    return 1024**3 / best


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Clock:
    """Sums up the seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.products: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, label: str, work: Callable[..., float] = lambda *_: 0.0) -> None:
        """Replace a function by one that is timed."""
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[label] += time.perf_counter() - start
            self.calls[label] += 1
            self.products[label] += work(*args)
            return result

        setattr(owner, name, timed)


def profile(sparsity: float, distribution: str, steps: int, fill: int, speed: float) -> list[dict[str, object]]:
    """Train for some steps with the clock on, and list the parts."""
    from _worker import Worker

    import sparse_rl.agents.sac as sac
    from sparse_rl.agents.optimizers import FastAdam, Following

    worker = Worker("ours", "sac", "HalfCheetah-noise98", "redrawn", sparsity, distribution, fill, 100_000)
    model, clock = worker.model, Clock()
    assert isinstance(model, sac.SAC)
    assert model._fast is not None
    (actor, first_of_actor), (critics, first_of_critics) = (
        (sum(stack.tensor.numel() for stack in network.stacks[::2]), network.stacks[0].tensor.numel())
        for network in (model._fast.actor, model._fast.critics)
    )
    n = model.batch_size
    # Actor for both halves of the batch, targets, critics; gradients of weights, and of what the hidden layers read.
    critic_work = n * (2 * actor + 2 * critics + critics + critics - first_of_critics)
    # Critics again and what their hidden layers read; gradients of the weights of the actor, and what its layers read.
    actor_work = n * (critics + critics - first_of_critics + actor + actor - first_of_actor)
    clock.watch(sac, "sample", "sample a batch, noise included")
    clock.watch(sac, "sac_critics", "actions, targets, gradients of the critics", lambda *_: float(critic_work))
    clock.watch(sac, "sac_actor", "gradients of the actor, through the critics", lambda *_: float(actor_work))
    clock.watch(FastAdam, "step", "Adam")
    clock.watch(Following, "step", "target networks")
    clock.watch(model, "train", "gradient step")
    clock.watch(model, "predict", "prediction")
    clock.watch(model.env, "step", "environment step")
    total = worker.learn(steps)["seconds"]
    kind = f"{distribution} {100 * sparsity:g} %" if sparsity else "dense"
    rows: list[dict[str, object]] = []
    for label, seconds in clock.seconds.items():
        work = clock.products[label] / steps
        floor = {"million multiply-adds": work / 1e6, "floor, ms": 1e3 * work / speed} if work else {}
        part = {"agent": kind, "part": label, "calls": clock.calls[label] / steps, "ms": 1e3 * seconds / steps}
        rows.append({**part, **floor})
    known = sum(clock.seconds[label] for label in ("gradient step", "prediction", "environment step"))
    rows.append({"agent": kind, "part": "the rest: Stable-Baselines3's loop", "ms": 1e3 * (total - known) / steps})
    return rows


def main() -> None:
    """Read the command line, profile, write the table."""
    arguments = parser("breakdown", __doc__ or "", threads=2, rounds=1)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--fill", type=int, default=2000)
    args = arguments.parse_args()
    restart_with(args.threads)
    speed = dense_speed(args.threads)
    rows = []
    for sparsity, distribution in ((0.0, "input"), (0.8, "input"), (0.95, "uniform")):
        rows += profile(sparsity, distribution, args.steps, args.fill, speed)
    notes = [*machine(args.threads), f"dense product 1024^3: {2 * speed / 1e9:.0f} GFLOP/s; {args.steps} steps"]
    write(args.out, "breakdown", notes, rows)


if __name__ == "__main__":
    main()
