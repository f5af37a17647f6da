"""The DuckDB warehouse: every finished table under its asset's name, for SQL models and for people.

DuckDB lets in one process at a time, so a connection is short and stands behind a file lock. The file holds nothing that cannot
be made again: views over Parquet are laid anew at every connect, and the tables of scores and SQL models are landed again from
their Parquet files when they are missing or of another fingerprint. Delete the file whenever you like.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from rds_dagster.errors import StateError
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.locks import held
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

LOCK_TIMEOUT_S = 600.0
LANDED = ("scores", "rows")  # tables of these names (of scores, of SQL models) are landed; the others are views

VIEWS = {"raw": "files", "clean": "index", "provenance": "places", "unique": "kept", "queries": "queries", "test_items": "items", "mixtures": "examples"}
"""Group -> which of the asset's tables its view shows."""

OWNER_COLUMN = {"raw": "pool", "clean": "pool", "unique": "pool", "queries": "task", "test_items": "task", "mixtures": "mixture"}
"""Group -> the column that its ``all`` view puts first (``provenance`` has its pool already)."""


@dataclass(frozen=True)
class Warehouse:
    """The warehouse of one project."""

    layout: Layout

    @contextmanager
    def connect(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the file with all views and tables in place; raises BusyError naming the holder after ``timeout_s``.

        Raises StateError where a table's file is gone, or the warehouse is damaged or open in a program that knows no lock.
        """
        with self._locked(timeout_s) as connection:
            try:
                self._lay_views(connection)
                self._land_tables(connection)
            except duckdb.Error as error:
                raise _unusable(str(self.layout.warehouse), error) from error
            yield connection

    def land(self, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Bring the tables of scores and SQL models up to date and leave the views alone, so that a view whose file is gone is no hindrance."""
        with self._locked(timeout_s) as connection:
            try:
                self._land_tables(connection)
            except duckdb.Error as error:
                raise _unusable(str(self.layout.warehouse), error) from error

    @contextmanager
    def in_memory(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The same names over the same Parquet files in a private in-memory DuckDB; needs no lock, never waits."""
        with self._open(":memory:") as connection:
            self._lay_views(connection)
            for manifest in self._landed_manifests():
                _create(connection, "view", *landing_name(manifest.key), _landing_query(self.layout, manifest))
            self._lay_scores_all(connection)
            yield connection

    @contextmanager
    def _locked(self, timeout_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
        with held(self.layout.locks / "warehouse.lock", what=f"the warehouse {self.layout.warehouse}", timeout_s=timeout_s):
            self.layout.home.mkdir(parents=True, exist_ok=True)
            with self._open(str(self.layout.warehouse)) as connection:
                yield connection

    @contextmanager
    def _open(self, where: str) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            connection = duckdb.connect(where)
        except duckdb.IOException as error:
            raise _unusable(where, error) from error
        try:
            spill = self.layout.home / "duckdb_spill"
            connection.execute(f"set temp_directory = {_quoted(str(spill))}")
            connection.execute("set enable_progress_bar = false")
            connection.execute("set preserve_insertion_order = true")
            yield connection
        finally:
            connection.close()

    def _lay_views(self, connection: duckdb.DuckDBPyConnection) -> None:
        store = TableStore(self.layout)
        for schema in _view_schemas(connection):
            connection.execute(f'drop schema if exists "{schema}" cascade')
        for group, table in VIEWS.items():
            queries = {m.key.split("/", 1)[1]: _parquet(self.layout, m, table) for m in store.manifests(group)}
            for name, query in queries.items():
                _create(connection, "view", group, name, f"select * from {query}")
            _union(connection, group, queries, OWNER_COLUMN.get(group))
        losses = {f"{m.key}": _parquet(self.layout, m, "quarantine") for group in ("clean", "unique") for m in store.manifests(group) if m.paths("quarantine")}
        _union(connection, "quarantine", losses, None)

    def _landed_manifests(self) -> list[Manifest]:
        return [m for m in TableStore(self.layout).all_manifests() if any(file.table in LANDED for file in m.files)]

    def _land_tables(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("create table if not exists landed (name varchar primary key, fingerprint varchar)")
        there = dict(connection.execute("select name, fingerprint from landed").fetchall())
        wanted = {m.key: m for m in self._landed_manifests()}
        for key, manifest in wanted.items():
            if there.get(key) != manifest.fingerprint:
                connection.execute("begin")
                _create(connection, "table", *landing_name(manifest.key), _landing_query(self.layout, manifest))
                connection.execute("insert or replace into landed values (?, ?)", [key, manifest.fingerprint])
                connection.execute("commit")
        for key in there.keys() - wanted.keys():
            schema, name = landing_name(key)
            connection.execute(f'drop table if exists "{schema}"."{name}"')
            connection.execute("delete from landed where name = ?", [key])
        self._lay_scores_all(connection)

    def _lay_scores_all(self, connection: duckdb.DuckDBPyConnection) -> None:
        parts = []
        for manifest in self._landed_manifests():
            if not manifest.paths("scores"):
                continue
            schema, name = landing_name(manifest.key)
            parts.append(f'select {_quoted(schema.removeprefix("scores_"))} as method, {_quoted(name)} as task, * from "{schema}"."{name}"')
        connection.execute("drop schema if exists scores cascade")
        if parts:
            _create(connection, "view", "scores", "all", " union all ".join(parts))


def landing_name(key: str) -> tuple[str, str]:
    """The DuckDB schema and table of a landed asset: ``scores/rds/gsm8k`` is ``scores_rds.gsm8k``, ``reports/overlap`` is ``reports.overlap``."""
    *schema, name = key.split("/")
    return "_".join(schema), name


def _landing_query(layout: Layout, manifest: Manifest) -> str:
    if manifest.paths("rows"):
        return f"select * from {_parquet(layout, manifest, 'rows')}"
    names = f"(select query, (row_number() over () - 1)::integer as number from {_parquet(layout, manifest, 'queries')})"
    return f"select s.id, s.score, q.query as best_query from {_parquet(layout, manifest, 'scores')} s join {names} q on q.number = s.best_query order by s.id"


def _unusable(where: str, error: duckdb.Error) -> StateError:
    return StateError(f"{where} cannot be opened ({error}); close the program that has it open, or delete the file: it is rebuilt")


def _parquet(layout: Layout, manifest: Manifest, table: str) -> str:
    paths = ", ".join(_quoted(str(path)) for path in TableStore(layout).paths(manifest, table))
    return f"read_parquet([{paths}])"


def _union(connection: duckdb.DuckDBPyConnection, schema: str, queries: dict[str, str], owner: str | None) -> None:
    if queries:
        parts = [f"select {f'{_quoted(name)} as {owner}, ' if owner else ''}* from {query}" for name, query in queries.items()]
        _create(connection, "view", schema, "all", " union all by name ".join(parts))


def _create(connection: duckdb.DuckDBPyConnection, kind: str, schema: str, name: str, query: str) -> None:
    connection.execute(f'create schema if not exists "{schema}"')
    connection.execute(f'create or replace {kind} "{schema}"."{name}" as {query}')


def _view_schemas(connection: duckdb.DuckDBPyConnection) -> list[str]:
    there = {row[0] for row in connection.execute("select schema_name from information_schema.schemata").fetchall()}
    return sorted(there & {*VIEWS, "quarantine"})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
