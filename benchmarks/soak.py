"""
A soak: half an hour of training, in which memory shall stay flat and file handles constant.

    python benchmarks/soak.py                  # 30 minutes
    python benchmarks/soak.py --minutes 2      # a small trial

Training runs as users run it, with evaluations and checkpoints far more often than usual, in an environment that is
quick, so that there are many of them. Its replay buffer is small, and the figures begin when it is full and the first
evaluation is over: what grows after that is a leak. Memory is what the process holds (RSS).
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _report import ROOT, machine, write
from numpy.typing import NDArray

WORDS = (
    "--algo anf-sac --env InvertedPendulum-noise98 --seed 0 -n 100000000 --buffer-size 4000 --eval-freq 4000 "
    "--eval-episodes 1 --checkpoint-freq 500 --update-interval 200 --no-progress --num-threads 1 "
    "-params learning_starts:1000 policy_kwargs.net_arch:[64,64] batch_size:64"
)
FULL = 5000  # steps


def sample(process: int) -> tuple[float, int]:
    """Give a process's memory in MB, and the number of its open files."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return kilobytes / 1024, len(list(Path(f"/proc/{process}/fd").iterdir()))


def checkpointed(folder: Path) -> int:
    """Tell the steps of a run's newest checkpoint."""
    files = folder.glob("*/*/1/checkpoints/step_*.safetensors")
    return max((int(file.stem.removeprefix("step_")) for file in files), default=0)


def soak(minutes: float, every: float, folder: Path) -> list[dict[str, float]]:
    """Train for some minutes, and sample."""
    command = [sys.executable, str(ROOT / "train.py"), *WORDS.split(), "--log-folder", str(folder)]
    samples: list[dict[str, float]] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes and process.poll() is None:
            time.sleep(every)
            if process.poll() is not None:
                break
            memory, files = sample(process.pid)
            steps = checkpointed(folder)
            elapsed = (time.monotonic() - began) / 60
            samples.append({"minutes": elapsed, "steps": steps, "memory_MB": memory, "open_files": files})
        process.send_signal(signal.SIGTERM)
        if process.wait() != 128 + signal.SIGTERM:
            raise SystemExit(f"Training did not go on to the end: it ended with exit code {process.returncode}.")
    return [each for each in samples if each["steps"] >= FULL]


def summarise(samples: Sequence[dict[str, float]]) -> dict[str, object]:
    """Say what has grown, by a straight line through the memory samples."""
    minutes, memory = (np.array([each[key] for each in samples]) for key in ("minutes", "memory_MB"))
    files = [int(each["open_files"]) for each in samples]
    half = len(samples) // 2
    return {
        "minutes": round(float(minutes[-1] - minutes[0]), 1),
        "steps": int(samples[-1]["steps"] - samples[0]["steps"]),
        "memory_MB_first": round(float(memory[0]), 1),
        "memory_MB_last": round(float(memory[-1]), 1),
        "memory_MB_most": round(float(memory.max()), 1),
        "growth_MB_per_hour": _slope(minutes, memory),
        "growth_of_second_half": _slope(minutes[half:], memory[half:]),
        "open_files_least": min(files),
        "open_files_most": max(files),
    }


def _slope(minutes: NDArray[np.float64], memory: NDArray[np.float64]) -> float:
    """Fit a straight line, and give its slope per hour."""
    return round(float(60 * np.polyfit(minutes, memory, 1)[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples, default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak", help="folder of the table"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        samples = soak(args.minutes, args.every, Path(scratch))
    if len(samples) < 2:
        raise SystemExit(f"The replay buffer was not full ({FULL} steps) in that time: give more --minutes.")
    write(args.out, "soak", [*machine(1), f"`train.py {WORDS}`"], [summarise(samples)])


if __name__ == "__main__":
    main()
