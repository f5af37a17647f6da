"""The shards of a pool -> its index (one row per distinct conversation) and its provenance (one row per place).

Assets clean/<pool> and provenance/<pool>. The shards hold the texts; everything here is narrow: about 290 bytes an example while it runs
(measured at 50k and 500k).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_dagster import schema
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.shards import CODE as SHARD_CODE
from rds_dagster.cleaning.shards import Shard, make_shard, refuse_changed_file
from rds_dagster.errors import InputError
from rds_dagster.fingerprint import content_digest, file_digest, fingerprint
from rds_dagster.pools.files import list_files
from rds_dagster.pools.look import RawFile, recorded_files
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.manifest import Counts, Manifest, TableFile
from rds_dagster.storage.tables import Draft, TableStore, id_array, id_column, make_recipe, stream_parquet

CODE = 1  # raise when the bytes of the index or the provenance would change
REPEATED = "repeated_in_pool"
INDEX_COLUMNS = ["id", "duplicate_key", "source", "num_messages", "num_chars"]


@dataclass(frozen=True)
class CleanPool:
    """What came of cleaning one pool; ``rows_read`` counts records parsed now, ``rows_reused`` those whose shard was there."""

    clean: Manifest
    provenance: Manifest
    rows_read: int
    rows_reused: int


def clean_pool(store: TableStore, pool: PoolSettings, cleaning: CleaningSettings, *, root: Path) -> CleanPool:
    """Make clean/<pool> and provenance/<pool> current; reads only files that were not read before under these settings.

    Raises InputError if a file of the manifest is gone, changed or breaks off; the last good state then stays.
    """
    raw = store.need(f"raw/{pool.name}")
    settings: dict[str, object] = {
        "pool": pool.name,
        "shape": pool.shape,
        "format": pool.format,
        "max_chars": cleaning.max_chars,
    }
    recipe = make_recipe("clean", CODE, [SHARD_CODE, settings], {raw.key: raw.fingerprint})
    clean, provenance = store.reusable(f"clean/{pool.name}", recipe), store.reusable(f"provenance/{pool.name}", recipe)
    if clean and provenance:
        return CleanPool(clean, provenance, 0, clean.counts.rows_in)
    files = recorded_files(raw)
    _refuse_changes(files, pool, root)
    shards = [make_shard(store.layout, raw_file.file, raw_file.digest, pool, cleaning) for raw_file in files]
    places = _read_places(store, shards)
    index, order, starts = _distinct(places)
    clean = _write_clean(store, recipe, pool, settings, raw, files, shards, places, index, order, starts)
    provenance = _write_provenance(store, recipe, pool, settings, raw, files, shards, order)
    store.commit([provenance])
    store.commit([clean])
    return CleanPool(clean, provenance, sum(s.records for s in shards if not s.reused), sum(s.records for s in shards if s.reused))


def _refuse_changes(files: list[RawFile], pool: PoolSettings, root: Path) -> None:
    now = {file.address: file for file in list_files(pool.source, root=root)}
    for raw_file in files:
        file = raw_file.file
        if file.address not in now:
            raise InputError(f"{file.address} of pool {pool.name} is gone since raw/{pool.name} was made; run again, the pool's last good state is kept")
        refuse_changed_file(now[file.address], stamp=file.stamp, size=file.size, pool=pool.name)


def _read_places(store: TableStore, shards: list[Shard]) -> pa.Table:
    """All places of the pool in order of file and line: INDEX_COLUMNS, shard, row; (P,) rows, sources as dictionary."""
    parts = []
    for number, shard in enumerate(shards):
        row = 0
        for batch in stream_parquet(store.layout.home / shard.shard, INDEX_COLUMNS, batch_rows=65_536):
            where = {"shard": pa.array(np.full(batch.num_rows, number, np.int32)), "row": pa.array(np.arange(row, row + batch.num_rows, dtype=np.int32))}
            table = pa.Table.from_batches([batch])
            table = table.set_column(2, "source", table.column("source").dictionary_encode())
            parts.append(table.append_column("shard", where["shard"]).append_column("row", where["row"]))
            row += batch.num_rows
    empty = schema.CLEAN.set(2, pa.field("source", pa.dictionary(pa.int32(), pa.string()))).empty_table()
    return pa.concat_tables([empty, *parts]).unify_dictionaries()


def _distinct(places: pa.Table) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The first place of each id, in id order, with the smallest source of its places; then the order of all places by id and where each id starts in it."""
    ids = id_array(places.column("id"))
    order = np.argsort(ids, kind="stable")  # (P,)
    by_id = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], by_id[1:] != by_id[:-1]])) if len(ids) else np.empty(0, np.int64)  # (N,)
    index = places.take(order[starts])
    if len(starts):
        source = places.column("source").combine_chunks()
        names = source.dictionary.to_pylist()
        rank = np.argsort(np.argsort(np.array(names, object))).astype(np.int32)  # code -> place in the alphabet
        smallest = np.minimum.reduceat(rank[source.indices.to_numpy()][order], starts)
        index = index.set_column(2, "source", pa.array(sorted(names)).take(pa.array(smallest)))
    return index.cast(schema.CLEAN), order, starts


def _write_clean(
    store: TableStore, recipe: str, pool: PoolSettings, settings: dict[str, object], raw: Manifest, files: list[RawFile], shards: list[Shard],
    places: pa.Table, index: pa.Table, order: np.ndarray, starts: np.ndarray,
) -> Manifest:  # fmt: skip
    draft = store.draft(f"clean/{pool.name}", recipe)
    draft.write("index", index, schema.CLEAN)
    dropped = Counter[str]()
    for shard in shards:
        dropped.update(shard.dropped)
    again = np.ones(len(order), bool)
    again[starts] = False
    dropped[REPEATED] = int(again.sum())
    _write_quarantine(draft, store, pool, files, shards, places.take(order[again]))
    text_files = [TableFile("shard", shard.shard, shard.rows, shard.bytes) for shard in shards]
    counts = Counts(sum(shard.records for shard in shards), index.num_rows, {reason: n for reason, n in sorted(dropped.items()) if n})
    return draft.manifest(
        fingerprint=fingerprint("clean", clean_fingerprint(index), counts.dropped),  # a new loss is news to reports and to SQL over quarantine
        settings=settings,
        parents={raw.key: raw.fingerprint},
        counts=counts,
        details={"chars": pc.sum(index.column("num_chars")).as_py() or 0},
        more_files=text_files,
    )


def clean_fingerprint(index: pa.Table) -> str:
    """The data version of a table of ids and sources in id order (CLEAN or UNIQUE)."""
    source = index.column("source").combine_chunks().dictionary_encode()
    if isinstance(source, pa.ChunkedArray):
        source = source.combine_chunks()
    names = source.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(names, object))).astype("<i4")
    codes = rank[source.indices.to_numpy()] if len(source) else np.empty(0, "<i4")
    return fingerprint("ids and sources", content_digest(id_array(index.column("id")).tobytes()), sorted(names), content_digest(codes.tobytes()))


def _write_quarantine(draft: Draft, store: TableStore, pool: PoolSettings, files: list[RawFile], shards: list[Shard], repeated: pa.Table) -> None:
    """Bad rows under the file's name of today, and places that repeat a conversation of the pool."""
    names = pa.array([raw_file.file.file for raw_file in files])
    shard_numbers, rows = repeated.column("shard").to_numpy(), repeated.column("row").to_numpy()

    def batches() -> Iterator[pa.RecordBatch]:
        for raw_file, shard in zip(files, shards, strict=True):
            for batch in stream_parquet(store.layout.home / shard.quarantine):
                yield batch.set_column(3, "file", pa.array([raw_file.file.file] * batch.num_rows, pa.string()))
        yield from _repeated_rows(
            repeated.column("id"), pool.name, names.take(pa.array(shard_numbers)), _lines(store, shards, shard_numbers, rows)
        ).to_batches()

    draft.write("quarantine", batches(), schema.QUARANTINE)


def _repeated_rows(ids: pa.ChunkedArray, pool: str, file: pa.Array, line: np.ndarray) -> pa.Table:
    same = pa.array(np.zeros(len(ids), np.int64))

    def constant(text: str) -> pa.Array:
        return pa.array([text], pa.string()).take(same)

    detail = constant("the same conversation stands at an earlier place of the pool; both places are in provenance")
    columns = [constant("clean"), constant(REPEATED), constant(pool), file, pa.array(line, pa.int64()), id_column(id_array(ids)), detail, constant("")]
    return pa.table(columns, schema=schema.QUARANTINE)


def _lines(store: TableStore, shards: list[Shard], shard_numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The line of each (shard, row); (P,) int64."""
    lines = np.zeros(len(rows), np.int64)
    for number in np.unique(shard_numbers):
        of_shard = np.concatenate([b.column("line").to_numpy() for b in stream_parquet(store.layout.home / shards[number].shard, ["line"], 65_536)])
        mine = shard_numbers == number
        lines[mine] = of_shard[rows[mine]]
    return lines


def _write_provenance(
    store: TableStore, recipe: str, pool: PoolSettings, settings: dict[str, object], raw: Manifest, files: list[RawFile], shards: list[Shard],
    order: np.ndarray,
) -> Manifest:  # fmt: skip
    """Every place of every example, in order of id, file, line; its data version is that of its bytes."""
    parts = [_shard_places(store, shard, raw_file, pool.name) for raw_file, shard in zip(files, shards, strict=True)]
    table = pa.concat_tables([schema.PROVENANCE.empty_table(), *parts]).take(pa.array(order))
    draft = store.draft(f"provenance/{pool.name}", recipe)
    draft.write("places", table, schema.PROVENANCE)
    (path,) = [store.layout.home / file.path for file in draft.files]
    return draft.manifest(fingerprint=file_digest(path), settings=settings, parents={raw.key: raw.fingerprint}, counts=Counts(table.num_rows, table.num_rows))


def _shard_places(store: TableStore, shard: Shard, raw_file: RawFile, pool: str) -> pa.Table:
    parts = [pa.Table.from_batches([b]) for b in stream_parquet(store.layout.home / shard.shard, ["id", "line", "original_id", "source"], 65_536)]
    if not parts:
        return schema.PROVENANCE.empty_table()
    table = pa.concat_tables(parts)
    same = pa.array(np.zeros(table.num_rows, np.int64))
    return pa.table(
        [
            table.column("id"),
            pa.array([pool]).take(same),
            pa.array([raw_file.file.file]).take(same),
            *(table.column(n) for n in ("line", "original_id", "source")),
        ],
        schema=schema.PROVENANCE,
    )
