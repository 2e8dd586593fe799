"""A run that was stopped and continued is the run that was never stopped, to the bit: whatever learns, wherever."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from comparing import assert_same_run, run, run_in_parts

# Gradient steps begin after step 60, topology updates come every 30 of them, the replay buffer wraps at step 150, an
# episode has 50 steps.
SHORT = (
    "--seed 3 -n 260 --eval-freq 90 --eval-episodes 1 --log-interval 1 "
    "-params buffer_size:150 learning_starts:60 policy_kwargs.net_arch:[16,16] batch_size:32"
)
NOISY, MID_EPISODE = "Reacher-noise80", (137,)
BEFORE_AT_AND_AFTER_A_REWIRING = (149, 150, 151)


@pytest.mark.parametrize(
    ("words", "stops"),
    [
        ("--algo sac --env Pendulum-v1", MID_EPISODE),
        ("--algo td3 --env Reacher-v5", (31, 200)),  # the first one in the warm-up
        (f"--algo anf-sac --env {NOISY} --update-interval 30", BEFORE_AT_AND_AFTER_A_REWIRING),
        (f"--algo anf-td3 --env {NOISY} --update-interval 30 --replay observed", BEFORE_AT_AND_AFTER_A_REWIRING),
        (f"--algo rigl-sac --env {NOISY} --update-interval 30", BEFORE_AT_AND_AFTER_A_REWIRING),
        (f"--algo gmp-td3 --env {NOISY} --update-interval 30", BEFORE_AT_AND_AFTER_A_REWIRING),
        (f"--algo screened-sac --env {NOISY} learning_starts:100", (99, 100, 101)),
        # The step of the first evaluation, of a new permutation, and the one after; the buffer has several phases.
        (f"--algo anf-sac --env {NOISY}-permute50 --replay observed", (90, 100, 101)),
    ],
)
def test_continued_as_if_nothing_had_happened(tmp_path: Path, words: str, stops: Sequence[int]) -> None:
    algo, _, more = f"{SHORT} {words}".partition(" learning_starts:100")
    words = f"{algo} -params learning_starts:100{more}" if more or "screened" in words else algo
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", stops))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stops"),
    [
        (f"--algo {method}-{learner} --env {NOISY} --replay {replay} {settings}", stops)
        for method, settings in (
            ("static", ""),
            *((method, "--update-interval 30") for method in ("anf", "ds", "rigl", "gmp", "ne")),
            # With the paper's 20 as many weights as a layer of this size has.
            ("set", "--update-interval 30 -params lambdas:[4,4]"),
        )
        for learner in ("sac", "td3")
        for replay, stops in (("redrawn", BEFORE_AT_AND_AFTER_A_REWIRING), ("observed", MID_EPISODE))
    ],
)
def test_every_method(tmp_path: Path, words: str, stops: Sequence[int]) -> None:
    words = f"{SHORT} {words}"
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", stops))


@pytest.mark.parametrize(
    "words",
    [
        f"--algo anf-td3 --env {NOISY} --n-envs 2 -params gradient_steps:-1 noise_type:ornstein-uhlenbeck",
        pytest.param(
            f"--algo anf-sac --env {NOISY}-permute25 --n-envs 2 --vec-env subproc --n-eval-envs 2",
            marks=pytest.mark.slow,
        ),
        f"--algo anf-sac --env {NOISY}-ar --replay observed -params n_steps:3",
        "--algo sac --env Reacher-noise50-other -params optimizer.name:smet-adam",
        "--algo sac --env Pendulum-v1 -params use_sde:true sde_sample_freq:4 ent_coef:0.1",
        "--algo td3 --env Pendulum-v1 -params optimize_memory_usage:true "
        "replay_buffer_kwargs.handle_timeout_termination:false",
        f"--algo anf-sac --env {NOISY} -params train_freq:[1,episode] gradient_steps:-1",
    ],
)
def test_whatever_else_has_state(tmp_path: Path, words: str) -> None:
    """Copies, workers, action noise, other buffers and optimizers, state-dependent exploration, long rollouts."""
    words = f"{SHORT} {words}"
    assert_same_run(run(words, tmp_path / "whole"), run_in_parts(words, tmp_path / "parts", (137, 190)))
