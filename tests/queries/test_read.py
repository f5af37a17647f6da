import json
from pathlib import Path

import pytest

from rds_dagster.errors import InputError
from rds_dagster.queries.read import read_queries, read_test_items
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.schema import example_id

TASK = TaskSettings("adding", "queries.jsonl", test_items="items.jsonl")
GOOD = {"prompt": "1 + 1?", "response": "2"}


def write(root: Path, name: str, *records: object) -> None:
    (root / name).write_bytes(b"".join((record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n" for record in records))


def test_queries_come_in_the_order_of_the_file_with_names_and_ids(tmp_path):
    talk = [{"role": "system", "content": "Add."}, {"role": "user", "content": " 2 + 2? "}, {"role": "assistant", "content": "4"}]
    write(tmp_path, "queries.jsonl", {"id": "z", "messages": talk}, b"", GOOD, {"id": 3, **GOOD})
    items = read_queries(TASK, root=tmp_path)
    assert [item.name for item in items] == ["z", "queries.jsonl:3", "3"]
    assert items[0].messages == talk and items[0].id == example_id(talk)
    assert items[1].id == items[2].id  # the same conversation under two names: two queries


def test_several_files_are_read_in_order_of_name(tmp_path):
    (tmp_path / "q").mkdir()
    write(tmp_path, "q/b.jsonl", GOOD)
    write(tmp_path, "q/a.jsonl", GOOD, GOOD)
    assert [item.name for item in read_queries(TaskSettings("adding", "q"), root=tmp_path)] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1"]


def test_a_limit_takes_the_first(tmp_path):
    write(tmp_path, "queries.jsonl", *({"id": number, **GOOD} for number in range(5)))
    assert [item.name for item in read_queries(TaskSettings("adding", "queries.jsonl", limit=2), root=tmp_path)] == ["0", "1"]
    assert len(read_queries(TaskSettings("adding", "queries.jsonl", limit=9), root=tmp_path)) == 5


def test_test_items_are_read_where_a_task_names_them(tmp_path):
    write(tmp_path, "items.jsonl", {"id": "t1", **GOOD})
    (item,) = read_test_items(TASK, root=tmp_path)
    assert item.name == "t1" and [message["content"] for message in item.messages] == ["1 + 1?", "2"]
    assert read_test_items(TaskSettings("adding", "queries.jsonl"), root=tmp_path) == []


def test_the_shape_may_be_named(tmp_path):
    write(tmp_path, "queries.jsonl", {"instruction": "Add", "input": "1 1", "output": "2", "prompt": "other", "response": "x"})
    for shape, prompt in (("alpaca", "Add\n\n1 1"), ("prompt_response", "other")):
        (item,) = read_queries(TaskSettings("adding", "queries.jsonl", shape=shape), root=tmp_path)
        assert item.messages[0]["content"] == prompt


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"{oops", r"malformed_json \(.*\); mend or remove the line"),
        (b'{"prompt": "\xff", "response": "x"}', r"invalid_utf8 \(.*\); mend or remove the line"),
        ({"x": 1}, r"unknown_shape \(the keys are 'x'; expected messages; .*\); mend or remove the line"),
        ({"messages": [{"role": "elf", "content": "x"}]}, r"unknown_role \(the role of messages\[0\] is 'elf'; .*\); mend or remove the line"),
        ({"messages": [{"role": "user", "content": "x"}]}, "a query is a prompt and its answer, a user turn and at last an assistant turn; mend the line"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "a query is a prompt and its answer"),
        ({"prompt": "\ud800", "response": "x"}, r"broken_unicode \(half of a surrogate pair\); mend or remove the line"),
    ],
)
@pytest.mark.parametrize("read", [read_queries, read_test_items])
def test_a_bad_row_is_an_error_with_its_place(read, record, said, tmp_path):
    for name in ("queries.jsonl", "items.jsonl"):
        write(tmp_path, name, GOOD, record)
    file = "queries.jsonl" if read is read_queries else "items.jsonl"
    with pytest.raises(InputError, match=f"task adding: {file}, line 2: {said}"):
        read(TASK, root=tmp_path)


def test_a_name_that_stands_twice_is_told_with_both_places(tmp_path):
    write(tmp_path, "queries.jsonl", {"id": "q", **GOOD}, GOOD, {"id": "q", **GOOD})
    told = r"queries.jsonl, line 3: the id 'q' stands at queries.jsonl, line 1 already; give every query an id of its own"
    with pytest.raises(InputError, match=told):
        read_queries(TASK, root=tmp_path)


def test_a_task_without_queries_is_told_with_the_mend(tmp_path):
    write(tmp_path, "queries.jsonl")
    with pytest.raises(InputError, match=r"task adding has no queries in queries.jsonl; put at least one conversation \(prompt and answer\) into it"):
        read_queries(TASK, root=tmp_path)
