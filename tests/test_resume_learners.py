"""Runs of any learner, and with replay buffers that change, go on to the bit where they were stopped."""

from pathlib import Path

import pytest
from comparing import assert_same_run, run, run_in_parts

SHORT = "--seed 3 -n 260 --eval-freq 90 --eval-episodes 1 --log-interval 1"
SMALL = "policy_kwargs.net_arch:[16,16]"
OFF_POLICY = f"{SMALL} buffer_size:150 learning_starts:60 batch_size:32"


@pytest.mark.parametrize(
    "words",
    [
        f"--algo set-ppo --env Acrobot-v1-noise80 --update-interval 4 -params {SMALL} lambdas:[2] n_steps:26 "
        "batch_size:13",
        f"--algo a2c --env Pendulum-v1 -params {SMALL} n_steps:13 use_sde:true",
        f"--algo set-dqn --env Acrobot-v1-noise80 --update-interval 20 -params {OFF_POLICY} lambdas:[2] "
        "target_update_interval:37",
        f"--algo rigl-tqc --env Reacher-noise80 --update-interval 30 -params {OFF_POLICY}",
        f"--algo static-crossq --env Pendulum-v1 -params {OFF_POLICY}",
        "--algo rlx2-td3 --env Reacher-noise80 --update-interval 30 --replay observed "
        f"-params {OFF_POLICY} n_steps_delay:60 dynamic_capacity.interval:40 dynamic_capacity.minimum:50 "
        "dynamic_capacity.threshold:1e-6",
    ],
)
def test_continued_as_if_nothing_had_happened(tmp_path: Path, words: str) -> None:
    words = f"{SHORT} {words}"
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", (131, 190)))
