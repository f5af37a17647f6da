"""The stored vectors as blocks of fixed length in written order: appending changes only the last block.

A block is named by the hash of its live ids, those that unique/* keeps; a block that holds none is passed over.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ids_fingerprint
from rds_dagster.storage.ids import SortedIds, id_array, id_order, take_ids
from rds_dagster.storage.memory import release_unused
from rds_dagster.storage.vectors import VectorStore, vector_array

SLICE_BYTES = 16 * 2**20  # of vectors asked of LanceDB at once: read in blocks, 1,000,000 x 384 took 1.25 s; 1.5 to 3.1 s with 8 MiB, no less with 64
# Of float16 vectors, a block a worker: bounds memory whatever the hidden size. 2,097,152 x 384 for 949 queries took 12.2 s and 1,064 MiB; with blocks of
# 64 MiB 14.4 s and 955 MiB, since each has top lists to make and to merge; with 256 MiB 13.0 s and 1,301 MiB.
BLOCK_BYTES = 128 * 2**20
SORTED_AT_ONCE = 4  # blocks of ids; on two cores 5.8 million took 0.4 s instead of 0.8


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of the vector table: where they were written, and the live ids among them, (n,) S16 in id order."""

    start: int
    rows: int
    ids: np.ndarray

    @cached_property
    def name(self) -> str:
        """Hash of the live ids."""
        return ids_fingerprint(self.ids)


def block_rows(dims: int) -> int:
    """Rows of a full block: the largest power of two whose vectors fit BLOCK_BYTES."""
    return 1 << ((BLOCK_BYTES // (2 * dims)).bit_length() - 1)


def live_blocks(vectors: VectorStore, live: np.ndarray) -> list[Block]:
    """The blocks that hold any of ``live`` (N,) S16, sorted; raises StateError if an id has no vector."""
    stored, known = vectors.ids(), SortedIds(live)
    size = block_rows(vectors.dims)

    def block(start: int) -> Block:
        ids = stored[start : start + size]
        ids[:] = take_ids(ids, id_order(ids))  # in place, and blocks hold views where all is live: 16 bytes an example in all
        is_live = known.places(ids)[1]
        return Block(start, len(ids), ids if is_live.all() else ids[is_live])

    with ThreadPoolExecutor(SORTED_AT_ONCE) as threads:
        blocks = [found for found in threads.map(block, range(0, len(stored), size)) if len(found.ids)]
    covered = sum(len(found.ids) for found in blocks)
    if covered != len(live):
        raise StateError(f"{len(live):,} examples are kept and {covered:,} of them have a vector; run `rds run 'embeddings/*'` first")
    return blocks


def read_block(vectors: VectorStore, block: Block, into: np.ndarray | None = None) -> np.ndarray:
    """The block's live vectors in id order, (n, D) float16; ``into`` (n or more, D) float16: memory to use again, since new memory took 0.6 us a row more."""
    read, known = np.empty((len(block.ids), vectors.dims), np.float16) if into is None else into[: len(block.ids)], SortedIds(block.ids)
    for batch in vectors.stream(["id", "vector"], start=block.start, rows=block.rows, slice_bytes=SLICE_BYTES):
        places, is_live = known.places(id_array(batch.column("id")))
        stored = vector_array(batch.column("vector"), vectors.dims)
        if is_live.all():
            read[places] = stored
        else:
            read[places[is_live]] = stored[is_live]
    release_unused()
    return read
