"""Vectors of numbers for Numba's loops, which LLVM maps to the registers of the processor.

Inside a compiled function, `load(array, place, lanes)` gives a vector of neighbouring numbers; vectors of equal
type add, subtract, multiply and compare with `<`, lane by lane. With `lanes=1` plain numbers take their place, so
that one text serves whole vectors and what is left over. Nothing is checked: all lanes must lie in the array.
`lanes` has to be a literal, or a global name for one.

An array of 16-bit unsigned integers holds bfloat16 numbers; loading makes float32 of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

# Sums may be reordered and multiplications fused with additions; NaN and infinity keep their meaning.
FASTMATH = ("reassoc", "contract", "nsz")


class Vector(types.Type):
    """The type of `lanes` numbers of one type."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"vector({dtype}, {lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """LLVM has a type for it."""

    def __init__(self, manager, vector: Vector) -> None:
        item = ir.IntType(1) if vector.dtype == types.boolean else manager[vector.dtype].get_value_type()
        super().__init__(manager, vector, ir.VectorType(item, vector.lanes))


def vector_of(dtype: types.Type, lanes: types.IntegerLiteral) -> types.Type:
    """A vector's type, or that of a plain number for a single lane."""
    return dtype if lanes.literal_value == 1 else Vector(dtype, lanes.literal_value)


def picked(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, lanes: Iterable[int]) -> ir.Value:
    """The named lanes of two vectors laid end to end."""
    lanes = list(lanes)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def pointer(context, builder: ir.IRBuilder, array: types.Array, value: ir.Value, place: ir.Value, kind: ir.Type):
    """The address of a value of type `kind` at `place` of an array."""
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())


def like(kind: ir.Type, item: ir.Type) -> ir.Type:
    """`item`, as often as `kind` has lanes."""
    return ir.VectorType(item, kind.count) if isinstance(kind, ir.VectorType) else item


@intrinsic(prefer_literal=True)
def load(_, array, place, lanes):
    """The vector that begins at `place` of an array."""
    narrow = array.dtype == types.uint16
    vector = vector_of(types.float32 if narrow else array.dtype, lanes)

    def build(context, builder, signature, arguments):
        kind = context.get_value_type(vector)
        stored = like(kind, ir.IntType(16)) if narrow else kind
        value = builder.load(pointer(context, builder, array, *arguments[:2], stored), align=array.dtype.bitwidth // 8)
        if not narrow:
            return value
        wide = like(kind, ir.IntType(32))
        sixteen = ir.Constant(wide, 16 if wide is kind or not hasattr(wide, "count") else [16] * wide.count)
        return builder.bitcast(builder.shl(builder.zext(value, wide), sixteen), kind)

    return vector(array, types.uint64, lanes), build


@intrinsic
def store(_, array, place, vector):
    """Write a vector to `place` of an array."""

    def build(context, builder, signature, arguments):
        address = pointer(context, builder, array, *arguments[:2], arguments[2].type)
        builder.store(arguments[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.uint64, vector), build


@intrinsic(prefer_literal=True)
def splat(_, number, lanes):
    """A vector with the same number in every lane."""
    vector = vector_of(number, lanes)

    def build(context, builder, signature, arguments):
        if vector == number:
            return arguments[0]
        kind = context.get_value_type(vector)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return picked(builder, first, first, [0] * kind.count)

    return vector(number, lanes), build


@intrinsic
def floor(_, vector):
    """The next integers below, as floats."""

    def build(context, builder, signature, arguments):
        kind = arguments[0].type
        name = f"llvm.floor.v{kind.count}f{vector.dtype.bitwidth}"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), arguments
        )

    return vector(vector), build


@intrinsic
def integers(_, vector):
    """Floats cut down to unsigned 32-bit integers."""
    result = Vector(types.uint32, vector.lanes)

    def build(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], context.get_value_type(result))

    return result(vector), build


@intrinsic
def floats(_, vector, array):
    """Signed integers as floats of an array's dtype."""
    result = Vector(array.dtype, vector.lanes)

    def build(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], context.get_value_type(result))

    return result(vector, array), build


@intrinsic
def both(_, one, other):
    """Where both conditions hold."""
    return one(one, one), lambda context, builder, signature, arguments: builder.and_(*arguments)


@intrinsic
def choose(_, condition, one, other):
    """`one` where the condition holds, else `other`."""
    return one(condition, one, one), lambda context, builder, signature, arguments: builder.select(*arguments)


@intrinsic
def totals(_, a, b, c, d):
    """The sums over the lanes of four vectors, as a vector of four."""
    result = Vector(a.dtype, 4)

    def build(context, builder, signature, arguments):
        def added(one, other, lows, highs):
            pairs = (picked(builder, one, other, lanes) for lanes in (lows, highs))
            return builder.fadd(*pairs, flags=FASTMATH)

        def folded(vector):
            half = vector.type.count // 2
            return added(vector, vector, range(half), range(half, 2 * half))

        def interleaved(one, other, run):
            lanes = one.type.count
            lows = [lane if lane % (2 * run) < run else lanes + lane - run for lane in range(lanes)]
            return added(one, other, lows, [lane + run for lane in lows])

        vectors = arguments
        while vectors[0].type.count * a.dtype.bitwidth > 512:
            vectors = [folded(vector) for vector in vectors]
        pairs = [interleaved(*vectors[:2], 1), interleaved(*vectors[2:], 1)]
        total = interleaved(*pairs, 2)
        while total.type.count > 4:
            total = folded(total)
        return total

    return result(a, a, a, a), build


@intrinsic(prefer_literal=True)
def every_fourth(_, array, place, first, lanes):
    """Every fourth number of an array, from `place + first`; four times the lanes, from `place`, are read."""
    vector = vector_of(array.dtype, lanes)
    end = 4 * lanes.literal_value

    def build(context, builder, signature, arguments):
        kind = ir.VectorType(context.get_value_type(array.dtype), end)
        address = pointer(context, builder, array, *arguments[:2], kind)
        values = builder.load(address, align=array.dtype.bitwidth // 8)
        return picked(builder, values, values, range(first.literal_value, end, 4))

    return vector(array, types.uint64, first, lanes), build


def define(symbol: Callable, floats: str, integers: str) -> None:
    """Make an operator of Python's work on two vectors."""

    @intrinsic
    def function(_, left, right):
        def build(context, builder, signature, arguments):
            if left.dtype in types.real_domain:
                return getattr(builder, floats)(*arguments, flags=FASTMATH)
            return getattr(builder, integers)(*arguments)

        return left(left, right), build

    @overload(symbol)
    def operation(left, right):
        if isinstance(left, Vector) and left == right:
            return lambda left, right: function(left, right)


define(operator.add, "fadd", "add")
define(operator.sub, "fsub", "sub")
define(operator.mul, "fmul", "mul")


@intrinsic
def less(_, left, right):
    """Where left < right; nowhere for NaN."""

    def build(context, builder, signature, arguments):
        return builder.fcmp_ordered("<", *arguments)

    return Vector(types.boolean, left.lanes)(left, right), build


@overload(operator.lt)
def _less(left, right):
    if isinstance(left, Vector) and left == right:
        return lambda left, right: less(left, right)
