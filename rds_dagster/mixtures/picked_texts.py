"""The texts of picked examples, in the order of picking, in bounded memory: they are read in stored order, and laid out anew group by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster.errors import StateError
from rds_dagster.storage.ids import SortedIds, id_array, id_order, take_ids
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.reorder import by_position
from rds_dagster.storage.tables import TableStore, stream_parquet

BATCH_ROWS = 8192  # of a shard
HELD_BYTES = 128 * 2**20  # of texts, before they go to disk; twice as much while they are sorted


def picked_messages(store: TableStore, clean: Sequence[Manifest], ids: np.ndarray, owners: np.ndarray, folder: Path) -> Iterator[pa.Array]:
    """MESSAGES of the picks in their order, GROUP_ROWS at a time.

    ids (K,) S16, distinct; owners (K,) integers, into ``clean``: the pool whose text it is. What does not fit HELD_BYTES lies in ``folder`` meanwhile.
    Raises StateError if an example has no text.
    """
    return by_position(_found(store, clean, ids, owners), len(ids), folder, held_bytes=HELD_BYTES)


def _found(store: TableStore, clean: Sequence[Manifest], ids: np.ndarray, owners: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """The same as they are stored, each with the position of its pick."""
    is_found = np.zeros(len(ids), bool)
    for number, manifest in enumerate(clean):
        mine = np.flatnonzero(owners == number)
        mine = mine[id_order(ids[mine])]
        for places, messages in _stored_messages(store, manifest, SortedIds(take_ids(ids, mine))):
            is_found[mine[places]] = True
            yield mine[places], messages
    missing = np.flatnonzero(~is_found)
    if len(missing):
        example = bytes(ids[missing[0]]).ljust(16, b"\0").hex()
        raise StateError(f"{len(missing):,} picked examples have no text in clean/*, such as {example}; run `rds run` to bring both to one state")


def _stored_messages(store: TableStore, clean: Manifest, wanted: SortedIds) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Which of ``wanted``, (m,) int64, and their MESSAGES, in the order of a clean pool's shards."""
    if not len(wanted.ids):
        return
    paths, (places, addresses) = store.paths(clean, "shard"), _addresses(store, clean, wanted)
    starts = np.searchsorted(addresses, np.arange(len(paths) + 1, dtype=np.int64) << 32)
    for number, path in enumerate(paths):
        mine = slice(starts[number], starts[number + 1])
        rows, in_wanted, start = addresses[mine] & 0xFFFFFFFF, places[mine], 0
        if not len(rows):
            continue
        for batch in stream_parquet(path, ["id", "messages"], BATCH_ROWS):
            low, high = np.searchsorted(rows, [start, start + batch.num_rows])
            if high > low:
                part = batch.take(pa.array(rows[low:high] - start))
                is_it = id_array(part.column("id")) == wanted.ids[in_wanted[low:high]]
                assert is_it.all(), f"{path} does not hold what the index of {clean.key} says"
                yield in_wanted[low:high], part.column("messages")
            start += batch.num_rows


def _addresses(store: TableStore, clean: Manifest, wanted: SortedIds) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``wanted`` the pool holds, (m,) int64, and where: shard number << 32 | row, (m,) int64, ascending."""
    places, addresses = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in store.stream(clean, "index", ["id", "shard", "row"]):
        found, is_there = wanted.places(id_array(batch.column("id")))
        places.append(found[is_there])
        shard, row = (batch.column(name).to_numpy()[is_there].astype(np.int64) for name in ("shard", "row"))
        addresses.append(shard << 32 | row)
    address = np.concatenate(addresses)
    order = np.argsort(address)
    return np.concatenate(places)[order], address[order]
