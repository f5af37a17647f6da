import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster import schema
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.storage.ids import id_array, id_column, positions_in
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, make_recipe, stream_parquet, write_parquet

raw_ids = st.lists(st.binary(min_size=16, max_size=16), max_size=12)
KILLED_STAGE = """
import sys, time
import pyarrow as pa
from pathlib import Path
from rds_dagster import schema
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.tables import TableStore
draft = TableStore(Layout(Path(sys.argv[1]))).draft("clean/a", "second")
def batches():
    rows = pa.table({"id": [b"n" * 16] * 3, "source": ["new"] * 3}).cast(schema.UNIQUE).to_batches()
    yield from rows
    if sys.argv[2] == "while writing":
        print("half", flush=True)
        time.sleep(60)
draft.write("index", batches(), schema.UNIQUE)
print("written, not committed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path) -> TableStore:
    return TableStore(Layout(tmp_path / ".rds"))


def rows(*sources: str) -> pa.Table:
    ids = [bytes([number]) * 16 for number in range(len(sources))]
    return pa.table({"id": pa.array(ids, pa.binary(16)), "source": list(sources)})


def make(store: TableStore, key: str, recipe: str, *sources: str) -> Manifest:
    draft = store.draft(key, recipe)
    draft.write("index", rows(*sources), schema.UNIQUE)
    return draft.manifest(fingerprint=recipe, settings={}, parents={}, counts=Counts(len(sources), len(sources)))


def sources(store: TableStore, key: str) -> list[str]:
    return store.read(store.need(key), "index").column("source").to_pylist()


def test_a_draft_is_invisible_until_it_is_committed(store):
    store.commit([make(store, "clean/a", "first", "x", "y")])
    second = make(store, "clean/a", "second", "z")
    assert sources(store, "clean/a") == ["x", "y"]
    store.commit([second])
    assert sources(store, "clean/a") == ["z"]
    assert store.need("clean/a") == second


@pytest.mark.parametrize("moment", ["while writing", "before the commit"])
def test_a_stage_that_is_killed_leaves_the_last_good_state(moment, store, start_process):
    store.commit([make(store, "clean/a", "first", "x", "y")])
    stage = start_process(KILLED_STAGE, store.layout.home, moment)
    stage.kill()
    stage.wait()
    assert sources(store, "clean/a") == ["x", "y"]
    assert store.reusable("clean/a", "second") is None
    store.commit([make(store, "clean/a", "second", "z")])
    assert sources(store, "clean/a") == ["z"]
    left = sorted(path.name for path in (store.layout.tables / "clean" / "a").iterdir())
    assert left == ["index-first.parquet", "index-second.parquet"]  # what the killed one left half-written is gone


def test_a_reader_of_the_manifest_before_still_finds_its_files(store):
    store.commit([make(store, "clean/a", "first", "x")])
    before = store.need("clean/a")
    store.commit([make(store, "clean/a", "second", "y")])
    assert store.read(before, "index").column("source").to_pylist() == ["x"]
    store.commit([make(store, "clean/a", "third", "z")])
    with pytest.raises(StateError, match=r"index-first.parquet of clean/a is gone; run `rds run` to make it again"):
        store.read(before, "index")
    assert sorted(path.name for path in (store.layout.tables / "clean" / "a").iterdir()) == ["index-second.parquet", "index-third.parquet"]


def test_unique_of_all_pools_switches_at_once(store):
    store.commit([make(store, "unique/a", "first", "x"), make(store, "unique/b", "first", "y")])
    drafts = [make(store, "unique/a", "second", "x2"), make(store, "unique/b", "second", "y2")]
    assert [sources(store, key) for key in ("unique/a", "unique/b")] == [["x"], ["y"]]
    store.commit(drafts)
    assert [sources(store, key) for key in ("unique/a", "unique/b")] == [["x2"], ["y2"]]
    assert [path.name for path in store.layout.manifests.iterdir()] == ["unique.json"]
    assert [m.key for m in store.manifests("unique")] == ["unique/a", "unique/b"]


def test_a_pool_that_is_no_longer_united_has_no_manifest(store):
    store.commit([make(store, "unique/a", "first", "x"), make(store, "unique/b", "first", "y")])
    store.commit([make(store, "unique/a", "second", "x")])
    assert store.manifest("unique/b") is None


def test_a_joint_manifest_is_read_anew_when_it_changed(store):
    other = TableStore(store.layout)
    for fingerprint in ("first", "second", "third"):
        other.commit([make(other, "unique/a", fingerprint, "x"), make(other, "unique/b", fingerprint, "y")])
        assert {store.need(key).fingerprint for key in ("unique/a", "unique/b")} == {fingerprint}
    other.forget("unique/a")
    assert store.manifest("unique/a") is None and store.need("unique/b").fingerprint == "third"
    other.forget("unique/b")
    assert store.manifest("unique/b") is None


def test_assets_of_two_manifest_files_are_never_committed_together(store):
    with pytest.raises(ValueError, match="too many values"):
        store.commit([make(store, "clean/a", "first", "x"), make(store, "clean/b", "first", "y")])
    assert store.all_manifests() == []


def test_what_is_not_made_yet_is_told_with_the_command(store):
    assert store.manifest("clean/a") is None
    with pytest.raises(StateError, match="clean/a is not materialized yet; run `rds run 'clean/a'`"):
        store.need("clean/a")


def test_a_garbled_manifest_is_named(store):
    path = store.layout.manifests / "clean" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\x00\xfe")
    for read in (lambda: store.need("clean/a"), lambda: store.manifests("clean"), store.all_manifests):
        with pytest.raises(StateError, match=f"{path} is not a manifest .*; remove it and run again to rebuild"):
            read()


def test_a_table_is_reused_only_by_its_own_recipe_with_all_files_there(store):
    store.commit([made := make(store, "clean/a", "first", "x")])
    assert store.reusable("clean/a", "first") == made
    assert store.reusable("clean/a", "second") is None
    assert store.reusable("clean/b", "first") is None
    store.paths(made, "index")[0].unlink()
    assert store.reusable("clean/a", "first") is None
    with pytest.raises(StateError, match="is gone; run `rds run` to make it again"):
        store.ids(made, "index")


def test_groups_are_told_apart_and_keys_may_be_deep(store):
    for key in ("scores/rds/b", "scores/rds/a", "clean/z"):
        store.commit([make(store, key, "first", "x")])
    store.commit([make(store, "unique/a", "first", "x")])
    assert [m.key for m in store.manifests("scores")] == ["scores/rds/a", "scores/rds/b"]
    assert [m.key for m in store.all_manifests()] == ["clean/z", "scores/rds/a", "scores/rds/b", "unique/a"]
    store.forget("scores/rds/a")
    assert [m.key for m in store.manifests("scores")] == ["scores/rds/b"]


def test_a_recipe_is_of_stage_code_settings_and_parents():
    recipes = {make_recipe(*parts) for parts in (("a", 1, {}, {}), ("b", 1, {}, {}), ("a", 2, {}, {}), ("a", 1, {"x": 1}, {}), ("a", 1, {}, {"x": "1"}))}
    assert len(recipes) == 5
    assert make_recipe("a", 1, {"x": 1, "y": 2}, {}) == make_recipe("a", 1, {"y": 2, "x": 1}, {})


def test_equal_rows_give_equal_bytes_and_streamed_ones_the_same_rows(tmp_path):
    table = rows(*"abcdef")
    assert write_parquet(tmp_path / "1", table, schema.UNIQUE) == write_parquet(tmp_path / "2", table, schema.UNIQUE) == 6
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert write_parquet(tmp_path / "3", iter(table.cast(schema.UNIQUE).to_batches(max_chunksize=2)), schema.UNIQUE) == 6
    assert pq.read_table(tmp_path / "3") == pq.read_table(tmp_path / "1")
    assert pa.Table.from_batches(stream_parquet(tmp_path / "3", ["source"], batch_rows=4)).column("source").to_pylist() == list("abcdef")


@pytest.mark.parametrize("chunk", [1024, 4096])
def test_the_chunks_of_a_large_row_group_leave_no_trace(tmp_path, chunk):
    whole = pa.table({"id": [number.to_bytes(16, "big") for number in range(5000)], "source": [f"s{number % 77}" for number in range(5000)]}).cast(
        schema.UNIQUE
    )
    chunked = pa.concat_tables([whole.slice(start, chunk) for start in range(0, 5000, chunk)])
    assert write_parquet(tmp_path / "whole", whole.to_batches(), schema.UNIQUE) == write_parquet(tmp_path / "chunked", [chunked], schema.UNIQUE) == 5000
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "chunked").read_bytes()
    assert pq.read_metadata(tmp_path / "chunked").num_row_groups == 1


def test_a_table_of_other_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schema"):
        write_parquet(tmp_path / "1", pa.table({"id": [b"x" * 16]}), schema.UNIQUE)
    assert list(tmp_path.iterdir()) == []


@given(raw_ids)
def test_ids_go_to_arrow_and_back(ids):
    column = id_column(np.array(ids, ID_DTYPE))
    assert column.type == pa.binary(16)
    assert column.to_pylist() == ids
    assert [id.ljust(16, b"\0") for id in id_array(column).tolist()] == ids


@given(raw_ids, st.data())
def test_a_slice_of_a_chunked_column_gives_its_own_ids(ids, data):
    cut = data.draw(st.integers(0, len(ids)))
    chunked = pa.chunked_array([pa.array(ids[:cut], pa.binary(16)), pa.array(ids[cut:], pa.binary(16))])
    start = data.draw(st.integers(0, len(ids)))
    assert (id_array(chunked.slice(start, 5)) == np.array(ids[start : start + 5], ID_DTYPE)).all()


def test_an_id_that_is_null_is_our_own_slip():
    with pytest.raises(AssertionError, match="an id is never null"):
        id_array(pa.array([None], pa.binary(16)))


@given(st.lists(st.integers(0, 20), unique=True), st.lists(st.integers(0, 20)))
def test_positions_are_those_of_a_plain_search(stored, wanted):
    def named(numbers: list[int]) -> np.ndarray:
        return np.array([number.to_bytes(16, "big") for number in numbers], ID_DTYPE)

    stored.sort()
    places, is_there = positions_in(named(stored), named(wanted))
    assert is_there.tolist() == [number in stored for number in wanted]
    assert [int(place) for place, there in zip(places, is_there, strict=True) if there] == [stored.index(number) for number in wanted if number in stored]
