"""
Vectors for Numba: values of many lanes that LLVM keeps in registers.

Left to itself, LLVM turns the loops of a sparse product into 256-bit code on machines that have 512-bit registers, and
stores a row of the result after each few weights. Here the width is said: a :class:`Vector` is LLVM's ``<n x float>``,
and one that is wider than a register becomes several. So ``accumulator = multiply_add(w, load(...), accumulator)`` over
:func:`wide` vectors is one broadcast and eight multiply-adds that read memory at full width, and nothing else. The same
code becomes AVX2 or NEON where that is what there is.

Memory is addressed as ``(address, index)``, without bounds checks and at any alignment: callers check shapes.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

_AVX512 = bool(llvm.get_host_cpu_features().get("avx512f"))
_REGISTER = 64 if _AVX512 else 32
WIDE_BYTES = 8 * _REGISTER  # a strip of the batch, kept in eight accumulators
# The same, if it is only read. Half of all registers, of which AVX-512 has 32 and AVX2 has 16: operands need some too.
WIDEST_BYTES = 16 * _REGISTER if _AVX512 else WIDE_BYTES
NARROW_BYTES = 2 * _REGISTER  # what is left of the batch
BLOCK_BYTES = (4 if _AVX512 else 2) * _REGISTER  # six accumulators of this width, for dense products
SUM_FOURS = not _AVX512  # a narrow strip takes few products for each sum over lanes: make four sums at a time


def _intrinsic(function: Callable[..., Any]) -> Any:
    """
    Register code that is generated where a function is called, without the first parameter.

    It is ``intrinsic`` for checkers of types: Numba's own annotation expects callers to give the first parameter too.
    """
    return intrinsic(function)


_carray = vars(numba)["carray"]  # public, but Numba's annotations do not export it


class Vector(types.Type):
    """
    The Numba type of a vector.

    :param element: the Numba type of its lanes
    :param lanes: how many
    """

    def __init__(self, element: Any, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, _llvm_type(dmm, fe_type.element, fe_type.lanes))  # type: ignore[no-untyped-call]


def _llvm_type(dmm: Any, element: types.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(dmm.lookup(element).get_value_type(), lanes)


def _constant(context: Any, vector: Vector, value: float) -> ir.Constant:
    return ir.Constant(_llvm_type(context.data_model_manager, vector.element, vector.lanes), [value] * vector.lanes)


def _shuffle(builder: Any, value: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def _broadcast(builder: Any, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, [0] * lanes)


def _pointer(context: Any, builder: Any, vector: Vector, address: Any, index: Any, lanes: int) -> Any:
    element = _llvm_type(context.data_model_manager, vector.element, lanes).element
    base = builder.inttoptr(address, element.as_pointer())
    return builder.bitcast(builder.gep(base, [index]), ir.VectorType(element, lanes).as_pointer())


def _load(context: Any, builder: Any, vector: Vector, address: Any, index: Any, lanes: int) -> Any:
    return builder.load(_pointer(context, builder, vector, address, index, lanes), align=vector.element.bitwidth // 8)


def _multiply_add(builder: Any, w: Any, x: Any, accumulator: Any) -> Any:
    # `contract` makes it one rounding on machines that have fused multiply-add.
    return builder.fadd(accumulator, builder.fmul(w, x, flags=("contract",)), flags=("contract",))


def _zero_vector(size: int) -> Callable[[Any], Any]:
    @_intrinsic
    def zero(typing_context: Any, array: Any) -> Any:
        vector = Vector(array.dtype, max(1, size * 8 // array.dtype.bitwidth))
        return vector(array), lambda context, builder, signature, arguments: _constant(context, vector, 0.0)

    return zero  # type: ignore[no-any-return]


#: Give the zero vector of an array's element type: of :data:`WIDEST_BYTES`, ..., of a single lane.
widest, wide, block, narrow, single = (
    _zero_vector(size) for size in (WIDEST_BYTES, WIDE_BYTES, BLOCK_BYTES, NARROW_BYTES, 0)
)


@_intrinsic
def _pointer_to(typing_context: Any, address: Any) -> Any:
    return types.voidptr(types.intp), lambda context, builder, signature, arguments: builder.inttoptr(
        arguments[0], ir.IntType(8).as_pointer()
    )


@njit
def array_at(address: int, shape: Any, like: Any) -> Any:
    """See the memory at an address as an array of a shape and of the element type of another."""
    return _carray(_pointer_to(address), shape, like.dtype)


@_intrinsic
def load_scalar(typing_context: Any, like: Any, address: Any, index: Any) -> Any:
    """Read element ``index`` of the element type of vector ``like``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = _llvm_type(context.data_model_manager, like.element, 1).element
        return builder.load(builder.gep(builder.inttoptr(arguments[1], element.as_pointer()), [arguments[2]]))

    return like.element(like, types.intp, types.intp), generate


@_intrinsic
def lanes_of(typing_context: Any, vector: Any) -> Any:
    """Give the number of lanes of a vector."""
    return types.intp(vector), lambda context, builder, signature, arguments: context.get_constant(
        types.intp, vector.lanes
    )


@_intrinsic
def load(typing_context: Any, like: Any, address: Any, index: Any) -> Any:
    """Read a vector like ``like`` from element ``index`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, like, arguments[1], arguments[2], like.lanes)

    return like(like, types.intp, types.intp), generate


@_intrinsic
def store(typing_context: Any, vector: Any, address: Any, index: Any) -> Any:
    """Write a vector from element ``index`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, vector, arguments[1], arguments[2], vector.lanes)
        builder.store(arguments[0], pointer, align=vector.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(vector, types.intp, types.intp), generate


@_intrinsic
def fill(typing_context: Any, like: Any, scalar: Any) -> Any:
    """Give a vector like ``like`` whose lanes are all ``scalar``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _broadcast(builder, arguments[1], like.lanes)

    return like(like, like.element), generate


@_intrinsic
def multiply_add(typing_context: Any, scalar: Any, vector: Any, accumulator: Any) -> Any:
    """Compute ``scalar * vector + accumulator``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scalar, vector, accumulator = arguments
        return _multiply_add(builder, _broadcast(builder, scalar, signature.return_type.lanes), vector, accumulator)

    return accumulator(accumulator.element, vector, accumulator), generate


@_intrinsic
def where_positive(typing_context: Any, condition: Any, vector: Any) -> Any:
    """Replace the lanes of a vector by zero where those of ``condition`` are zero or negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = _constant(context, vector, 0.0)
        # Unordered: where the condition is NaN, the lane stays.
        return builder.select(builder.fcmp_unordered(">", arguments[0], zero), arguments[1], zero)

    return vector(vector, vector), generate


@_intrinsic
def clip(typing_context: Any, vector: Any) -> Any:
    """Replace negative lanes by zero; a NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = _constant(context, vector, 0.0)
        return builder.select(builder.fcmp_ordered("<", arguments[0], zero), zero, arguments[0])

    return vector(vector), generate


@_intrinsic
def products(typing_context: Any, vector: Any, address: Any, index: Any) -> Any:
    """Multiply a vector with the elements from ``index`` on, and sum the products to one register, in a fixed order."""
    lanes = min(vector.lanes, _REGISTER * 8 // vector.element.bitwidth)
    result = Vector(vector.element, lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, address, index = arguments
        zero = _constant(context, result, 0.0)
        sums = [zero, zero]  # two chains of additions, which overlap
        for number, start in enumerate(range(0, vector.lanes, lanes)):
            part = _shuffle(builder, value, list(range(start, start + lanes)))
            position = builder.add(index, ir.Constant(index.type, start))
            loaded = _load(context, builder, vector, address, position, lanes)
            sums[number % 2] = _multiply_add(builder, part, loaded, sums[number % 2])
        return builder.fadd(*sums) if vector.lanes > lanes else sums[0]

    return result(vector, types.intp, types.intp), generate


@_intrinsic
def totals(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Sum the lanes of each of four vectors, in a fixed order: a vector of four sums, sooner than one by one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def sums_of(one: Any, other: Any, first: list[int], second: list[int]) -> Any:
            masks = (ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes) for lanes in (first, second))
            return builder.fadd(*(builder.shuffle_vector(one, other, mask) for mask in masks))

        def pairs(one: Any, other: Any) -> Any:
            # Of each group of four lanes, as x86's horizontal addition has it.
            first = [lane + start for start in range(0, a.lanes, 4) for lane in (0, 2, a.lanes, a.lanes + 2)]
            return sums_of(one, other, first, [lane + 1 for lane in first])

        if a.lanes < 4:
            sums = ir.Constant(ir.VectorType(arguments[0].type.element, 4), ir.Undefined)
            for place, value in enumerate(arguments):
                position = ir.Constant(ir.IntType(32), place)
                sums = builder.insert_element(sums, _reduce(builder, a, value), position)
            return sums
        sums, lanes = pairs(pairs(*arguments[:2]), pairs(*arguments[2:])), a.lanes
        while lanes > 4:
            lanes //= 2
            sums = sums_of(sums, sums, list(range(lanes)), list(range(lanes, 2 * lanes)))
        return sums

    return Vector(a.element, 4)(a, b, c, d), generate


@_intrinsic
def add(typing_context: Any, a: Any, b: Any) -> Any:
    """Add two vectors."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@_intrinsic
def total(typing_context: Any, vector: Any) -> Any:
    """Sum the lanes of a vector, in a fixed order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = min(vector.lanes, _REGISTER * 8 // vector.element.bitwidth)
        parts = [
            _shuffle(builder, arguments[0], list(range(start, start + lanes)))
            for start in range(0, vector.lanes, lanes)
        ]
        while len(parts) > 1:  # pairs, which overlap
            parts = [builder.fadd(*parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return _reduce(builder, vector, parts[0])

    return vector.element(vector), generate


def _reduce(builder: Any, vector: Vector, value: Any) -> Any:
    """Sum the lanes of one register."""
    element, lanes = value.type.element, value.type.count
    declaration = ir.FunctionType(element, [element, value.type])
    name = f"llvm.vector.reduce.fadd.v{lanes}f{vector.element.bitwidth}"
    reduce = cgutils.get_or_insert_function(builder.module, declaration, name)
    # `reassoc` lets it add pairs instead of one lane after the other: an order that is fixed too.
    return builder.call(reduce, [ir.Constant(element, -0.0), value], fastmath=("reassoc",))


@njit
def dot(vector: Any, address: int, index: int) -> Any:
    """Multiply a vector with the elements from ``index`` on, and sum all products, in a fixed order."""
    return total(products(vector, address, index))
