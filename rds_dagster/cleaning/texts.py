"""The conversations behind ids: streamed from the shards of clean pools, so texts are stored once and never held whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rds_dagster.schema import Message
from rds_dagster.storage.ids import SortedIds, id_array
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore, stream_parquet

BATCH_ROWS = 2048


def stream_conversations(store: TableStore, clean: Manifest, wanted: np.ndarray) -> Iterator[tuple[bytes, list[Message]]]:
    """Id and messages of each wanted example of a clean pool, in stored order; wanted (M,) S16, sorted. Ids not in the pool are passed over."""
    for part in stored_texts(store, clean, SortedIds(wanted), BATCH_ROWS):
        yield from zip(part.column("id").to_pylist(), (tidy(m) for m in part.column("messages").to_pylist()), strict=True)


def stored_texts(store: TableStore, clean: Manifest, wanted: SortedIds, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The same as batches of the columns ``id`` and ``messages``, each out of ``batch_rows`` rows of a shard."""
    found, num_found = np.empty(len(wanted.ids), np.int64), 0  # shard * 2**32 + row, so that sorting puts them in stored order
    for batch in store.stream(clean, "index", ["id", "shard", "row"]):
        is_wanted = wanted.places(id_array(batch.column("id")))[1]
        shards, rows = (batch.column(name).to_numpy()[is_wanted].astype(np.int64) for name in ("shard", "row"))
        found[num_found : num_found + len(rows)] = (shards << 32) + rows
        num_found += len(rows)
    found = found[:num_found]
    found.sort()
    for number, path in enumerate(store.paths(clean, "shard")):
        start = number << 32
        low, high = np.searchsorted(found, [start, start + (1 << 32)])
        if low == high:
            continue
        places = found[low:high]
        for batch in stream_parquet(path, ["id", "messages"], batch_rows):
            low, high = np.searchsorted(places, [start, start + batch.num_rows])
            if high > low:
                yield batch.take(pa.array(places[low:high] - start))
            start += batch.num_rows


def tidy(messages: list[dict[str, str | None]]) -> list[Message]:
    """Messages as read from Arrow, without the fields that are absent."""
    return [{name: value for name, value in message.items() if value is not None} for message in messages]  # type: ignore[misc]
