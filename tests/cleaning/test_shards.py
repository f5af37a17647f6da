import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.shards import BATCH_ROWS, EXCERPT_CHARS, Shard, clean_record, make_shard, shard_recipe
from rds_dagster.errors import InputError
from rds_dagster.pools.files import PoolFile, list_files
from rds_dagster.pools.readers import Record
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.schema import duplicate_key, example_id

POOL = PoolSettings("chat", "a.jsonl")
CLEANING = CleaningSettings()


def asked(question: str, answer: str, **more: object) -> dict[str, object]:
    return {"prompt": question, "response": answer, **more}


def the_file(pool_folder) -> PoolFile:
    (file,) = list_files("a.jsonl", root=pool_folder.root)
    return file


def made(pool_folder, digest: str = "d", pool: PoolSettings = POOL, cleaning: CleaningSettings = CLEANING) -> Shard:
    return make_shard(pool_folder.store.layout, the_file(pool_folder), digest, pool, cleaning)


def table(pool_folder, path: str) -> list[dict[str, object]]:
    return pq.read_table(pool_folder.store.layout.home / path).to_pylist()


def test_a_good_record_becomes_a_row_with_its_place(pool_folder):
    pool_folder.write("a.jsonl", b"", asked(" Hi", "Yes\n", id=7, source="forum"), asked("So?", "No"))
    shard = made(pool_folder)
    first, second = table(pool_folder, shard.shard)
    messages = [{"role": "user", "content": " Hi"}, {"role": "assistant", "content": "Yes\n"}]
    assert {name: first[name] for name in ("id", "duplicate_key")} == {"id": example_id(messages), "duplicate_key": duplicate_key(messages)}
    assert [(m["role"], m["content"]) for m in first["messages"]] == [("user", " Hi"), ("assistant", "Yes\n")]
    assert (first["source"], first["original_id"], first["line"], first["num_messages"], first["num_chars"]) == ("forum", "7", 2, 2, 7)
    assert (second["source"], second["original_id"], second["line"]) == ("chat", None, 3)
    assert (shard.rows, shard.dropped, shard.records, shard.reused) == (2, {}, 2, False)


def test_every_kind_of_loss_is_a_row_with_file_line_and_reason(pool_folder):
    elf = {"messages": [{"role": "elf", "content": "x"}]}
    pool_folder.write("a.jsonl", b"{oops", asked("a", "b"), b'"text"', {"x": 1}, elf, asked("a", " "), b"\xff", asked("a", "\ud800"))
    shard = made(pool_folder)
    rows = table(pool_folder, shard.quarantine)
    assert [(row["line"], row["reason"]) for row in rows] == [
        (1, "malformed_json"),
        (3, "not_an_object"),
        (4, "unknown_shape"),
        (5, "unknown_role"),
        (6, "empty_answer"),
        (7, "invalid_utf8"),
        (8, "broken_unicode"),
    ]
    assert {(row["stage"], row["pool"], row["file"]) for row in rows} == {("clean", "chat", "a.jsonl")}
    assert all(row["detail"] and row["excerpt"] for row in rows)
    assert rows[0]["excerpt"] == "{oops" and rows[2]["excerpt"] == '{"x": 1}'
    assert shard.rows == 1 and shard.records == 8
    assert shard.dropped == {row["reason"]: 1 for row in rows}


def test_an_excerpt_is_short_and_can_be_stored():
    record = Record(1, asked("\ud800" + 1000 * "ü", "x"), None, "", "")
    row = clean_record(record, file="f", pool=POOL, cleaning=CLEANING)
    assert row["reason"] == "broken_unicode" and len(row["excerpt"]) == EXCERPT_CHARS
    row["excerpt"].encode()


def test_a_shard_is_made_once(pool_folder):
    pool_folder.write("a.jsonl", asked("a", "b"), b"{")
    first = made(pool_folder)
    Path(the_file(pool_folder).address).unlink()
    pool_folder.write("a.jsonl", b"unreadable")  # not looked at: the digest says that it is the same
    assert made(pool_folder) == replace(first, reused=True)


@pytest.mark.parametrize("part", ["shard", "quarantine"])
def test_a_shard_without_all_its_files_is_made_again(pool_folder, part):
    pool_folder.write("a.jsonl", asked("a", "b"), b"{")
    first = made(pool_folder)
    path = pool_folder.store.layout.home / getattr(first, part)
    before = path.read_bytes()
    path.unlink()
    assert made(pool_folder) == first
    assert path.read_bytes() == before


def test_the_recipe_is_of_content_settings_and_ending_but_not_of_the_rest_of_the_files_name():
    others = [
        shard_recipe("a.json", "d", POOL, CLEANING),
        shard_recipe("a.jsonl.gz", "d", POOL, CLEANING),
        shard_recipe("a.jsonl", "e", POOL, CLEANING),
        shard_recipe("a.jsonl", "d", PoolSettings("talk", "a.jsonl"), CLEANING),
        shard_recipe("a.jsonl", "d", PoolSettings("chat", "a.jsonl", shape="alpaca"), CLEANING),
        shard_recipe("a.jsonl", "d", PoolSettings("chat", "a.jsonl", format="jsonl"), CLEANING),
        shard_recipe("a.jsonl", "d", POOL, CleaningSettings(5)),
    ]
    assert len({shard_recipe("a.jsonl", "d", POOL, CLEANING), *others}) == 8
    assert shard_recipe("in/b.JSONL", "d", PoolSettings("chat", "b.jsonl", sample=3, license="CC0"), CLEANING) == shard_recipe("a.jsonl", "d", POOL, CLEANING)


def test_more_rows_than_a_batch_are_all_written_in_order(pool_folder):
    count = 2 * BATCH_ROWS + 5
    pool_folder.write("a.jsonl", *(asked(str(number), "x" if number % 2 else "") for number in range(count)))
    shard = made(pool_folder)
    assert [row["line"] for row in table(pool_folder, shard.shard)] == list(range(2, count + 1, 2))
    assert [row["line"] for row in table(pool_folder, shard.quarantine)] == list(range(1, count + 1, 2))


def test_a_file_that_changes_while_it_is_read_leaves_no_shard(pool_folder):
    path = pool_folder.write("a.jsonl", asked("a", "b"))
    file = the_file(pool_folder)
    with path.open("a") as writer:
        writer.write(json.dumps(asked("c", "d")) + "\n")
    with pytest.raises(InputError, match=r"a.jsonl of pool chat changed since raw/chat was made \(33 bytes then, 66 now\); let its writer finish"):
        make_shard(pool_folder.store.layout, file, "d", POOL, CLEANING)
    assert not list(pool_folder.store.layout.shards.glob("*.json"))


def test_a_file_that_breaks_off_leaves_no_shard(pool_folder):
    path = pool_folder.write("a.jsonl.gz", *(asked(str(number), "x") for number in range(500)))
    path.write_bytes(path.read_bytes()[:-50])
    (file,) = list_files("a.jsonl.gz", root=pool_folder.root)
    with pytest.raises(InputError, match="break off in the middle"):
        make_shard(pool_folder.store.layout, file, "d", POOL, CLEANING)
    assert list(pool_folder.store.layout.shards.iterdir()) == []
