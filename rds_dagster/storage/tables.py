"""Parquet tables behind manifests: drafts that become current at once, readers that refuse what does not fit.

Files are named by the recipe that makes them, so a new version never overwrites the current one. Files that no current
manifest names are removed at the next commit of the same asset, so a reader that has just read a manifest still finds its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, fingerprint
from rds_dagster.storage.atomic import atomic_path, remove_partials, write_text
from rds_dagster.storage.ids import id_array
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest, TableFile, dump_manifests, load_manifests

JOINT_GROUPS = frozenset({"unique"})  # assets of these groups switch over together, by one manifest file
COMPRESSION = "zstd"
GROUP_ROWS = 65_536  # rows of a row group where a whole table is written
READ_BUFFER_BYTES = 64 * 2**10  # of one column
STREAM_ROWS = 16_384  # rows of a batch of narrow columns: batches of 65,536 peaked 20 MiB higher


@dataclass
class TableStore:
    """The Parquet tables of one project."""

    layout: Layout

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of an asset as last finished; None if it never was."""
        path = self._manifest_path(key)
        if key.split("/")[0] in JOINT_GROUPS and path.exists():
            return next((m for m in _joint(path.read_bytes(), str(path)) if m.key == key), None)
        return next((m for m in _read(path) if m.key == key), None)

    def need(self, key: str) -> Manifest:
        """The manifest of an asset; raises StateError with the mend if it is not there."""
        found = self.manifest(key)
        if found is None:
            raise StateError(f"{key} is not materialized yet; run `rds run '{key}'`")
        return found

    def manifests(self, group: str) -> list[Manifest]:
        """All finished assets of a group, by key."""
        folder = self.layout.manifests
        paths = [folder / f"{group}.json"] if group in JOINT_GROUPS else sorted((folder / group).rglob("*.json"))
        found = [m for path in paths for m in _read(path)]
        return sorted(found, key=lambda m: m.key)

    def all_manifests(self) -> list[Manifest]:
        """Every finished asset, by key."""
        paths = sorted(self.layout.manifests.rglob("*.json"))
        return sorted((m for path in paths for m in _read(path)), key=lambda m: m.key)

    def reusable(self, key: str, recipe: str) -> Manifest | None:
        """The current manifest if it was made by this recipe and all its files are there."""
        current = self.manifest(key)
        if current is None or current.recipe != recipe:
            return None
        return current if all((self.layout.home / file.path).exists() for file in current.files) else None

    def draft(self, key: str, recipe: str) -> Draft:
        """Files of a new version of an asset, invisible until committed."""
        return Draft(self, key, recipe)

    def commit(self, manifests: list[Manifest]) -> None:
        """Make manifests current: the moment at which their assets are finished. All must share one manifest file."""
        (path,) = {self._manifest_path(m.key) for m in manifests}
        for manifest in manifests:
            for file in manifest.files:
                if not (self.layout.home / file.path).exists():
                    raise StateError(f"{file.path} went before {manifest.key} was finished: another run makes the same asset; let it end and run again")
        before = _read(path)
        self._remove_unnamed({m.key for m in [*before, *manifests]}, {f.path for m in [*before, *manifests] for f in m.files})
        write_text(path, dump_manifests(sorted(manifests, key=lambda m: m.key)))

    def forget(self, key: str) -> None:
        """Remove an asset's manifest, and with the next commit of the same key its files; what stands with it in one manifest file stays."""
        path = self._manifest_path(key)
        left = [m for m in _read(path) if m.key != key]
        if left:
            write_text(path, dump_manifests(left))
        else:
            path.unlink(missing_ok=True)

    def paths(self, manifest: Manifest, table: str) -> list[Path]:
        """Absolute paths of one table's files; raises StateError if one is gone."""
        found = [self.layout.home / path for path in manifest.paths(table)]
        for path in found:
            if not path.exists():
                raise StateError(f"{path} of {manifest.key} is gone; run `rds run` to make it again")
        return found

    def read(self, manifest: Manifest, table: str, columns: list[str] | None = None) -> pa.Table:
        """One table of an asset, whole; for narrow columns only."""
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in self.paths(manifest, table)])

    def stream(self, manifest: Manifest, table: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """One table of an asset in stored order, batch by batch: a pool's tables are never held whole where that can be avoided."""
        for path in self.paths(manifest, table):
            yield from stream_parquet(path, columns, STREAM_ROWS)

    def ids(self, manifest: Manifest, table: str) -> np.ndarray:
        """The ids of one table, (N,) S16, in stored order."""
        ids, at = np.empty(manifest.rows(table), ID_DTYPE), 0
        for batch in self.stream(manifest, table, ["id"]):
            ids[at : at + batch.num_rows] = id_array(batch.column("id"))
            at += batch.num_rows
        return ids

    def _manifest_path(self, key: str) -> Path:
        group = key.split("/")[0]
        return self.layout.manifests / (f"{group}.json" if group in JOINT_GROUPS else f"{key}.json")

    def _remove_unnamed(self, keys: set[str], named: set[str]) -> None:
        for key in keys:
            folder = self.layout.tables / key
            if folder.exists():
                remove_partials(folder)
                for path in folder.glob("*.parquet"):
                    if str(path.relative_to(self.layout.home)) not in named:
                        path.unlink()


@dataclass
class Draft:
    """A new version of one asset's tables."""

    store: TableStore
    key: str
    recipe: str
    files: list[TableFile] = field(default_factory=list)

    def write(self, table: str, rows: pa.Table | Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema) -> int:
        """Write one table of the asset, whole or streamed; returns its rows."""
        path = self.store.layout.tables / self.key / f"{table}-{self.recipe}.parquet"
        num_rows = write_parquet(path, rows, schema)
        self.files.append(TableFile(table, str(path.relative_to(self.store.layout.home)), num_rows, path.stat().st_size))
        return num_rows

    def manifest(
        self,
        *,
        fingerprint: str,
        settings: Mapping[str, object],
        parents: Mapping[str, str],
        counts: Counts,
        details: Mapping[str, object] | None = None,
        more_files: Iterable[TableFile] = (),
    ) -> Manifest:
        """The manifest of what was written; not yet current."""
        return Manifest(self.key, fingerprint, self.recipe, settings, parents, counts, (*self.files, *more_files), details or {})


def make_recipe(stage: str, code: int, settings: object, parents: Mapping[str, str]) -> str:
    """What decides a stage's output: its name and code number, its settings and its parents' fingerprints."""
    return fingerprint(stage, code, settings, parents)


def write_parquet(path: Path, rows: pa.Table | Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema, *, plain: Sequence[str] = ()) -> int:
    """Write a Parquet file atomically; returns its rows. Equal tables give equal bytes, and so do equal rows in equal batches.

    A batch is a row group; one that would be large may come as a table, whose chunks (of a multiple of 1,024 rows) leave no trace in the bytes.
    ``plain``: columns whose values hardly ever repeat and lie anywhere, for which neither a dictionary nor compression nor least and largest values are made:
    65,536 ids and scores took 4.4 ms instead of 9.0 without the first, the files of a block a quarter less without the second, for 3% more bytes, and 0.4 ms
    less without the last.
    """
    batches = _row_groups(rows.cast(schema)) if isinstance(rows, pa.Table) else rows
    num_rows, coded = 0, [name for name in schema.names if name not in plain] if plain else True  # for all columns, or a list of them
    compression = {name: "NONE" if name in plain else COMPRESSION for name in schema.names} if plain else COMPRESSION
    with atomic_path(path) as partial, pq.ParquetWriter(partial, schema, compression=compression, use_dictionary=coded, write_statistics=coded) as writer:
        for batch in batches:
            if isinstance(batch, pa.Table):
                writer.write_table(batch)
            else:
                writer.write_batch(batch)
            num_rows += batch.num_rows
            del batch  # before the next one is made
            pa.default_memory_pool().release_unused()
    return num_rows


def _row_groups(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table in batches of GROUP_ROWS, however its columns are chunked."""
    for start in range(0, table.num_rows, GROUP_ROWS):
        yield from table.slice(start, GROUP_ROWS).combine_chunks().to_batches()


def stream_parquet(path: Path, columns: list[str] | None = None, batch_rows: int = 8192) -> Iterator[pa.RecordBatch]:
    """The batches of one Parquet file in order, without holding it whole.

    Columns are read through small buffers, by one thread, and Arrow's pool gives back what it keeps: so selecting from 500k examples of a pool
    peaked 40 MiB lower.
    """
    with pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False):
            yield batch
            pa.default_memory_pool().release_unused()


@lru_cache(maxsize=2)
def _joint(text: bytes, where: str) -> tuple[Manifest, ...]:
    """The manifests of one group's file, by its bytes: stages ask for those of many pools one after another, and parsing it each time was most of that."""
    return tuple(load_manifests(text, where=where))


def _read(path: Path) -> list[Manifest]:
    """The manifests of one file; none if it is not there."""
    return load_manifests(path.read_bytes(), where=str(path)) if path.exists() else []
