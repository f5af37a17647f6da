"""SQL models read, not run: what a model's text depends on, and which columns made which.

A model is one select statement over qualified tables, in a file ``<schema>/<name>.sql``. Its dependencies come from the SQL itself,
so there is no macro to forget. ``<group>.all`` stands for the union over the instances of a group, and depends on each of them.
Nothing here touches a file or a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.scope import traverse_scope

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.storage.warehouse import OWNER_COLUMN, VIEWS, landing_name

TableName = tuple[str, str]  # DuckDB schema and table, in small letters

DIALECT = "duckdb"
ALL = "all"
NAME = re.compile(r"[a-z][a-z0-9_]*")

ALL_GROUPS: Mapping[str, tuple[str, ...]] = {**{group: (group,) for group in VIEWS}, "quarantine": ("clean", "unique"), "scores": ("scores",)}
"""Schema of an ``all`` view -> the asset groups whose instances it unites."""

ADDED_COLUMNS: Mapping[str, tuple[str, ...]] = {**{group: (column,) for group, column in OWNER_COLUMN.items()}, "scores": ("method", "task")}
"""Schema of an ``all`` view -> columns that only say which instance a row is of; the instances' own tables do not have them."""

INSTANCE_COLUMNS: Mapping[str, tuple[str, ...]] = {**ADDED_COLUMNS, "provenance": ("pool",), "quarantine": ("pool",)}
"""Schema of an ``all`` view -> columns that say which instance a row is of, in the order of the parts of its key after the group."""

CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Copy)  # may hide in a CTE

RESERVED_SCHEMAS = frozenset(ALL_GROUPS) | {"embeddings", "encoders", "exports", "main", "temp", "system", "information_schema", "pg_catalog"}
"""Schemas that a model cannot stand in: the pipeline's own, and DuckDB's."""


@dataclass(frozen=True)
class SqlModel:
    """One SQL model; ``description`` is its header comment (first line: what one row is), ``code`` a hash of the SQL without comments and layout."""

    schema: str
    name: str
    description: str
    dependencies: frozenset[TableName]
    sql: str
    code: str

    @property
    def key(self) -> str:
        """The asset key, ``schema/name``."""
        return f"{self.schema}/{self.name}"

    @property
    def file(self) -> str:
        """The file within the folder of models."""
        return f"{self.schema}/{self.name}.sql"


def parse_model(schema: str, name: str, text: str) -> SqlModel:
    """A model from the text of ``<schema>/<name>.sql``; raises SettingsError naming the file, what is wrong and the mend."""
    _check_names(schema, name)
    tree = _parse(f"{schema}/{name}.sql", text)
    found = _dependencies(f"{schema}/{name}.sql", tree)
    if (schema, name) in found:
        raise SettingsError(f"SQL model {schema}/{name}.sql reads {schema}.{name}, its own result; read the tables that it is made from")
    return SqlModel(schema, name, _header(text), found, text, fingerprint(tree.sql(dialect=DIALECT, comments=False)))


def known_keys(pools: list[str], tasks: list[str], mixtures: list[str], methods: list[str]) -> list[str]:
    """The keys of all assets of the pipeline that SQL can read, for the instances of a project; ``methods`` are those that give scores per task."""
    per_pool = [f"{group}/{pool}" for group in ("raw", "clean", "provenance", "unique") for pool in pools]
    per_task = [f"{group}/{task}" for group in ("queries", "test_items") for task in tasks]
    scores = [f"scores/{method}/{task}" for method in methods for task in tasks]
    return sorted([*per_pool, *per_task, *scores, *(f"mixtures/{mixture}" for mixture in mixtures)])


def expand(dependencies: Iterable[TableName], known: Iterable[str], *, file: str) -> list[str]:
    """The keys of the assets behind tables, sorted: ``scores_rds.gsm8k`` is ``scores/rds/gsm8k``, ``mixtures.all`` every ``mixtures/*``.

    An ``all`` whose group has no instance gives no key. ``file`` names the model in the
    error; an unknown table raises SettingsError with the nearest known ones.
    """
    tables = {landing_name(key): key for key in known}
    keys: set[str] = set()
    for schema, table in dependencies:
        if table == ALL and schema in ALL_GROUPS:
            keys.update(members(schema, tables.values()))
        elif (schema, table) in tables:
            keys.add(tables[schema, table])
        else:
            raise _unknown_table(file, f"{schema}.{table}", tables)
    return sorted(keys)


def members(schema: str, known: Iterable[str]) -> list[str]:
    """Those of the known keys that ``<schema>.all`` unites, sorted."""
    return sorted(key for key in known if key.split("/")[0] in ALL_GROUPS[schema])


def is_empty_union(table: TableName, known: Iterable[str]) -> bool:
    """Whether a table is an ``all`` whose group has no instance."""
    schema, name = table
    return name == ALL and schema in ALL_GROUPS and not members(schema, known)


def left_out(models: Iterable[SqlModel], known: Iterable[str]) -> frozenset[TableName]:
    """The models that cannot be made yet: they read an ``all`` whose group has no instance, or a model that is itself left out."""
    models, known = list(models), list(known)
    out = {(model.schema, model.name) for model in models if any(is_empty_union(table, known) for table in model.dependencies)}
    while more := {(model.schema, model.name) for model in models if model.dependencies & out} - out:
        out |= more
    return frozenset(out)


def refuse_cycles(models: Iterable[SqlModel]) -> None:
    """Raises SettingsError naming the models of a circle, if some read each other in one."""
    graph = {(model.schema, model.name): model.dependencies for model in models}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(f"{schema}.{name}" for schema, name in reversed(error.args[1]))  # the module gives it against the reading
        raise SettingsError(f"SQL models read each other in a circle: {circle}; let one of them read other tables") from error


def column_lineage(model: SqlModel, columns_of: Mapping[TableName, list[str]], known: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """For each output column, the (asset key, column) pairs whose values went into it, sorted.

    ``columns_of`` gives the columns of every table that the model depends on. A column of an ``all`` view comes from every instance;
    the column that names the instance comes from none. Columns that only join, filter or order are not counted.
    Raises StateError where sqlglot cannot follow the SQL (DuckDB may well run it).
    """
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for (db, table), columns in columns_of.items():
        schema.setdefault(db, {})[table] = dict.fromkeys(columns, "text")  # the type does not matter here
    tables = {landing_name(key): key for key in known}
    try:
        nodes = lineage(None, model.sql, schema, dialect=DIALECT)
        leaves = {column: [step for step in node.walk() if not step.downstream] for column, node in nodes.items()}
    except (SqlglotError, ValueError) as error:
        raise StateError(_untold(model, _first_line(error))) from error
    for column, steps in leaves.items():
        if any(isinstance(step.expression, (exp.Star, exp.Placeholder)) or step.expression.find(exp.Columns) for step in steps):
            raise StateError(_untold(model, f"what column {column!r} is made of depends on the data or on a pattern"))
    return {column: sorted({source for step in steps for source in _sources(step, tables)}) for column, steps in leaves.items()}


def _check_names(schema: str, name: str) -> None:
    for what, word in (("folder", schema), ("file", name)):
        if not NAME.fullmatch(word):
            raise SettingsError(f"SQL model {schema}/{name}.sql: the {what} name is {word!r}; expected small letters, digits and underscores, a letter first")
    if schema in RESERVED_SCHEMAS or schema.startswith("scores_"):
        raise SettingsError(
            f"SQL model {schema}/{name}.sql: the schema {schema!r} belongs to the pipeline or to DuckDB; move it to another folder, such as reports"
        )
    if name == ALL:
        raise SettingsError(f"SQL model {schema}/{name}.sql: the name 'all' stands for unions over instances; choose another name")


def _parse(file: str, text: str) -> exp.Expression:
    """The one select statement of a model, after DuckDB and sqlglot both could parse it."""
    try:
        num_statements = len(duckdb.extract_statements(text))  # parses only: nothing is bound or run
        trees = [tree for tree in sqlglot.parse(text, dialect=DIALECT) if tree is not None]
    except (duckdb.Error, SqlglotError) as error:
        mend = 'mend the SQL (reserved words are quoted, as in "unique".all)'
        raise SettingsError(f"SQL model {file} cannot be parsed: {_first_line(error)}; {mend}") from error
    if num_statements != 1 or len(trees) != 1:
        raise SettingsError(f"SQL model {file} holds {num_statements} statements; expected exactly one select")
    (tree,) = trees
    if not isinstance(tree, (exp.Select, exp.SetOperation)):
        raise SettingsError(
            f"SQL model {file} is a {tree.key} statement; expected one select, which becomes the table {file.removesuffix('.sql').replace('/', '.')}"
        )
    change = tree.find(*CHANGES)
    if change is not None:
        raise SettingsError(f"SQL model {file} holds a {change.key} statement; expected one select that changes nothing")
    return tree


def _dependencies(file: str, tree: exp.Expression) -> frozenset[TableName]:
    """Every qualified table; raises SettingsError for tables that are neither qualified nor a CTE, and for functions that read files."""
    found: set[TableName] = set()
    for table in tree.find_all(exp.Table):  # a qualified name is never a CTE, whatever the scope
        if isinstance(table.this, exp.Func):
            if not isinstance(table.this, exp.GenerateSeries):
                raise SettingsError(
                    f"SQL model {file} reads {table.this.sql(dialect=DIALECT)}, which is no asset; read tables of assets, so that lineage is whole"
                )
        elif table.catalog:
            raise SettingsError(f"SQL model {file} reads {table.sql(dialect=DIALECT)} of another database; read tables of assets, named schema.table")
        elif table.db:
            found.add((table.db.lower(), table.name.lower()))
    for name in sorted(_unqualified(tree)):
        raise SettingsError(f"SQL model {file} reads {name!r}, which is neither a CTE of the model nor qualified; write schema.table, such as mixtures.all")
    return frozenset(found)


def _unqualified(tree: exp.Expression) -> set[str]:
    folded = normalize_identifiers(tree.copy(), dialect=DIALECT)  # DuckDB folds case, quoted or not
    in_scope = {table.name for scope in traverse_scope(folded) for table in scope.sources.values() if isinstance(table, exp.Table) and _is_plain(table)}
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}  # scopes pass over what stands inside (pivot ...)
    return in_scope | {table.name for table in tree.find_all(exp.Table) if _is_plain(table) and table.name.lower() not in ctes}


def _is_plain(table: exp.Table) -> bool:
    return not table.db and not isinstance(table.this, exp.Func)


def _unknown_table(file: str, name: str, tables: Mapping[TableName, str]) -> SettingsError:
    choices = sorted({f"{schema}.{table}" for schema, table in tables} | {f"{schema}.{ALL}" for schema in ALL_GROUPS})
    near = get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = (
        f"the nearest known tables are {', '.join(near)}" if near else f"known are {', '.join(c for c in choices if c.endswith(f'.{ALL}'))} and their instances"
    )
    return SettingsError(f"SQL model {file} reads {name}, which no asset of this project gives; {hint}")


def _untold(model: SqlModel, reason: str) -> str:
    return f"the column lineage of SQL model {model.file} cannot be read: {reason}; name each column in a select to get it"


def _sources(leaf: Node, tables: Mapping[TableName, str]) -> list[tuple[str, str]]:
    if not isinstance(leaf.expression, exp.Table) or not leaf.expression.db:
        return []  # a constant, a count, or a table function
    schema, table, column = leaf.expression.db.lower(), leaf.expression.name.lower(), leaf.name.split(".")[-1].strip('"')
    if table != ALL or schema not in ALL_GROUPS:
        return [(tables[schema, table], column)]
    return [] if column in ADDED_COLUMNS.get(schema, ()) else [(key, column) for key in members(schema, tables.values())]


def _header(text: str) -> str:
    """The comment lines (``--``) above the first line of SQL, without their dashes."""
    lines: list[str] = []
    for line in text.lstrip().splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return "\n".join(lines)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
