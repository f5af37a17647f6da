"""Embeddings in LanceDB: one append-only table per encoder fingerprint, one row per example id.

An append is one atomic commit: after a kill a chunk is there or it is not. Rows are read back in the order in which they were written.
What `rds prune` does to a table (rows leave it, it is compacted) is one commit too, and keeps that order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.storage.atomic import writable
from rds_dagster.storage.ids import id_array, id_column, positions_in
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.locks import held

if TYPE_CHECKING:  # imported late elsewhere: 1.4 s
    import lancedb

READ_ROWS = 8192  # rows per batch asked of LanceDB
# Vectors are read in slices of at most so many bytes: LanceDB decodes in threads of its own, and each keeps what its largest buffer took. Reading 500k x 384
# so kept 16 MiB; slices of 4 MiB kept 40, of 16 MiB 72, the whole as much. 500k took 0.55 s instead of 0.25 s; at 1,400 fragments a slice costs 1.5 ms.
SLICE_BYTES = 2 * 2**20
TIDY_TRIES, TIDY_PAUSE_S = 10, 0.01  # merging may end within a millisecond, and what it merged is too young to go: seen once in 160 times on a busy machine
TABLE_PREFIX, TABLE_SUFFIX = "embeddings_", ".lance"  # LanceDB: one folder per table
DROPPED_SUFFIX = ".dropped"  # of a table's folder while it is removed; a kill leaves it, the next removal takes it along


@dataclass(frozen=True)
class VectorStore:
    """The vectors that one encoder made: ``encoder`` is its fingerprint (hex), ``dims`` its hidden size D."""

    layout: Layout
    encoder: str
    dims: int

    @property
    def table_name(self) -> str:
        """Name of the LanceDB table."""
        return f"{TABLE_PREFIX}{self.encoder}"

    @property
    def folder(self) -> Path:
        """Where LanceDB keeps the table."""
        return self.layout.vectors / f"{self.table_name}{TABLE_SUFFIX}"

    def writing(self, timeout_s: float = 3600.0) -> AbstractContextManager[None]:
        """Hold the right to append; one process at a time, so that no id is written twice."""
        return held(self.layout.locks / f"{self.table_name}.lock", what=f"the vector table {self.table_name}", timeout_s=timeout_s)

    def num_rows(self) -> int:
        """How many vectors are stored."""
        table = self._open()
        return 0 if table is None else int(table.count_rows())

    def ids(self) -> np.ndarray:
        """All stored ids, (N,) S16, in the order in which they were written."""
        ids, at = np.empty(self.num_rows(), ID_DTYPE), 0
        for batch in self.stream(["id"], rows=len(ids)):
            ids[at : at + batch.num_rows] = id_array(batch.column("id"))
            at += batch.num_rows
        return ids

    def append(self, ids: np.ndarray, vectors: np.ndarray, num_tokens: np.ndarray, made_on: str) -> None:
        """Add a chunk in one commit; ids (n,) S16, vectors (n, D) float16 of norm 1, num_tokens (n,) int32. Call inside ``writing()``.

        Raises StateError for a wrong dtype or shape, for values that are not finite, and where LanceDB cannot write; what was stored stays.
        """
        if vectors.shape != (len(ids), self.dims) or vectors.dtype != np.float16:
            raise StateError(f"vectors are {vectors.dtype} {vectors.shape}; {self.table_name} takes float16 ({len(ids)}, {self.dims})")
        is_finite = np.isfinite(vectors).all(axis=1)
        if not is_finite.all():
            first = bytes(ids[~is_finite][0]).ljust(16, b"\0").hex()
            raise StateError(
                f"{int((~is_finite).sum())} vectors are not finite in float16, such as that of example {first}; set the encoder's dtype to float32"
            )
        rows = pa.table(
            [
                id_column(ids),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dims),
                pa.array(num_tokens, pa.int32()),
                pa.repeat(made_on, len(ids)),
            ],
            schema=schema.vectors(self.dims),
        )
        table = self._open()
        try:
            if table is None:
                self._database().create_table(self.table_name, data=rows, schema=schema.vectors(self.dims))
            else:
                table.add(rows)
        except RuntimeError as error:  # LanceDB's one class for a full disk, a read-only one and the like
            raise StateError(
                f"{len(ids):,} vectors cannot be added to {self.table_name} ({error}); mend the disk and run again, the vectors stored before are untouched"
            ) from error

    def stream(self, columns: list[str], *, start: int = 0, rows: int | None = None, slice_bytes: int | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of the named columns in written order; ``start`` and ``rows`` cut out a part, ``slice_bytes`` (SLICE_BYTES) of vectors are read at once."""
        table = self._open()
        if table is None:
            return
        stop = table.count_rows() if rows is None else start + rows
        size = slice_rows(self.dims, slice_bytes or SLICE_BYTES) if "vector" in columns else max(stop - start, 1)
        for at in range(start, stop, size):
            yield from table.search().select(columns).offset(at).limit(min(size, stop - at)).to_batches(READ_ROWS)

    def num_bytes(self) -> int:
        """Bytes on disk, old versions of the table included."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def retain(self, live: np.ndarray) -> int:
        """Leave the rows of ``live`` (N,) S16, sorted, and no others, in the order in which they were written; returns how many went.

        Call inside ``writing()``. One commit over a copy of what stays, so for a while both are on disk; ``tidy`` frees the old one.
        Raises StateError where LanceDB cannot write.
        """
        table = self._open()
        rows = 0 if table is None else table.count_rows()
        if table is None or positions_in(live, self.ids())[1].all():
            return 0
        with self._written("rows cannot be taken out of"):
            table.add(pa.RecordBatchReader.from_batches(schema.vectors(self.dims), self._rows_of(live)), mode="overwrite")
        return rows - self.num_rows()

    def has_old_versions(self) -> bool:
        """Whether there is anything for ``tidy`` to do."""
        return len(self._versions()) > 1

    def tidy(self) -> None:
        """Merge the chunks as they were appended into large ones and remove every old version and what killed appends left. Call inside ``writing()``.

        A reader that opened the table before may find its files gone. Raises StateError where LanceDB cannot write.
        """
        if (table := self._open()) is not None:
            with self._written("chunks cannot be merged in"):
                for _ in range(TIDY_TRIES):
                    table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)  # at 0 LanceDB warns of readers
                    if not self.has_old_versions():
                        break
                    time.sleep(TIDY_PAUSE_S)

    def drop(self) -> None:
        """Remove the whole table: at once for whoever opens it, then from the disk. Call inside ``writing()``."""
        with writable(self.folder):
            remove_dropped(self.layout)
            if self.folder.exists():
                self.folder.rename(self.folder.with_suffix(DROPPED_SUFFIX))
            remove_dropped(self.layout)

    def made_on(self) -> list[str]:
        """The device kinds and library versions that made the stored vectors, sorted."""
        try:
            return self._read_made_on()
        except RuntimeError:  # LanceDB's one class: the version that was open has gone with `rds prune`; one of them is always there
            return self._read_made_on()

    def _read_made_on(self) -> list[str]:
        found: set[str] = set()
        for batch in self.stream(["made_on"]):
            found.update(batch.column("made_on").unique().to_pylist())
        return sorted(found)

    def _database(self) -> lancedb.DBConnection:
        import lancedb

        return lancedb.connect(self.layout.vectors)

    def _open(self) -> lancedb.Table | None:
        if not self._versions():  # a kill before the first commit leaves the folder
            return None
        return self._database().open_table(self.table_name)

    def _versions(self) -> list[Path]:
        return list((self.folder / "_versions").glob("*.manifest"))

    def _rows_of(self, live: np.ndarray) -> Iterator[pa.RecordBatch]:
        for batch in self.stream(schema.vectors(self.dims).names):
            yield batch.filter(pa.array(positions_in(live, id_array(batch.column("id")))[1]))

    @contextmanager
    def _written(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # LanceDB's one class for a full disk, a read-only one and the like
            raise StateError(f"{what} {self.table_name} ({error}); mend the disk and run again, the vectors are untouched") from error


def stored_tables(layout: Layout) -> list[VectorStore]:
    """The tables of all encoders, by name; ``dims`` is 0 where a kill before the first commit left a folder."""
    found = []
    for folder in sorted(layout.vectors.glob(f"{TABLE_PREFIX}*{TABLE_SUFFIX}")):
        vectors = VectorStore(layout, folder.name.removeprefix(TABLE_PREFIX).removesuffix(TABLE_SUFFIX), 0)
        table = vectors._open()
        found.append(vectors if table is None else VectorStore(layout, vectors.encoder, table.schema.field("vector").type.list_size))
    return found


def remove_dropped(layout: Layout) -> int:
    """Remove the folders of tables whose removal was killed; returns their bytes."""
    freed = 0
    for folder in layout.vectors.glob(f"{TABLE_PREFIX}*{DROPPED_SUFFIX}"):
        freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
    return freed


def slice_rows(dims: int, slice_bytes: int) -> int:
    """Rows of a slice: the largest power of two whose vectors fit ``slice_bytes``, so that slices keep to the chunks as they were written."""
    return 1 << ((slice_bytes // (2 * dims)).bit_length() - 1)


def vector_array(column: pa.ChunkedArray | pa.Array, dims: int) -> np.ndarray:
    """Arrow fixed_size_list<float16> as (N, D) float16; the memory of the column itself where that is one chunk, to read only."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dims) for chunk in chunks if len(chunk)]
    if len(parts) == 1:
        (whole,) = parts
        return np.asarray(whole)
    return np.concatenate(parts) if parts else np.empty((0, dims), np.float16)
