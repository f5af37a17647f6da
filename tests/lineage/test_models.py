from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.lineage.models import RowsDigest, materialize_model
from rds_dagster.lineage.sql import expand, parse_model
from rds_dagster.schema import QUERY, SCORE, SELECTED, TOP, UNIQUE
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse

MODELS = Path(__file__).parents[2] / "dbt_like_sql"

# The world: pool alpha owns examples 1-6 (sources: alpha 1-4, extra 5-6), pool beta owns 7-10 (source beta 7-9; 10 names no source).
SOURCES = {1: "alpha", 2: "alpha", 3: "alpha", 4: "alpha", 5: "extra", 6: "extra", 7: "beta", 8: "beta", 9: "beta", 10: None}
BEST = [(1, "gsm"), (7, "chat"), (2, "gsm"), (10, "chat"), (5, "chat")]  # example, task, in the order of picking
PLAIN = [(3, None), (8, None), (1, None), (2, None)]  # at random: no task
GSM_SCORES = [0.35, 0.36, 0.4, -0.01, 1.0, 0.0, 0.049, 0.05, 0.37, 0.31]  # of examples 1 to 10


def example(number):
    return number.to_bytes(16, "big")


def finish(store, key, version="1", **tables):
    """Commit an asset whose tables are given as (rows, schema)."""
    store.commit([drafted(store, key, version, **tables)])


def drafted(store, key, version="1", **tables):
    draft = store.draft(key, f"recipe{version}")
    for name, (rows, schema) in tables.items():
        draft.write(name, pa.Table.from_pylist(rows, schema=schema), schema)
    return draft.manifest(fingerprint=f"{key} {version}", settings={}, parents={}, counts=Counts(0, 0))


def mixture_rows(picks, method):
    return [
        {"position": i, "id": example(n), "pool": "alpha" if n <= 6 else "beta", "source": SOURCES[n], "task": task, "query": task and "q0",
         "rank": task and 1, "score": 0.5 if task else None, "method": method, "messages": [{"role": "user", "content": f"text {n}"}]}
        for i, (n, task) in enumerate(picks, start=1)
    ]  # fmt: skip


def finish_scores(store, task, values):
    rows = [{"id": example(n), "score": value, "best_query": 0} for n, value in enumerate(values, start=1)]
    query = {"query": "q0", "id": example(99), "messages": [{"role": "user", "content": "?"}], "text": "?", "num_tokens": 1}
    finish(store, f"scores/rds/{task}", scores=(rows, SCORE), top=([], TOP), queries=([query], QUERY))


@pytest.fixture
def store(tmp_path):
    store = TableStore(Layout(tmp_path / "home"))
    pools = {"alpha": range(1, 7), "beta": range(7, 11)}
    kept = {pool: [{"id": example(n), "source": SOURCES[n]} for n in numbers] for pool, numbers in pools.items()}
    store.commit([drafted(store, f"unique/{pool}", kept=(rows, UNIQUE)) for pool, rows in kept.items()])
    finish(store, "mixtures/best", examples=(mixture_rows(BEST, "rds"), SELECTED))
    finish(store, "mixtures/plain", examples=(mixture_rows(PLAIN, "random"), SELECTED))
    finish_scores(store, "gsm", GSM_SCORES)
    finish_scores(store, "chat", [0.5] * 10)
    return store


def shipped(name):
    return parse_model("reports", name, (MODELS / "reports" / f"{name}.sql").read_text())


def materialize(store, model, keys=None):
    keys = [manifest.key for manifest in store.all_manifests()] if keys is None else keys
    parents = {key: store.need(key).fingerprint for key in expand(model.dependencies, keys, file=model.file)}
    return materialize_model(store, Warehouse(store.layout), model, parents)


def rows(store, manifest):
    return [tuple(row.values()) for row in store.read(manifest, "rows").to_pylist()]


def test_composition_by_hand(store):
    manifest = materialize(store, shipped("composition"))
    assert [name for name, _ in manifest.details["columns"]] == ["mixture", "source", "task", "examples", "share", "pool_examples", "pool_share"]
    assert rows(store, manifest) == [
        ("best", "alpha", "gsm", 2, 0.4, 4, 0.4),
        ("best", "beta", "chat", 2, 0.4, 4, 0.4),  # example 10 names no source, so it counts for its pool
        ("best", "extra", "chat", 1, 0.2, 2, 0.2),
        ("plain", "alpha", None, 3, 0.75, 4, 0.4),
        ("plain", "beta", None, 1, 0.25, 4, 0.4),
    ]
    assert manifest.parents.keys() == {"mixtures/best", "mixtures/plain", "unique/alpha", "unique/beta"}
    assert (manifest.counts.rows_in, manifest.counts.kept, dict(manifest.counts.dropped)) == (5, 5, {})


def test_score_distribution_by_hand(store):
    assert rows(store, materialize(store, shipped("score_distribution"))) == [
        ("rds", "chat", 0.5, 0.55, 10, 1.0, 0.5),
        ("rds", "gsm", -0.05, 0.0, 1, 0.1, -0.01),
        ("rds", "gsm", 0.0, 0.05, 2, 0.2, 0.0245),
        ("rds", "gsm", 0.05, 0.1, 1, 0.1, 0.05),
        ("rds", "gsm", 0.3, 0.35, 1, 0.1, 0.31),
        ("rds", "gsm", 0.35, 0.4, 3, 0.3, 0.36),  # 0.35 is 0.34999999 as a float, and still belongs here
        ("rds", "gsm", 0.4, 0.45, 1, 0.1, 0.4),
        ("rds", "gsm", 1.0, 1.05, 1, 0.1, 1.0),
    ]


def test_a_score_that_is_no_number_stands_in_a_row_of_its_own(store):
    finish_scores(store, "odd", [float("nan"), 0.5])
    assert [row[:5] for row in rows(store, materialize(store, shipped("score_distribution"))) if row[1] == "odd"] == [
        ("rds", "odd", 0.5, 0.55, 1),
        ("rds", "odd", None, None, 1),
    ]


def test_overlap_by_hand(store):
    assert rows(store, materialize(store, shipped("overlap"))) == [("best", "plain", 5, 4, 2, 2 / 7)]  # 1 and 2 of {1, 2, 3, 5, 7, 8, 10}


def test_mixtures_that_share_nothing_still_make_a_pair(store):
    finish(store, "mixtures/apart", examples=(mixture_rows([(9, "gsm")], "rds"), SELECTED))
    assert rows(store, materialize(store, shipped("overlap"))) == [
        ("apart", "best", 1, 5, 0, 0.0),
        ("apart", "plain", 1, 4, 0, 0.0),
        ("best", "plain", 5, 4, 2, 2 / 7),
    ]


def test_one_mixture_alone_is_enough_for_every_report(store):
    store.forget("mixtures/best")
    assert rows(store, materialize(store, shipped("composition"))) == [("plain", "alpha", None, 3, 0.75, 4, 0.4), ("plain", "beta", None, 1, 0.25, 4, 0.4)]
    assert rows(store, materialize(store, shipped("overlap"))) == []
    assert len(rows(store, materialize(store, shipped("score_distribution")))) == 8


def test_what_a_removed_instance_left_behind_is_not_seen(store):
    keys = ["mixtures/plain", "unique/alpha", "unique/beta", "scores/rds/chat"]  # best and gsm are no longer in the project, their tables are
    assert {row[0] for row in rows(store, materialize(store, shipped("composition"), keys))} == {"plain"}
    assert {row[1] for row in rows(store, materialize(store, shipped("score_distribution"), keys))} == {"chat"}
    with Warehouse(store.layout).connect() as connection:  # the narrowing ended with the model
        assert connection.sql("select distinct mixture from mixtures.all order by 1").fetchall() == [("best",), ("plain",)]
        assert connection.sql("select table_name from information_schema.tables where table_name = 'all_stored'").fetchall() == []


def test_the_rows_are_landed_as_a_table_that_other_models_read(store):
    materialize(store, shipped("overlap"))
    with Warehouse(store.layout).connect() as connection:
        assert connection.sql("select shared from reports.overlap").fetchall() == [(2,)]
    over = parse_model("reports", "closest", "select mixture, other_mixture from reports.overlap order by jaccard desc, mixture, other_mixture limit 1")
    manifest = materialize(store, over)
    assert rows(store, manifest) == [("best", "plain")]
    assert manifest.parents == {"reports/overlap": store.need("reports/overlap").fingerprint}
    assert manifest.details["lineage"] == {"mixture": [("reports/overlap", "mixture")], "other_mixture": [("reports/overlap", "other_mixture")]}


def test_the_manifest_holds_types_and_the_lineage_of_columns(store):
    materialize(store, shipped("composition"))
    manifest = store.need("reports/composition")  # as read back
    assert manifest.details["columns"][:4] == [["mixture", "VARCHAR"], ["source", "VARCHAR"], ["task", "VARCHAR"], ["examples", "BIGINT"]]
    assert manifest.details["lineage"]["task"] == [["mixtures/best", "task"], ["mixtures/plain", "task"]]
    assert manifest.settings["sql"] == shipped("composition").sql


def test_equal_sql_and_parents_are_reused_and_a_change_of_either_is_not(store):
    model = parse_model("reports", "sizes", "-- One mixture.\nselect mixture, count(*) as n from mixtures.all group by mixture order by mixture")
    first = materialize(store, model)
    path = store.paths(first, "rows")[0]
    made = path.stat().st_mtime_ns
    remarked = parse_model("reports", "sizes", model.sql.replace("One mixture.", "One mixture, other words."))
    assert materialize(store, remarked) == first
    assert path.stat().st_mtime_ns == made
    path.unlink()  # a lost file is no reason to fail
    assert materialize(store, model).fingerprint == first.fingerprint
    finish(store, "mixtures/plain", version="2", examples=(mixture_rows(PLAIN, "random"), SELECTED))
    second = materialize(store, model)
    assert second.recipe != first.recipe
    assert second.fingerprint == first.fingerprint  # same rows: nothing downstream need run
    finish(store, "mixtures/plain", version="3", examples=(mixture_rows(PLAIN[:3], "random"), SELECTED))
    assert materialize(store, model).fingerprint != first.fingerprint


def test_the_bytes_are_those_of_a_rebuild_from_nothing(store):
    files = {}
    for turn in range(2):
        for name in ("composition", "score_distribution", "overlap"):
            manifest = materialize(store, shipped(name))
            files.setdefault(name, []).append((manifest.fingerprint, store.paths(manifest, "rows")[0].read_bytes()))
            store.forget(manifest.key)
            store.paths(manifest, "rows")[0].unlink()
        if turn == 0:
            store.layout.warehouse.unlink()
    assert all(first == second for first, second in files.values())


def test_the_digest_counts_order_names_and_types_but_not_batches():
    def digest(table, batch_rows=100):
        seen = RowsDigest(table.schema)
        assert pa.Table.from_batches(seen.watch(pa.RecordBatchReader.from_batches(table.schema, table.to_batches(batch_rows))), table.schema) == table
        return seen.hex()

    table = pa.table({"id": pa.array([b"\x00", None, b"\x02"]), "x": [[1.5], [], None], "d": pa.array([1, 2, None], pa.date32())})
    assert digest(table) == digest(table, batch_rows=1)
    assert digest(table) != digest(table.take([1, 0, 2]))
    assert digest(table) != digest(table.slice(0, 2))
    assert digest(table) != digest(table.rename_columns(["id", "y", "d"]))
    assert digest(pa.table({"x": ["00"]})) != digest(pa.table({"x": [b"\x00"]}))
    assert digest(table.schema.empty_table()) == digest(table.schema.empty_table())


def test_ids_and_texts_survive_the_way_through_a_model(store):
    model = parse_model("reports", "texts", "select id, messages[1].content as text, score from mixtures.best order by position")
    manifest = materialize(store, model)
    assert rows(store, manifest) == [(example(n), f"text {n}", 0.5) for n, _ in BEST]
    assert pq.read_schema(store.paths(manifest, "rows")[0]).field("id").type == pa.binary()


def test_an_all_without_instances_fails_naming_the_group(store):
    model = parse_model("reports", "found", "select item from test_items.all order by item")
    with pytest.raises(StateError, match=r"reports/found\.sql reads test_items\.all, but the project has no asset in group test_items; add one"):
        materialize(store, model)
    assert store.manifest("reports/found") is None


def test_a_parent_that_is_not_there_or_has_changed_is_refused(store):
    model = shipped("overlap")
    with pytest.raises(StateError, match=r"mixtures/next is not materialized yet; run `rds run 'mixtures/next'`"):
        materialize_model(store, Warehouse(store.layout), model, {"mixtures/next": "abc"})
    with pytest.raises(StateError, match=r"reports/overlap\.sql: mixtures/best has fingerprint mixtures/best 1 by now, expected older; run again"):
        materialize_model(store, Warehouse(store.layout), model, {"mixtures/best": "older"})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select nothing from mixtures.best", r'reports/wrong\.sql does not run; DuckDB says: Binder Error: Referenced column "nothing" not found'),
        ("select cast(method as integer) as n from mixtures.best", r"reports/wrong\.sql does not run; DuckDB says: Conversion Error"),
        ("select id, id from mixtures.best", r"reports/wrong\.sql gives column id more than once"),
        ("select interval 1 day as span", r"reports/wrong\.sql has a column that Parquet cannot hold .*; cast it"),
    ],
)
def test_sql_that_does_not_run_names_its_file_and_leaves_nothing(store, sql, words):
    with pytest.raises(SettingsError, match=words) as caught:
        materialize(store, parse_model("reports", "wrong", sql))
    assert "more than once" in str(caught.value) or caught.value.__cause__ is not None
    assert store.manifest("reports/wrong") is None
    folder = store.layout.tables / "reports/wrong"
    assert not folder.exists() or list(folder.iterdir()) == []
    assert rows(store, materialize(store, shipped("overlap"))) == [("best", "plain", 5, 4, 2, 2 / 7)]  # the warehouse still works


def test_columns_without_a_name_keep_the_one_that_duckdb_gives(store):
    manifest = materialize(store, parse_model("reports", "odd", "select count(*), max(Score) as Top from mixtures.best"))
    assert manifest.details["columns"] == [["count_star()", "BIGINT"], ["Top", "FLOAT"]]
    assert manifest.details["lineage"] == {"count_star()": [], "Top": [("mixtures/best", "score")]}


def test_lineage_that_sqlglot_cannot_follow_does_not_stop_the_model(store):
    manifest = materialize(store, parse_model("reports", "odd", "select columns('(method|task)') from mixtures.best order by position"))
    assert rows(store, manifest)[:2] == [("gsm", "rds"), ("chat", "rds")]
    assert "lineage" not in manifest.details
    assert "cannot be read" in manifest.text("lineage_problem")
