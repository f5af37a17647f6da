"""Scores of a large block: quick products of all pairs say which few matter, and those are summed exactly.

A product is off by no more than its maker says; so only pairs that this leaves open (the largest of each row and set; what may stand in a top list) can
count, and what comes out is bit for bit what exact sums of all pairs give.

Letters: N rows of a block, n of a tile, M queries, S sets, D hidden size.
"""

from __future__ import annotations

import numpy as np

from rds_dagster.embeddings.unit_grid import GRID
from rds_dagster.scores import tile_kernels as kernels
from rds_dagster.scores.products import Products
from rds_dagster.scores.similarity import NOT_FINITE, QuerySets, TopList

TILE_ROWS = 512  # examples per matrix product: with 949 queries and 384 dims 1.9 MiB of products and 2.3 MiB of rows
FLOOR_STEP = 2  # floors are raised when the longest list has grown by this; 1.5 and 3 took as long, within the noise
CROWDED_DEPTHS = 4  # 65,536 rows of cosines 0.918 +- 0.006, depth 256: lists of all rows by bfloat16, 0.94 s where float32 took 0.09
EXACT_SQUARES = 32.0  # below this, the sum of squares of float16 is exact in float64 whatever its order: multiples of 2**-48


def score_filtered(vectors: np.ndarray, sets: QuerySets, depth: int, products: Products) -> tuple[np.ndarray, np.ndarray, TopList]:
    """Best (S, N) float32, best_query (S, N) int32 and the top lists of all queries; vectors (N, D), more of them than ``depth``.

    Where cosines lie closer together than the products' errors, lists would hold nearly all rows; the block is then begun again with finer products.
    """
    found = _score(vectors, sets, depth, products)
    if found is None:
        assert products.finer is not None, "only products that have finer ones give up"
        found = _score(vectors, sets, depth, products.finer)
    assert found is not None, "finer products have none that are finer still"
    return found


def _score(vectors: np.ndarray, sets: QuerySets, depth: int, products: Products) -> tuple[np.ndarray, np.ndarray, TopList] | None:
    """The same; None if the lists are crowded and there are finer products."""
    num_rows, dims = vectors.shape
    starts = np.append(sets.starts, len(sets.set_of))
    best, best_query = np.full((len(sets.parts), num_rows), -np.inf, np.float32), np.zeros((len(sets.parts), num_rows), np.int32)
    multiply, rounding, lists = products.by(sets.narrow), products.rounding, _Lists(len(sets.set_of), depth)
    scales, errors, near = np.empty(num_rows), np.empty(num_rows, np.float32), np.empty((len(sets.parts), TILE_ROWS), np.float32)
    steps, narrow = np.empty((TILE_ROWS, dims), np.int32), np.empty((TILE_ROWS, dims), np.float32)
    for start in range(0, num_rows, TILE_ROWS):
        tile = vectors[start : start + TILE_ROWS]
        size, mine = len(tile), slice(start, start + len(tile))
        _put_on_grid(tile, scales[mine], steps[:size], narrow[:size])
        found, errors[mine] = multiply(narrow[:size])
        kernels.find_near(found, starts, errors[mine], rounding, near[:, :size])
        lists.make_room(size, errors, rounding)
        if products.finer is not None and lists.are_crowded:
            return None
        kernels.scan_tile(
            found, errors[mine], rounding, near[:, :size], start, steps[:size], sets.steps, starts, sets.set_of, best[:, mine], best_query[:, mine],
            lists.floors, lists.held, lists.least, lists.rows,
        )  # fmt: skip
    lists.raise_floors(errors, rounding)
    return best, best_query, lists.top(vectors, scales, sets)


def _put_on_grid(vectors: np.ndarray, scales: np.ndarray, steps: np.ndarray, narrow: np.ndarray) -> None:
    """Fill scales (n,) float64, what takes each row to the grid, steps (n, D) int32 and narrow (n, D) float32, the unit; the bits of ``grid_rows``."""
    is_exact = vectors.dtype == np.float16
    if not is_exact:
        scales[:] = _scales_in_order(vectors)
    largest = kernels.put_on_grid(kernels.bits_of(vectors), scales, not is_exact, steps, narrow)
    if not np.isfinite(largest):
        raise ValueError(NOT_FINITE)
    if is_exact and largest >= EXACT_SQUARES:
        scales[:] = _scales_in_order(vectors)
        kernels.put_on_grid(kernels.bits_of(vectors), scales, True, steps, narrow)


def _scales_in_order(vectors: np.ndarray) -> np.ndarray:
    """GRID / norm of each row, (n,) float64, by sums of squares in the order of ``grid_rows``."""
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    norms[norms == 0] = 1
    scales: np.ndarray = GRID / norms
    return scales


class _Lists:
    """For each query the rows that may be among its ``depth`` largest so far, in row order, and the least that their cosines may be."""

    def __init__(self, num_queries: int, depth: int) -> None:
        self._depth = depth
        self.floors, self.held = np.full(num_queries, np.finfo(np.float32).min), np.zeros(num_queries, np.int64)
        self.least, self.rows = np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int32)
        self._next_floors = FLOOR_STEP * depth
        self.are_crowded = False  # whether much more than ``depth`` was left when floors were raised last

    def make_room(self, num_rows: int, errors: np.ndarray, rounding: float) -> None:
        """For so many rows more; errors (N,) float32."""
        if self.held.max() >= self._next_floors:
            self.raise_floors(errors, rounding)
            self._next_floors = FLOOR_STEP * int(self.held.max())
            self.are_crowded = bool(self.held.mean() > CROWDED_DEPTHS * self._depth)
        longest = int(self.held.max())
        missing = longest + num_rows - self.rows.shape[1]
        if missing > 0:  # equal cosines by the thousand all stay, since nothing here tells which to leave out
            more = (len(self.held), max(missing, 2 * self._depth, longest))
            self.least, self.rows = np.hstack([self.least, np.empty(more, np.float32)]), np.hstack([self.rows, np.empty(more, np.int32)])

    def raise_floors(self, errors: np.ndarray, rounding: float) -> None:
        """To the ``depth`` largest of each list; of the rows whose errors are not 0 some more may stay."""
        longest = int(self.held.max())
        kernels.end_lists(self.held, self.least, longest)
        place = longest - self._depth
        new = np.partition(self.least[:, :longest], place, axis=1)[:, place]
        kernels.raise_floors(new, errors, rounding, self.floors, self.held, self.least, self.rows)

    def top(self, vectors: np.ndarray, scales: np.ndarray, sets: QuerySets) -> TopList:
        """The first ``depth`` of each, by their exact cosines; scales (N,) as found before."""
        ends, queries, places = np.empty(len(vectors) + 1, np.int64), *(np.empty(self.held.sum(), np.int32) for _ in range(2))
        kernels.by_row(self.held, self.rows, ends, queries, places)
        for start in range(0, len(vectors), TILE_ROWS):
            tile = kernels.bits_of(vectors[start : start + TILE_ROWS])
            kernels.sum_lists(tile, scales, start, ends, queries, places, sets.steps, self.least)
        self.raise_floors(np.zeros(len(vectors), np.float32), 0.0)
        keys = np.empty((len(self.held), int(self.held.max())), np.int64)
        kernels.sort_keys(self.held, self.least, keys)
        keys.sort(axis=1)
        first = keys[:, : self._depth] & 0xFFFFFFFF
        return TopList(np.take_along_axis(self.rows, first, axis=1).astype(np.int64), np.take_along_axis(self.least, first, axis=1))
