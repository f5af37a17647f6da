import time

import duckdb
import pyarrow as pa
import pytest

from rds_dagster import schema
from rds_dagster.errors import BusyError, StateError
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse, landing_name

HOLDER = """
import sys, time
from pathlib import Path
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.warehouse import Warehouse
with Warehouse(Layout(Path(sys.argv[1]))).connect():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
STRANGER = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""
ROWS = pa.schema([("n", pa.int64())])
Tables = dict[str, tuple[pa.Schema, list[dict[str, object]]]]


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(Layout(tmp_path / "the project's .rds"))


def make(warehouse: Warehouse, key: str, tables: Tables, fingerprint: str = "1") -> None:
    store = TableStore(warehouse.layout)
    draft = store.draft(key, fingerprint)
    for table, (table_schema, rows) in tables.items():
        draft.write(table, pa.Table.from_pylist(rows, table_schema), table_schema)
    manifest = draft.manifest(fingerprint=fingerprint, settings={}, parents={}, counts=Counts(1, 1))
    others = [m for m in store.manifests("unique") if m.key != key] if key.startswith("unique/") else []
    store.commit([manifest, *others])


def index(*letters: str) -> tuple[pa.Schema, list[dict[str, object]]]:
    return schema.CLEAN, [{"id": letter.encode() * 16, "duplicate_key": b"k" * 16, "source": letter, "num_chars": 3} for letter in letters]


def lost(reason: str) -> tuple[pa.Schema, list[dict[str, object]]]:
    return schema.QUARANTINE, [{"stage": "clean", "reason": reason, "line": 1}]


def scores(*best_queries: int) -> Tables:
    rows = [{"id": bytes([9 - n]) * 16, "score": n / 8, "best_query": query} for n, query in enumerate(best_queries)]
    queries = [{"query": f"q{n}", "id": b"q" * 16, "text": "?"} for n in (7, 3, 5)]  # in the order of the file, not of the names
    return {"scores": (schema.SCORE, rows), "queries": (schema.QUERY, queries)}


def ask(warehouse: Warehouse, query: str) -> list[tuple[object, ...]]:
    with warehouse.connect(timeout_s=30) as connection:
        return connection.sql(query).fetchall()


def ask_in_memory(warehouse: Warehouse, query: str) -> list[tuple[object, ...]]:
    with warehouse.in_memory() as connection:
        return connection.sql(query).fetchall()


@pytest.fixture(params=[ask, ask_in_memory], ids=["file", "in memory"])
def either(request):
    """Both ways to ask must give the same names."""
    return request.param


def test_each_asset_has_its_name(warehouse, either):
    make(warehouse, "clean/a", {"index": index("x", "y")})
    make(warehouse, "unique/a", {"kept": (schema.UNIQUE, [{"id": b"x" * 16, "source": "x"}])})
    make(warehouse, "raw/a", {"files": (schema.RAW_FILE, [{"file": "f.jsonl", "size": 3, "digest": "00"}])})
    make(warehouse, "mixtures/best", {"examples": (schema.SELECTED, [{"position": 1, "id": b"x" * 16}])})
    assert either(warehouse, "select source, num_chars from clean.a order by id") == [("x", 3), ("y", 3)]
    assert either(warehouse, 'select source from "unique".a') == [("x",)]
    assert either(warehouse, "select file, size from raw.a") == [("f.jsonl", 3)]
    assert either(warehouse, "select position, id from mixtures.best") == [(1, b"x" * 16)]


def test_all_unites_every_instance_with_its_name(warehouse, either):
    make(warehouse, "clean/a", {"index": index("x", "y"), "quarantine": lost("no_answer")})
    make(warehouse, "clean/b", {"index": index("z"), "quarantine": lost("too_long")})
    make(warehouse, "unique/b", {"kept": (schema.UNIQUE, []), "quarantine": lost("exact_duplicate")})
    make(warehouse, "provenance/a", {"places": (schema.PROVENANCE, [{"id": b"x" * 16, "pool": "a", "file": "f", "line": 1}])})
    for task in ("t1", "t2"):
        make(warehouse, f"queries/{task}", {"queries": (schema.QUERY, [{"query": "1", "id": b"q" * 16}])})
    assert either(warehouse, "select pool, source from clean.all order by all") == [("a", "x"), ("a", "y"), ("b", "z")]
    assert either(warehouse, "select task, query from queries.all order by all") == [("t1", "1"), ("t2", "1")]
    assert either(warehouse, "select pool, file from provenance.all") == [("a", "f")]
    assert either(warehouse, "select reason from quarantine.all order by all") == [("exact_duplicate",), ("no_answer",), ("too_long",)]


def test_scores_have_the_name_of_their_best_query_in_id_order(warehouse, either):
    make(warehouse, "scores/rds/adding", scores(0, 2, 1))
    make(warehouse, "scores/rds/places", scores(1))
    assert either(warehouse, "select id, score, best_query from scores_rds.adding") == [
        (bytes([7]) * 16, 0.25, "q3"),
        (bytes([8]) * 16, 0.125, "q5"),
        (bytes([9]) * 16, 0.0, "q7"),
    ]
    assert either(warehouse, 'select method, task, count(*) from scores."all" group by all order by all') == [("rds", "adding", 3), ("rds", "places", 1)]


def test_tables_of_sql_models_are_landed(warehouse, either):
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}, {"n": 1}])})
    assert either(warehouse, "select n from reports.overlap") == [(3,), (1,)]


def test_only_what_is_read_often_is_copied_into_the_file(warehouse):
    make(warehouse, "clean/a", {"index": index("x")})
    make(warehouse, "scores/rds/adding", scores(0))
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}])})
    kinds = ask(warehouse, "select table_schema || '.' || table_name, table_type from information_schema.tables order by all")
    assert kinds == [
        ("clean.a", "VIEW"),
        ("clean.all", "VIEW"),
        ("main.landed", "BASE TABLE"),
        ("reports.overlap", "BASE TABLE"),
        ("scores.all", "VIEW"),
        ("scores_rds.adding", "BASE TABLE"),
    ]


def test_a_new_version_is_seen_and_one_that_is_gone_is_not(warehouse):
    make(warehouse, "clean/a", {"index": index("x")})
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}])})
    make(warehouse, "scores/rds/adding", scores(0))
    assert ask(warehouse, "select n from reports.overlap") == [(3,)]
    make(warehouse, "clean/a", {"index": index("y", "z")}, "2")
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 4}])}, "2")
    make(warehouse, "scores/rds/adding", scores(1, 1), "2")
    assert ask(warehouse, "select source, n, (select count(*) from scores.all) from clean.a, reports.overlap order by all") == [("y", 4, 2), ("z", 4, 2)]
    for key in ("clean/a", "reports/overlap", "scores/rds/adding"):
        TableStore(warehouse.layout).forget(key)
    assert ask(warehouse, "select table_name from information_schema.tables") == [("landed",)]


def test_a_warehouse_that_was_deleted_is_rebuilt(warehouse):
    make(warehouse, "clean/a", {"index": index("x")})
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}])})
    make(warehouse, "scores/rds/adding", scores(2))
    query = "select source, n, best_query from clean.all, reports.overlap, scores_rds.adding"
    before = ask(warehouse, query)
    warehouse.layout.warehouse.unlink()
    assert ask(warehouse, query) == before == [("x", 3, "q5")]


def test_a_second_process_is_told_who_holds_it_and_reads_in_memory_meanwhile(warehouse, start_process):
    make(warehouse, "clean/a", {"index": index("x")})
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}])})
    holder = start_process(HOLDER, warehouse.layout.home, 60)
    with pytest.raises(BusyError, match=rf"the warehouse .*/warehouse.duckdb is held by process {holder.pid} .*waited 0.3 s"), warehouse.connect(0.3):
        pass
    assert ask_in_memory(warehouse, "select source, n from clean.a, reports.overlap") == [("x", 3)]
    holder.kill()
    holder.wait()
    assert ask(warehouse, "select source, n from clean.a, reports.overlap") == [("x", 3)]


def test_a_second_process_waits_until_the_first_is_done(warehouse, start_process):
    make(warehouse, "clean/a", {"index": index("x")})
    start_process(HOLDER, warehouse.layout.home, 0.5)
    start = time.monotonic()
    assert ask(warehouse, "select source from clean.a") == [("x",)]
    assert time.monotonic() - start > 0.2


def test_a_program_that_knows_no_lock_is_told_to_be_closed(warehouse, start_process):
    warehouse.layout.home.mkdir()
    stranger = start_process(STRANGER, warehouse.layout.warehouse)
    told = rf"(?s)warehouse.duckdb cannot be opened .*{stranger.pid}.*; close the program that has it open, or delete the file: it is rebuilt"
    with pytest.raises(StateError, match=told), warehouse.connect(1):
        pass


@pytest.mark.parametrize("keep", [0.5, 0.02])
def test_a_damaged_warehouse_is_told_to_be_deleted(warehouse, keep):
    make(warehouse, "reports/overlap", {"rows": (ROWS, [{"n": 3}])})
    ask(warehouse, "select 1")
    path = warehouse.layout.warehouse
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(StateError, match=r"(?s)warehouse.duckdb cannot be opened .*delete the file: it is rebuilt"), warehouse.connect(1):
        pass
    path.unlink()
    assert ask(warehouse, "select n from reports.overlap") == [(3,)]


@pytest.mark.parametrize("key", ["clean/a", "reports/overlap"])
def test_a_table_whose_file_is_gone_is_named_with_the_mend(warehouse, either, key):
    make(warehouse, key, {"index": index("x")} if key == "clean/a" else {"rows": (ROWS, [{"n": 3}])})
    (file,) = TableStore(warehouse.layout).need(key).files
    (warehouse.layout.home / file.path).unlink()
    with pytest.raises(StateError, match=rf"{file.path} of {key} is gone; run `rds run` to make it again"):
        either(warehouse, "select 1")


def test_an_error_of_the_query_is_the_callers_own_and_frees_the_lock(warehouse):
    with pytest.raises(duckdb.CatalogException):
        ask(warehouse, "select * from clean.nowhere")
    with warehouse.connect(0.1):
        pass


def test_a_key_names_schema_and_table():
    assert landing_name("scores/rds/gsm8k") == ("scores_rds", "gsm8k")
    assert landing_name("reports/overlap") == ("reports", "overlap")
