"""The demo data is the same on every call, and the ledger tells the truth about what stands in the files."""

import gzip
import json
from collections import Counter
from itertools import combinations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rds_dagster.cleaning.filters import first_drop
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.demo import Place, read_ledger, write_demo, write_growth
from rds_dagster.demo.phrases import shingles
from rds_dagster.errors import InputError
from rds_dagster.pools.files import list_files
from rds_dagster.pools.readers import read_records
from rds_dagster.pools.shapes import Rejected, to_messages
from rds_dagster.schema import duplicate_key, example_id


def plain_rows(path):
    """The rows of a demo file by the plainest means, None where a row is no object."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {name: table[name].cast(pa.binary()).to_pylist() for name in table.column_names}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{key: value if value is None else decoded(value) for key, value in row.items()} for row in rows]
    if path.suffix == ".json":
        return [row if isinstance(row, dict) else None for row in json.loads(path.read_text(encoding="utf-8"))]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompress(data)
    lines = data.decode("utf-8", errors="surrogateescape").removesuffix("\n").split("\n")
    return [parsed(line) for line in lines]


def decoded(value):
    return value.decode("utf-8", errors="surrogateescape")


def parsed(line):
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def plain_messages(row):
    """(role, content) pairs of a row that is known to be sound."""
    if "messages" in row:
        return [(turn["role"], turn["content"]) for turn in row["messages"]]
    if "conversations" in row:
        return [({"human": "user", "gpt": "assistant"}.get(turn["from"], turn["from"]), turn["value"]) for turn in row["conversations"]]
    question = row.get("prompt") or (f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row.get("instruction"))
    return [("user", question), ("assistant", row.get("response", row.get("output")))]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_demo(folder)


@pytest.fixture(scope="module")
def sound(demo):
    """The messages at every place that is not planted as broken."""
    folder, ledger = demo
    broken = {row.place for row in ledger.broken}
    found = {}
    for pool in ledger.pools:
        for file in pool.files:
            for line, row in enumerate(plain_rows(folder / "pools" / pool.pool / file), 1):
                place = Place(pool.pool, file, line)
                if place not in broken:
                    found[place] = [{"role": role, "content": content} for role, content in plain_messages(row)]
    return found


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words(conversation):
    return " ".join(turn["content"] for turn in conversation).split()


def test_two_folders_hold_the_same_bytes(demo, tmp_path):
    write_demo(tmp_path)
    assert tree(tmp_path) == tree(demo[0])


def test_a_second_call_touches_no_file(demo):
    folder, ledger = demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert write_demo(folder) == ledger
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_another_seed_gives_other_data_of_the_same_size(demo, tmp_path):
    ledger = write_demo(tmp_path, seed=1)
    assert ledger.pools == demo[1].pools
    mine, theirs = tree(tmp_path), tree(demo[0])
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if mine[name] == theirs[name]]


def test_the_ledger_reads_back_as_it_was_written(demo):
    folder, ledger = demo
    assert read_ledger(folder) == ledger


def test_a_folder_without_demo_data_is_named(tmp_path):
    with pytest.raises(InputError, match=r"planted\.json does not exist; write the demo data"):
        write_growth(tmp_path)


def test_the_files_hold_as_many_records_as_the_ledger_says(demo):
    folder, ledger = demo
    for pool in ledger.pools:
        assert sum(len(plain_rows(folder / "pools" / pool.pool / file)) for file in pool.files) == pool.records
        assert sorted(path.name for path in (folder / "pools" / pool.pool).iterdir()) == sorted(pool.files)
        planted = [*ledger.exact_duplicates, *ledger.near_duplicates, *ledger.leaked]
        assert pool.records == pool.fresh + pool.broken + sum(row.place.pool == pool.pool for row in planted)
    assert 1950 <= ledger.records <= 2100


def test_six_pools_and_three_tasks_of_eight_queries(demo):
    folder, ledger = demo
    assert {pool.pool for pool in ledger.pools} == {"arithmetic", "programs", "reading", "chat", "translation", "noise"}
    assert {path.suffix for path in (folder / "pools").glob("*/*")} == {".jsonl", ".gz", ".zst", ".json", ".parquet"}
    for task in ledger.tasks:
        queries, test_items = (plain_rows(folder / "tasks" / f"{task.task}{ending}") for ending in (".jsonl", ".test.jsonl"))
        assert (len(queries), len(test_items)) == (task.queries, task.test_items) == (8, 40)
        for record in queries + test_items:
            assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"]
        assert len({record["id"] for record in queries + test_items}) == 48


def test_the_flow_drops_the_broken_rows_for_their_reasons_and_no_other(demo):
    """The real readers, shapes and filters against the ledger."""
    folder, ledger = demo
    dropped = {}
    for pool in ledger.pools:
        for file in list_files(f"pools/{pool.pool}", root=folder):
            for record in read_records(file):
                found = to_messages(record.value, "auto") if record.value is not None else None
                if found is None:
                    reason = record.reason
                elif isinstance(found, Rejected):
                    reason = found.reason
                else:
                    drop = first_drop(found.messages, CleaningSettings())
                    reason = drop.reason if drop else None
                if reason:
                    dropped[Place(pool.pool, file.file, record.line)] = reason
    assert dropped == {row.place: row.reason for row in ledger.broken}


def test_every_reason_of_the_cleaning_stage_is_planted(demo):
    reasons = Counter(row.reason for row in demo[1].broken)
    expected = "malformed_json invalid_utf8 not_an_object unknown_shape unknown_role bad_structure no_answer empty_answer empty_question control_characters"
    assert set(reasons) == {*expected.split(), "broken_unicode", "too_long"}


def test_a_lone_surrogate_stands_in_a_file_as_an_escape(demo):
    assert b"\\ud800" in (demo[0] / "pools/arithmetic/stories-1.jsonl").read_bytes() + (demo[0] / "pools/arithmetic/stories-2.jsonl").read_bytes()


def test_exact_duplicates_are_those_planted_and_no_others(demo, sound):
    _, ledger = demo
    groups = {}
    for place, messages in sound.items():
        groups.setdefault(duplicate_key(messages), set()).add(place)
    assert sum(len(group) - 1 for group in groups.values()) == len(ledger.exact_duplicates)
    assert {frozenset(group) for group in groups.values() if len(group) > 1} == {frozenset((row.place, row.original)) for row in ledger.exact_duplicates}
    assert len(groups) == ledger.unique_records


def test_exact_duplicates_come_within_and_across_pools_and_with_other_white_space(demo, sound):
    copies = demo[1].exact_duplicates
    assert sum(row.place.pool == row.original.pool for row in copies) == 58
    assert sum(row.place.pool != row.original.pool for row in copies) == 24
    for row in copies:
        is_same = example_id(sound[row.place]) == example_id(sound[row.original])
        assert is_same == (row.kind == "verbatim")


def test_near_duplicates_are_those_planted_and_no_others(demo, sound):
    """Jaccard of 5-word shingles: planted pairs are well above the usual threshold of 0.7, all others well below it."""
    _, ledger = demo
    planted = {frozenset((row.place, row.original)) for row in ledger.near_duplicates}
    exact = {frozenset((row.place, row.original)) for row in ledger.exact_duplicates}
    for pair in planted:
        one, other = (shingles(sound[place]) for place in pair)
        assert len(one & other) / len(one | other) > 0.72
        assert len({duplicate_key(sound[place]) for place in pair}) == 2
    holders = {}
    for place, messages in sound.items():
        for shingle in shingles(messages):
            holders.setdefault(shingle, []).append(place)
    sizes = {place: len(shingles(messages)) for place, messages in sound.items()}
    shared = Counter(frozenset(pair) for places in holders.values() for pair in combinations(places, 2))
    for pair, count in shared.items():
        if pair not in planted | exact:
            one, other = pair
            assert count / (sizes[one] + sizes[other] - count) < 0.5, (one, other)


def test_leaked_test_items_stand_where_the_ledger_says(demo, sound):
    folder, ledger = demo
    for leak in ledger.leaked:
        items = {record["id"]: record["messages"] for record in plain_rows(folder / "tasks" / f"{leak.task}.test.jsonl")}
        found, item = sound[leak.place], items[leak.item]
        if leak.kind == "verbatim":
            assert duplicate_key(found) == duplicate_key(item)
        else:
            assert duplicate_key(found) != duplicate_key(item)
            assert [turn["content"].lower() for turn in found] == [turn["content"].lower() for turn in item]
    assert Counter(leak.task for leak in ledger.leaked) == {"arithmetic_stories": 4, "small_programs": 4, "reading_passages": 3}


def test_no_query_and_no_other_test_item_stands_in_a_pool(demo, sound):
    folder, ledger = demo
    in_pools = {tuple(map(str.lower, words(messages))) for messages in sound.values()}
    leaked = {leak.item for leak in ledger.leaked}
    for path in (folder / "tasks").iterdir():
        for record in plain_rows(path):
            assert (tuple(map(str.lower, words(record["messages"]))) in in_pools) == (record["id"] in leaked)


def test_pools_differ_in_kind(demo, sound):
    """The 60 most frequent words of four or more letters of two pools are mostly different ones."""
    planted = {row.place for row in (*demo[1].exact_duplicates, *demo[1].near_duplicates, *demo[1].leaked)}
    counts = {}
    for place, messages in sound.items():
        if place not in planted:
            counts.setdefault(place.pool, Counter()).update(word.lower() for word in words(messages) if word.isalpha() and len(word) >= 4)
    frequent = {pool: {word for word, _ in counter.most_common(60)} for pool, counter in counts.items()}
    for one, other in combinations(frequent, 2):
        assert len(frequent[one] & frequent[other]) < 20, (one, other, frequent[one] & frequent[other])


def test_chat_has_several_turns_and_system_turns(sound):
    chats = [messages for place, messages in sound.items() if place.pool == "chat"]
    assert sum(len(messages) > 2 for messages in chats) > len(chats) / 2
    assert sum(messages[0]["role"] == "system" for messages in chats) > 60


def test_growth_adds_thirty_new_conversations_and_ten_known_ones(tmp_path):
    demo_ledger = write_demo(tmp_path)
    before = tree(tmp_path / "pools")
    grown = write_growth(tmp_path)
    after = tree(tmp_path / "pools")
    assert {name: data for name, data in after.items() if name in before} == before
    assert set(after) - set(before) == {f"{grown.pool}/{grown.file}"}
    rows = [row["messages"] for row in plain_rows(tmp_path / "pools" / grown.pool / grown.file)]
    assert len(rows) == grown.records == 40
    old = {}
    pool = next(pool for pool in demo_ledger.pools if pool.pool == grown.pool)
    for file in pool.files:
        for line, row in enumerate(plain_rows(tmp_path / "pools" / grown.pool / file), 1):
            if row is not None and Place(grown.pool, file, line) not in {broken.place for broken in demo_ledger.broken}:
                old[Place(grown.pool, file, line)] = duplicate_key(row["messages"])
    keys = [duplicate_key(messages) for messages in rows]
    assert len(set(keys)) == 40
    assert {row.place.line for row in grown.known} == {line for line, key in enumerate(keys, 1) if key in old.values()}
    assert all(old[row.original] == keys[row.place.line - 1] for row in grown.known)
    assert len(grown.known) == 10


def test_growth_is_the_same_twice_and_another_wave_is_another_file(tmp_path):
    write_demo(tmp_path)
    first = write_growth(tmp_path, seed=1)
    data = (tmp_path / "pools" / first.pool / first.file).read_bytes()
    assert write_growth(tmp_path, seed=1) == first
    assert (tmp_path / "pools" / first.pool / first.file).read_bytes() == data
    second = write_growth(tmp_path, seed=2)
    assert second.file != first.file
    assert (tmp_path / "pools" / second.pool / second.file).read_bytes() != data


def test_writing_the_demo_again_keeps_what_grew(tmp_path):
    write_demo(tmp_path)
    grown = write_growth(tmp_path)
    write_demo(tmp_path)
    assert (tmp_path / "pools" / grown.pool / grown.file).exists()
