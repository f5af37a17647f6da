"""The places of a pool, P of them in order of file and line, as columns of numbers; what is wide is put in order of id by way of the disk.

A place is one row of one shard. 16 bytes of id and 4 of order stay for a pool's whole cleaning; other columns come when they are written, and go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.cleaning.shards import Shard
from rds_dagster.fingerprint import DIGEST_BYTES, ID_DTYPE
from rds_dagster.storage.ids import id_array
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.reorder import by_position
from rds_dagster.storage.tables import GROUP_ROWS, STREAM_ROWS, stream_parquet

ROW_DTYPE = np.dtype(np.uint32)  # a place's number: half of what numpy sorts by; 4.3 billion are enough for a pool


@dataclass(frozen=True)
class Places:
    """Where the P places of a pool lie: the shards' paths, the number of the first place of each (S + 1,) int64, and the ids (P,) S16 of all."""

    paths: list[Path]
    starts: np.ndarray
    ids: np.ndarray

    def shard_and_row(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In which shard, and in which row of it, each of (n,) places lies; two (n,) int32."""
        shards = np.searchsorted(self.starts, places, side="right") - 1
        return shards.astype(np.int32), (places - self.starts[shards]).astype(np.int32)

    def numbers(self, column: str) -> np.ndarray:
        """A column of ids or whole numbers of all places, (P,) S16, int32 or int64, as its type in SHARD."""
        kind = schema.SHARD.field(column).type
        values = np.empty(len(self.ids), ID_DTYPE if kind == schema.ID else kind.to_pandas_dtype())
        _fill(values, self.batches(column))
        return values

    def sources(self) -> tuple[list[str], np.ndarray]:
        """The distinct sources in order of the alphabet, and for each place which of them is its own, (P,) int32."""
        return coded(self.batches("source"), len(self.ids))

    def batches(self, column: str) -> Iterator[pa.Array]:
        """One column of all places, batch by batch."""
        for path in self.paths:
            for batch in stream_parquet(path, [column], STREAM_ROWS):
                yield batch.column(0)


def read_places(layout: Layout, shards: Sequence[Shard]) -> Places:
    """The places of all rows of the shards."""
    paths = [layout.home / shard.shard for shard in shards]
    places = Places(paths, np.cumsum([0, *(shard.rows for shard in shards)]), np.empty(sum(shard.rows for shard in shards), ID_DTYPE))
    _fill(places.ids, places.batches("id"))
    return places


def _fill(values: np.ndarray, batches: Iterable[pa.Array]) -> None:
    at = 0
    for batch in batches:
        values[at : at + len(batch)] = id_array(batch) if values.dtype == ID_DTYPE else batch.to_numpy()
        at += len(batch)
    assert at == len(values), "a shard holds as many rows as it says"


def coded(batches: Iterable[pa.Array], rows: int) -> tuple[list[str], np.ndarray]:
    """Texts of few kinds as the kinds in order of the alphabet and the place of each text among them, (rows,) int32."""
    numbers: dict[str, int] = {}
    codes, at = np.empty(rows, np.int32), 0
    for batch in batches:
        found = batch.dictionary_encode()
        mine = np.array([numbers.setdefault(name, len(numbers)) for name in found.dictionary.to_pylist()], np.int32)
        codes[at : at + len(batch)] = mine[found.indices.to_numpy()]
        at += len(batch)
    names = sorted(numbers)
    rank = np.empty(len(names), np.int32)
    rank[[numbers[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    for start in range(0, rows, GROUP_ROWS):
        codes[start : start + GROUP_ROWS] = rank[codes[start : start + GROUP_ROWS]]
    return names, codes


def sorted_order(keys: np.ndarray) -> np.ndarray:
    """The rows of keys (N,) S16 by key, equal ones as they stand; (N,) uint32. Slower than ``id_order``, and takes 12 bytes a key while it sorts, not 32."""
    return np.argsort(keys, kind="stable").astype(ROW_DTYPE)


def first_of_each(keys: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which rows, in ``order`` (N,) of keys (N,) S16, are the first with their key; (N,) bool."""
    is_first = np.ones(len(order), bool)
    for start in range(1, len(order), GROUP_ROWS):
        part = keys[order[start - 1 : start + GROUP_ROWS]]
        is_first[start : start + GROUP_ROWS] = part[1:] != part[:-1]
    return is_first


def ids_and_sources(ids: Iterable[np.ndarray], codes: np.ndarray, names: Sequence[str]) -> tuple[bytes, list[str], bytes]:
    """What the data version of a table of ids and sources is made of: digest of the ids, the sources that occur, digest of each row's among those.

    ids come in parts, S16; codes (N,) int32 count in ``names``, which are in order of the alphabet.
    """
    occurs = np.zeros(len(names), bool)
    for start in range(0, len(codes), GROUP_ROWS):
        occurs[codes[start : start + GROUP_ROWS]] = True
    rank = (np.cumsum(occurs) - 1).astype("<i4")
    ranks = (rank[codes[start : start + GROUP_ROWS]] for start in range(0, len(codes), GROUP_ROWS))
    return _digest(ids), [name for name, here in zip(names, occurs, strict=True) if here], _digest(ranks)


def _digest(parts: Iterable[np.ndarray]) -> bytes:
    """``content_digest`` of the parts' bytes one after another."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part.tobytes())
    return digest.digest()


def in_order(column: Iterable[pa.Array], order: np.ndarray, folder: Path) -> Iterator[pa.Array]:
    """A column of all places (P of them, as they stand) in the given order (P,) of their numbers, GROUP_ROWS at a time and the rest.

    ``folder`` takes what is too much to be held.
    """
    positions = np.empty(len(order), ROW_DTYPE)
    for start in range(0, len(order), GROUP_ROWS):
        positions[order[start : start + GROUP_ROWS]] = np.arange(start, min(start + GROUP_ROWS, len(order)), dtype=ROW_DTYPE)
    return by_position(_with_positions(column, positions), len(order), folder)


def _with_positions(column: Iterable[pa.Array], positions: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    at = 0
    for batch in column:
        yield positions[at : at + len(batch)], batch
        at += len(batch)
