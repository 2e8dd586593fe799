"""The kernels agree with each other, with a masked dense layer, and with themselves at any number of threads."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_rl import kernels
from sparse_rl.agents import passes
from sparse_rl.kernels import dense, layout, network, sparse, updates
from sparse_rl.kernels import threads as threads_module
from sparse_rl.nn import FeatureMajorMLP, SparseLinear
from sparse_rl.topology import Topology

OUT, IN = 23, 37
PIECES: dict[int, tuple[int, ...]] = {1: (37,), 2: (31, 6), 3: (1, 20, 16)}
KERNELS = ("numba", "scatter")


class Case(NamedTuple):
    topology: Topology
    values: Tensor
    bias: Tensor | None
    inputs: tuple[Tensor, ...]


def apply(kernel: str, case: Case) -> Tensor:
    topology, values, bias, inputs = case
    if kernel == "scatter":
        return kernels.scatter_linear(inputs, values, bias, topology.positions, topology.shape)
    patterns = kernels.split(topology.row_ptr, topology.columns, topology.shape[1], [x.shape[1] for x in inputs])
    return kernels.numba_linear(inputs, values, bias, patterns)


def masked_dense(case: Case) -> Tensor:
    topology, values, bias, inputs = case
    weight = torch.zeros(topology.shape, dtype=values.dtype).masked_scatter(topology.mask(), values)
    return F.linear(torch.cat(inputs, dim=1), weight, bias)


def same_layout(x: Tensor) -> Tensor:
    return x


def feature_major(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def strided(x: Tensor) -> Tensor:
    larger = torch.zeros(x.shape[0] * 2, x.shape[1] * 3, dtype=x.dtype)
    larger[::2, ::3] = x
    return larger[::2, ::3]


def make_case(
    density: float,
    batch: int,
    pieces: Sequence[int] = (IN,),
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    layout: Callable[[Tensor], Tensor] = same_layout,
    empty_rows: Sequence[int] = (),
) -> Case:
    generator = torch.Generator().manual_seed(round(density * 100) + batch)
    mask = torch.rand(OUT, IN, generator=generator) < density
    mask[list(empty_rows)] = False
    topology = Topology.from_mask(mask)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    inputs = tuple(layout(x).requires_grad_() for x in randn(batch, IN).split(list(pieces), dim=1))
    return Case(
        topology, randn(topology.active).requires_grad_(), randn(OUT).requires_grad_() if bias else None, inputs
    )


def output_and_gradients(compute: Callable[[Case], Tensor], case: Case) -> list[Tensor]:
    y = compute(case)
    weighting = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
    wanted = [case.values, *([] if case.bias is None else [case.bias]), *case.inputs]
    return [y.detach(), *torch.autograd.grad((y * weighting).sum(), wanted)]


def assert_agrees(kernel: str, case: Case, rtol: float = 1e-11, atol: float = 1e-11) -> None:
    expected = output_and_gradients(masked_dense, case)
    for mine, theirs in zip(output_and_gradients(lambda c: apply(kernel, c), case), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# -- agreement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [1, 3, 256])
@pytest.mark.parametrize("density", [0.02, 0.2, 0.6, 1.0])
def test_output_and_all_gradients_are_those_of_a_masked_dense_layer(kernel: str, density: float, batch: int) -> None:
    assert_agrees(kernel, make_case(density, batch))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [1, 64, 65, 130])
@pytest.mark.parametrize("pieces", [2, 3])
def test_an_input_may_come_in_several_blocks(kernel: str, pieces: int, batch: int) -> None:
    assert_agrees(kernel, make_case(0.3, batch, PIECES[pieces]))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_neurons_without_any_weight_show_their_bias(kernel: str, pieces: int) -> None:
    case = make_case(0.3, 5, PIECES[pieces], empty_rows=[0, 7, OUT - 1])
    assert_agrees(kernel, case)
    assert case.bias is not None
    assert torch.equal(apply(kernel, case)[:, 7], case.bias[7].expand(5))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", [feature_major, strided])
@pytest.mark.parametrize("pieces", [1, 2])
def test_inputs_may_have_any_strides(kernel: str, layout: Callable[[Tensor], Tensor], pieces: int) -> None:
    assert_agrees(kernel, make_case(0.3, 7, PIECES[pieces], layout=layout))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bias_may_be_missing(kernel: str) -> None:
    assert_agrees(kernel, make_case(0.3, 7, bias=False))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [1, 256])
def test_they_agree_in_32_bit_too(kernel: str, batch: int) -> None:
    case = make_case(0.3, batch, PIECES[2], dtype=torch.float32)
    assert_agrees(kernel, case, rtol=1e-4, atol=1e-4)
    assert apply(kernel, case).dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.data())
def test_they_agree_for_any_shape(n_out: int, n_in: int, batch: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    topology = Topology.random((n_out, n_in), data.draw(st.integers(1, n_out * n_in)), generator)
    cut = data.draw(st.integers(0, n_in))
    values, x = torch.randn(topology.active, generator=generator), torch.randn(batch, n_in, generator=generator)
    inputs = tuple(block.requires_grad_() for block in x.double().split([cut, n_in - cut], dim=1))
    case = Case(topology, values.double().requires_grad_(), None, inputs)
    for kernel in KERNELS:
        assert_agrees(kernel, case)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_the_derivatives(kernel: str) -> None:
    topology = Topology.random((5, 7), 12, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in [(12,), (5,), (3, 4), (3, 3)]
    ]
    assert torch.autograd.gradcheck(lambda v, b, *x: apply(kernel, Case(topology, v, b, x)), tensors)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    case = make_case(0.3, 7, PIECES[2])
    observation, action = case.inputs
    y = apply("numba", case._replace(values=case.values.detach(), inputs=(observation.detach(), action)))
    y.sum().backward()
    assert case.values.grad is None
    assert observation.grad is None
    assert action.grad is not None
    assert case.bias is not None
    assert case.bias.grad is not None


def test_an_empty_batch_is_no_special_case() -> None:
    assert_agrees("numba", make_case(0.3, 0, PIECES[2]))


def test_numba_takes_and_gives_feature_major_activations_without_copies() -> None:
    case = make_case(0.3, 7, layout=feature_major)
    assert apply("numba", case).t().is_contiguous()
    saved = apply("numba", case).grad_fn.saved_tensors  # type: ignore[union-attr]
    assert saved[1].data_ptr() == case.inputs[0].data_ptr()


# -- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("batch", [1, 9])
def test_bias_and_relu_of_the_feature_major_product(bias: bool, relu: bool, batch: int) -> None:
    case = make_case(0.3, batch, PIECES[2], bias=bias)
    patterns = kernels.split(case.topology.row_ptr, case.topology.columns, IN, PIECES[2])
    inputs = [x.detach().t().contiguous() for x in case.inputs]
    y = kernels.spmm(inputs, case.values, case.bias, patterns, relu)
    expected = masked_dense(case).detach()
    torch.testing.assert_close(y.t(), expected.relu() if relu else expected, rtol=1e-11, atol=1e-11)


def test_blocks_worked_by_hand() -> None:
    topology = Topology.from_mask(torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]]))
    first, empty, rest = kernels.split(topology.row_ptr, topology.columns, 4, [3, 0, 1])
    assert (first.offset, first.width) == (0, 3)
    assert first.pointers.tolist() == [[0, 3, 3], [2, 3, 4]]
    assert (empty.offset, empty.width) == (3, 0)
    assert empty.pointers.tolist() == [[2, 3, 4], [2, 3, 4]]
    assert (rest.offset, rest.width) == (3, 1)
    assert rest.pointers.tolist() == [[2, 3, 4], [3, 3, 5]]
    (whole,) = kernels.split(topology.row_ptr, topology.columns, 4, [4])
    assert whole.pointers.tolist() == [[0, 3, 3], [3, 3, 5]]
    transposed, order = whole.transposed
    assert transposed.pointers.tolist() == [[0, 1, 2, 3], [1, 2, 3, 5]]
    assert transposed.columns.tolist() == [0, 2, 0, 0, 2]
    assert order.tolist() == [0, 3, 1, 2, 4]


def test_a_wide_matrix_is_cut_into_tiles() -> None:
    topology = Topology.random((3, 1000), 600)
    (pattern,) = kernels.split(topology.row_ptr, topology.columns, 1000, [1000])
    assert len(pattern.pointers) > 3
    assert (np.diff(pattern.pointers, axis=0) >= 0).all()
    for row, (start, stop) in enumerate(zip(topology.row_ptr[:-1], topology.row_ptr[1:], strict=True)):
        assert pattern.pointers[0, row] == start
        assert pattern.pointers[-1, row] == stop


@pytest.mark.parametrize(("widths", "message"), [([3, 2], "got 5 (3 + 2)"), ([3], "got 3 (3)"), ([], "got 0 ()")])
def test_blocks_have_to_cover_the_input(widths: list[int], message: str) -> None:
    topology = Topology.random((2, 4), 3)
    with pytest.raises(ValueError, match=re.escape(f"Expected 4 input features, but {message}.")):
        kernels.split(topology.row_ptr, topology.columns, 4, widths)


@pytest.mark.parametrize(
    ("kernel", "density", "device", "chosen"),
    [
        ("auto", 0.01, "cpu", "numba"),
        ("auto", 0.2, "cpu", "numba"),
        ("auto", kernels.CROSSOVER_DENSITY, "cpu", "numba"),
        ("auto", 0.9, "cpu", "scatter"),
        ("auto", 0.01, "cuda", "scatter"),
        ("numba", 0.9, "cpu", "numba"),
        ("scatter", 0.01, "cpu", "scatter"),
        ("scatter", 0.01, "cuda", "scatter"),
    ],
)
def test_choice_of_the_kernel(kernel: str, density: float, device: str, chosen: str) -> None:
    assert kernels.choose(kernel, density, torch.device(device)) == chosen


@pytest.mark.parametrize(
    ("kernel", "device", "message"),
    [
        ("numbas", "cpu", "Unknown kernel 'numbas'. Did you mean 'numba'?"),
        ("gpu", "cpu", "Unknown kernel 'gpu'. Known: auto, numba, scatter."),
        ("numba", "cuda", "The numba kernel computes on the CPU, but the layer is on cuda: use 'scatter' or 'auto'."),
    ],
)
def test_kernels_that_do_not_exist_or_do_not_fit_are_refused(kernel: str, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kernels.choose(kernel, 0.1, torch.device(device))


# -- NaN and infinity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batch", [1, 3, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bad_input_reaches_every_neuron_that_looks_at_it(bad: float, batch: int, dtype: torch.dtype) -> None:
    case = make_case(0.3, batch, dtype=dtype)
    column = int(case.topology.columns[0])
    x = case.inputs[0].detach().clone()
    x[-1, column] = bad
    case = case._replace(inputs=(x,))
    looks = case.topology.mask()[:, column]
    assert looks.any()
    y = apply("numba", case).detach()
    assert not y[-1, looks].isfinite().any()
    assert y[-1, ~looks].isfinite().all()
    assert y[:-1].isfinite().all()
    # The dense product of the scattered weights multiplies absent weights too, and 0 * NaN is NaN.
    assert not apply("scatter", case).detach()[-1, looks].isfinite().any()


def test_no_kernel_may_be_compiled_as_if_there_were_no_nan() -> None:
    modules = (sparse, dense, network)
    compiled = [f for module in modules for f in vars(module).values() if hasattr(f, "targetoptions")]
    names = {kernel.py_func.__name__ for kernel in compiled}
    assert names > {"multiply", "multiply_vector", "sample", "transpose", "forward", "backward"}
    for kernel in compiled:
        fastmath = kernel.targetoptions.get("fastmath", False)
        assert fastmath is False or set(fastmath).isdisjoint({"nnan", "ninf", "fast"})


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_bad_weight_and_a_bad_gradient_stay_visible(kernel: str) -> None:
    case = make_case(0.3, 5)
    values = case.values.detach().clone()
    values[4] = float("nan")
    row = int(case.topology.rows[4])
    y = apply(kernel, case._replace(values=values))
    assert y[:, row].isnan().all()
    dy = torch.ones(5, OUT, dtype=torch.float64)
    dy[2, row] = float("nan")
    d_values, d_input = torch.autograd.grad(apply(kernel, case), [case.values, case.inputs[0]], dy)
    assert torch.equal(d_values.isnan(), case.topology.rows == row)
    assert d_input[2, case.topology.mask()[row]].isnan().all()


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), SparseLinear(Topology.random((2, 3), 6))], ids=["dense", "sparse"])
@pytest.mark.parametrize("batch", [1, 40])
def test_relu_does_not_hide_a_nan(layer: nn.Module, batch: int) -> None:
    x = torch.ones(3, batch)
    x[1, 0] = float("nan")
    y = FeatureMajorMLP([layer, nn.ReLU()]).forward(x)
    assert y[:, 0].isnan().all()
    assert (y[:, 1:] >= 0).all()


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 256])
def test_results_do_not_depend_on_the_number_of_threads(threads: Callable[[int], None], batch: int) -> None:
    case = make_case(0.3, batch, PIECES[2], dtype=torch.float32)
    results = []
    for count in (1, 2):
        threads(count)
        with kernels.kernels_only():
            results.append(output_and_gradients(lambda c: apply("numba", c), case))
        assert torch.get_num_threads() == count
    for one, two in zip(*results, strict=True):
        assert torch.equal(one.view(torch.int32), two.view(torch.int32))


@pytest.mark.parametrize("density", [0.05, 0.3])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_passes_over_a_network_do_not_depend_on_the_number_of_threads(density: float, count: int) -> None:
    program = f"""
import torch
from sparse_rl.kernels import kernels_only
from sparse_rl.nn import FeatureMajorMLP, SparseLinear
from sparse_rl.topology import Topology
torch.manual_seed(0)
networks = []
for _ in range(2):
    first = SparseLinear(Topology.random((70, 210), round({density} * 70 * 210)), kernel="numba")
    hidden = SparseLinear(Topology.random((70, 70), 900), kernel="numba")
    layers = [first, torch.nn.ReLU(), hidden, torch.nn.ReLU(), torch.nn.Linear(70, 33), torch.nn.ReLU()]
    networks.append([*layers, torch.nn.Linear(33, 1)])
mlp = FeatureMajorMLP(*networks)
x, dy = torch.randn(210, 201), torch.randn(2, 201)
results = []
for threads in (1, {count}):
    torch.set_num_threads(threads)
    with kernels_only():
        mlp.forward(x, first=200)
        mlp.backward(dy)
        found = [mlp.forward(x, first=200), mlp.input_gradient(dy), *(s.gradient.clone() for s in mlp.stacks)]
    results.append(torch.cat([each.flatten() for each in found]).view(torch.int32))
print(torch.equal(*results))
"""
    environment = os.environ | {"NUMBA_NUM_THREADS": str(count)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_the_first_launch_leaves_the_number_of_threads_of_pytorch_alone() -> None:
    program = """
import numba, torch
from sparse_rl.kernels import kernels_only
from sparse_rl.nn import SparseLinear
from sparse_rl.topology import Topology
torch.set_num_threads(1)
layer = SparseLinear(Topology.random((20, 30), 60), kernel="numba")
layer(torch.ones(4, 30)).sum().backward()
print(torch.get_num_threads(), numba.get_num_threads())
torch.set_num_threads(2)
with kernels_only():
    layer(torch.ones(4, 30))
    print(torch.get_num_threads(), numba.get_num_threads())
print(torch.get_num_threads())
"""
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1 1\n1 2\n2\n"), done.stderr


def test_compiled_code_on_disk_is_out_of_date_when_any_kernel_has_changed() -> None:
    files = sorted(Path(sparse.__file__).parent.glob("*.py"))
    modules = (dense, layout, network, sparse, threads_module, updates, passes)
    dispatchers = {f for module in modules for f in vars(module).values() if hasattr(f, "targetoptions")}
    cached = [f for f in dispatchers if hasattr(f._cache, "_cache_file")]
    assert len(cached) >= 16
    for f in cached:
        sources = [*files, Path(f.py_func.__code__.co_filename)]
        expected = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        assert f._cache._cache_file._source_stamp == expected
