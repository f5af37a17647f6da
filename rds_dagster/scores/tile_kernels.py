"""The inner loops of scoring, compiled: each takes one tile of rows through all its queries while it is in the cache.

Imported late: numba takes 0.2 s to load and its cached code 0.6 s. What sums is whole numbers, so no order of adding changes a bit, and the compiler may
choose its own; loops are such that it finds vector instructions for them, whichever the processor has.
Vectors come as float32 or as the bits of float16 (uint16), products as float32 or as the bits of bfloat16 (int16): what costs here is memory.

Letters: n rows of a tile, N rows of a block, M queries, S sets, D hidden size, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TypeVar

import numpy as np
from numba import njit, types
from numba.extending import overload

from rds_dagster.embeddings.unit_grid import GRID

STEP = 1 / GRID

_Function = TypeVar("_Function", bound=Callable[..., object])


def _compiled(function: _Function, order: Set[str] = frozenset()) -> _Function:
    """Compiled when first called; kept beside this file or in the user's cache, or else for this process alone. ``order``: of adding, that may change."""
    try:
        made: _Function = njit(nogil=True, cache=True, fastmath=set(order))(function)
    except RuntimeError:  # numba's: there is no folder that can be written
        made = njit(nogil=True, fastmath=set(order))(function)
    return made


def _any_order(function: _Function) -> _Function:
    return _compiled(function, {"reassoc", "contract"})


def bits_of(vectors: np.ndarray) -> np.ndarray:
    """float32 as it is, float16 as its bits, uint16: what kernels take as vectors."""
    return vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors


def _widen(bits: np.ndarray, wide: np.ndarray) -> None:
    """A row of vectors (D,) as wide (D,) float32."""
    raise NotImplementedError("for compiled code alone")


@overload(_widen)  # type: ignore[untyped-decorator]
def _widen_by_type(bits, wide):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, numba compares it with what it returns
    return _copy if bits.dtype == types.float32 else _widen_float16


def _copy(bits, wide):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, see above
    wide[:] = bits


def _widen_float16(bits, wide):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, see above
    """Exact: another bias of the exponent; what has none gets 2**-14 more first, which is taken away as a number, so that no float32 is subnormal."""
    wide_bits = wide.view(np.int32)
    for d in range(bits.shape[0]):
        size = np.int32(bits[d]) & np.int32(0x7FFF)
        infinite = np.int32(0x38000000) if size >= np.int32(0x7C00) else np.int32(0)
        wide_bits[d] = np.int32((size << np.int32(13)) + (np.int32(0x38000000) if size >= np.int32(0x0400) else np.int32(0x38800000)) + infinite)
    for d in range(bits.shape[0]):
        value = wide[d] - (np.float32(0) if (bits[d] & np.uint16(0x7FFF)) >= np.uint16(0x0400) else np.float32(2.0**-14))
        wide[d] = -value if bits[d] >= np.uint16(0x8000) else value


@_any_order
def _square(row: np.ndarray) -> float:
    total = 0.0
    for d in range(row.shape[0]):
        total += np.float64(row[d]) * np.float64(row[d])
    return total


@_compiled
def put_on_grid(vectors: np.ndarray, scales: np.ndarray, are_given: bool, steps: np.ndarray, narrow: np.ndarray) -> float:
    """Rows of vectors (n, D) as whole steps of the grid, steps (n, D) int32, and as float32, narrow (n, D).

    scales (n,) float64 are GRID / norm; unless they are given they are found, with sums of squares in any order, so for rows where that makes no
    difference. Returns the largest square of a norm, or what is not finite.
    """
    wide, largest, spoilt = np.empty(vectors.shape[1], np.float32), 0.0, 0.0
    for row in range(vectors.shape[0]):
        _widen(vectors[row], wide)
        square = _square(wide)
        largest, spoilt = max(largest, square), spoilt + (square - square)  # 0, unless it is not finite
        if not are_given:
            scales[row] = GRID / np.sqrt(square) if square > 0.0 else GRID
        for d in range(vectors.shape[1]):
            step = np.rint(np.float64(wide[d]) * scales[row])
            steps[row, d] = np.int32(step)
            narrow[row, d] = np.float32(step * STEP)
    return largest + spoilt


@_any_order
def _square_of_difference(left: np.ndarray, right: np.ndarray) -> np.float32:
    total = np.float32(0)
    for d in range(left.shape[0]):
        total += (left[d] - right[d]) * (left[d] - right[d])
    return total


@_compiled
def round_to_bfloat16(narrow: np.ndarray, rounded: np.ndarray, squares: np.ndarray) -> None:
    """The upper halves of narrow (n, D) float32, rounded with ties to even, as rounded (n, D) int16; squares (n,) float32 of the norm of what it changes."""
    bits, mine_bits = narrow.view(np.int32), np.empty(narrow.shape[1], np.int32)
    mine = mine_bits.view(np.float32)
    for row in range(narrow.shape[0]):
        for d in range(narrow.shape[1]):
            whole = bits[row, d]
            half = (whole + np.int32(0x7FFF) + ((whole >> np.int32(16)) & np.int32(1))) >> np.int32(16)
            rounded[row, d] = np.int16(half)
            mine_bits[d] = half << np.int32(16)
        squares[row] = _square_of_difference(mine, narrow[row])


@_any_order
def _cosine(left: np.ndarray, right: np.ndarray) -> np.float32:
    """The exact sum, rounded once: all its parts are whole numbers below 2**53, which float64 holds."""
    total = 0.0
    for d in range(left.shape[0]):
        total += np.float64(left[d]) * np.float64(right[d])
    return np.float32(total * (STEP * STEP))


@_compiled
def _reach(value: float, error: float, rounding: float) -> np.float32:
    """The least product whose exact cosine may be as large as that of the product ``value``."""
    least = value - error - rounding * abs(value) - error
    return np.float32(least / (1.0 + rounding) if least >= 0.0 else least / (1.0 - rounding))


def _product(bits: np.float32) -> np.float32:
    """A product as float32."""
    raise NotImplementedError("for compiled code alone")


@overload(_product)  # type: ignore[untyped-decorator]
def _product_by_type(bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, see above
    return (lambda bits: bits) if bits == types.float32 else lambda bits: np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


def _floor_key(value: np.float32, like: np.ndarray) -> np.float32:
    """What products, of ``like``'s type, are compared with so that none that reaches ``value`` is missed: bits of bfloat16 fall where numbers below 0 rise."""
    raise NotImplementedError("for compiled code alone")


@overload(_floor_key)  # type: ignore[untyped-decorator]
def _floor_key_by_type(value, like):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, see above
    if like.dtype == types.float32:
        return lambda value, like: value
    return lambda value, like: np.int16(np.float32(value).view(np.int32) >> np.int32(16)) if value > np.float32(0) else np.int16(-0x8000)


@_compiled
def find_near(products: np.ndarray, starts: np.ndarray, errors: np.ndarray, rounding: float, near: np.ndarray) -> None:
    """What a product of each row must reach to belong to the largest cosine of each set, near (S, n) float32.

    products (M, n) float32, or bfloat16 as int16, are off by errors (n,) float32 and ``rounding`` times their size at most; starts (S + 1,) int64.
    """
    largest = np.empty(products.shape[1], products.dtype)
    for s in range(near.shape[0]):
        largest[:] = products[starts[s]]
        for q in range(starts[s] + 1, starts[s + 1]):
            for row in range(largest.shape[0]):
                largest[row] = products[q, row] if products[q, row] > largest[row] else largest[row]
        for row in range(largest.shape[0]):
            value = _product(largest[row])
            if value < np.float32(0):  # as bits these are in reverse order
                for q in range(starts[s], starts[s + 1]):
                    value = max(value, _product(products[q, row]))
            near[s, row] = _reach(np.float64(value), np.float64(errors[row]), rounding)


@_compiled
def _reaching(values: np.ndarray, limits: np.ndarray, limit: np.float32, flags: np.ndarray, found: np.ndarray) -> np.int64:
    """How many of values (n,) reach their limit or the one of all; found begins with their places. flags (n or more,) int8, 0 behind n.

    Eight flags are looked at as one number: five times as fast as a loop that ends a group of comparisons with a branch.
    """
    for row in range(values.shape[0]):
        flags[row] = np.int8(values[row] >= limits[row]) | np.int8(values[row] >= limit)
    count, words = np.int64(0), flags.view(np.int64)
    for word in range(words.shape[0]):
        if words[word]:
            for row in range(8 * word, 8 * word + 8):
                found[count] = row
                count += np.int64(flags[row])
    return count


@_compiled
def scan_tile(
    products: np.ndarray, errors: np.ndarray, rounding: float, near: np.ndarray, start: int, steps: np.ndarray, query_steps: np.ndarray,
    starts: np.ndarray, set_of: np.ndarray, best: np.ndarray, best_query: np.ndarray, floors: np.ndarray, held: np.ndarray, list_least: np.ndarray,
    list_rows: np.ndarray,
) -> None:  # fmt: skip
    """Find the best query of each row of a tile, and add to the list of each query what may reach its floor.

    products, errors, rounding and starts as ``find_near`` takes them, near as it gives them; steps (n, D) and query_steps (M, D) int32; set_of (M,) int64.
    Raises best (S, n) and best_query (S, n). The lists: floors (M,) float32, held (M,) int64, least (M, width) float32 the least that a cosine may be, and
    rows (M, width), of which held[q] are there, width being ``held`` + n at least, row numbers from ``start``.
    """
    size = products.shape[1]
    flags = np.zeros(-(-size // 8) * 8, np.int8)
    found, keys, margins = np.empty(len(flags) + 1, np.int64), np.empty(near.shape, products.dtype), errors * np.float32(1.01)
    widest = margins.max()
    for s in range(near.shape[0]):
        for row in range(size):
            keys[s, row] = _floor_key(near[s, row], products)
    for q in range(products.shape[0]):
        s, mine, count = set_of[q], products[q], held[q]
        floor = np.float32(floors[q] / (1.0 + rounding if floors[q] >= 0.0 else 1.0 - rounding))  # floor - margin is a little below ``_reach``
        close = near[s]
        for k in range(_reaching(mine, keys[s], _floor_key(np.float32(floor - widest), products), flags, found)):
            row = found[k]
            product = _product(mine[row])
            if product >= close[row]:
                cosine = _cosine(steps[row], query_steps[q])
                if cosine > best[s, row]:
                    best[s, row], best_query[s, row] = cosine, q - starts[s]
            if product >= floor - margins[row]:
                list_least[q, count], list_rows[q, count] = product - (errors[row] + np.float32(rounding) * abs(product)), start + row
                count += 1
        held[q] = count


@_compiled
def end_lists(held: np.ndarray, least: np.ndarray, longest: int) -> None:
    """Put -inf behind the end of each list, up to ``longest``."""
    for q in range(held.shape[0]):
        least[q, held[q] : longest] = -np.inf


@_compiled
def raise_floors(
    new: np.ndarray, errors: np.ndarray, rounding: float, floors: np.ndarray, held: np.ndarray, least: np.ndarray, rows: np.ndarray
) -> None:  # fmt: skip
    """Give the lists new floors (M,) and drop what is surely below them; errors (N,) float32 of the block's rows."""
    for q in range(held.shape[0]):
        floor, count = np.float64(new[q]), np.int64(0)
        floors[q] = new[q]
        for k in range(held[q]):
            low, row = np.float64(least[q, k]), rows[q, k]
            error = np.float64(errors[row])
            least[q, count], rows[q, count] = least[q, k], row
            count += np.int64(low + 2.0 * error + 2.02 * rounding * (abs(low) + error) >= floor)
        held[q] = count


@_compiled
def sort_keys(held: np.ndarray, cosines: np.ndarray, keys: np.ndarray) -> None:
    """Keys (M, width) int64 that ascend where the lists' cosines fall, and from one place of equal ones to the next: the place is in the lower half.

    Behind the end of a list they are the largest there is.
    """
    for q in range(held.shape[0]):
        bits = cosines[q].view(np.int32)
        for k in range(keys.shape[1]):
            rising = np.int64(bits[k] ^ ((bits[k] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            keys[q, k] = (-rising << np.int64(32)) | np.int64(k) if k < held[q] else np.int64(0x7FFFFFFFFFFFFFFF)


@_compiled
def by_row(held: np.ndarray, list_rows: np.ndarray, ends: np.ndarray, queries: np.ndarray, places: np.ndarray) -> None:
    """The pairs of all lists by row: those of row r are ends[r] to ends[r + 1], ends (N + 1,) int64; queries and places in their lists, (P,) int32."""
    ends[:] = 0
    for q in range(held.shape[0]):
        for k in range(held[q]):
            ends[list_rows[q, k] + 1] += 1
    for row in range(1, ends.shape[0]):
        ends[row] += ends[row - 1]
    for q in range(held.shape[0]):
        for k in range(held[q]):
            at = ends[list_rows[q, k]]
            queries[at], places[at] = q, k
            ends[list_rows[q, k]] += 1
    for row in range(ends.shape[0] - 1, 0, -1):
        ends[row] = ends[row - 1]
    ends[0] = 0


@_compiled
def sum_lists(
    vectors: np.ndarray, scales: np.ndarray, start: int, ends: np.ndarray, queries: np.ndarray, places: np.ndarray, query_steps: np.ndarray,
    list_least: np.ndarray,
) -> None:  # fmt: skip
    """Put exact cosines in the place of the least, for the pairs (``by_row``) of the rows of a tile that begins at row ``start``; vectors (n, D)."""
    wide, steps = np.empty(vectors.shape[1], np.float32), np.empty(vectors.shape[1], np.int32)
    for row in range(vectors.shape[0]):
        if ends[start + row] == ends[start + row + 1]:
            continue
        _widen(vectors[row], wide)
        for d in range(vectors.shape[1]):
            steps[d] = np.int32(np.rint(np.float64(wide[d]) * scales[start + row]))
        for k in range(ends[start + row], ends[start + row + 1]):
            list_least[queries[k], places[k]] = _cosine(steps, query_steps[queries[k]])
