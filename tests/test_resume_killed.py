"""A process that is killed without a warning, at any time, again and again, loses nothing."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from comparing import assert_same_run, only_run

ROOT = Path(__file__).parents[1]
SHORT = (
    "--seed 5 -n 3000 --eval-freq 250 --eval-episodes 1 --log-interval 1 --no-progress --checkpoint-freq {} "
    "-params buffer_size:700 learning_starts:100 policy_kwargs.net_arch:[16,16] batch_size:32"
)
RUNS = [
    ("--algo anf-sac --env HalfCheetah-noise90 --update-interval 50", 10),
    ("--algo rigl-td3 --env Reacher-noise80-permute200 --replay observed --update-interval 50", 100),
    ("--algo anf-td3 --env Hopper-noise80 --n-envs 2 --vec-env subproc", 60),
]
STEPS, KILLS = 3000, 7  # of each run


# Kills its own process, from a thread that sees neither what training does nor that it does it: a test that would do it
# from outside could come too late on a busy machine.
KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from test_resume_killed import newest_checkpoint
from sparse_rl.commands.train import main

root, step, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])

def kill():
    while not any(newest_checkpoint(folder) >= step for folder in root.glob("*/*/1")):
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
sys.exit(main(sys.argv[4:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("words", "frequency"), RUNS)
def test_killed_again_and_again(tmp_path: Path, words: str, frequency: int) -> None:
    command = [sys.executable, "train.py"]
    flags = [*SHORT.format(frequency).split(), *words.split(), "-f"]
    subprocess.run([*command, *flags, str(tmp_path / "whole")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    root, chance, steps = tmp_path / "parts", random.Random(words), [0]
    flags.append(str(root))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    for _ in range(KILLS):
        # Only so far that there is something left for all of them; then at any time.
        moment = [str(steps[-1] + chance.uniform(0, 0.6 * STEPS / KILLS)), str(chance.uniform(0, 0.15))]
        killed = [sys.executable, "-c", KILLED, str(root), *moment, *flags]
        process = subprocess.run(killed, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        assert process.returncode == -signal.SIGKILL, "it ended by itself"
        flags = ["--resume", str(only_run(root))]
        steps.append(newest_checkpoint(only_run(root)))
    assert steps == sorted(steps)
    subprocess.run([*command, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert_same_run(only_run(tmp_path / "whole"), only_run(root))


def newest_checkpoint(folder: Path) -> int:
    names = [file.stem for file in (folder / "checkpoints").glob("step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)
