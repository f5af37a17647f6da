"""One mixture version -> training files. Rows stand in the order of picking; equal versions give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TextIO, get_args

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.cleaning.texts import tidy
from rds_dagster.errors import unknown_choice
from rds_dagster.storage.atomic import atomic_path
from rds_dagster.storage.ids import id_array, positions_in
from rds_dagster.storage.tables import write_parquet

ExportFormat = Literal["messages", "parquet"]

EXPORTED = pa.schema([
    *(field if field.name != "id" else pa.field("id", pa.string()) for field in schema.SELECTED),
    *(pa.field(name, schema.PROVENANCE.field(name).type) for name in ("file", "line", "original_id")),
    pa.field("num_places", pa.int32()),
])  # fmt: skip
"""SELECTED with the id in hex, the first place in the owning pool, and the number of places over all pools."""


def write_export(export_format: str, examples: pa.Table, places: pa.Table, folder: Path) -> Path:
    """Write one format into ``folder``; examples is SELECTED, places PROVENANCE; returns the file."""
    if export_format not in get_args(ExportFormat):
        raise unknown_choice("the export format", export_format, get_args(ExportFormat))
    write, name = FORMATS[export_format]
    path = folder / name
    write(examples, places, path)
    return path


def write_messages(examples: pa.Table, places: pa.Table, path: Path) -> None:
    """JSON Lines: id (hex), source, messages, and every place where the example stands."""
    found = _places_by_id(places)
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        for batch in examples.select(["id", "source", "messages"]).to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                _write_line(stream, {"id": row["id"].hex(), "source": row["source"], "messages": _trainable(row["messages"]), "provenance": found(row["id"])})


def write_table(examples: pa.Table, places: pa.Table, path: Path) -> None:
    """Parquet: one row per example (EXPORTED)."""
    ids, place_ids = id_array(examples.column("id")), id_array(places.column("id"))  # places are in id order
    owner = examples.column("pool").to_pylist()
    low, high = np.searchsorted(place_ids, ids, side="left"), np.searchsorted(place_ids, ids, side="right")
    pools = np.array(places.column("pool").to_pylist(), object)
    first = [next((p for p in range(a, b) if pools[p] == pool), a) for a, b, pool in zip(low, high, owner, strict=True)]
    at = pa.array([place if b > a else None for place, a, b in zip(first, low, high, strict=True)], pa.int64())
    columns = [examples.column(name) if name != "id" else pa.array([i.as_py().hex() for i in examples.column("id")]) for name in schema.SELECTED.names]
    columns += [places.column(name).take(at) for name in ("file", "line", "original_id")]
    write_parquet(path, pa.table([*columns, pa.array((high - low).astype(np.int32))], schema=EXPORTED), EXPORTED)


FORMATS: dict[str, tuple[Callable[[pa.Table, pa.Table, Path], None], str]] = {
    "messages": (write_messages, "messages.jsonl"),
    "parquet": (write_table, "examples.parquet"),
}


def _places_by_id(places: pa.Table) -> Callable[[bytes], list[dict[str, object]]]:
    ids = id_array(places.column("id"))
    rows = places.drop_columns(["id"])

    def found(example: bytes) -> list[dict[str, object]]:
        start, is_there = positions_in(ids, np.array([example], ids.dtype))
        end = np.searchsorted(ids, np.array([example], ids.dtype), side="right")
        listed: list[dict[str, object]] = rows.slice(int(start[0]), int(end[0] - start[0])).to_pylist() if is_there[0] else []
        return listed

    return found


def _trainable(messages: list[dict[str, str | None]]) -> list[dict[str, object]]:
    """Messages as trainers read them: tool calls as JSON values again."""
    return [{name: json.loads(value) if name == "tool_calls" else value for name, value in message.items()} for message in map(dict, tidy(messages))]  # type: ignore[arg-type]


def _write_line(stream: TextIO, row: dict[str, object]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
