"""One row that says whether a task's scores can be trusted: every kept example scored once, finite, in range, not all alike.

Computed by DuckDB over the Parquet blocks, so nothing is held whole; it spills to disk where memory runs short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

FEWEST_SPREAD = 50  # below this, equal scores prove nothing, so no spread is stated
OFFENDERS = 5  # ids named per finding, the smallest first


@dataclass(frozen=True)
class ScoreProfile:
    """What ``profile_scores`` found about one task.

    ``rows`` scores for ``examples`` kept ids: ``unscored`` kept ids have none, ``duplicates`` counts scores beyond an id's first, ``strangers`` scores of
    ids that no pool keeps, ``nonfinite`` scores that are null, NaN or infinite, ``unknown_queries`` scores whose best query is not in the query set.
    ``lowest``, ``highest``, ``spread`` (highest - lowest) and ``stddev`` are over the finite scores and None where there are none; ``spread`` also
    where there are fewer than FEWEST_SPREAD. ``offenders`` names up to OFFENDERS ids (hex) per finding.
    """

    rows: int
    examples: int
    unscored: int
    duplicates: int
    strangers: int
    nonfinite: int
    unknown_queries: int
    lowest: float | None
    highest: float | None
    spread: float | None
    stddev: float | None
    offenders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


OFFENDING = {
    "unscored": "select distinct id from kept anti join scored using (id)",
    "duplicates": "select id from scored group by id having count(*) > 1",
    "strangers": "select distinct id from scored anti join kept using (id)",
    "nonfinite": "select distinct id from scored where score is null or not isfinite(score)",
    "unknown_queries": "select distinct id from scored where best_query is null or best_query not between 0 and $num_queries - 1",
    "lowest": "select id from scored where score = (select min(score) from scored where isfinite(score))",
    "highest": "select id from scored where score = (select max(score) from scored where isfinite(score))",
}
"""Finding -> the ids that it is about."""

COUNTS = """
    select
        count(*),
        (select count(distinct id) from kept),
        (select count(distinct id) from kept anti join scored using (id)),
        count(*) - count(distinct id),
        (select count(*) from scored anti join kept using (id)),
        count(*) filter (where score is null or not isfinite(score)),
        count(*) filter (where best_query is null or best_query not between 0 and $num_queries - 1),
        min(score) filter (where isfinite(score)),
        max(score) filter (where isfinite(score)),
        stddev_pop(score::double) filter (where isfinite(score))
    from scored
"""

NO_IDS = "select null::blob as id"  # what stands for a table of no files: DuckDB refuses an empty list
NO_SCORES = "select null::blob as id, null::float as score, null::integer as best_query"


def profile_scores(blocks: Sequence[Path], kept: Sequence[Path], *, num_queries: int, spill: Path) -> ScoreProfile:
    """The profile of the score ``blocks`` (Parquet, schema SCORE) against the ids of the ``kept`` files (Parquet, schema UNIQUE).

    ``num_queries`` is the size M of the query set, ``spill`` a folder for what does not fit into memory.
    """
    with _connection(blocks, kept, spill) as connection:
        row = connection.execute(COUNTS, {"num_queries": num_queries}).fetchone()
        assert row is not None, "an aggregate gives one row"
        rows, examples, unscored, duplicates, strangers, nonfinite, unknown_queries, lowest, highest, stddev = row
        counts = {"unscored": unscored, "duplicates": duplicates, "strangers": strangers, "nonfinite": nonfinite, "unknown_queries": unknown_queries}
        found = [name for name, count in counts.items() if count] + (["lowest", "highest"] if lowest is not None else [])
        offenders = {name: _offenders(connection, OFFENDING[name], num_queries) for name in found}
    spread = highest - lowest if lowest is not None and rows - nonfinite >= FEWEST_SPREAD else None
    return ScoreProfile(rows, examples, unscored, duplicates, strangers, nonfinite, unknown_queries, lowest, highest, spread, stddev, offenders)


@contextmanager
def _connection(blocks: Sequence[Path], kept: Sequence[Path], spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"set temp_directory = {_quoted(str(spill))}")
        connection.execute("set enable_progress_bar = false")
        connection.execute("set preserve_insertion_order = false")  # every result below is ordered by itself
        connection.execute(f"create view scored as {_select('id, score, best_query', blocks, NO_SCORES)}")
        connection.execute(f"create view kept as {_select('id', kept, NO_IDS)}")
        yield connection
    finally:
        connection.close()


def _select(columns: str, paths: Sequence[Path], empty: str) -> str:
    if not paths:
        return f"{empty} where false"
    return f"select {columns} from read_parquet([{', '.join(_quoted(str(path)) for path in paths)}])"


def _offenders(connection: duckdb.DuckDBPyConnection, query: str, num_queries: int) -> tuple[str, ...]:
    given = {"num_queries": num_queries} if "$num_queries" in query else {}
    rows = connection.execute(f"select lower(hex(id)) from ({query}) order by id limit {OFFENDERS}", given).fetchall()
    return tuple(row[0] for row in rows if row[0] is not None)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
