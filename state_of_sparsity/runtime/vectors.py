"""The innermost loops, as LLVM code that Numba compiles for the machine's vectors.

Numba alone keeps no vectors in registers over a loop, and takes half of the width of
AVX-512. What is written here is explicit about both, and about nothing else: LLVM makes
of vectors of 16 numbers whatever the machine has.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Numbers in a vector.
LANES = 16
# How many vectors of positions a row can be computed for at a time.
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 14)

_FLOAT = ir.FloatType()
_WORD = ir.IntType(64)
_INT32 = ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


def _declare(builder, name: str, result, *arguments):
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _pointer(builder, address, kind=_FLOAT):
    return builder.inttoptr(address, kind.as_pointer())


def _vector_at(builder, base, index):
    """A pointer to the vector that begins at a number, aligned as a number is."""
    place = builder.gep(base, [index])
    return builder.bitcast(place, _VECTOR.as_pointer())


def _everywhere(builder, number):
    """A vector of one number."""
    none = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(none, number, _INT32(0))
    lanes = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, none, lanes)


def _limited(builder, vector, low, high):
    """`min(max(vector, low), high)`; NaN stays."""
    below = builder.fcmp_ordered("<", vector, low)
    vector = builder.select(below, low, vector)
    above = builder.fcmp_ordered(">", vector, high)
    return builder.select(above, high, vector)


def _begun(builder, width, before, bias) -> list:
    """Vectors that sums begin with: those at an address, or if it is 0, the bias."""
    entry = builder.block
    known = builder.append_basic_block("known")
    ready = builder.append_basic_block("ready")
    builder.cbranch(builder.icmp_signed("!=", before, _WORD(0)), known, ready)

    builder.position_at_end(known)
    place = _pointer(builder, before)
    loaded = [
        builder.load(_vector_at(builder, place, _WORD(LANES * number)), align=4)
        for number in range(width)
    ]
    builder.branch(ready)

    builder.position_at_end(ready)
    begun = [builder.phi(_VECTOR) for _ in range(width)]
    for vector, part in zip(begun, loaded, strict=True):
        vector.add_incoming(bias, entry)
        vector.add_incoming(part, known)
    return begun


def _sums(builder, begun, x, offsets, values, count):
    """`begun[k] + sum_i values[i] * x[offsets[i] + k]`, for all `k` of the vectors.

    The sums stay in registers through the whole loop.
    """
    multiply_add = _declare(
        builder, f"llvm.fmuladd.v{LANES}f32", _VECTOR, _VECTOR, _VECTOR, _VECTOR
    )
    entry = builder.block
    loop = builder.append_basic_block("loop")
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", count, _WORD(0)), loop, done)

    builder.position_at_end(loop)
    index = builder.phi(_WORD)
    index.add_incoming(_WORD(0), entry)
    sums = [builder.phi(_VECTOR) for _ in begun]
    offset = builder.sext(builder.load(builder.gep(offsets, [index])), _WORD)
    value = _everywhere(builder, builder.load(builder.gep(values, [index])))
    row = builder.gep(x, [offset])
    added = []
    for number, total in enumerate(sums):
        total.add_incoming(begun[number], entry)
        place = _vector_at(builder, row, _WORD(LANES * number))
        part = builder.load(place, align=4)
        added.append(builder.call(multiply_add, [value, part, total]))
        total.add_incoming(added[-1], loop)
    following = builder.add(index, _WORD(1))
    index.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

    builder.position_at_end(done)
    totals = []
    for first, total in zip(begun, added, strict=True):
        totals.append(builder.phi(_VECTOR))
        totals[-1].add_incoming(first, entry)
        totals[-1].add_incoming(total, loop)
    return totals


def _store(builder, totals, y, residual, low, high):
    """`y = limited(totals + residual)`; a residual at address 0 is none."""

    def store(plus):
        for number, total in enumerate(totals):
            index = _WORD(LANES * number)
            if plus is not None:
                part = builder.load(_vector_at(builder, plus, index), align=4)
                total = builder.fadd(total, part)
            total = _limited(builder, total, low, high)
            builder.store(total, _vector_at(builder, y, index), align=4)

    there = builder.icmp_signed("!=", residual, _WORD(0))
    with builder.if_else(there) as (added, alone):
        with added:
            store(_pointer(builder, residual))
        with alone:
            store(None)


def _store_some(builder, totals, y, residual, low, high, places):
    """As `_store`, of the lanes that are outputs, one after the other.

    Args:
      places: address of two words for each vector: which lanes are outputs, as bits,
        and the place of the first of them in `y`.
    """
    pointer = _FLOAT.as_pointer()
    compress = f"llvm.masked.compressstore.v{LANES}f32"
    compress = _declare(builder, compress, ir.VoidType(), _VECTOR, pointer, _MASK)
    expand = f"llvm.masked.expandload.v{LANES}f32"
    expand = _declare(builder, expand, _VECTOR, pointer, _MASK, _VECTOR)
    places = _pointer(builder, places, _WORD)

    def store(plus):
        for number, total in enumerate(totals):
            bits = builder.load(builder.gep(places, [_WORD(2 * number)]))
            lanes = builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), _MASK)
            index = builder.load(builder.gep(places, [_WORD(2 * number + 1)]))
            if plus is not None:
                zeros = ir.Constant(_VECTOR, [0.0] * LANES)
                place = builder.gep(plus, [index])
                part = builder.call(expand, [place, lanes, zeros])
                total = builder.fadd(total, part)
            total = _limited(builder, total, low, high)
            builder.call(compress, [total, builder.gep(y, [index]), lanes])

    there = builder.icmp_signed("!=", residual, _WORD(0))
    with builder.if_else(there) as (added, alone):
        with added:
            store(_pointer(builder, residual))
        with alone:
            store(None)


def _finish(builder, totals, y, residual, low, high, places):
    """Stores what a row has come to, see `row`."""
    everything = builder.icmp_signed("==", places, _WORD(0))
    with builder.if_else(everything) as (whole, some):
        with whole:
            _store(builder, totals, y, residual, low, high)
        with some:
            _store_some(builder, totals, y, residual, low, high, places)


@intrinsic
def row(
    typingctx,
    width,
    x,
    offsets,
    values,
    count,
    before,
    after,
    y,
    residual,
    places,
    bias,
    low,
    high,
):
    """Computes `16 * width` positions of one row of a product, or goes on with them.

    All but bias and limits are int64, most of them addresses; no other width than those
    of `WIDTHS` computes anything.

    Args:
      before: address of the sums so far, or 0 where they begin with the bias.
      after: address for the sums if there is more to come, or 0 if this is all.
      places: address as of `_store_some`, or 0 where all lanes are outputs.
    """
    signature = types.void(*[types.int64] * 10, *[types.float32] * 3)

    def generate(context, builder, signature, arguments):
        width, x, offsets, values, count, before, after, y, *others = arguments
        residual, places, *numbers = others
        bias, low, high = (_everywhere(builder, number) for number in numbers)
        x, values, y = (_pointer(builder, address) for address in (x, values, y))
        offsets = _pointer(builder, offsets, _INT32)
        end = builder.append_basic_block("end")
        choice = builder.switch(width, end)
        for known in WIDTHS:
            block = builder.append_basic_block(f"width{known}")
            choice.add_case(_WORD(known), block)
            builder.position_at_end(block)
            begun = _begun(builder, known, before, bias)
            totals = _sums(builder, begun, x, offsets, values, count)
            last = builder.icmp_signed("==", after, _WORD(0))
            with builder.if_else(last) as (done, going_on):
                with done:
                    _finish(builder, totals, y, residual, low, high, places)
                with going_on:
                    place = _pointer(builder, after)
                    for number, total in enumerate(totals):
                        index = _WORD(LANES * number)
                        there = _vector_at(builder, place, index)
                        builder.store(total, there, align=4)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


def _move(builder, source, target, index, lanes: int) -> None:
    """`target[index : index + lanes] = source[index : index + lanes]`."""
    kind = ir.VectorType(_FLOAT, lanes).as_pointer()
    taken = builder.bitcast(builder.gep(source, [index]), kind)
    given = builder.bitcast(builder.gep(target, [index]), kind)
    builder.store(builder.load(taken, align=4), given, align=4)


@intrinsic
def copy(typingctx, source, target, count):
    """`target[:count] = source[:count]`, where they do not overlap.

    Lines of a few numbers are the rule. Their ends are copied by vectors that overlap
    rather than one by one.
    """
    signature = types.void(*[types.int64] * 3)

    def generate(context, builder, signature, arguments):
        source, target, count = arguments
        source, target = _pointer(builder, source), _pointer(builder, target)
        end = builder.append_basic_block("end")
        for lanes in (LANES, 8, 4, 2, 1):
            fits = builder.append_basic_block(f"fits{lanes}")
            smaller = builder.append_basic_block(f"below{lanes}")
            enough = builder.icmp_signed(">=", count, _WORD(lanes))
            builder.cbranch(enough, fits, smaller)
            builder.position_at_end(fits)
            last = builder.sub(count, _WORD(lanes))
            if lanes == LANES:
                loop = builder.append_basic_block("loop")
                done = builder.append_basic_block("done")
                builder.branch(loop)
                builder.position_at_end(loop)
                index = builder.phi(_WORD)
                index.add_incoming(_WORD(0), fits)
                _move(builder, source, target, index, lanes)
                following = builder.add(index, _WORD(lanes))
                index.add_incoming(following, loop)
                more = builder.icmp_signed("<=", following, last)
                builder.cbranch(more, loop, done)
                builder.position_at_end(done)
            else:
                _move(builder, source, target, _WORD(0), lanes)
            _move(builder, source, target, last, lanes)
            builder.branch(end)
            builder.position_at_end(smaller)
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def transpose_square(typingctx, source, target, source_stride, target_stride):
    """`target[j, i] = source[i, j]` of 16 times 16 numbers, in registers.

    All are int64: addresses, and numbers between rows.
    """
    signature = types.void(*[types.int64] * 4)

    def generate(context, builder, signature, arguments):
        source, target, source_stride, target_stride = arguments
        source, target = _pointer(builder, source), _pointer(builder, target)
        rows = []
        for number in range(LANES):
            place = builder.mul(source_stride, _WORD(number))
            rows.append(builder.load(_vector_at(builder, source, place), align=4))
        distance = LANES // 2
        while distance:
            rows = _swapped(builder, rows, distance)
            distance //= 2
        for number, row in enumerate(rows):
            place = builder.mul(target_stride, _WORD(number))
            builder.store(row, _vector_at(builder, target, place), align=4)
        return context.get_dummy_value()

    return signature, generate


def _swapped(builder, rows, distance: int) -> list:
    """Rows whose bit of `distance` has changed places with that of the lane."""
    swapped = list(rows)
    kind = ir.VectorType(_INT32, LANES)
    for first in range(LANES):
        second = first + distance
        if first & distance:
            continue
        # Lanes of the second vector are counted on from those of the first.
        here = [j if not j & distance else j - distance + LANES for j in range(LANES)]
        there = [j + distance if not j & distance else j + LANES for j in range(LANES)]
        for place, lanes in ((first, here), (second, there)):
            swapped[place] = builder.shuffle_vector(
                rows[first], rows[second], ir.Constant(kind, lanes)
            )
    return swapped


def _pointers_to(kind, element):
    """An intrinsic that makes a pointer to numbers of a type of an address."""

    @intrinsic
    def pointer_at(typingctx, address):
        result = types.CPointer(kind)

        def generate(context, builder, signature, arguments):
            return _pointer(builder, arguments[0], element)

        return result(types.int64), generate

    return pointer_at


numbers_at = _pointers_to(types.float32, _FLOAT)
integers_at = _pointers_to(types.int32, _INT32)
words_at = _pointers_to(types.int64, _WORD)


@intrinsic
def fetch_add(typingctx, address, amount):
    """Adds to an int64 at an address, and gives what it was, in one step."""

    def generate(context, builder, signature, arguments):
        address, amount = arguments
        place = _pointer(builder, address, _WORD)
        return builder.atomic_rmw("add", place, amount, "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def pause(typingctx):
    """Nothing, for as long as a processor waits for another at best."""

    def generate(context, builder, signature, arguments):
        if "x86" in builder.module.triple:
            builder.call(_declare(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fetch(typingctx, address):
    """What is in an int64 at an address now, whoever writes it."""

    def generate(context, builder, signature, arguments):
        place = _pointer(builder, arguments[0], _WORD)
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), generate
