"""Cosine of examples to queries, in sums that no order of adding can change, so that a score does not depend on its company.

Rows lie on the grid of embeddings/unit_grid.py, which says why their sums are exact. Small blocks are summed in float64, all pairs; of large ones
filtering.py finds the pairs that matter and sums those. What comes out is the same, bit for bit: exact sums, each rounded once to float32.

Letters: N examples of a block, n of a tile, M queries of all sets, S sets, D hidden size.
Source: RDS+ (arXiv 2503.01807): S[v, d] = cos(v, d), S'[t, d] = max over queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.scores.products import Products
from rds_dagster.scores.shortlist import Shortlist

TILE_ROWS = 2048  # examples per product in float64
FILTER_DEPTHS = 32  # from so many depths of rows on: the top lists' exact sums then cost less than what quick products save
NO_SIGN = np.float32(0)  # added to a sum: one of negative zeros alone comes out as -0.0 or as 0.0, as it was begun
NOT_FINITE = "a vector or a query is not finite, so it has no cosines; embed in float32"


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
        self.starts = np.cumsum(sizes) - sizes  # (S,)
        self.set_of = np.repeat(np.arange(len(sets)), sizes)  # (M,)
        self.parts = [slice(start, start + size) for start, size in zip(self.starts.tolist(), sizes.tolist(), strict=True)]

    @cached_property
    def narrow(self) -> np.ndarray:
        """The units rounded to float32."""
        return self.units.astype(np.float32)

    @cached_property
    def steps(self) -> np.ndarray:
        """The units in steps of the grid, int32."""
        return (self.units * GRID).astype(np.int32)


def score_block(vectors: np.ndarray, queries: np.ndarray, depth: int) -> TaskScores:
    """Score the examples of a block, in row order, against one task's queries.

    vectors (N, D) float16 or float32; queries (M, D) float32. Raises ValueError where one of them is not finite.
    """
    (scores,) = score_sets(vectors, QuerySets([queries]), depth)
    return scores


def score_sets(vectors: np.ndarray, sets: QuerySets, depth: int, products: Products | None = None) -> list[TaskScores]:
    """``score_block`` for several query sets in one pass over the vectors (N, D); ``products`` make it quicker and change no bit."""
    if not np.isfinite(sets.units).all():
        raise ValueError(NOT_FINITE)
    if products is None or len(vectors) < FILTER_DEPTHS * depth:
        best, best_query, top = _score_all_pairs(vectors, sets, depth)
    else:
        from rds_dagster.scores.filtering import score_filtered

        best, best_query, top = score_filtered(vectors, sets, depth, products)
    return [TaskScores(best[number], best_query[number], TopList(top.rows[part], top.scores[part])) for number, part in enumerate(sets.parts)]


def _score_all_pairs(vectors: np.ndarray, sets: QuerySets, depth: int) -> tuple[np.ndarray, np.ndarray, TopList]:
    """Best (S, N) float32, best_query (S, N) int32 and the top lists of all queries."""
    best, best_query = np.empty((len(sets.parts), len(vectors)), np.float32), np.empty((len(sets.parts), len(vectors)), np.int32)
    shortlist = Shortlist(len(sets.units), depth)
    for start in range(0, len(vectors), TILE_ROWS):
        mine = slice(start, start + TILE_ROWS)
        cosines = (sets.units @ grid_rows(vectors[mine]).T).astype(np.float32) + NO_SIGN  # (M, n)
        for number, part in enumerate(sets.parts):
            best[number, mine], best_query[number, mine] = cosines[part].max(axis=0), cosines[part].argmax(axis=0)
        shortlist.offer(cosines, start)
    if not np.isfinite(best).all():
        raise ValueError(NOT_FINITE)
    return best, best_query, _top_lists(*shortlist.lists(), len(sets.units), min(depth, len(vectors)))


def _top_lists(queries: np.ndarray, rows: np.ndarray, cosines: np.ndarray, num_queries: int, depth: int) -> TopList:
    """The first ``depth`` of each query; (P,) by query and then by row, ``depth`` or more for each."""
    counts = np.bincount(queries, minlength=num_queries)
    places = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    wide_rows, wide_cosines = np.zeros((num_queries, counts.max()), np.int64), np.full((num_queries, counts.max()), -np.inf, np.float32)
    wide_rows[queries, places], wide_cosines[queries, places] = rows, cosines
    order = np.argsort(-wide_cosines, axis=1, kind="stable")[:, :depth]
    return TopList(np.take_along_axis(wide_rows, order, axis=1), np.take_along_axis(wide_cosines, order, axis=1))
