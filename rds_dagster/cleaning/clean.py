"""The shards of a pool -> its index (one row per distinct conversation) and its provenance (one row per place).

Assets clean/<pool> and provenance/<pool>. The shards hold the texts; everything here is narrow, and written in order of id a row group at a time:
about 70 bytes an example while it runs (from 50k to 5.8 million, `benchmarks/memory.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.cleaning.places import Places, first_of_each, ids_and_sources, in_order, read_places, sorted_order
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.shards import CODE as SHARD_CODE
from rds_dagster.cleaning.shards import Shard, make_shard, refuse_changed_file
from rds_dagster.errors import InputError
from rds_dagster.fingerprint import file_digest, fingerprint
from rds_dagster.pools.files import list_files
from rds_dagster.pools.look import RawFile, recorded_files
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.manifest import Counts, Manifest, TableFile
from rds_dagster.storage.tables import GROUP_ROWS, Draft, TableStore, make_recipe, stream_parquet

CODE = 1  # raise when the bytes of the index or the provenance would change
REPEATED = "repeated_in_pool"
LARGE_GROUP_ROWS = 1 << 20  # rows that pyarrow puts into one row group where it is given more at once


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
    places = read_places(store.layout, shards)
    order = sorted_order(places.ids)  # (P,)
    made = _Making(store, recipe, pool, settings, raw, files, shards, places, order, first_of_each(places.ids, order))
    clean, provenance = _write_clean(made), _write_provenance(made)
    store.commit([provenance])
    store.commit([clean])
    return CleanPool(clean, provenance, sum(s.records for s in shards if not s.reused), sum(s.records for s in shards if s.reused))


@dataclass(frozen=True)
class _Making:
    """What both assets of a pool are made from: ``order`` (P,) uint32 is its places by id, ``is_first`` (P,) bool, in that order, the first of each id."""

    store: TableStore
    recipe: str
    pool: PoolSettings
    settings: dict[str, object]
    raw: Manifest
    files: list[RawFile]
    shards: list[Shard]
    places: Places
    order: np.ndarray
    is_first: np.ndarray

    def draft(self, group: str) -> Draft:
        return self.store.draft(f"{group}/{self.pool.name}", self.recipe)

    def file_names(self, places: np.ndarray) -> pa.Array:
        """The file of each of (n,) places."""
        return pa.array([raw_file.file.file for raw_file in self.files]).take(pa.array(self.places.shard_and_row(places)[0]))


def _refuse_changes(files: list[RawFile], pool: PoolSettings, root: Path) -> None:
    now = {file.address: file for file in list_files(pool.source, root=root)}
    for raw_file in files:
        file = raw_file.file
        if file.address not in now:
            raise InputError(f"{file.address} of pool {pool.name} is gone since raw/{pool.name} was made; run again, the pool's last good state is kept")
        refuse_changed_file(now[file.address], stamp=file.stamp, size=file.size, pool=pool.name)


def _write_clean(made: _Making) -> Manifest:
    draft = made.draft("clean")
    names, sources = _smallest_sources(made)
    first = made.order[made.is_first]  # (N,)
    num_chars = made.places.numbers("num_chars")
    draft.write("index", _index(made.places, first, names, sources, num_chars), schema.CLEAN)
    content = clean_fingerprint((made.places.ids[first[start : start + GROUP_ROWS]] for start in range(0, len(first), GROUP_ROWS)), sources, names)
    repeated = made.order[~made.is_first]  # (P - N,)
    draft.write("quarantine", _quarantine(made, repeated), schema.QUARANTINE)
    dropped = Counter[str]()
    for shard in made.shards:
        dropped.update(shard.dropped)
    dropped[REPEATED] = len(repeated)
    counts = Counts(sum(shard.records for shard in made.shards), len(first), {reason: n for reason, n in sorted(dropped.items()) if n})
    return draft.manifest(
        fingerprint=fingerprint("clean", content, counts.dropped),  # a new loss is news to reports and to SQL over quarantine
        settings=made.settings,
        parents={made.raw.key: made.raw.fingerprint},
        counts=counts,
        details={"chars": int(num_chars[first].sum(dtype=np.int64))},
        more_files=[TableFile("shard", shard.shard, shard.rows, shard.bytes) for shard in made.shards],
    )


def _smallest_sources(made: _Making) -> tuple[list[str], np.ndarray]:
    """All sources in order of the alphabet; for each id the number of the first of those that its places name, (N,) int32."""
    names, codes = made.places.sources()
    starts = np.flatnonzero(made.is_first)
    return names, np.minimum.reduceat(codes[made.order], starts) if len(starts) else codes


def _index(places: Places, first: np.ndarray, names: list[str], sources: np.ndarray, num_chars: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Rows of CLEAN: of each id its first place, and its source."""
    known = pa.array(names, pa.string())
    keys, num_messages = places.numbers("duplicate_key"), places.numbers("num_messages")
    for start in range(0, len(first), GROUP_ROWS):
        rows = first[start : start + GROUP_ROWS]
        source = known.take(pa.array(sources[start : start + GROUP_ROWS]))
        columns = [id_column(places.ids[rows]), id_column(keys[rows]), source, num_messages[rows], num_chars[rows], *places.shard_and_row(rows)]
        yield pa.record_batch(columns, schema=schema.CLEAN)


def clean_fingerprint(ids: Iterable[np.ndarray], sources: np.ndarray, names: Sequence[str]) -> str:
    """The data version of a table of ids and sources in id order (CLEAN or UNIQUE).

    ids in parts, S16; each row's source as a number (N,) int32 among ``names``, which are in order of the alphabet.
    """
    return fingerprint("ids and sources", *ids_and_sources(ids, sources, names))


def _quarantine(made: _Making, repeated: np.ndarray) -> Iterator[pa.RecordBatch | pa.Table]:
    """Bad rows under the file's name of today, and places that repeat a conversation of the pool."""
    for raw_file, shard in zip(made.files, made.shards, strict=True):
        for batch in stream_parquet(made.store.layout.home / shard.quarantine):
            yield batch.set_column(3, "file", pa.array([raw_file.file.file] * batch.num_rows, pa.string()))
    lines = made.places.numbers("line") if len(repeated) else np.empty(0, np.int64)
    for start in range(0, len(repeated), LARGE_GROUP_ROWS):
        places = repeated[start : start + LARGE_GROUP_ROWS]
        parts = [places[at : at + GROUP_ROWS] for at in range(0, len(places), GROUP_ROWS)]
        yield pa.Table.from_batches([_repeated_rows(made, part, lines[part]) for part in parts], schema.QUARANTINE)


def _repeated_rows(made: _Making, places: np.ndarray, lines: np.ndarray) -> pa.RecordBatch:
    detail = "the same conversation stands at an earlier place of the pool; both places are in provenance"
    stage, reason, pool, why, nothing = (_constant(text, len(places)) for text in ("clean", REPEATED, made.pool.name, detail, ""))
    columns = [stage, reason, pool, made.file_names(places), pa.array(lines), id_column(made.places.ids[places]), why, nothing]
    return pa.record_batch(columns, schema=schema.QUARANTINE)


@lru_cache(maxsize=8)
def _constant(text: str, rows: int) -> pa.Array:
    """The same text in every row; kept, so that equal parts of a large row group share it."""
    return pa.repeat(text, rows)


def _write_provenance(made: _Making) -> Manifest:
    """Every place of every example, in order of id, file, line; its data version is that of its bytes."""
    draft = made.draft("provenance")
    rows = draft.write("places", _provenance(made), schema.PROVENANCE)
    (path,) = [made.store.layout.home / file.path for file in draft.files]
    return draft.manifest(fingerprint=file_digest(path), settings=made.settings, parents={made.raw.key: made.raw.fingerprint}, counts=Counts(rows, rows))


def _provenance(made: _Making) -> Iterator[pa.RecordBatch]:
    lines = made.places.numbers("line")
    names, codes = made.places.sources()
    known, at = pa.array(names, pa.string()), 0
    for original in in_order(made.places.batches("original_id"), made.order, made.store.layout.shards):
        places = made.order[at : at + len(original)]
        pool = _constant(made.pool.name, len(places))
        source = known.take(pa.array(codes[places]))
        columns = [id_column(made.places.ids[places]), pool, made.file_names(places), pa.array(lines[places]), original, source]
        yield pa.record_batch(columns, schema=schema.PROVENANCE)
        at += len(places)
