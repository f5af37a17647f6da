"""Cosine of examples to queries, in sums that no order of adding can change, so that a score does not depend on its company.

Rows lie on the grid of embeddings/unit_grid.py, which says why their sums are exact. Sums in float64 cost twice those in float32, so float32 products
of all pairs come first: they are off by less than a known bound, and only pairs that this leaves open (the largest of each row and task; what may stand
in a top list) are summed exactly. What comes out is bit for bit what float64 sums of all pairs give, each rounded once to float32.

Letters: N examples of a block, n of a tile, M queries of all sets, S sets, D hidden size, P pairs.
Source: RDS+ (arXiv 2503.01807): S[v, d] = cos(v, d), S'[t, d] = max over queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rds_dagster.embeddings.unit_grid import grid_rows
from rds_dagster.scores.products import NumpyProducts, Products, product_error
from rds_dagster.scores.shortlist import Shortlist

TILE_ROWS = 2048  # examples per matrix product: 7.4 MiB of cosines for 949 queries; 1024 and 4096 took 6% longer
FILTER_DEPTHS = 32  # from so many depths of rows on: the top lists' exact sums then cost less than what float32 saves
NO_SIGN = np.float32(0)  # added to a sum: one of negative zeros alone comes out as -0.0 or as 0.0, as it was begun


@dataclass(frozen=True, eq=False)
class TopList:
    """The best examples of each query: rows (M, depth) int64, scores (M, depth) float32, best first, ties to the smaller row.

    ``depth`` is the depth asked for, or N if that is fewer.
    """

    rows: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class TaskScores:
    """One block's scores for one task: best (N,) float32 the largest cosine, best_query (N,) int32 (the first on ties), and the top list."""

    best: np.ndarray
    best_query: np.ndarray
    top: TopList


class QuerySets:
    """The query sets of several tasks, one below the other: units (M, D) float64 on the grid, and which rows are whose."""

    def __init__(self, sets: Sequence[np.ndarray]) -> None:
        """sets: (m, D) float32 each, with one query at least."""
        sizes = np.array([len(queries) for queries in sets])
        self.units = grid_rows(np.concatenate(sets))
        self.narrow = self.units.astype(np.float32)
        self.starts = np.cumsum(sizes) - sizes  # (S,)
        self.set_of = np.repeat(np.arange(len(sets)), sizes)  # (M,)
        self.parts = [slice(start, start + size) for start, size in zip(self.starts.tolist(), sizes.tolist(), strict=True)]


def score_block(vectors: np.ndarray, queries: np.ndarray, depth: int) -> TaskScores:
    """Score the examples of a block, in row order, against one task's queries.

    vectors (N, D) float16 or float32; queries (M, D) float32. Raises ValueError where one of them is not finite.
    """
    (scores,) = score_sets(vectors, QuerySets([queries]), depth, NumpyProducts())
    return scores


def score_sets(vectors: np.ndarray, sets: QuerySets, depth: int, products: Products) -> list[TaskScores]:
    """``score_block`` for several query sets in one pass over the vectors (N, D)."""
    is_filtered = len(vectors) >= FILTER_DEPTHS * depth
    window = 2 * product_error(vectors.shape[1]) if is_filtered else 0.0
    best, best_query = np.empty((len(sets.parts), len(vectors)), np.float32), np.empty((len(sets.parts), len(vectors)), np.int32)
    shortlist = Shortlist(len(sets.units), depth, window)
    for start in range(0, len(vectors), TILE_ROWS):
        units = grid_rows(products.widen(vectors[start : start + TILE_ROWS]))  # (n, D)
        if is_filtered:
            cosines = products.all_pairs(sets.narrow, units.astype(np.float32))  # (M, n)
            rows, queries = _largest(cosines, sets, window)
            values = _exact(units, sets, rows, queries, products)
        else:
            cosines = (sets.units @ units.T).astype(np.float32) + NO_SIGN
            rows, queries = _largest(cosines, sets, 0.0)
            values = cosines[queries, rows]
        best[:, start : start + len(units)], best_query[:, start : start + len(units)] = _best(values, rows, queries, sets, len(units))
        shortlist.offer(cosines, start)
    queries, rows, values = shortlist.lists()
    if is_filtered:
        values = _exact_of_block(vectors, sets, rows, queries, products)
    top = _top_lists(queries, rows, values, len(sets.units), min(depth, len(vectors)))
    return [TaskScores(best[number], best_query[number], TopList(top.rows[part], top.scores[part])) for number, part in enumerate(sets.parts)]


def _largest(cosines: np.ndarray, sets: QuerySets, window: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a tile, (P,) rows and (P,) queries by row and then by query, whose cosine is the largest of its row and set or within ``window``."""
    num_queries, num_rows = cosines.shape
    is_near = np.empty(cosines.shape, bool)
    for part in sets.parts:
        floor = cosines[part].max(axis=0)
        floor -= np.float32(window)
        np.greater_equal(cosines[part], floor, out=is_near[part])
    queries, rows = np.divmod(np.flatnonzero(is_near), num_rows)
    rows, queries = np.divmod(np.sort(rows * num_queries + queries), num_queries)
    return rows, queries


def _exact(units: np.ndarray, sets: QuerySets, rows: np.ndarray, queries: np.ndarray, products: Products) -> np.ndarray:
    """The cosines of pairs (P,), rows ascending, each rounded once to float32 from its exact sum."""
    cosines: np.ndarray = products.some_pairs(units, sets.units, rows, queries).astype(np.float32)
    return cosines + NO_SIGN


def _exact_of_block(vectors: np.ndarray, sets: QuerySets, rows: np.ndarray, queries: np.ndarray, products: Products) -> np.ndarray:
    """The same for pairs (P,) in any order, of rows from the whole block."""
    order = np.argsort(rows * len(sets.units) + queries)
    rows, queries, cosines = rows[order], queries[order], np.empty(len(rows), np.float32)
    ends = np.searchsorted(rows, np.arange(0, len(vectors) + TILE_ROWS, TILE_ROWS))
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        start = number * TILE_ROWS
        units = grid_rows(products.widen(vectors[start : start + TILE_ROWS]))
        cosines[order[first:last]] = _exact(units, sets, rows[first:last] - start, queries[first:last], products)
    return cosines


def _best(values: np.ndarray, rows: np.ndarray, queries: np.ndarray, sets: QuerySets, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine (S, n) float32 of each row and set, and the first query (S, n) of the set that has it; pairs (P,) by row and then by query."""
    num_sets = len(sets.parts)
    group = rows * num_sets + sets.set_of[queries]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    if len(starts) != num_rows * num_sets:
        raise ValueError("a vector or a query is not finite, so it has no cosines; embed in float32")
    best = np.maximum.reduceat(values, starts)
    largest = np.flatnonzero(values == best[group])
    first = largest[np.flatnonzero(np.diff(group[largest], prepend=-1))]
    return best.reshape(num_rows, num_sets).T, (queries[first].reshape(num_rows, num_sets) - sets.starts).T


def _top_lists(queries: np.ndarray, rows: np.ndarray, cosines: np.ndarray, num_queries: int, depth: int) -> TopList:
    """The first ``depth`` of each query; (P,) by query and then by row, ``depth`` or more for each."""
    counts = np.bincount(queries, minlength=num_queries)
    places = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    wide_rows, wide_cosines = np.zeros((num_queries, counts.max()), np.int64), np.full((num_queries, counts.max()), -np.inf, np.float32)
    wide_rows[queries, places], wide_cosines[queries, places] = rows, cosines
    order = np.argsort(-wide_cosines, axis=1, kind="stable")[:, :depth]
    return TopList(np.take_along_axis(wide_rows, order, axis=1), np.take_along_axis(wide_cosines, order, axis=1))
