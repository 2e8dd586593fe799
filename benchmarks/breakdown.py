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
from itertools import product
from typing import Any

from _report import Row, machine, parser, restart_with, write


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


def profile(learner: str, sparsity: float, distribution: str, steps: int, fill: int, speed: float) -> list[Row]:
    """Train for some steps with the clock on, and list the parts."""
    from _worker import Worker

    from sparse_rl.agents import learner as common
    from sparse_rl.agents import sac, td3
    from sparse_rl.agents.optimizers import FastAdam, Following

    worker = Worker("ours", learner, "HalfCheetah-noise98", "redrawn", sparsity, distribution, fill, 100_000)
    model, clock = worker.model, Clock()
    assert isinstance(model, sac.SAC | td3.TD3)
    assert model._fast is not None
    (actor, first_of_actor), (critics, first_of_critics) = (
        (sum(stack.tensor.numel() for stack in network.stacks[::2]), network.stacks[0].tensor.numel())
        for network in (model._fast.actor, model._fast.critics)
    )
    n, module = model.batch_size, sac if learner == "sac" else td3
    # The products in each part: of weights with a batch; their gradients; gradients of what the hidden layers read.
    learn_critics = critics + critics + critics - first_of_critics
    learn_actor = actor + actor - first_of_actor
    if learner == "sac":  # the actor for both halves of the batch; both critics judge its actions
        critic_work, actor_work = 2 * actor + critics + learn_critics, 2 * critics - first_of_critics + learn_actor
    else:  # the target actor; one critic judges the actor's actions
        critic_work, actor_work = actor + critics + learn_critics, actor + critics - first_of_critics / 2 + learn_actor
    clock.watch(common, "sample", "sample a batch, noise included")
    clock.watch(module, f"{learner}_critics", "actions, targets, gradients of the critics", lambda *_: n * critic_work)
    clock.watch(module, f"{learner}_actor", "gradients of the actor, through the critics", lambda *_: n * actor_work)
    clock.watch(FastAdam, "step", "Adam")
    clock.watch(Following, "step", "target networks")
    clock.watch(model, "train", "gradient step")
    clock.watch(model, "predict", "prediction")
    clock.watch(model.env, "step", "environment step")
    total = worker.learn(steps)["seconds"]
    kind = f"{distribution} {100 * sparsity:g} %" if sparsity else "dense"
    rows: list[Row] = []
    for label, seconds in clock.seconds.items():
        work = clock.products[label] / steps
        floor = {"million multiply-adds": work / 1e6, "floor, ms": 1e3 * work / speed} if work else {}
        part = {
            "learner": learner,
            "agent": kind,
            "part": label,
            "calls": clock.calls[label] / steps,
            "ms": 1e3 * seconds / steps,
        }
        rows.append({**part, **floor})
    known = sum(clock.seconds[label] for label in ("gradient step", "prediction", "environment step"))
    rest = {"part": "the rest: Stable-Baselines3's loop", "ms": 1e3 * (total - known) / steps}
    rows.append({"learner": learner, "agent": kind, **rest})
    return rows


def main() -> None:
    """Read the command line, profile, write the table."""
    arguments = parser("breakdown", __doc__ or "", threads=2, rounds=1)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--fill", type=int, default=2000)
    arguments.add_argument("--learners", nargs="+", default=["sac", "td3"], choices=["sac", "td3"])
    args = arguments.parse_args()
    restart_with(args.threads)
    speed = dense_speed(args.threads)
    rows: list[Row] = []
    for learner, (sparsity, distribution) in product(
        args.learners, ((0.0, "input"), (0.8, "input"), (0.95, "uniform"))
    ):
        rows += profile(learner, sparsity, distribution, args.steps, args.fill, speed)
    notes = [*machine(args.threads), f"dense product 1024^3: {2 * speed / 1e9:.0f} GFLOP/s; {args.steps} steps"]
    write(args.out, "breakdown", notes, rows)


if __name__ == "__main__":
    main()
