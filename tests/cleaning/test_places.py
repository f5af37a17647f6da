import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.cleaning import places as places_module
from rds_dagster.cleaning.places import coded, first_of_each, ids_and_sources, in_order, read_places, sorted_order
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.shards import make_shard
from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.pools.files import list_files
from rds_dagster.pools.settings import PoolSettings

texts = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=40)


def keys(*numbers: int) -> np.ndarray:
    return np.array([number.to_bytes(16, "big") for number in numbers], ID_DTYPE)


def batches(values: list[str | None], size: int) -> list[pa.Array]:
    return [pa.array(values[start : start + size], pa.string()) for start in range(0, len(values), size)]


def two_shards(pool_folder):
    pool = PoolSettings("chat", "data")
    for name, numbers in (("a", (5, 6, 7)), ("b", (8, 5))):
        records = [{"id": n, "prompt": f"question {n}", "response": "x" * n, "source": f"s{n % 2}"} for n in numbers]
        pool_folder.write(f"data/{name}.jsonl", *records[:1], b"{", *records[1:])
    layout = pool_folder.store.layout
    return read_places(layout, [make_shard(layout, file, file.file, pool, CleaningSettings()) for file in list_files("data", root=pool_folder.root)])


def test_places_of_two_shards_by_hand(pool_folder):
    places = two_shards(pool_folder)
    assert places.ids[0] == places.ids[4] and len(set(places.ids.tolist())) == 4
    assert [part.tolist() for part in places.shard_and_row(np.array([0, 2, 3, 4], np.uint32))] == [[0, 0, 1, 1], [0, 2, 0, 1]]
    assert places.numbers("line").tolist() == [1, 3, 4, 1, 3]
    assert (places.numbers("line").dtype, places.numbers("num_chars").dtype) == (np.int64, np.int32)
    assert places.numbers("num_chars").tolist() == [10 + n for n in (5, 6, 7, 8, 5)]
    names, codes = places.sources()
    assert [names[code] for code in codes] == ["s1", "s0", "s1", "s0", "s1"]
    assert pa.concat_arrays(places.batches("original_id")).to_pylist() == ["5", "6", "7", "8", "5"]


def test_rows_go_by_key_and_equal_ones_as_they_stand():
    some = keys(5, 3, 5, 9, 3)
    order = sorted_order(some)
    assert order.tolist() == [1, 4, 0, 2, 3] and order.dtype == np.uint32
    assert first_of_each(some, order).tolist() == [True, False, True, False, True]
    assert first_of_each(keys(), sorted_order(keys())).tolist() == []


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 7))
def test_the_first_of_each_is_found_across_blocks(numbers, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places_module, "GROUP_ROWS", block)
        some = keys(*numbers)
        order = sorted_order(some)
        by_key = sorted(numbers)
        assert first_of_each(some, order).tolist() == [row == 0 or by_key[row] != by_key[row - 1] for row in range(len(numbers))]


@given(st.lists(st.text(max_size=2), max_size=30), st.integers(1, 9))
def test_sources_are_numbered_in_order_of_the_alphabet(values, size):
    names, codes = coded(batches(values, size), len(values))
    assert names == sorted(set(values))
    assert [names[code] for code in codes] == values


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from("abcd")), max_size=30), st.integers(1, 9))
def test_the_data_version_counts_only_sources_that_occur(rows, size):
    ids, sources = keys(*(number for number, _ in rows)), [name for _, name in rows]
    found = ids_and_sources((ids[at : at + size] for at in range(0, len(ids), size)), np.array(["abcd".index(name) for name in sources], np.int32), "abcd")
    here = sorted(set(sources))
    assert found == (content_digest(ids.tobytes()), here, content_digest(np.array([here.index(name) for name in sources], "<i4").tobytes()))


@given(texts, st.integers(1, 9), st.randoms())
def test_a_column_comes_in_the_order_asked_for(tmp_path_factory, values, size, randoms):
    order = randoms.sample(range(len(values)), len(values))
    found = list(in_order(batches(values, size), np.array(order, np.uint32), tmp_path_factory.getbasetemp()))
    assert [text for part in found for text in part.to_pylist()] == [values[number] for number in order]
