"""
Time sparse layers against dense ones, against other packages, and against what this machine can give.

    python benchmarks/kernels.py --threads 1

For an input layer (256 x 850) and a hidden one (256 x 256), at several densities: the forward pass, the gradient of the
weights and, where it is used, that of the input. Activations are feature-major: (features, batch). The bounds are those
of loops which load, multiply and add, and do nothing else; that of the layer also writes the output: see _bound.py.
`sparse_rl.kernels.CROSSOVER_DENSITY` was read off this table.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from _bound import gflops, layer_gflops
from _report import Row, machine, parser, restart_with, spread, write
from numba import njit
from torch import Tensor

from sparse_rl import kernels
from sparse_rl.nn import FeatureMajorMLP, SparseLinear
from sparse_rl.topology import Topology

OPERATIONS = ("forward", "weight gradient", "input gradient")
DENSE = "dense"
WITHIN = "numba, within a pass"
OURS = (DENSE, "numba", WITHIN, "scatter")
Operation = Callable[[int], None]  # makes as many calls as it is told to
Passes = tuple[Operation, ...]  # one for each operation


def from_python(*functions: Callable[[], object]) -> Passes:
    """Make operations of functions that Python calls, one time after the other."""

    def repeat(function: Callable[[], object], calls: int) -> None:
        for _ in range(calls):
            function()

    return tuple(partial(repeat, function) for function in functions)


@njit
def _forward(calls: int, levels: Any, x: int, stride: int, batch: int, threads: int, like: Any) -> None:
    for _ in range(calls):
        kernels.forward(levels, x, stride, batch, threads, like)


@njit
def _backward(
    calls: int, levels: Any, x: int, stride: int, batch: int, parameters: bool, dx: int, dx_stride: int, threads: int,
    like: Any,
) -> None:  # fmt: skip
    for _ in range(calls):
        kernels.backward(levels, x, stride, batch, parameters, dx, dx_stride, threads, like)


def ours(layer: torch.nn.Module, x: Tensor, dy: Tensor, within: bool = False) -> Passes:
    """
    Give the compiled passes of a layer, bias included.

    :param within: call them from compiled code, as the learners do, instead of from Python
    """
    network = FeatureMajorMLP([layer])
    network.forward(x)
    network.backward(dy)  # puts the gradient where the calls below look for it
    program, batch, like = network.prepare(x.shape[1]), x.shape[1], kernels.LIKE[x.dtype]
    rows = kernels.empty_activations(*x.shape, x).copy_(x)
    dx = torch.empty_like(rows)

    def forward(calls: int) -> None:
        place = rows.data_ptr(), rows.stride(0), batch
        for inner in [calls] if within else [1] * calls:
            _forward(inner, program.table, *place, kernels.follow_torch(), like)

    def backward(parameters: bool, calls: int) -> None:
        place = rows.data_ptr(), rows.stride(0), batch
        out = 0 if parameters else dx.data_ptr(), dx.stride(0)
        for inner in [calls] if within else [1] * calls:
            _backward(inner, program.table, *place, parameters, *out, kernels.follow_torch(), like)

    return forward, partial(backward, True), partial(backward, False)


def masked(weight: Tensor, x: Tensor, dy: Tensor) -> Passes:
    """Give the passes of a dense layer with a mask: as sparse training is usually simulated."""
    mask = (weight != 0).float()
    return from_python(
        lambda: torch.mm(weight * mask, x),
        lambda: torch.mm(dy, x.t()).mul_(mask),
        lambda: torch.mm((weight * mask).t(), dy),
    )


def torch_csr(weight: Tensor, x: Tensor, dy: Tensor) -> Passes:
    """Give PyTorch's sparse products. The transposed weights are there already, which training would have to update."""
    csr, transposed = weight.to_sparse_csr(), weight.t().contiguous().to_sparse_csr()
    return from_python(
        lambda: torch.sparse.mm(csr, x),
        lambda: torch.sparse.sampled_addmm(csr, dy, x.t(), beta=0),
        lambda: torch.sparse.mm(transposed, dy),
    )


def sparselab(weight: Tensor, x: Tensor, dy: Tensor) -> Passes:
    """Give the kernels below SparseLab's SparseLinear, without the changes of layout around them."""
    import sparselab as package
    from sparselab import _core

    csr, transposed = package.PaddedCSR.from_dense(weight), package.PaddedCSR.from_dense(weight.t().contiguous())
    return from_python(
        lambda: package.spmm(csr, x),
        lambda: _core.spmm_grad_w_simd(csr, dy.numpy(), x.numpy()),
        lambda: package.spmm(transposed, dy),
    )


def contenders(topology: Topology, x: Tensor, dy: Tensor) -> Mapping[str, Passes | str]:
    """List what is timed, the reference first; a sentence stands for what cannot be."""
    layer = SparseLinear(topology)
    weight = layer.dense_weight()
    result: dict[str, Passes | str] = {
        DENSE: ours(layer.to_dense(), x, dy),
        "masked dense": masked(weight, x, dy),
        "numba": ours(SparseLinear(topology, kernel="numba"), x, dy),
        WITHIN: ours(SparseLinear(topology, kernel="numba"), x, dy, within=True),
        "scatter": ours(SparseLinear(topology, kernel="scatter"), x, dy),
        "torch CSR": torch_csr(weight, x, dy),
        "SparseLab": "not installed",
    }
    if importlib.util.find_spec("sparselab") is not None:
        result["SparseLab"] = sparselab(weight, x, dy)
    return result


def seconds(operations: Mapping[str, Operation], rounds: int) -> Mapping[str, list[float] | str]:
    """Time each operation once in every round, so that all meet the same machine; a failure gives its reason."""
    times: dict[str, list[float] | str] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            measured = times[name]
            if isinstance(measured, str):
                continue
            # Before it sleeps, the idle thread pool of another OpenMP runtime spins on the cores for milliseconds.
            time.sleep(0.02)
            try:
                with kernels.kernels_only() if name in OURS else nullcontext():
                    once = min(_per_call(operation, 1) for _ in range(3))
                    measured.append(_per_call(operation, max(1, int(0.002 / once))))
            except RuntimeError as error:
                times[name] = str(error).splitlines()[0]
    return times


def _per_call(operation: Operation, calls: int) -> float:
    start = time.perf_counter()
    operation(calls)
    return (time.perf_counter() - start) / calls


def compare(topology: Topology, batch: int, operation: int, rounds: int, bounds: Mapping[str, float]) -> list[Row]:
    """Time one operation of one layer."""
    (n_out, n_in), active = topology.shape, topology.active
    x, dy = torch.randn(n_in, batch), torch.randn(n_out, batch)
    every = contenders(topology, x, dy)
    times = seconds({name: f[operation] for name, f in every.items() if not isinstance(f, str)}, rounds)
    dense = times[DENSE]
    rows: list[Row] = []
    for name, passes in every.items():
        where = {
            "layer": f"{n_out} x {n_in}",
            "operation": OPERATIONS[operation],
            "density": round(topology.density, 3),
        }
        row: dict[str, object] = {**where, "kernel": name}
        measured = times.get(name, str(passes))
        if isinstance(measured, str):
            rows.append({**row, "gap": measured})
            continue
        median, iqr = spread(measured)
        row |= {"ms": 1e3 * median, "ms IQR": 1e3 * iqr}
        row["of dense's time"], row["of dense's time, IQR"] = spread(
            [a / b for a, b in zip(measured, dense, strict=True) if not isinstance(b, str)]
        )
        row["GFLOP/s"] = 2e-9 * batch * (n_out * n_in if name == DENSE else active) / median
        for level, bound in bounds.items():
            row[f"% of {level} bound"] = None if name == DENSE else 100 * float(str(row["GFLOP/s"])) / bound
        rows.append(row)
    return rows


def main() -> None:
    """Read the command line, time, write the table."""
    flags = parser("kernels", __doc__ or "", threads=2, rounds=15)
    flags.add_argument("--inputs", type=int, default=850, help="of the input layer; default: %(default)s")
    flags.add_argument("--hidden", type=int, default=256, help="units of both layers; default: %(default)s")
    flags.add_argument("--batch", type=int, default=256, help="a multiple of 128; default: %(default)s")
    flags.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6])
    args = flags.parse_args()
    if args.batch < 1 or args.batch % 128:
        flags.error("--batch must be a multiple of 128, for which the bound is measured")
    restart_with(args.threads)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

    # Rows of 24 KB lie in L1 caches of 32 and of 48 KB; those of the input layer, as a rule, in L2.
    sizes = {"L1": 24.0, "L2": args.inputs * args.batch * 4 / 1024}
    counts = sorted({1, args.threads})
    bounds = {level: {n: gflops(n, size) for n in counts} for level, size in sizes.items()}
    rows: list[Row] = []
    for n_in, operations in ((args.inputs, (0, 1)), (args.hidden, (0, 1, 2))):
        for operation in operations:
            for density in args.densities:
                shape = (args.hidden, n_in)
                topology = Topology.random(shape, max(1, round(density * shape[0] * shape[1])))
                here = {level: bound[args.threads] for level, bound in bounds.items()}
                here["layer's"] = layer_gflops(
                    args.threads, topology.row_ptr.numpy(), topology.columns.numpy(), n_in, args.batch
                )
                rows += compare(topology, args.batch, operation, args.rounds, here)
    notes = [
        *machine(args.threads),
        f"batch {args.batch}, feature-major; median and interquartile range of {args.rounds} interleaved rounds",
        "GFLOP/s count active weights only, in dense layers all; `of dense's time`: below 1 is faster",
        f"`{WITHIN}`: called from compiled code, as learners do; all others are called from Python",
        "`dense`, `numba` and `scatter` include the bias; SparseLab has SIMD code for ARM, elsewhere plain loops",
        *(
            f"bound, rows in {level} ({sizes[level]:.0f} KB): "
            + ", ".join(f"{value:.0f} GFLOP/s with {n} thread(s)" for n, value in bound.items())
            for level, bound in bounds.items()
        ),
    ]
    if any(isinstance(share := row.get("% of L1 bound"), float) and share > 100 for row in rows):
        notes.append("NOT VALID: a kernel exceeds its bound, so the machine was busy when that was measured")
    write(args.out, f"kernels-{args.threads}", notes, rows)


if __name__ == "__main__":
    main()
