"""The rows that may stand in each query's top list, kept while cosines come by.

Letters: N rows, M queries.
"""

from __future__ import annotations

import numpy as np

FLOOR_STEP = 1.5  # floors are raised when the longest list has grown by this; 1.3 and 2 took as long, within the noise
MOST_DEPTHS = 6  # in a list before what fell below its floor is dropped


class Shortlist:
    """Every row whose cosine is among the ``depth`` largest of its query, and few others."""

    def __init__(self, num_queries: int, depth: int) -> None:
        self._depth = depth
        self._floor = np.full((num_queries, 1), np.finfo(np.float32).min)  # what a later row must reach
        self._held = np.zeros(num_queries, np.int32)
        self._cosines = np.full((num_queries, 0), -np.inf, np.float32)  # the first held[m] of row m are there, in row order; -inf after them
        self._rows = np.zeros((num_queries, 0), np.int32)
        self._next_floors = FLOOR_STEP * depth

    def offer(self, cosines: np.ndarray, start: int) -> None:
        """Take in cosines (M, n) float32 of the n rows from ``start``; rows come in ascending order."""
        num_rows = cosines.shape[1]
        if not start and num_rows > self._depth:
            self._raise_floors(cosines)
        found = np.flatnonzero(cosines >= self._floor)
        self._append((found // num_rows).astype(np.int32), cosines.ravel()[found], (found % num_rows + start).astype(np.int32))
        self._tidy()

    def offer_pairs(self, queries: np.ndarray, cosines: np.ndarray, start: int) -> np.ndarray:
        """Take in single cosines (P,), queries ascending; those that are kept get the row numbers from ``start`` on. Which they are, (K,) int64."""
        found = np.flatnonzero(cosines >= self._floor[queries, 0])
        self._append(queries[found], cosines[found], np.arange(start, start + len(found), dtype=np.int32))
        self._tidy()
        return found

    def lists(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is left, by query and then by row: query numbers (P,) int64, rows (P,) int64, cosines (P,) float32 as they were offered."""
        if self._cosines.shape[1] > self._depth:
            self._raise_floors(self._cosines)
        queries, cosines, rows = self._above()
        return queries.astype(np.int64), rows.astype(np.int64), cosines

    def _tidy(self) -> None:
        longest = int(self._held.max())
        if longest < self._next_floors:
            return
        self._raise_floors(self._cosines[:, :longest])
        self._next_floors = FLOOR_STEP * longest
        if longest > MOST_DEPTHS * self._depth:
            self._drop()

    def _raise_floors(self, cosines: np.ndarray) -> None:
        """By the ``depth`` largest of these (M, more than depth)."""
        place = cosines.shape[1] - self._depth
        np.maximum(self._floor, np.partition(cosines, place, axis=1)[:, place : place + 1], out=self._floor)

    def _above(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = np.flatnonzero(self._cosines >= self._floor)
        return (found // self._cosines.shape[1]).astype(np.int32), self._cosines.ravel()[found], self._rows.ravel()[found]

    def _drop(self) -> None:
        """Let go of what is below its floor; equal cosines by the thousand all stay, since nothing here tells which to leave out."""
        queries, cosines, rows = self._above()
        self._held[:] = 0
        self._cosines.fill(-np.inf)
        self._append(queries, cosines, rows)
        self._next_floors = FLOOR_STEP * max(int(self._held.max()), self._depth)

    def _append(self, queries: np.ndarray, cosines: np.ndarray, rows: np.ndarray) -> None:
        """Add to the lists; queries (P,) ascend, and the rows of each."""
        counts = np.bincount(queries, minlength=len(self._held)).astype(np.int32)
        missing = int((self._held + counts).max()) - self._rows.shape[1]
        if missing > 0:
            more = (len(self._held), max(missing, 2 * self._depth))
            self._cosines = np.hstack([self._cosines, np.full(more, -np.inf, np.float32)])
            self._rows = np.hstack([self._rows, np.zeros(more, np.int32)])
        width = self._rows.shape[1]
        first = np.arange(len(counts)) * width + self._held - (np.cumsum(counts) - counts)
        places = np.arange(len(queries)) + np.repeat(first, counts)
        self._cosines.ravel()[places] = cosines
        self._rows.ravel()[places] = rows
        self._held += counts
