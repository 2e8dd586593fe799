"""
What this machine can reach with the access pattern of a sparse layer: the bound of any kernel.

For each active weight such a kernel loads the batch row of one input feature and multiplies and adds it to an
accumulator. The loop here does that and nothing else: explicit SIMD of the widest kind, accumulators that never leave
their registers, rows picked in ascending order by an index as in CSR. Rows lie in the L1 or in the L2 cache of the core
that reads them; each thread has its own.

There are two bounds. :func:`gflops` knows no rows: nothing but weights counts. :func:`layer_gflops` follows the rows of
a topology, each as long as it is, and writes a row of the output after each of them (where a gradient would read one).
What both leave out (bias, the horizontal sum of a gradient, the call) only costs more.
"""

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)
# Registers for accumulators: of 32 with AVX-512, of 16 or 32 elsewhere. Enough to hide the latency of a multiply-add.
ACCUMULATORS = (8, 16) if LANES == 16 else (8, 12)
Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
FLOAT, VECTOR = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)


def _microkernel(accumulators: int) -> Any:
    """Make ``f(x, columns, weights, out)`` of addresses and a count: ``out = sum of weights[p] * x[columns[p]]``."""

    @intrinsic
    def multiply_add(context: Any, x: Any, columns: Any, weights: Any, count: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            pointers = (FLOAT, ir.IntType(32), FLOAT, None, FLOAT)
            x, columns, weights, count, out = (
                argument if kind is None else builder.inttoptr(argument, kind.as_pointer())
                for argument, kind in zip(arguments, pointers, strict=True)
            )
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(accumulators)]
            signature = ir.FunctionType(VECTOR, [VECTOR] * 3)
            fma = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), signature)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            stride = ir.Constant(ir.IntType(64), accumulators * LANES)

            def vector(base: Any, index: int) -> Any:
                place = builder.gep(base, [ir.Constant(ir.IntType(64), index * LANES)])
                return builder.bitcast(place, VECTOR.as_pointer())

            with cgutils.for_range(builder, count) as loop:
                weight = builder.load(builder.gep(weights, [loop.index]))
                undefined = ir.Constant(VECTOR, ir.Undefined)
                first = builder.insert_element(undefined, weight, ir.Constant(ir.IntType(32), 0))
                broadcast = builder.shuffle_vector(first, undefined, everywhere)
                column = builder.zext(builder.load(builder.gep(columns, [loop.index])), ir.IntType(64))
                row = builder.gep(x, [builder.mul(column, stride)])
                for index, total in enumerate(sums):
                    loaded = builder.load(vector(row, index), align=4)
                    builder.store(builder.call(fma, [broadcast, loaded, builder.load(total)]), total)
            for index, total in enumerate(sums):
                builder.store(builder.load(total), vector(out, index), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    @njit(parallel=True)
    def run(x: Any, columns: Any, weights: Any, starts: Any, out: Any, repeats: int) -> None:
        """For ``x (threads, strips, rows, width)`` and the neurons between ``starts``."""
        for thread in prange(x.shape[0]):
            for _ in range(repeats):
                for strip in range(x.shape[1]):
                    for i in range(starts.size - 1):
                        multiply_add(
                            x[thread, strip].ctypes.data,
                            columns.ctypes.data + 4 * starts[i],
                            weights.ctypes.data + 4 * starts[i],
                            starts[i + 1] - starts[i],
                            out[thread, strip, i].ctypes.data,
                        )

    return run


def gflops(threads: int, kilobytes: float, density: float = 0.1) -> float:
    """
    Measure the most that the pattern gives, whatever the layer.

    :param threads: how many at a time
    :param kilobytes: size of the rows that each thread reads from: below the cache's size they stay in it
    :param density: fraction of the rows that each neuron reads
    :return: GFLOP/s of all threads together
    """
    generator, speeds = np.random.default_rng(0), []
    for accumulators in ACCUMULATORS:
        width = accumulators * LANES
        rows = max(4, int(kilobytes * 1024 / 4 / width))
        count = max(1, round(density * rows))
        neurons = [np.sort(generator.permutation(rows)[:count]) for _ in range(64)]
        columns = np.concatenate(neurons).astype(np.int32)
        speeds.append(_measure(accumulators, threads, rows, 1, np.array([0, columns.size]), columns))
    return max(speeds)


def layer_gflops(threads: int, row_ptr: Integers, columns: Integers, inputs: int, batch: int) -> float:
    """
    Measure the most that the pattern gives for the rows of a topology.

    :param threads: how many at a time, each with its share of the rows
    :param row_ptr: where each row's active weights begin
    :param columns: input feature of each active weight
    :param inputs: number of input features
    :param batch: a multiple of 128
    :return: GFLOP/s of all threads together
    """
    starts = row_ptr[: (len(row_ptr) - 1) // threads + 1].astype(np.int64)
    columns = columns[: starts[-1]].astype(np.int32)
    fitting = [accumulators for accumulators in ACCUMULATORS if batch % (accumulators * LANES) == 0]
    return max(_measure(each, threads, inputs, batch // (each * LANES), starts, columns) for each in fitting)


def _measure(accumulators: int, threads: int, rows: int, strips: int, starts: Integers, columns: Integers) -> float:
    numba.set_num_threads(threads)
    width = accumulators * LANES
    weights = np.full(columns.size, 1e-3, np.float32)
    x, out = _aligned(threads, strips, rows, width), _aligned(threads, strips, starts.size - 1, width)
    run = _microkernel(accumulators)
    flops = 2.0 * columns.size * width * strips
    repeats = max(1, int(2e7 / flops))
    elapsed = best(lambda: run(x, columns, weights, starts, out, repeats), 200)
    return 1e-9 * flops * threads * repeats / elapsed


def _aligned(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Allocate ones that begin with a cache line: a load across two of them counts twice."""
    size = int(np.prod(shape))
    raw = np.ones(size + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + size].reshape(shape)


def best(function: Callable[[], object], rounds: int) -> float:
    """Take the shortest time of a function: a bound is what the machine gives when nobody disturbs it."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
