"""A program of products, changes of layout and lookups, and how threads share in it.

A program is an array of int64: how many operations, for how many threads, where their
counts are, then `FIELDS` words for each operation, then the tables that they refer to
by their place in the array. An operation is a number of tasks that depend on nothing
but earlier operations. Each thread has a share of them, the same part of the positions
in one product as in the next, so that it finds what it reads in its own cache; then it
takes what others have left. Threads that come late, or not at all, cost their share of
speed and nothing else.

Activations of products are matrices (channels, positions): the positions of all
images, one after the other, then padding up to a multiple of 16 numbers or more.
"""

import functools
import hashlib
import logging
import os
import pathlib
import sys

import numpy as np
from numba import carray, njit, types
from numba.core import event

from state_of_sparsity.runtime import vectors

_LOG = logging.getLogger("state_of_sparsity.runtime")

# Words of a program.
OPERATIONS, MEMBERS, COUNTS = range(3)
HEADER = 3
# Words of an operation; names of those that mean the same in all of them.
FIELDS = 32
KIND, TASKS = range(2)
# Kinds.
PRODUCT, GRID, PACK, UNPACK, LOOKUP = range(5)

# Of products: addresses, but rows, the chunk of rows that is a task, numbers between
# rows, and the places in the program of the tables of tiles (pairs of the first vector
# and how many), of row starts, and of outputs (0 where all lanes are), as
# `vectors.row` takes it. Where channels are taken block by block, so that those of one
# stay in the first cache, starts are those of all rows for each block, and there is
# memory for the sums of rows.
(
    X,
    Y,
    RESIDUAL,
    OFFSETS,
    VALUES,
    BIAS,
    LIMITS,
    ROWS,
    CHUNK,
    Y_STRIDE,
    RESIDUAL_STRIDE,
    TILES,
    STARTS,
    PLACES,
    BLOCKS,
    SUMS,
    SUMS_STRIDE,
) = range(4, 21)

# Of lookups: addresses, then rows and columns of the table, how many ids there are, of
# how many bytes each, and how many of them are a task. At `FAULT` are two words: 1 once
# an id was of no row, and that id.
(
    IDS,
    FOUND,
    ROW_STARTS,
    COLUMNS,
    NUMBERS,
    FAULT,
    HEIGHT,
    WIDTH,
    COUNT,
    ID_BYTES,
    SHARE,
) = range(4, 15)

# Of all others: addresses, numbers between channels, and images, of the plain side, and
# between channels of the packed one, then sizes.
SOURCE, TARGET, CHANNELS, IMAGES, CHANNEL_STRIDE, IMAGE_STRIDE, STRIDE = range(4, 11)
# How many positions an image has; and of `PACK` and `UNPACK`, between positions.
POSITIONS, POSITION_STRIDE = 11, 12
# Of `GRID`, of three dimensions each; and its phases, as a number and the place of
# three words each.
SIZES, PADS, STRIDES, GRID_SIZES, PHASES, PHASE_TABLE = 12, 15, 18, 21, 24, 25

# Words by which threads meet, see `threads.py`: whether there is a program, minus how
# many helpers are at it, where it is, how many helpers look out, and whether to stop.
OPEN, ACTIVE, PROGRAM, WATCHING, STOP = range(0, 80, 16)
CONTROL_WORDS = 80

# A transposition goes by squares.
_SQUARE = vectors.LANES
# A few microseconds; then whoever else wants the processor may have it.
_PATIENCE = 4000


if hasattr(os, "sched_yield"):
    _yield = types.ExternalFunction("sched_yield", types.int32())
else:

    @njit
    def _yield():
        return 0


@njit
def _product(words, at, task, program):
    chunk, rows = words[at + CHUNK], words[at + ROWS]
    chunks = (rows + chunk - 1) // chunk
    tile, part = task // chunks, task % chunks
    table = words[at + TILES] + 2 * tile
    first, width = vectors.LANES * words[table], words[table + 1]
    starts, places = words[at + STARTS], words[at + PLACES]
    y_at, stay = first, 0
    if places:
        y_at = 0
        stay = program + 8 * (places + 2 * words[table])
    x = words[at + X] + 4 * first
    y = words[at + Y] + 4 * y_at
    residual = words[at + RESIDUAL]
    bias = vectors.numbers_at(words[at + BIAS])
    limits = vectors.numbers_at(words[at + LIMITS])
    blocks = words[at + BLOCKS]
    for block in range(blocks):
        for row in range(part * chunk, min(rows, (part + 1) * chunk)):
            start = words[starts + block * rows + row]
            stop = words[starts + block * rows + row + 1]
            plus, before, after = 0, 0, 0
            sums = words[at + SUMS] + 4 * (row * words[at + SUMS_STRIDE] + first)
            if block:
                before = sums
            if block < blocks - 1:
                after = sums
            if residual:
                plus = residual + 4 * (row * words[at + RESIDUAL_STRIDE] + y_at)
            vectors.row(
                width,
                x,
                words[at + OFFSETS] + 4 * start,
                words[at + VALUES] + 4 * start,
                stop - start,
                before,
                after,
                y + 4 * row * words[at + Y_STRIDE],
                plus,
                stay,
                bias[row],
                limits[0],
                limits[1],
            )


@njit
def _numbers(address):
    """The numbers at an address, of as many as the program knows them to be."""
    return carray(vectors.numbers_at(address), (1,))


@njit
def _copy(source, target, count, step):
    """`target[i] = source[step * i]`, both addresses."""
    taken, given = _numbers(source), _numbers(target)
    if step == 1:
        vectors.copy(source, target, count)
    elif step == 2:
        # The compiler knows how to load every second number, if it knows that it is.
        for i in range(count):
            given[i] = taken[2 * i]
    else:
        for i in range(count):
            given[i] = taken[step * i]


@njit
def _grid_line(words, at, axis, phase):
    """Which cells of an axis have a position, and the position of the first of them."""
    pad, stride = words[at + PADS + axis], words[at + STRIDES + axis]
    first = max(0, (pad - phase + stride - 1) // stride)
    last = (words[at + SIZES + axis] - 1 + pad - phase) // stride
    end = min(words[at + GRID_SIZES + axis], last + 1)
    return first, end, stride * first + phase - pad


@njit
def _grid(words, at, task):
    """One channel with zeros around, by phase of the strides, see `layouts.Grid`."""
    cells = 1
    for axis in range(3):
        cells *= words[at + GRID_SIZES + axis]
    for number in range(words[at + PHASES]):
        row = (task * words[at + PHASES] + number) * words[at + STRIDE]
        target = words[at + TARGET] + 4 * row
        zeroed = _numbers(target)
        for i in range(words[at + STRIDE]):
            zeroed[i] = np.float32(0.0)
        source = words[at + SOURCE] + 4 * task * words[at + CHANNEL_STRIDE]
        phases = words[at + PHASE_TABLE] + 3 * number
        _grid_images(words, at, source, target, phases, cells)


@njit
def _grid_images(words, at, source, target, phases, cells):
    """One phase of a channel of all images."""
    height, width = words[at + SIZES + 1], words[at + SIZES + 2]
    long, wide = words[at + GRID_SIZES + 1], words[at + GRID_SIZES + 2]
    strides = at + STRIDES
    # Divisions take longer than a short line, and are the same for all images.
    depths = _grid_line(words, at, 0, words[phases])
    lines = _grid_line(words, at, 1, words[phases + 1])
    first, end, x = _grid_line(words, at, 2, words[phases + 2])
    for _ in range(words[at + IMAGES]):
        for d in range(depths[0], depths[1]):
            z = depths[2] + (d - depths[0]) * words[strides]
            for h in range(lines[0], lines[1]):
                y = lines[2] + (h - lines[0]) * words[strides + 1]
                line = source + 4 * ((z * height + y) * width + x)
                cell = target + 4 * ((d * long + h) * wide + first)
                _copy(line, cell, end - first, words[strides + 2])
        source += 4 * words[at + IMAGE_STRIDE]
        target += 4 * cells


@njit
def _transpose(source, target, height, width, source_stride, target_stride):
    """`target[j, i] = source[i, j]`, of `height` times `width` numbers, up to 16."""
    if height == vectors.LANES and width == vectors.LANES:
        vectors.transpose_square(source, target, source_stride, target_stride)
        return
    taken, given = _numbers(source), _numbers(target)
    for i in range(height):
        for j in range(width):
            given[j * target_stride + i] = taken[i * source_stride + j]


@njit
def _change(words, at, task, pack):
    """Some channels from plain to packed, or back.

    The plain side has its positions side by side, or its channels.
    """
    positions, stride = words[at + POSITIONS], words[at + STRIDE]
    step = words[at + POSITION_STRIDE]
    first = task * _SQUARE
    count = min(_SQUARE, words[at + CHANNELS] - first)
    plain = words[at + SOURCE] if pack else words[at + TARGET]
    plain += 4 * first * words[at + CHANNEL_STRIDE]
    packed = words[at + TARGET] if pack else words[at + SOURCE]
    packed += 4 * first * stride
    for _ in range(words[at + IMAGES]):
        if step == 1:
            for channel in range(count):
                outside = plain + 4 * channel * words[at + CHANNEL_STRIDE]
                inside = packed + 4 * channel * stride
                if pack:
                    _copy(outside, inside, positions, 1)
                else:
                    _copy(inside, outside, positions, 1)
        else:
            for i in range(0, positions, _SQUARE):
                wide = min(_SQUARE, positions - i)
                outside, inside = plain + 4 * i * step, packed + 4 * i
                if pack:
                    _transpose(outside, inside, wide, count, step, stride)
                else:
                    _transpose(inside, outside, count, wide, stride, step)
        plain += 4 * words[at + IMAGE_STRIDE]
        packed += 4 * positions


@njit
def _lookup(words, at, task):
    """Rows of a table for some ids: zeros, and then what is not zero."""
    height, width = words[at + HEIGHT], words[at + WIDTH]
    starts = vectors.words_at(words[at + ROW_STARTS])
    columns = vectors.integers_at(words[at + COLUMNS])
    values = vectors.numbers_at(words[at + NUMBERS])
    first = task * words[at + SHARE]
    for place in range(first, min(words[at + COUNT], first + words[at + SHARE])):
        if words[at + ID_BYTES] == 8:
            row = vectors.words_at(words[at + IDS])[place]
        else:
            row = np.int64(vectors.integers_at(words[at + IDS])[place])
        found = vectors.numbers_at(words[at + FOUND] + 4 * place * width)
        for column in range(width):
            found[column] = np.float32(0.0)
        if row < -height or row >= height:
            # Of several, any one will do.
            fault = vectors.words_at(words[at + FAULT])
            fault[0], fault[1] = 1, row
            continue
        if row < 0:
            row += height
        for index in range(starts[row], starts[row + 1]):
            found[columns[index]] = values[index]


# Each function that calls another is compiled with all of it anew: those that are
# called once are part of who calls them.
_once = njit(inline="always")


@_once
def _do(words, at, task, program):
    kind = words[at + KIND]
    if kind == PRODUCT:
        _product(words, at, task, program)
    elif kind == GRID:
        _grid(words, at, task)
    elif kind == LOOKUP:
        _lookup(words, at, task)
    else:
        _change(words, at, task, kind == PACK)


@njit
def _wait(address, least):
    """Waits until a count is at least so high."""
    waited = 0
    while vectors.fetch(address) < least:
        waited += 1
        if waited > _PATIENCE:
            _yield()
        else:
            vectors.pause()


@_once
def _work(program, member):
    """Does tasks until there are none, and waits for those that others do.

    A member begins with its own share, and goes on with those of the others.
    """
    header = carray(vectors.words_at(program), (HEADER,))
    operations, members = header[OPERATIONS], header[MEMBERS]
    words = carray(vectors.words_at(program), (HEADER + FIELDS * operations,))
    all_done = header[COUNTS]
    for number in range(operations):
        at = HEADER + FIELDS * number
        tasks, finished = words[at + TASKS], 0
        for step in range(members):
            owner = (member + step) % members
            first = owner * tasks // members
            count = (owner + 1) * tasks // members - first
            taken = all_done + 8 * ((1 + owner) * operations + number)
            while vectors.fetch(taken) < count:
                task = vectors.fetch_add(taken, 1)
                if task >= count:
                    break
                _do(words, at, first + task, program)
                finished += 1
        done = all_done + 8 * number
        if finished:
            vectors.fetch_add(done, finished)
        _wait(done, tasks)


@_once
def _enter(control, program, member, spins):
    """Runs a program, or where there is none (0), helps with those that come."""
    if program:
        header = carray(vectors.words_at(program), (HEADER,))
        size = header[OPERATIONS] * (1 + header[MEMBERS])
        counts = carray(vectors.words_at(header[COUNTS]), (size,))
        for number in range(size):
            counts[number] = 0
        if control:
            carray(vectors.words_at(control), (CONTROL_WORDS,))[PROGRAM] = program
            vectors.fetch_add(control + 8 * OPEN, 1)
    elif control:
        vectors.fetch_add(control + 8 * WATCHING, 1)
    waited = 0
    while True:
        present = program
        if not program:
            # The program stays while someone is active who saw it open.
            vectors.fetch_add(control + 8 * ACTIVE, -1)
            if vectors.fetch(control + 8 * OPEN):
                present = vectors.fetch(control + 8 * PROGRAM)
        if present:
            waited = 0
            _work(present, member)
        if program:
            break
        vectors.fetch_add(control + 8 * ACTIVE, 1)
        while waited < spins and not vectors.fetch(control + 8 * OPEN):
            waited += 1
            vectors.pause()
        if waited >= spins or vectors.fetch(control + 8 * STOP):
            break
    if not program:
        vectors.fetch_add(control + 8 * WATCHING, -1)
    elif control:
        vectors.fetch_add(control + 8 * OPEN, -1)
        # They are counted downwards, so that one way of waiting will do.
        _wait(control + 8 * ACTIVE, 0)


class _Announcer(event.Listener):
    """Says that functions are compiled, when the first one is."""

    def __init__(self):
        self.said = False

    def on_start(self, event):
        if not self.said:
            _LOG.warning(
                "Compiling the kernels for this machine, which takes some seconds."
            )
        self.said = True

    def on_end(self, event):
        pass


def _from(sources: int):
    """`_enter`, as a function of what it is compiled from.

    Numba would take from its cache what was compiled before `vectors.py` changed.
    """

    def enter(control, program, member, spins):
        if sources:
            _enter(control, program, member, spins)

    return enter


def _sources() -> int:
    files = (
        pathlib.Path(module.__file__) for module in (vectors, sys.modules[__name__])
    )
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
    return 1 + int.from_bytes(digest[:4], "little")


@functools.cache
def compiled():
    """`enter(control, program, member, spins)`, compiled or from the cache.

    With the address of a program, it works on it until all of it is done; `control` is
    the address of the words by which other threads help, or 0. Without (0), it helps
    with the programs that come, until it looked `spins` times in vain, or `STOP` is not
    0. `member` is the number of the thread, 0 of the one that brings programs. It does
    not hold Python's lock.
    """
    signature = types.void(*[types.int64] * 4)
    with event.install_listener("numba:compile", _Announcer()):
        try:
            return njit(signature, nogil=True, cache=True)(_from(_sources()))
        except (OSError, RuntimeError) as error:
            _LOG.warning("Compiled kernels are not kept: %s", error)
            return njit(signature, nogil=True)(_from(_sources()))
