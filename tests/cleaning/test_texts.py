import numpy as np
import pytest

from rds_dagster.cleaning.texts import BATCH_ROWS, stream_conversations, tidy
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.schema import example_id

POOL = PoolSettings("chat", "data")


def talk(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": f"On {question}."}]


def ids_of(*conversations) -> np.ndarray:
    return np.array(sorted(map(example_id, conversations)), ID_DTYPE)


def test_each_wanted_example_comes_with_its_messages(pool_folder):
    calling = [
        {"role": "user", "content": " What time? "},
        {"role": "assistant", "content": "", "name": "bot", "tool_calls": '[{"function": {"name": "now"}}]'},
        {"role": "tool", "content": "12:00", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Noon.\n"},
    ]
    pool_folder.write("data/a.jsonl", {"messages": talk("one")}, {"messages": calling})
    pool_folder.write("data/b.jsonl", {"messages": talk("two")}, {"messages": talk("one")}, {"messages": talk("three")})
    clean = pool_folder.clean(POOL).clean
    found = list(stream_conversations(pool_folder.store, clean, ids_of(calling, talk("three"), talk("one"))))
    assert found == [(example_id(m), m) for m in (talk("one"), calling, talk("three"))]  # in stored order, once each


def test_ids_that_the_pool_does_not_have_are_passed_over(pool_folder):
    pool_folder.write("data/a.jsonl", {"messages": talk("one")})
    clean = pool_folder.clean(POOL).clean
    assert [id for id, _ in stream_conversations(pool_folder.store, clean, ids_of(talk("one"), talk("other")))] == [example_id(talk("one"))]
    assert list(stream_conversations(pool_folder.store, clean, ids_of(talk("other")))) == []
    assert list(stream_conversations(pool_folder.store, clean, ids_of())) == []


def test_every_wanted_one_is_found_in_shards_of_many_batches(pool_folder):
    conversations = [talk(f"number {number}") for number in range(BATCH_ROWS + 700)]
    pool_folder.write("data/a.jsonl", *({"messages": m} for m in conversations[: BATCH_ROWS + 300]))
    pool_folder.write("data/b.jsonl", *({"messages": m} for m in conversations[BATCH_ROWS + 300 :]))
    clean = pool_folder.clean(POOL).clean
    edges = [0, 1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 299, BATCH_ROWS + 300, BATCH_ROWS + 699]
    for wanted in (conversations, conversations[::97], [conversations[place] for place in edges]):
        assert list(stream_conversations(pool_folder.store, clean, ids_of(*wanted))) == [(example_id(m), m) for m in wanted]


def test_a_shard_that_is_gone_is_named(pool_folder):
    pool_folder.write("data/a.jsonl", {"messages": talk("one")})
    clean = pool_folder.clean(POOL).clean
    pool_folder.store.paths(clean, "shard")[0].unlink()
    with pytest.raises(StateError, match="of clean/chat is gone; run `rds run` to make it again"):
        list(stream_conversations(pool_folder.store, clean, ids_of(talk("one"))))


def test_absent_fields_are_left_out():
    assert tidy([{"role": "user", "content": "", "name": None, "tool_calls": None, "tool_call_id": None}]) == [{"role": "user", "content": ""}]
