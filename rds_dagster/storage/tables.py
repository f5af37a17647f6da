"""Parquet tables behind manifests: drafts that become current at once, readers that refuse what does not fit.

Files are named by the recipe that makes them, so a new version never overwrites the current one. Files that no current
manifest names are removed at the next commit of the same asset, so a reader that has just read a manifest still finds its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, fingerprint
from rds_dagster.storage.atomic import atomic_path, remove_partials, write_text
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest, TableFile, dump_manifests, load_manifests

JOINT_GROUPS = frozenset({"unique"})  # assets of these groups switch over together, by one manifest file
COMPRESSION = "zstd"


@dataclass
class TableStore:
    """The Parquet tables of one project."""

    layout: Layout

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of an asset as last finished; None if it never was."""
        path = self._manifest_path(key)
        if not path.exists():
            return None
        return next((m for m in load_manifests(path.read_text(), where=str(path)) if m.key == key), None)

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
        found = [m for path in paths if path.exists() for m in load_manifests(path.read_text(), where=str(path))]
        return sorted(found, key=lambda m: m.key)

    def all_manifests(self) -> list[Manifest]:
        """Every finished asset, by key."""
        paths = sorted(self.layout.manifests.rglob("*.json"))
        return sorted((m for path in paths for m in load_manifests(path.read_text(), where=str(path))), key=lambda m: m.key)

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
        before = load_manifests(path.read_text(), where=str(path)) if path.exists() else []
        self._remove_unnamed({m.key for m in [*before, *manifests]}, {f.path for m in [*before, *manifests] for f in m.files})
        write_text(path, dump_manifests(sorted(manifests, key=lambda m: m.key)))

    def forget(self, key: str) -> None:
        """Remove an asset's manifest; its files go with the next commit of the same key."""
        self._manifest_path(key).unlink(missing_ok=True)

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

    def ids(self, manifest: Manifest, table: str) -> np.ndarray:
        """The ids of one table, (N,) S16, in stored order."""
        return id_array(self.read(manifest, table, ["id"]).column("id"))

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

    def write(self, table: str, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
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


def write_parquet(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write a Parquet file atomically, zstd-compressed; returns its rows. Equal rows in equal batches give equal bytes."""
    batches = rows.cast(schema).to_batches(max_chunksize=65_536) if isinstance(rows, pa.Table) else rows
    num_rows = 0
    with atomic_path(path) as partial, pq.ParquetWriter(partial, schema, compression=COMPRESSION) as writer:
        for batch in batches:
            writer.write_batch(batch)
            num_rows += batch.num_rows
    return num_rows


def id_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Arrow fixed_size_binary(16) as (N,) S16, copied once."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_chunk_bytes(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty(0, ID_DTYPE)


def id_column(ids: np.ndarray) -> pa.Array:
    """(N,) S16 as Arrow fixed_size_binary(16), without a Python object per id."""
    packed = np.ascontiguousarray(ids.astype(ID_DTYPE, copy=False))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(packed), [None, pa.py_buffer(packed)])


def positions_in(sorted_ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``wanted`` (M,) S16 stands in ``sorted_ids`` (N,) S16: (M,) int64 positions, (M,) bool whether it is there at all."""
    if not len(sorted_ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.searchsorted(sorted_ids, wanted).clip(max=len(sorted_ids) - 1)
    return places, sorted_ids[places] == wanted


def stream_parquet(path: Path, columns: list[str] | None = None, batch_rows: int = 8192) -> Iterator[pa.RecordBatch]:
    """The batches of one Parquet file in order, without holding it whole."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=columns)


def _chunk_bytes(chunk: pa.Array) -> np.ndarray:
    assert chunk.null_count == 0, "an id is never null"
    buffer = chunk.buffers()[1]
    return np.frombuffer(buffer, ID_DTYPE, count=len(chunk), offset=chunk.offset * ID_DTYPE.itemsize).copy()
