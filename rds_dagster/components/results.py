"""A stage's manifest -> what Dagster records of it, so that the UI plots the same figures for every asset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

PREVIEW_ROWS = 5
CELL_CHARS = 60
Metadata = dict[str, dg.MetadataValue | int | float | str]


def materialized(
    store: TableStore,
    manifest: Manifest,
    *,
    table: str | None = None,
    figures: Mapping[str, object] | None = None,
    columns_from: Mapping[str, list[str]] | None = None,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The result to return from an op.

    ``table``: which of the asset's tables to preview; ``figures``: what only this run knows (rows_computed, seconds, ...);
    ``columns_from``: column -> upstream columns as ``clean/dolly.id``.
    """
    metadata: Metadata = {
        "dagster/row_count": manifest.counts.kept,
        "rows_in": manifest.counts.rows_in,
        "fingerprint": manifest.fingerprint,
        "bytes": sum(file.bytes for file in manifest.files),
        **{f"dropped/{reason}": count for reason, count in manifest.counts.dropped.items()},
    }
    for name, value in (figures or {}).items():
        assert isinstance(value, (int, float, str)), name
        metadata[name] = value
    if table is not None:
        metadata.update(_table_metadata(store, manifest, table))
    if columns_from:
        metadata["dagster/column_lineage"] = dg.MetadataValue.column_lineage(_lineage(columns_from))
    return dg.MaterializeResult(asset_key=dg.AssetKey(manifest.key.split("/")), data_version=dg.DataVersion(manifest.fingerprint), metadata=metadata)


def table_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as Dagster shows it."""
    return dg.TableSchema([dg.TableColumn(field.name, str(field.type)) for field in schema])


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; cells are made harmless and short."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)])


def file_link(path: Path) -> dg.MetadataValue:
    """A path that people can open."""
    return dg.MetadataValue.path(str(path))


def _table_metadata(store: TableStore, manifest: Manifest, table: str) -> Metadata:
    paths = store.paths(manifest, table)
    schema = pq.read_schema(paths[0]) if paths else pa.schema([])
    narrow = [field.name for field in schema if not pa.types.is_nested(field.type)]
    head = _head(paths, narrow)
    rows = [[value.hex() if isinstance(value, bytes) else str(value) for value in row.values()] for row in head]
    return {"dagster/column_schema": dg.MetadataValue.table_schema(table_schema(schema)), "preview": dg.MetadataValue.md(markdown_table(narrow, rows))}


def _head(paths: list[Path], columns: list[str]) -> list[dict[str, object]]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PREVIEW_ROWS, columns=columns):
                if batch.num_rows:
                    rows: list[dict[str, object]] = batch.to_pylist()
                    return rows
    return []


def _lineage(columns_from: Mapping[str, list[str]]) -> dg.TableColumnLineage:
    deps = {}
    for column, sources in columns_from.items():
        split = [source.rsplit(".", 1) for source in sources]
        deps[column] = [dg.TableColumnDep(asset_key=dg.AssetKey(key.split("/")), column_name=name) for key, name in split]
    return dg.TableColumnLineage(deps_by_column=deps)


def _cell(value: str) -> str:
    flat = " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
    return flat if len(flat) <= CELL_CHARS else flat[: CELL_CHARS - 1] + "…"
