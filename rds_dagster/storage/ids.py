"""Example ids by the million, 16 bytes each: as Arrow columns and numpy arrays, in order, and looked up.

Their first eight bytes as numbers sort and search several times faster than 16 bytes do. Measured on 5.8 million random ids: argsort 0.4 s where the ids of a
few sorted tables stand one after the other, 4 s as S16; a look-up of sorted ids 0.02 µs each within the range where they can stand, 2.3 µs as S16 over all.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rds_dagster.fingerprint import ID_DTYPE

SOUGHT_IDS = 65_536  # looked up at once, so that nothing but the result grows


def id_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Arrow fixed_size_binary(16) as (N,) S16, copied once."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    ids, at = np.empty(len(column), ID_DTYPE), 0
    for chunk in chunks:
        ids[at : at + len(chunk)] = _chunk_ids(chunk)
        at += len(chunk)
    return ids


def id_column(ids: np.ndarray) -> pa.Array:
    """(N,) S16 as Arrow fixed_size_binary(16), without a Python object per id."""
    packed = np.ascontiguousarray(ids.astype(ID_DTYPE, copy=False))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(packed), [None, pa.py_buffer(packed)])


def id_order(ids: np.ndarray) -> np.ndarray:
    """The rows of ids (N,) S16 by id, equal ones as they stood; (N,) int64."""
    first = _first_half(ids)
    order = np.argsort(first, kind="stable")  # of sorted runs it makes merges
    by_first = first[order]
    if (by_first[1:] == by_first[:-1]).any():
        order = np.lexsort((_halves(ids)[:, 1].astype(np.uint64), first))
    return order


def take_ids(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``ids[rows]``, moved as 16-byte numbers: six times faster."""
    taken: np.ndarray = np.ascontiguousarray(ids).view(np.complex128)[rows].view(ids.dtype)
    return taken


class SortedIds:
    """Distinct ids (N,) S16 in order, to look others up in."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._first = _first_half(ids)
        self._is_told_by_first = bool((self._first[1:] > self._first[:-1]).all())

    def places(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `positions_in` for ``wanted`` (M,) S16 in any order; fast where they are near each other, as in a piece of a sorted table."""
        if not len(self.ids) or not len(wanted) or not self._is_told_by_first:
            return positions_in(self.ids, wanted)
        first = _first_half(wanted)
        low, high = np.searchsorted(self._first, [first.min(), first.max()])
        places = (np.searchsorted(self._first[low : high + 1], first) + low).clip(max=len(self.ids) - 1)
        return places, self.ids[places] == wanted


def positions_in(sorted_ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``wanted`` (M,) S16 stands in ``sorted_ids`` (N,) S16: (M,) int64 positions, (M,) bool whether it is there at all."""
    places, is_there = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    if len(sorted_ids):
        for start in range(0, len(wanted), SOUGHT_IDS):
            part = slice(start, start + SOUGHT_IDS)
            np.searchsorted(sorted_ids, wanted[part]).clip(max=len(sorted_ids) - 1, out=places[part])
            is_there[part] = sorted_ids[places[part]] == wanted[part]
    return places, is_there


def _first_half(ids: np.ndarray) -> np.ndarray:
    """The first eight bytes, (N,) uint64 that compare as the bytes do."""
    return _halves(ids)[:, 0].astype(np.uint64)


def _halves(ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ids).view(">u8").reshape(-1, 2)


def _chunk_ids(chunk: pa.Array) -> np.ndarray:
    """The chunk's own memory as (n,) S16."""
    assert chunk.null_count == 0, "an id is never null"
    buffer = chunk.buffers()[1]
    return np.frombuffer(buffer, ID_DTYPE, count=len(chunk), offset=chunk.offset * ID_DTYPE.itemsize) if len(chunk) else np.empty(0, ID_DTYPE)
