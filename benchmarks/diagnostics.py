"""
What looking at the networks costs: a look, as at each evaluation, against the environment steps between two of them.

    python benchmarks/diagnostics.py

Takes turns, so that other load on the machine strikes both alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sparse_rl.agents import SAC, RedrawnReplayBuffer
from sparse_rl.sb3 import SparseSACPolicy
from sparse_rl.training.diagnostics import diagnose
from sparse_rl.training.vec_envs import make_vec_env

BETWEEN_EVALUATIONS = 10_000  # steps, train.py's default


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-noise98")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="environment steps in a round")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    env = make_vec_env(args.env, 1, seed=0)
    replay = {
        "replay_buffer_class": RedrawnReplayBuffer,
        "replay_buffer_kwargs": RedrawnReplayBuffer.kwargs_for(env),
        "buffer_size": 100_000,
    }
    agent = SAC(SparseSACPolicy, env, policy_kwargs={"sparsity": args.sparsity}, seed=0, learning_starts=300, **replay)
    agent.learn(320)
    diagnose(agent)
    steps, looks = [], []
    for _ in range(args.rounds):
        learn = seconds(lambda: agent.learn(args.steps, reset_num_timesteps=False))
        steps.append(learn / args.steps)
        looks.append(seconds(lambda: diagnose(agent)))
    step, look = statistics.median(steps), statistics.median(looks)
    print(f"a step {1e3 * step:.2f} ms, a look {1e3 * look:.1f} ms, which is as long as {look / step:.1f} steps")
    print(f"with an evaluation every {BETWEEN_EVALUATIONS} steps: {look / step / BETWEEN_EVALUATIONS:.3%} of training")


if __name__ == "__main__":
    main()
