"""
Time the kernels of a sparse input layer against a dense one, side by side.

    python benchmarks/kernels.py --threads 1

Prints, for each density, the time of a forward pass and of the gradient of the weights, as ratios to a dense layer's:
below 1 is faster. `sparse_rl.kernels.CROSSOVER_DENSITY` was read off this table.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch

from sparse_rl.nn import FeatureMajorMLP, SparseLinear
from sparse_rl.topology import Topology


def seconds(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Take the best time of each function, in rounds, so that all meet the same machine."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            for _ in range(5):
                function()
            best[index] = min(best[index], (time.perf_counter() - start) / 5)
    return best


def passes(layer: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> list[Callable[[], object]]:
    """Give the forward pass of a layer, and the gradient of its parameters."""
    network = FeatureMajorMLP([layer])
    network.forward(x)
    return [lambda: network.forward(x), lambda: network.backward(dy)]


def main() -> None:
    """Read the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=850)
    parser.add_argument("--outputs", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x, dy = torch.randn(args.inputs, args.batch), torch.randn(args.outputs, args.batch)
    print(f"{args.outputs} x {args.inputs}, batch {args.batch}, {args.threads} thread(s), torch {torch.__version__}")
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| density | forward: numba | forward: scatter | gradient: numba | gradient: scatter | dense, ms |")
    print("|---:|---:|---:|---:|---:|---:|")
    for density in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5):
        topology = Topology.random((args.outputs, args.inputs), round(density * args.outputs * args.inputs))
        layers = [torch.nn.Linear(args.inputs, args.outputs)]
        layers += [SparseLinear(topology, kernel=kernel) for kernel in ("numba", "scatter")]
        times = seconds([f for layer in layers for f in passes(layer, x, dy)], args.rounds)
        forward, backward = ([t / times[i] for t in times[i + 2 :: 2]] for i in (0, 1))
        cells = [f"{ratio:.2f}" for ratio in (*forward, *backward)]
        print(f"| {density} | {' | '.join(cells)} | {1e3 * times[0]:.2f} / {1e3 * times[1]:.2f} |")


if __name__ == "__main__":
    main()
