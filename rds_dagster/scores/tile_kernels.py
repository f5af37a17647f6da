"""The inner loops of scoring, compiled: each takes one tile of rows through all its queries while it is in the cache.

Imported late: numba takes 0.2 s to load and its cached code 0.6 s. What sums is whole numbers, so no order of adding changes a bit, and the compiler may
choose its own. Comparisons go LANES at a time; that is what it turns into vector instructions, whichever the processor has.

Letters: n rows of a tile, N rows of a block, M queries, S sets, D hidden size, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TypeVar

import numpy as np
from numba import njit

LANES = 16  # float32 in the widest vector register there is
STEP = 2.0**-26  # of embeddings/unit_grid.py

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


@_any_order
def _square(row: np.ndarray) -> float:
    total = 0.0
    for d in range(row.shape[0]):
        total += np.float64(row[d]) * np.float64(row[d])
    return total


@_compiled
def squares(wide: np.ndarray, sums: np.ndarray) -> None:
    """The square of each row's norm, sums (n,) float64, of wide (n, D) float32; added in any order, so for rows where that makes no difference."""
    for row in range(wide.shape[0]):
        sums[row] = _square(wide[row])


@_compiled
def put_on_grid(wide: np.ndarray, scales: np.ndarray, steps: np.ndarray, narrow: np.ndarray) -> None:
    """Rows (n, D) float32 as whole steps of the grid, steps (n, D) int32, and as float32, narrow (n, D); scales (n,) float64 are GRID / norm."""
    for row in range(wide.shape[0]):
        for d in range(wide.shape[1]):
            step = np.rint(np.float64(wide[row, d]) * scales[row])
            steps[row, d] = np.int32(step)
            narrow[row, d] = np.float32(step * STEP)


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


@_compiled
def widen_bfloat16(products: np.ndarray, wide_bits: np.ndarray) -> None:
    """Products (M, n) bfloat16 as int16, as the bits of float32: (M, n) int32."""
    for q in range(products.shape[0]):
        for row in range(products.shape[1]):
            wide_bits[q, row] = np.int32(products[q, row]) << np.int32(16)


@_compiled
def _cosine(left: np.ndarray, right: np.ndarray) -> np.float32:
    """The exact sum, rounded once; below 2**53 steps, so float64 takes it as it is."""
    total = np.int64(0)
    for d in range(left.shape[0]):
        total += np.int64(left[d]) * np.int64(right[d])
    return np.float32(np.float64(total) * (STEP * STEP))


@_compiled
def _reach(value: float, error: float, rounding: float) -> np.float32:
    """The least product whose exact cosine may be as large as that of the product ``value``."""
    least = value - error - rounding * abs(value) - error
    return np.float32(least / (1.0 + rounding) if least >= 0.0 else least / (1.0 - rounding))


@_compiled
def find_near(products: np.ndarray, starts: np.ndarray, errors: np.ndarray, rounding: float, near: np.ndarray) -> None:
    """What a product of each row must reach to belong to the largest cosine of each set, near (S, n) float32.

    products (M, n) float32 are off by errors (n,) float32 and ``rounding`` times their size at most; starts (S + 1,) int64.
    """
    for s in range(near.shape[0]):
        mine = near[s]
        mine[:] = products[starts[s]]
        for q in range(starts[s] + 1, starts[s + 1]):
            for row in range(mine.shape[0]):
                mine[row] = products[q, row] if products[q, row] > mine[row] else mine[row]
        for row in range(mine.shape[0]):
            mine[row] = _reach(np.float64(mine[row]), np.float64(errors[row]), rounding)


@_compiled
def _reaching(values: np.ndarray, limits: np.ndarray, found: np.ndarray) -> np.int64:
    """How many of values (n,) reach their limit; found (n + 1,) begins with their places."""
    count, size = np.int64(0), values.shape[0]
    whole = size // LANES * LANES
    for first in range(0, whole, LANES):
        hit = np.int32(0)
        for row in range(first, first + LANES):
            hit |= np.int32(values[row] >= limits[row])
        if hit:
            for row in range(first, first + LANES):
                found[count] = row
                count += np.int64(values[row] >= limits[row])
    for row in range(whole, size):
        found[count] = row
        count += np.int64(values[row] >= limits[row])
    return count


@_compiled
def scan_tile(
    products: np.ndarray, errors: np.ndarray, rounding: float, near: np.ndarray, start: int, steps: np.ndarray, query_steps: np.ndarray,
    starts: np.ndarray, set_of: np.ndarray, best: np.ndarray, best_query: np.ndarray, floors: np.ndarray, held: np.ndarray, list_least: np.ndarray,
    list_rows: np.ndarray,
) -> None:  # fmt: skip
    """Find the best query of each row of a tile, and add to the list of each query what may reach its floor.

    products, errors, rounding, starts, and near by ``find_near``; steps (n, D) and query_steps (M, D) int32; set_of (M,) int64. Raises best (S, n) and
    best_query (S, n). The lists: floors (M,) float32, held (M,) int64, least (M, width) float32 the least that a cosine may be, and rows (M, width), of
    which held[q] are there, width being ``held`` + n at least, row numbers from ``start``.
    """
    size = products.shape[1]
    found, limits, margins = np.empty(size + 1, np.int64), np.empty(size, np.float32), errors * np.float32(1.01)
    for q in range(products.shape[0]):
        s, mine, count = set_of[q], products[q], held[q]
        floor = np.float32(floors[q] / (1.0 + rounding if floors[q] >= 0.0 else 1.0 - rounding))  # floor - margin is a little below ``_reach``
        close = near[s]
        for row in range(size):
            reach = floor - margins[row]
            limits[row] = close[row] if close[row] < reach else reach
        for k in range(_reaching(mine, limits, found)):
            row = found[k]
            if mine[row] >= close[row]:
                cosine = _cosine(steps[row], query_steps[q])
                if cosine > best[s, row]:
                    best[s, row], best_query[s, row] = cosine, q - starts[s]
            if mine[row] >= floor - margins[row]:
                list_least[q, count], list_rows[q, count] = mine[row] - (errors[row] + np.float32(rounding) * abs(mine[row])), start + row
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
    wide: np.ndarray, scales: np.ndarray, start: int, ends: np.ndarray, queries: np.ndarray, places: np.ndarray, query_steps: np.ndarray,
    list_least: np.ndarray,
) -> None:  # fmt: skip
    """Put exact cosines in the place of the least, for the pairs (``by_row``) of the rows of a tile that begins at row ``start``; wide (n, D) float32."""
    steps = np.empty(wide.shape[1], np.int32)
    for row in range(wide.shape[0]):
        if ends[start + row] == ends[start + row + 1]:
            continue
        for d in range(wide.shape[1]):
            steps[d] = np.int32(np.rint(np.float64(wide[row, d]) * scales[start + row]))
        for k in range(ends[start + row], ends[start + row + 1]):
            list_least[queries[k], places[k]] = _cosine(steps, query_steps[queries[k]])
