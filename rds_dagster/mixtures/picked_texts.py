"""The texts of picked examples, in the order of picking, in bounded memory: they are read in stored order, and laid out anew group by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster.cleaning.texts import stored_texts
from rds_dagster.errors import StateError
from rds_dagster.storage.ids import SortedIds, id_array, id_order, take_ids
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.reorder import by_position
from rds_dagster.storage.tables import TableStore

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
        wanted = SortedIds(take_ids(ids, mine))
        for texts in stored_texts(store, manifest, wanted, BATCH_ROWS):
            places, is_there = wanted.places(id_array(texts.column("id")))
            assert is_there.all(), f"the shards of {manifest.key} do not hold what its index says"
            is_found[mine[places]] = True
            yield mine[places], texts.column("messages")
    missing = np.flatnonzero(~is_found)
    if len(missing):
        example = bytes(ids[missing[0]]).ljust(16, b"\0").hex()
        raise StateError(f"{len(missing):,} picked examples have no text in clean/*, such as {example}; run `rds run` to bring both to one state")
