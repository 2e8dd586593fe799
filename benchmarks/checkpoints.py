"""
What checkpoints cost: how long one holds training up, with a full replay buffer, and what that is of the training time.

    python benchmarks/checkpoints.py                                     # 1M transitions; 3 GB on the disk for a while
    python benchmarks/checkpoints.py --transitions 20000 --rounds 2      # a small trial

The buffer is filled with numbers that no environment gave, which for this makes no difference. A checkpoint is taken as
training takes it: everything but the replay as a whole, of the replay the rows since the last one. The film of the
connections is as long as it gets.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _report import machine, parser, restart_with, spread, write

from sparse_rl.agents.replay.memory import nbytes
from sparse_rl.checkpoints import CheckpointFolder, ReplayLog
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.training.experiment import Experiment
from sparse_rl.training.film import MOST_FRAMES, FilmCallback
from sparse_rl.training.plan import CHECKPOINT_FREQUENCY
from sparse_rl.training.resuming import ResumeCallback
from sparse_rl.training.run_folder import RunFolder

CASES = (("HalfCheetah-noise98", "redrawn"), ("HalfCheetah-noise98", "observed"), ("Humanoid-noise98", "observed"))


def fill(buffer: Any) -> None:
    """Fill a buffer to the last byte: the values do not matter, but memory that nobody has touched is not there."""
    for array in vars(buffer).values():
        if isinstance(array, np.ndarray) and array.size:
            array[:] = (np.arange(len(array)) % 100).reshape(-1, *[1] * (array.ndim - 1)).astype(array.dtype)
    buffer.full = True


def measure(env: str, replay: str, transitions: int, rounds: int, threads: int) -> dict[str, object]:
    """Measure one case."""
    words = f"--env {env} --replay {replay} --buffer-size {transitions} --seed 0 --num-threads {threads} --eval-freq -1"
    words += " -n 10000000 -params learning_starts:100"
    experiment = Experiment(read_plan(make_parser().parse_args(words.split())))
    model, steps = experiment.model, 500
    model.learn(2 * model.learning_starts)  # compiles, and makes the optimizers' moments
    began = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    step_seconds = (time.perf_counter() - began) / steps
    fill(model.replay_buffer)
    every = min(CHECKPOINT_FREQUENCY, transitions // 2)
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        run = RunFolder(Path(scratch), experiment.plan.algo, env)
        folder = CheckpointFolder(run.checkpoints)
        film = FilmCallback(run, every)
        callback = ResumeCallback(folder, 0, [film], None, run.path, run.path, experiment.guard, experiment.describe())
        for each in (experiment.guard, film, callback):
            each.init_callback(model)
        film.on_training_start({}, {})
        film.frames *= MOST_FRAMES  # as many as a long run has
        model.num_timesteps = 0
        for end in range(every, transitions + 1, every):  # as a run would have left it
            model.num_timesteps = end
            callback.save()
        times = []
        for _ in range(rounds):
            model.num_timesteps += every
            began = time.perf_counter()
            callback.save()
            times.append(time.perf_counter() - began)
        newest = max(folder.path.glob("step_*"))
        state_bytes = newest.stat().st_size
        replay_bytes = max((folder.path / "replay").iterdir()).stat().st_size
        _, state = next(folder.load(print))
        began = time.perf_counter()
        ReplayLog(folder.path / "replay", model.replay_buffer).read(state["replay"])
        reading = time.perf_counter() - began
    experiment.close()
    stall, iqr = spread([1e3 * seconds for seconds in times])
    return {
        "environment": env,
        "replay": replay,
        "transitions": transitions,
        "replay_MB": round(nbytes(model.replay_buffer) / 1e6),
        "checkpoint_ms": round(stall, 1),
        "IQR": round(iqr, 1),
        "state_MB": round(state_bytes / 1e6, 1),
        "new_rows_MB": round(replay_bytes / 1e6, 1),
        "steps_between": every,
        "step_ms": round(1e3 * step_seconds, 2),
        "stall_percent": round(100 * stall / 1e3 / (every * step_seconds), 3),
        "read_replay_s": round(reading, 1),
    }


def main() -> None:
    arguments = parser("checkpoints", __doc__ or "", threads=1, rounds=10)
    arguments.add_argument("--transitions", type=int, default=1_000_000, help="in the replay (%(default)s)")
    args = arguments.parse_args()
    restart_with(args.threads)
    rows = [measure(env, replay, args.transitions, args.rounds, args.threads) for env, replay in CASES]
    write(args.out, "checkpoints", machine(args.threads), rows)


if __name__ == "__main__":
    main()
