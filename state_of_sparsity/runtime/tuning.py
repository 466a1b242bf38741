"""Choice of the products and lookups that are ours, and how: by time, or by a rule."""

import hashlib
import json
import logging
import os
import pathlib
import platform
import statistics
import time
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import onnxruntime

from state_of_sparsity.atomic import replacing
from state_of_sparsity.runtime import layouts
from state_of_sparsity.runtime.layouts import Tiling
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.partition import Part
from state_of_sparsity.runtime.plan import Plan
from state_of_sparsity.runtime.products import Product
from state_of_sparsity.runtime.vectors import LANES, WIDTHS

_LOG = logging.getLogger("state_of_sparsity.runtime")

# The version of what is decided here; files of other ones are of no use.
_VERSION = 2
# Above this density no measurement has found a kernel of ours faster, and a table
# without its zeros is larger than with them.
MOST_DENSE = 0.5
# Up to this density one was faster for all products of ResNet-50 and a Transformer.
_RULE_DENSITY = 0.25
# Kernels of a channel or a few need no dense product either.
_FEW_CHANNELS = 4
# Non-zeros of a row in a block of channels that make up for going on with its sums.
_LEAST_OF_A_ROW = 8
# Numbers of a tile that stay in the first cache while rows run over it.
_CACHED = 8192
# Widths that timing tries, of which none is the best on all machines.
_WIDTHS = (4, 8, max(WIDTHS))
# Bytes of a dense table that are worth saving: below, it would stay in a cache.
_LEAST_TABLE = 2**20
# Times that differ by less are taken to be equal.
EQUAL = 1.05
# Timing ends after so many rounds, or seconds for each.
_ROUNDS, _SECONDS = 5, 0.02


def is_candidate(product: Product) -> bool:
    """Whether a product has so many zeros that a kernel of ours may be faster."""
    groups, _, channels = product.weights.shape[:3]
    small = groups > 1 and channels <= _FEW_CHANNELS
    return small or product.density <= MOST_DENSE


def is_worth_it(matrix: np.ndarray) -> bool:
    """Whether a table is so large, and has so many zeros, that they cost memory."""
    large = matrix.nbytes >= _LEAST_TABLE
    return large and np.count_nonzero(matrix) <= MOST_DENSE * matrix.size


def vectors_of(product: Product, shapes) -> int:
    """How many vectors of positions a product has."""
    shape = shapes[product.source]
    form = layouts.form_of(shape, product.axis, product.channels)
    grid = layouts.grid_of(product, shape) if product.kind == "Conv" else None
    positions = grid.positions if grid else form.images * form.positions
    return max(1, -(-positions // LANES))


def usual(product: Product, shapes) -> Tiling:
    """Wide tiles, and blocks of channels that stay in the first cache with them."""
    return _tilings(product, shapes, max(WIDTHS))[-1]


def _tilings(product: Product, shapes, most: int) -> list[Tiling]:
    """With tiles up to a width: all channels at once, and by blocks in the cache."""
    vectors = vectors_of(product, shapes)
    even = -(-vectors // -(-vectors // most))
    width = max(width for width in WIDTHS if width <= even)
    blocks = 1
    if len(product.weights) == 1:
        needed = -(-product.channels * width * LANES // _CACHED)
        of_a_row = np.count_nonzero(product.weights) // max(1, product.rows)
        blocks = max(1, min(needed, int(of_a_row) // _LEAST_OF_A_ROW))
    return [Tiling(width), Tiling(width, blocks)]


def by_rule(found: list[Product], shapes) -> dict[str, Tiling]:
    """The tilings of products that are ours, by name, from densities and shapes alone.

    Products of few channels, such as depthwise ones, are ours if what they read or what
    reads them is.
    """
    sparse = [p for p in found if p.density <= _RULE_DENSITY]
    sources = {product.source for product in sparse}
    targets = {product.target for product in sparse}
    for product in found:
        beside = product.source in targets or product.target in sources
        if beside and is_candidate(product) and product not in sparse:
            sparse.append(product)
    return {p.name: usual(p, shapes) for p in sparse}


def lookups_by_rule(found: list[Lookup]) -> list[str]:
    """Names of the lookups that are ours."""
    return [lookup.name for lookup in found if lookup.table.density <= _RULE_DENSITY]


def seconds(jobs: list, limit: float = _SECONDS) -> list[float]:
    """Medians of the seconds that jobs take, in turns.

    Args:
      jobs: functions.
      limit: seconds for each, after which there is no other round.
    """
    times = [[] for _ in jobs]
    end = time.perf_counter() + limit * len(jobs)
    for number in range(_ROUNDS + 1):
        for job, found in zip(jobs, times, strict=True):
            begin = time.perf_counter()
            job()
            found.append(time.perf_counter() - begin)
        if number and time.perf_counter() > end:
            break
    return [statistics.median(found[1:]) for found in times]


class Choice(NamedTuple):
    """What a plan is made of.

    Args:
      tilings: of the products that are ours, by name.
      threads: that share in them.
      lookups: names of those that are ours.
    """

    tilings: dict[str, Tiling]
    threads: int
    lookups: list[str]

    @property
    def ours(self) -> set[str]:
        """Names of all that is ours."""
        return {*self.tilings, *self.lookups}


def by_time(found, shapes, types, sessions, team) -> dict[str, Tiling]:
    """The tilings of products that are faster by kernels of ours, by name.

    Each is timed alone, once for all that are alike, on numbers of no meaning.

    Args:
      found: products.
      shapes, types, sessions, team: as `Plan` takes them.
    """
    known, choices = {}, {}
    for product in filter(is_candidate, found):
        alike = _signature(product, shapes)
        if alike not in known:
            known[alike] = _fastest(product, shapes, types, sessions, team)
        if known[alike]:
            choices[product.name] = known[alike]
    return choices


def lookups_by_time(found, shapes, types, sessions, team) -> list[str]:
    """Names of the lookups that are as fast by a kernel of ours.

    Args:
      found: lookups.
      shapes, types, sessions, team: as of `by_time`.
    """
    arguments = (shapes, types, sessions, team)
    return [lookup.name for lookup in found if _is_fast(lookup, *arguments)]


def _is_fast(lookup, shapes, types, sessions, team) -> bool:
    rows, shape = lookup.table.shape[0], shapes[lookup.source]
    ids = np.random.default_rng(0).integers(rows, size=shape)
    inputs = {lookup.source: np.asarray(ids, types[lookup.source])}
    part = Part(lookup.nodes, tuple(inputs), (lookup.target,))

    def job(step):
        plan = Plan(inputs, [lookup.target], [step], shapes, types, {}, sessions, team)
        return lambda: plan.run(inputs)

    dense, ours = seconds([job(part), job(lookup)])
    return ours <= EQUAL * dense


def _signature(product: Product, shapes) -> tuple:
    return (
        product.kind,
        product.axis,
        product.weights.shape,
        shapes[product.source],
        product.strides,
        product.dilations,
        product.pads_before,
        product.pads_after,
        product.residual is None,
        round(product.density, 2),
    )


def _fastest(product, shapes, types, sessions, team) -> Tiling | None:
    """The fastest tiling, or None if ONNX Runtime is faster."""
    names = product.reads
    inputs = {name: np.ones(shapes[name], np.float32) for name in names}
    part = Part(product.nodes, tuple(inputs), (product.target,))
    tried = sorted({t for most in _WIDTHS for t in _tilings(product, shapes, most)})

    def job(step, tilings):
        arguments = (shapes, types, tilings, sessions, team)
        plan = Plan(inputs, [product.target], [step], *arguments)
        return lambda: plan.run(inputs)

    jobs = [job(part, {})] + [job(product, {product.name: t}) for t in tried]
    dense, *ours = seconds(jobs)
    best = min(ours)
    return tried[ours.index(best)] if best < dense else None


class Notes:
    """Decisions kept in a file beside the model.

    A file that cannot be read or written is as none.

    Args:
      path: of the model, or None to keep nothing.
      threads: that compute.
    """

    def __init__(self, path: pathlib.Path | None, threads: int):
        self._path = None if path is None else path.with_name(f"{path.name}.tuned.json")
        self._threads = threads

    def key(self, found: list[Product], lookups: list[Lookup], shapes: tuple) -> str:
        """What decisions depend on: the machine, threads, shapes and densities."""
        parts = [
            platform.machine(),
            llvmlite.binding.get_host_cpu_name(),
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
            onnxruntime.__version__,
            self._threads,
            shapes,
            [(p.name, p.weights.shape, round(p.density, 3)) for p in found],
            [(x.name, x.table.shape, round(x.table.density, 3)) for x in lookups],
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def read(
        self, key: str, found: list[Product], lookups: list[Lookup]
    ) -> Choice | None:
        """What was chosen, or None if nothing was for the key."""
        kept = self._all().get(key)
        if not isinstance(kept, dict):
            return None
        tilings, threads = kept.get("tilings"), kept.get("threads")
        names = {product.name for product in found if is_candidate(product)}
        if not isinstance(tilings, dict) or not set(tilings) <= names:
            return None
        if not all(_is_tiling(tiling) for tiling in tilings.values()):
            return None
        if threads not in (1, self._threads):
            return None
        ours = kept.get("lookups")
        if not isinstance(ours, list) or not all(
            name in [lookup.name for lookup in lookups] for name in ours
        ):
            return None
        tilings = {name: Tiling(*tiling) for name, tiling in tilings.items()}
        return Choice(tilings, threads, ours)

    def write(self, key: str, choice: Choice) -> None:
        """Adds a decision; with a message if that cannot be."""
        if self._path is None:
            return
        plans = {**self._all(), key: choice._asdict()}
        text = json.dumps({"version": _VERSION, "plans": plans})
        try:
            with replacing(self._path) as new:
                new.write_text(text, encoding="utf-8")
        except OSError as error:
            _LOG.info("What was tuned is not kept: %s", error)

    def _all(self) -> dict:
        if self._path is None:
            return {}
        try:
            notes = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(notes, dict) or notes.get("version") != _VERSION:
            return {}
        plans = notes.get("plans")
        return plans if isinstance(plans, dict) else {}


def _is_tiling(value) -> bool:
    whole = isinstance(value, list) and all(type(number) is int for number in value)
    return whole and len(value) == 2 and value[0] in WIDTHS and 1 <= value[1] <= 2**16
