"""Asset reports/<name>: gathers what the page about a mixture shows, and writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np

from rds_dagster.cleaning.texts import tidy
from rds_dagster.exports.report import (
    CheckOutcome,
    Drop,
    LowPick,
    Pick,
    PoolFunnel,
    QuarantineRow,
    QueryPicks,
    ReportData,
    SourceShare,
    TaskFit,
    Turns,
    make_histogram,
    render_report,
)
from rds_dagster.fingerprint import file_digest
from rds_dagster.scores.score_tasks import score_key
from rds_dagster.scores.settings import METHOD
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.manifest import Manifest, TableFile
from rds_dagster.storage.tables import TableStore, make_recipe
from rds_dagster.storage.warehouse import Warehouse

CODE = 2  # raise when the page would change for equal data
SHOWN_QUERIES = 3  # of each task
SHOWN_PICKS = 3  # of each query, and of the lowest of each task
SHOWN_LOSSES = 2  # of each stage, reason and pool


def report_mixture(
    store: TableStore, name: str, licenses: Mapping[str, str], tasks: Sequence[str], compare_with: str | None, checks: Sequence[CheckOutcome]
) -> Manifest:
    """Write the page about a mixture and make reports/<name> current.

    ``licenses``: pool -> licence as stated, for all pools of the corpus, in order; ``tasks``: those that the mixture is for, none for a
    random one; ``checks``: latest outcomes.
    """
    mixture = store.need(f"mixtures/{name}")
    compared = store.need(f"mixtures/{compare_with}") if compare_with else None
    pools = [store.need(f"{stage}/{pool}") for stage in ("clean", "unique") for pool in licenses]
    parents = {m.key: m.fingerprint for m in [mixture, store.need(f"exports/{name}"), *pools, *([compared] if compared else [])]}
    with Warehouse(store.layout).in_memory() as connection:
        data = _gather(store, connection, mixture, licenses, tasks, compare_with, checks)
    page = store.layout.reports / f"{name}.html"
    write_text(page, render_report(data))
    manifest = Manifest(
        key=f"reports/{name}",
        fingerprint=file_digest(page),
        recipe=make_recipe("report", CODE, [compare_with, licenses], parents),
        settings={"compare_with": compare_with},
        parents=parents,
        counts=mixture.counts,
        files=(TableFile("html", str(page.relative_to(store.layout.home)), mixture.counts.kept, page.stat().st_size),),
    )
    store.commit([manifest])
    return manifest


def _gather(
    store: TableStore, connection: duckdb.DuckDBPyConnection, mixture: Manifest, licenses: Mapping[str, str], tasks: Sequence[str],
    compare_with: str | None, checks: Sequence[CheckOutcome],
) -> ReportData:  # fmt: skip
    name, pools = mixture.key.split("/", 1)[1], list(licenses)
    connection.execute(f'create view picked as select * from mixtures."{name}"')
    if compare_with:
        connection.execute(f'create view compared as select * from mixtures."{compare_with}"')
    kept = " union all ".join(f'select \'{pool}\' as pool, id, source from "unique"."{pool}"' for pool in pools)
    connection.execute(f"create view kept as {kept}")
    return ReportData(
        mixture=name,
        method=str(mixture.settings["method"]),
        budget=_whole(mixture.settings["budget"]),
        settings=tuple((key, _said(value)) for key, value in mixture.settings.items() if value not in (None, [], "")),
        pools=tuple(_funnel(store, connection, pool, license) for pool, license in licenses.items()),
        sources=_sources(connection, is_compared=compare_with is not None),
        tasks=tuple(_task_fit(store, connection, task, is_compared=compare_with is not None) for task in tasks),
        lengths=make_histogram(*_lengths(connection, pools, is_compared=compare_with is not None), log=True),
        lowest=tuple(low for task in tasks for low in _lowest(connection, task)),
        quarantine=_quarantine(connection, pools),
        checks=tuple(checks),
        fingerprints=((mixture.key, mixture.fingerprint), *sorted(mixture.parents.items())),
        versions=tuple(sorted(mixture.versions.items())),
        files=_files(store, mixture),
        compared_with=compare_with,
    )


def _funnel(store: TableStore, connection: duckdb.DuckDBPyConnection, pool: str, license: str) -> PoolFunnel:
    clean, unique = store.need(f"clean/{pool}"), store.need(f"unique/{pool}")
    drops = [Drop(stage, reason, count) for stage, counts in (("clean", clean.counts), ("unique", unique.counts)) for reason, count in counts.dropped.items()]
    selected = _number(connection, "select count(*) from picked where pool = ?", [pool])
    return PoolFunnel(pool, clean.counts.rows_in, clean.counts.kept, unique.counts.kept, selected, tuple(drops), license)


def _sources(connection: duckdb.DuckDBPyConnection, *, is_compared: bool) -> tuple[SourceShare, ...]:
    compared = "(select pool, source, count(*) as n from compared group by all)" if is_compared else "(select null as pool, null as source, null as n limit 0)"
    rows = connection.execute(f"""
        with kept_counts as (select pool, source, count(*) as n from kept group by all),
        picked_counts as (select pool, source, count(*) as n from picked group by all)
        select k.pool, k.source, k.n, coalesce(p.n, 0), coalesce(c.n, 0)
        from kept_counts k left join picked_counts p using (pool, source) left join {compared} c using (pool, source)
        order by coalesce(p.n, 0) desc, k.n desc, k.pool, k.source
    """).fetchall()
    return tuple(SourceShare(pool, source, kept, picked, compared if is_compared else None) for pool, source, kept, picked, compared in rows)


def _task_fit(store: TableStore, connection: duckdb.DuckDBPyConnection, task: str, *, is_compared: bool) -> TaskFit:
    scores = f'scores_{METHOD}."{task}"'
    every = _column(connection, f"select score from {scores}")
    picked = _column(connection, "select score from picked where task = ?", [task])
    compared = _column(connection, f"select s.score from compared c join {scores} s using (id)") if is_compared else None
    return TaskFit(
        task=task,
        queries=store.need(score_key(task)).number("queries"),
        selected=len(picked),
        mean_selected=float(picked.mean()) if len(picked) else None,
        mean_unique=float(every.mean()),
        lowest=float(picked.min()) if len(picked) else None,
        scores=make_histogram(every, picked, compared),
        examples=_query_picks(connection, task),
        mean_compared=float(compared.mean()) if compared is not None and len(compared) else None,
    )


def _query_picks(connection: duckdb.DuckDBPyConnection, task: str) -> tuple[QueryPicks, ...]:
    """The queries that chose most, with the best of what they chose."""
    queries = connection.execute(
        f"select query, count(*) as n from picked where task = ? group by query order by n desc, query limit {SHOWN_QUERIES}", [task]
    ).fetchall()
    found = []
    for query, _ in queries:
        (messages,) = connection.execute(f'select messages from queries."{task}" where query = ?', [query]).fetchone() or ([],)
        rows = connection.execute(
            f"select rank, score, pool, id, messages from picked where task = ? and query = ? order by rank limit {SHOWN_PICKS}", [task, query]
        ).fetchall()
        found.append(QueryPicks(query, _turns(messages), tuple(_pick(row) for row in rows)))
    return tuple(found)


def _lowest(connection: duckdb.DuckDBPyConnection, task: str) -> list[LowPick]:
    rows = connection.execute(f"select rank, score, pool, id, messages from picked where task = ? order by score, id limit {SHOWN_PICKS}", [task]).fetchall()
    return [LowPick(task, _pick(row)) for row in rows]


def _lengths(connection: duckdb.DuckDBPyConnection, pools: Sequence[str], *, is_compared: bool) -> list[np.ndarray]:
    """Characters of the unique, the picked, and the compared examples."""
    clean = " union all ".join(f'select id, num_chars from clean."{pool}"' for pool in pools)
    chars = f"(select id, any_value(num_chars) as num_chars from ({clean}) group by id)"  # one id can be clean in several pools
    names = ["kept", "picked", *(["compared"] if is_compared else [])]
    return [_column(connection, f"select c.num_chars from {name} join {chars} c using (id)") for name in names]


def _quarantine(connection: duckdb.DuckDBPyConnection, pools: Sequence[str]) -> tuple[QuarantineRow, ...]:
    """A few losses of each kind; those of later stages stand at their first place in provenance."""
    rows = connection.execute(
        f"""
        with losses as (
            select *, row_number() over (partition by stage, reason, pool order by file, line, id) as number
            from quarantine.all where list_contains(?, pool)
        ),
        shown as (select * from losses where number <= {SHOWN_LOSSES}),
        places as (
            select id, pool, arg_min(file, (file, line)) as file, arg_min(line, (file, line)) as line
            from provenance.all where id in (select id from shown where file is null) group by all
        )
        select s.stage, s.reason, s.pool, coalesce(s.file, p.file, ''), coalesce(s.line, p.line, 0), s.detail, coalesce(s.excerpt, '')
        from shown s left join places p using (id, pool)
        order by s.stage, s.reason, s.pool, s.number
        """,
        [list(pools)],
    ).fetchall()
    return tuple(QuarantineRow(*row) for row in rows)


def _files(store: TableStore, mixture: Manifest) -> tuple[tuple[str, str], ...]:
    home = Path(store.layout.home.name)
    files = [(f"version: {file.table}", str(home / file.path)) for file in mixture.files]
    export = store.manifest(mixture.key.replace("mixtures/", "exports/", 1))
    if export and export.details["mixture"] == mixture.fingerprint:
        files += [(f"export: {file.table}", str(home / file.path)) for file in export.files]
    return tuple(files)


def _pick(row: tuple[int, float, str, bytes, list[dict[str, str | None]]]) -> Pick:
    rank, score, pool, example, messages = row
    return Pick(rank, score, pool, example.hex(), _turns(messages))


def _turns(messages: list[dict[str, str | None]]) -> Turns:
    return tuple((message["role"], message["content"]) for message in tidy(messages))


def _column(connection: duckdb.DuckDBPyConnection, query: str, values: list[str] | None = None) -> np.ndarray:
    """One numeric column, (N,)."""
    (column,) = connection.execute(query, values or []).fetchnumpy().values()
    return np.asarray(column)


def _number(connection: duckdb.DuckDBPyConnection, query: str, values: list[str]) -> int:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return int(row[0])


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
