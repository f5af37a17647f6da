import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rds_dagster import schema
from rds_dagster.cleaning import clean as clean_module
from rds_dagster.cleaning import places as places_module
from rds_dagster.cleaning.clean import REPEATED
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.errors import InputError, StateError
from rds_dagster.fingerprint import content_digest, file_digest, fingerprint
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.schema import duplicate_key, example_id
from rds_dagster.storage import reorder
from rds_dagster.storage import tables as tables_module
from rds_dagster.storage.tables import write_parquet

POOL = PoolSettings("chat", "data")


def asked(question: str, answer: str = "yes", **more: object) -> dict[str, object]:
    return {"prompt": question, "response": answer, **more}


def id_of(question: str, answer: str = "yes") -> bytes:
    return example_id([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def bytes_of(pool_folder, manifest, table: str) -> bytes:
    (path,) = pool_folder.store.paths(manifest, table)
    return path.read_bytes()


def test_a_pool_becomes_its_distinct_conversations_in_id_order(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one", id="1", source="web"), asked("two"))
    pool_folder.write("data/b.jsonl", asked("three"), asked("one", id="9", source="book"), asked("one"))
    made = pool_folder.clean(POOL)
    rows = pool_folder.rows(made.clean, "index")
    assert [row["id"] for row in rows] == sorted(map(id_of, ("one", "two", "three")))
    by_id = {row["id"]: row for row in rows}
    one = by_id[id_of("one")]
    assert (one["source"], one["shard"], one["row"], one["num_messages"], one["num_chars"]) == ("book", 0, 0, 2, 6)  # the smallest source of its places
    assert (by_id[id_of("three")]["source"], by_id[id_of("three")]["shard"], by_id[id_of("three")]["row"]) == ("chat", 1, 0)
    assert (made.clean.counts.rows_in, made.clean.counts.kept, made.clean.counts.dropped) == (5, 3, {REPEATED: 2})
    assert made.clean.details["chars"] == sum(len(text) + 3 for text in ("one", "two", "three"))


def test_every_place_of_an_example_is_in_provenance(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one", id="1", source="web"), b"", asked("two"))
    pool_folder.write("data/sub/b.jsonl", asked("one", id="9", source="book"))
    made = pool_folder.clean(POOL)
    places = pool_folder.rows(made.provenance, "places")
    assert [row["id"] for row in places] == sorted(row["id"] for row in places)
    of_one = [tuple(row.values())[1:] for row in places if row["id"] == id_of("one")]
    assert of_one == [("chat", "a.jsonl", 1, "1", "web"), ("chat", "sub/b.jsonl", 1, "9", "book")]
    assert [tuple(row.values())[1:] for row in places if row["id"] == id_of("two")] == [("chat", "a.jsonl", 3, None, "chat")]


def test_what_went_in_is_kept_or_lies_in_quarantine_with_file_and_line(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one"), asked("one"), b"{", asked("two", ""))
    pool_folder.write("data/b.jsonl", asked("one"), {"x": 1}, asked("three"))
    made = pool_folder.clean(POOL)
    lost = pool_folder.rows(made.clean, "quarantine")
    assert sorted((row["file"], row["line"], row["reason"]) for row in lost) == [
        ("a.jsonl", 2, REPEATED),
        ("a.jsonl", 3, "malformed_json"),
        ("a.jsonl", 4, "empty_answer"),
        ("b.jsonl", 1, REPEATED),
        ("b.jsonl", 2, "unknown_shape"),
    ]
    assert {row["id"] for row in lost if row["reason"] == REPEATED} == {id_of("one")}
    assert {(row["stage"], row["pool"]) for row in lost} == {("clean", "chat")}
    counts = made.clean.counts
    assert counts.rows_in == 7 == counts.kept + len(lost)
    assert counts.dropped == {"empty_answer": 1, "malformed_json": 1, REPEATED: 2, "unknown_shape": 1}


def test_nothing_is_read_twice(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one"), asked("two"), b"{")
    first = pool_folder.clean(POOL)
    assert (first.rows_read, first.rows_reused) == (3, 0)
    again = pool_folder.clean(POOL)
    assert (again.rows_read, again.rows_reused) == (0, 3)
    assert (again.clean, again.provenance) == (first.clean, first.provenance)


def test_a_grown_pool_reads_only_its_new_file(pool_folder):
    pool_folder.write("data/b.jsonl", asked("one"), asked("two"))
    first = pool_folder.clean(POOL)
    pool_folder.write("data/a.jsonl", asked("three"), asked("one"), b"{", asked("four"))
    grown = pool_folder.clean(POOL)
    assert (grown.rows_read, grown.rows_reused) == (4, 2)
    assert grown.clean.counts.kept == 4
    assert grown.clean.fingerprint != first.clean.fingerprint


def test_a_shrunk_pool_reads_nothing_and_is_what_it_was(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one"), asked("two"))
    first = pool_folder.clean(POOL)
    path = pool_folder.write("data/b.jsonl", asked("three"))
    pool_folder.clean(POOL)
    path.unlink()
    shrunk = pool_folder.clean(POOL)
    assert shrunk.rows_read == 0
    assert (shrunk.clean.fingerprint, shrunk.provenance.fingerprint) == (first.clean.fingerprint, first.provenance.fingerprint)


def test_renaming_a_file_changes_provenance_alone(pool_folder):
    path = pool_folder.write("data/a.jsonl", asked("one"), b"{", asked("one"))
    pool_folder.write("data/z.jsonl", asked("two"), asked("one"))
    first = pool_folder.clean(POOL)
    path.rename(path.with_name("b.jsonl"))
    index = bytes_of(pool_folder, first.clean, "index")
    second = pool_folder.clean(POOL)
    assert second.rows_read == 0
    assert second.clean.fingerprint == first.clean.fingerprint
    assert bytes_of(pool_folder, second.clean, "index") == index
    assert second.provenance.fingerprint != first.provenance.fingerprint
    assert {row["file"] for row in pool_folder.rows(second.provenance, "places")} == {"b.jsonl", "z.jsonl"}
    assert {(row["file"], row["line"]) for row in pool_folder.rows(second.clean, "quarantine")} == {("b.jsonl", 2), ("b.jsonl", 3), ("z.jsonl", 2)}


def test_a_rename_that_changes_the_order_of_files_does_not_change_the_fingerprint(pool_folder):
    path = pool_folder.write("data/a.jsonl", asked("one", source="web"), asked("two"))
    pool_folder.write("data/b.jsonl", asked("one", source="book"), asked("three"))
    first = pool_folder.clean(POOL)
    path.rename(path.with_name("c.jsonl"))
    second = pool_folder.clean(POOL)
    assert second.clean.fingerprint == first.clean.fingerprint
    assert pool_folder.rows(second.clean, "index") != []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["web", "book"])), min_size=1, max_size=12), st.integers(1, 3), st.randoms())
def test_neither_the_order_of_lines_nor_their_spread_over_files_changes_the_fingerprint(tmp_path_factory, pool_folder, records, num_files, randoms):
    prints, indexes = set(), []
    for order, spread in ((records, num_files), (randoms.sample(records, len(records)), 1)):
        folder = type(pool_folder)(tmp_path_factory.mktemp("pool"))
        for number in range(spread):
            folder.write(f"data/{number}.jsonl", *(asked(question, source=source) for question, source in order[number::spread]))
        made = folder.clean(POOL)
        prints.add(made.clean.fingerprint)
        indexes.append([(row["id"], row["source"]) for row in folder.rows(made.clean, "index")])
    smallest = {id_of(question): min(source for other, source in records if other == question) for question, _ in records}
    assert len(prints) == 1
    assert indexes == [sorted(smallest.items())] * 2


@pytest.mark.parametrize("change", ["example", "source", "one less"])
def test_what_counts_changes_the_fingerprint(change, pool_folder):
    pool_folder.write("data/a.jsonl", asked("one", source="web"), asked("two"))
    first = pool_folder.clean(POOL)
    second = {"example": [asked("one", source="web"), asked("three")], "source": [asked("one", source="book"), asked("two")], "one less": [asked("two")]}
    pool_folder.write("data/a.jsonl", *second[change])
    assert pool_folder.clean(POOL).clean.fingerprint != first.clean.fingerprint


def test_other_settings_read_again(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one"), asked("a question that is long"))
    assert pool_folder.clean(POOL).clean.counts.kept == 2
    short = pool_folder.clean(POOL, CleaningSettings(max_chars=10))
    assert (short.rows_read, short.clean.counts.dropped) == (2, {"too_long": 1})
    assert pool_folder.clean(POOL).rows_read == 0


def test_a_truncated_gzip_keeps_the_last_good_state(pool_folder):
    lines = [asked(f"question {number}", f"answer {random.Random(number).random()}") for number in range(400)]
    path = pool_folder.write("data/a.jsonl.gz", *lines)
    first = pool_folder.clean(POOL)
    pool_folder.write("data/b.jsonl", asked("new"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a.jsonl.gz, after line \d+: the gzip data of .*a.jsonl.gz break off in the middle .*; fetch or write"):
        pool_folder.clean(POOL)
    assert pool_folder.store.need("clean/chat") == first.clean
    assert pool_folder.store.need("provenance/chat") == first.provenance
    assert len(pool_folder.rows(first.clean, "index")) == 400


def test_a_file_changed_since_it_was_recorded_is_refused(pool_folder):
    from rds_dagster.cleaning.clean import clean_pool

    path = pool_folder.write("data/a.jsonl", asked("one"))
    first = pool_folder.clean(POOL)
    raw_before = pool_folder.store.need("raw/chat")
    pool_folder.write("data/a.jsonl", asked("one"), asked("two"))
    store = pool_folder.store
    with pytest.raises(InputError, match=r"a.jsonl of pool chat changed since raw/chat was made"):
        clean_pool(store, POOL, CleaningSettings(max_chars=99), root=pool_folder.root)
    assert store.need("clean/chat") == first.clean and store.need("raw/chat") == raw_before
    path.unlink()
    pool_folder.write("data/b.jsonl", asked("two"))
    with pytest.raises(InputError, match=r"a.jsonl of pool chat is gone since raw/chat was made; run again, the pool's last good state is kept"):
        clean_pool(store, POOL, CleaningSettings(max_chars=99), root=pool_folder.root)
    assert store.need("clean/chat") == first.clean


def test_a_pool_that_was_not_looked_at_is_refused(pool_folder):
    from rds_dagster.cleaning.clean import clean_pool

    with pytest.raises(StateError, match="raw/chat is not materialized yet; run `rds run 'raw/chat'`"):
        clean_pool(pool_folder.store, POOL, CleaningSettings(), root=pool_folder.root)


def test_a_pool_without_a_single_good_record_is_empty_and_says_why(pool_folder):
    pool_folder.write("data/a.jsonl", b"{", asked("one", " "))
    made = pool_folder.clean(POOL)
    assert pool_folder.rows(made.clean, "index") == pool_folder.rows(made.provenance, "places") == []
    assert [row["line"] for row in pool_folder.rows(made.clean, "quarantine")] == [1, 2]
    assert made.clean.counts.rows_in == 2


def test_a_lost_shard_is_made_again(pool_folder):
    pool_folder.write("data/a.jsonl", asked("one"))
    first = pool_folder.clean(POOL)
    (path,) = pool_folder.store.paths(first.clean, "shard")
    path.unlink()
    again = pool_folder.clean(POOL)
    assert again.rows_read == 1 and path.exists()
    assert again.clean.fingerprint == first.clean.fingerprint


def whole_tables(files: dict[str, list[dict[str, object]]]) -> dict[str, pa.Table]:
    """What cleaning makes of good records, by plain loops over all of them at once; file -> its records."""
    places = []
    for shard, (file, records) in enumerate(files.items()):
        for row, record in enumerate(records):
            messages = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record["response"]}]
            about = {"source": record.get("source", "chat"), "original_id": record.get("id"), "num_chars": sum(len(m["content"]) for m in messages)}
            where = {"id": example_id(messages), "duplicate_key": duplicate_key(messages), "file": file, "line": row + 1, "shard": shard, "row": row}
            places.append({**where, **about, "num_messages": 2, "pool": "chat"})
    places.sort(key=lambda place: place["id"])  # stable: then by file and line
    first, repeated = [], []
    for place in places:
        (repeated if first and first[-1]["id"] == place["id"] else first).append(place)
    index = [{**place, "source": min(other["source"] for other in places if other["id"] == place["id"])} for place in first]
    why = "the same conversation stands at an earlier place of the pool; both places are in provenance"
    lost = [{**place, "stage": "clean", "reason": REPEATED, "detail": why, "excerpt": ""} for place in repeated]
    made = {"index": (index, schema.CLEAN), "places": (places, schema.PROVENANCE), "quarantine": (lost, schema.QUARANTINE)}
    return {name: pa.Table.from_pylist([{field: row[field] for field in kind.names} for row in rows], kind) for name, (rows, kind) in made.items()}


stated = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["web", "book"]), st.none() | st.text("xyz", max_size=3))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(stated, max_size=20), min_size=1, max_size=3), st.sampled_from([3, 8, 65_536]))
def test_what_is_written_in_parts_is_byte_for_byte_the_whole_table(tmp_path_factory, pool_folder, contents, group):
    folder = type(pool_folder)(tmp_path_factory.mktemp("pool"))
    files = {
        f"{number}.jsonl": [asked(question, source=source, **({} if name is None else {"id": name})) for question, source, name in rows]
        for number, rows in enumerate(contents)
    }
    for file, records in files.items():
        folder.write(f"data/{file}", *records, *([] if records else [b" "]))  # all files empty would be refused
    with pytest.MonkeyPatch.context() as patch:
        for module in (clean_module, places_module, reorder, tables_module):
            patch.setattr(module, "GROUP_ROWS", group)
        made = folder.clean(POOL)
        tables = whole_tables(files)
        for manifest, name in ((made.clean, "index"), (made.provenance, "places")):
            write_parquet(folder.root / name, tables[name], tables[name].schema)
            assert bytes_of(folder, manifest, name) == (folder.root / name).read_bytes()
    assert folder.rows(made.clean, "quarantine") == tables["quarantine"].to_pylist()
    assert made.provenance.fingerprint == file_digest(folder.root / "places")
    names = sorted(set(tables["index"]["source"].to_pylist()))
    digests = [content_digest(b"".join(tables["index"]["id"].to_pylist()))]
    digests.append(content_digest(np.array([names.index(name) for name in tables["index"]["source"].to_pylist()], "<i4").tobytes()))
    assert made.clean.fingerprint == fingerprint("clean", fingerprint("ids and sources", digests[0], names, digests[1]), made.clean.counts.dropped)


def test_many_repeated_places_are_written_as_if_at_once(pool_folder, monkeypatch):
    monkeypatch.setattr(clean_module, "GROUP_ROWS", 1024)
    pool_folder.write("data/a.jsonl", *(asked(str(number % 700)) for number in range(3000)))
    made = pool_folder.clean(POOL)
    (whole,) = pool_folder.store.read(made.clean, "quarantine").combine_chunks().to_batches()
    assert whole.num_rows == 2300
    write_parquet(pool_folder.root / "whole", [whole], schema.QUARANTINE)
    assert bytes_of(pool_folder, made.clean, "quarantine") == (pool_folder.root / "whole").read_bytes()
