import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.errors import StateError
from rds_dagster.storage.manifest import FORMAT, Counts, Manifest, TableFile, dump_manifests, library_versions, load_manifests


def made(key: str = "clean/a", **changes: object) -> Manifest:
    said = {
        "fingerprint": "f",
        "recipe": "r",
        "settings": {"max_chars": 10, "shape": "auto"},
        "parents": {"raw/a": "p"},
        "counts": Counts(5, 3, {"no_answer": 2}),
        "files": (TableFile("index", "tables/i.parquet", 3, 100), TableFile("shard", "shards/x.parquet", 2, 5), TableFile("shard", "shards/y.parquet", 1, 5)),
        "details": {"dims": 4, "of": "é"},
    }
    return Manifest(key, **{**said, **changes})


def test_a_manifest_comes_back_as_it_was_written():
    manifests = [made(), made("clean/b", files=(), details={})]
    assert load_manifests(dump_manifests(manifests), where="x") == manifests
    assert load_manifests(dump_manifests(manifests).encode(), where="x") == manifests


def test_a_manifest_says_which_versions_made_it():
    assert made().versions == library_versions()
    assert set(library_versions()) == {"rds-dagster", "duckdb", "lancedb", "pyarrow", "numpy"}


@given(st.integers(0, 50), st.integers(0, 50), st.dictionaries(st.sampled_from("abc"), st.integers(0, 50)))
def test_what_went_in_is_what_was_kept_and_dropped(rows_in, kept, dropped):
    if rows_in == kept + sum(dropped.values()):
        assert Counts(rows_in, kept, dropped).rows_in == rows_in
    else:
        with pytest.raises(StateError, match="rows do not add up"):
            Counts(rows_in, kept, dropped)


def test_counts_that_do_not_add_up_are_told_with_all_their_numbers():
    with pytest.raises(StateError, match=r"rows do not add up: 1,005 in, 1,000 kept, \{'no_answer': 4\} dropped; please report this as a bug"):
        Counts(1005, 1000, {"no_answer": 4})


def test_files_are_told_by_table_in_order():
    assert made().paths("shard") == ["shards/x.parquet", "shards/y.parquet"]
    assert made().paths("quarantine") == []


def test_details_are_read_by_kind():
    assert made().number("dims") == 4
    assert made().text("of") == "é"
    with pytest.raises(AssertionError, match="of"):
        made().number("of")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"x"',
        "{}",
        '{"format": 1}',
        '{"format": 1, "manifests": [{}]}',
        '{"format": 1, "manifests": ["x"]}',
        b"\xff\xfe garbage",
        b"\x00" * 40,
    ],
)
def test_what_is_no_manifest_is_told_with_the_mend(text):
    with pytest.raises(StateError, match=r"^home/manifests/x.json is not a manifest .*; remove it and run again to rebuild$"):
        load_manifests(text, where="home/manifests/x.json")


@pytest.mark.parametrize("change", [{"more": 1}, {"counts": {"rows_in": 1}}, {"files": [{"table": "index"}]}, {"files": 3}])
def test_a_manifest_with_other_fields_is_told_with_the_mend(change):
    said = json.loads(dump_manifests([made()]))
    said["manifests"][0] |= change
    with pytest.raises(StateError, match=r"x.json is not a manifest"):
        load_manifests(json.dumps(said), where="x.json")


def test_a_manifest_of_another_format_is_told_with_both_numbers():
    said = {"format": FORMAT + 1, "manifests": []}
    with pytest.raises(StateError, match=f"x.json has manifest format {FORMAT + 1}, this version reads {FORMAT}; remove it and run again to rebuild"):
        load_manifests(json.dumps(said), where="x.json")


def test_counts_changed_by_hand_are_refused():
    text = dump_manifests([made()]).replace('"kept": 3', '"kept": 4')
    with pytest.raises(StateError, match="rows do not add up"):
        load_manifests(text, where="x.json")
