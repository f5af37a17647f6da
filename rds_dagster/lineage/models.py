"""The stage of SQL models: run one model in the warehouse, keep its rows as Parquet, land them as a table.

A model sees exactly its parents: ``mixtures.all`` is narrowed to the mixtures given as parents, so that what an instance left
behind after it was removed from the project cannot slip in. It runs on one thread, so that its bytes do not depend on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.fingerprint import DIGEST_BYTES
from rds_dagster.lineage.sql import ALL, ALL_GROUPS, INSTANCE_COLUMNS, SqlModel, TableName, column_lineage, expand, members
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import Draft, TableStore, make_recipe
from rds_dagster.storage.warehouse import Warehouse

STAGE = "sql model"
CODE = 1  # raise when the same SQL over the same inputs gives other bytes
TABLE = "rows"
BATCH_ROWS = 65_536
THREADS = 1  # with more, sums of floats differ in their last bits. Mean by task and bin of 20 million scores: 0.7 s with 1 thread, 0.9 s with 2 (2 cores)

MENDS = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError)  # the SQL is at fault; other errors are the state's (disk, memory, files)


def materialize_model(store: TableStore, warehouse: Warehouse, model: SqlModel, parents: Mapping[str, str]) -> Manifest:
    """The finished model ``<schema>/<name>``, its table ``rows`` landed in the warehouse; reused where SQL and parents are the same.

    ``parents`` maps the key of every asset that the model depends on to its fingerprint. The manifest's fingerprint is over the
    rows, their order included; ``details`` holds ``columns``, a list of [name, DuckDB type], and ``lineage``, column -> list of [asset key, column]
    (or ``lineage_problem``, why it cannot be read). Raises StateError if an ``all`` has no instance, or a parent is missing or has another
    fingerprint by now; SettingsError naming the model's file, with DuckDB's words, if the SQL does not run.
    """
    _check_parents(store, model, parents)
    recipe = make_recipe(STAGE, CODE, {"sql": model.code}, parents)
    current = store.reusable(model.key, recipe)
    if current is not None:
        return current
    draft = store.draft(model.key, recipe)
    with warehouse.connect() as connection:
        manifest = _run(connection, draft, model, parents)
    store.commit([manifest])
    with warehouse.connect():  # lands the new rows
        return manifest


@dataclass
class RowsDigest:
    """BLAKE2b over the names and types of columns and over rows in their order, however these come in batches."""

    schema: pa.Schema
    _hash: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=DIGEST_BYTES))

    def __post_init__(self) -> None:
        self._hash.update(_text([[column.name, str(column.type)] for column in self.schema]))

    def watch(self, batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """The same batches, each counted in as it passes."""
        for batch in batches:
            rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            self._hash.update(_text(rows)[1:-1] + b"," if rows else b"")
            yield batch

    def hex(self) -> str:
        """32 hex digits over what has passed."""
        return self._hash.hexdigest()


def _check_parents(store: TableStore, model: SqlModel, parents: Mapping[str, str]) -> None:
    for schema, table in sorted(model.dependencies):
        if table == ALL and schema in ALL_GROUPS and not members(schema, parents):
            groups = " or ".join(ALL_GROUPS[schema])
            raise StateError(f"SQL model {model.file} reads {schema}.all, but the project has no asset in group {groups}; add one, or remove the model")
    for key in expand(model.dependencies, parents, file=model.file):
        now = store.need(key).fingerprint
        if now != parents[key]:
            raise StateError(f"SQL model {model.file}: {key} has fingerprint {now} by now, expected {parents[key]}; run again")


def _run(connection: duckdb.DuckDBPyConnection, draft: Draft, model: SqlModel, parents: Mapping[str, str]) -> Manifest:
    with _rolled_back(connection), _told(model):
        _narrow_unions(connection, model, parents)
        relation = connection.sql(model.sql)
        columns = [[name, str(kind)] for name, kind in zip(relation.columns, relation.types, strict=True)]
        _check_columns(model, relation.columns)
        with relation.to_arrow_reader(BATCH_ROWS) as reader:
            digest = RowsDigest(reader.schema)
            num_rows = draft.write(TABLE, digest.watch(reader), reader.schema)
        details = {"columns": columns, **_lineage(connection, model, relation.columns, parents)}
    settings = {"sql": model.sql, "code": model.code}
    return draft.manifest(fingerprint=digest.hex(), settings=settings, parents=parents, counts=Counts(num_rows, num_rows), details=details)


@contextmanager
def _rolled_back(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One thread, and a transaction that leaves nothing behind."""
    connection.execute(f"set threads = {THREADS}")
    connection.execute("begin")
    try:
        yield
    finally:
        connection.execute("rollback")


@contextmanager
def _told(model: SqlModel) -> Iterator[None]:
    """DuckDB's and Arrow's errors as ours, naming the model's file."""
    try:
        yield
    except MENDS as error:
        raise SettingsError(f"SQL model {model.file} does not run; DuckDB says: {error}") from error
    except duckdb.Error as error:
        raise StateError(f"SQL model {model.file} stopped; DuckDB says: {error}") from error
    except pa.ArrowNotImplementedError as error:
        raise SettingsError(f"SQL model {model.file} has a column that Parquet cannot hold ({error}); cast it, for example to varchar") from error


def _narrow_unions(connection: duckdb.DuckDBPyConnection, model: SqlModel, parents: Mapping[str, str]) -> None:
    for schema, table in sorted(model.dependencies):
        if table == ALL and schema in ALL_GROUPS:
            columns = INSTANCE_COLUMNS[schema]
            names = sorted({tuple(key.split("/")[1:]) for key in members(schema, parents)})
            wanted = ", ".join("(" + ", ".join(f"'{part}'" for part in name) + ")" for name in names)  # names match [a-z][a-z0-9_]*
            connection.execute(f'alter view "{schema}"."all" rename to "all_stored"')
            connection.execute(f'create view "{schema}"."all" as select * from "{schema}"."all_stored" where ({", ".join(columns)}) in ({wanted})')


def _check_columns(model: SqlModel, columns: list[str]) -> None:
    names = [name.lower() for name in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"SQL model {model.file} gives column {', '.join(twice)} more than once; give each its own name with `as`")


def _lineage(connection: duckdb.DuckDBPyConnection, model: SqlModel, columns: list[str], parents: Mapping[str, str]) -> dict[str, object]:
    columns_of: dict[TableName, list[str]] = {name: connection.table(f'"{name[0]}"."{name[1]}"').columns for name in model.dependencies}
    try:
        found = list(column_lineage(model, columns_of, parents).values())
        if len(found) != len(columns):
            raise StateError(f"the column lineage of SQL model {model.file} has {len(found)} columns, its rows {len(columns)}; name each column with `as`")
        return {"lineage": dict(zip(columns, found, strict=True))}  # in DuckDB's spelling of the names
    except StateError as error:  # DuckDB ran it, so the model stands; what is missing is said in the manifest
        return {"lineage_problem": str(error)}


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)  # dates, times, decimals
