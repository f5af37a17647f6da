from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from rds_dagster.errors import BusyError, StateError
from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import id_array
from rds_dagster.storage.vectors import VectorStore, vector_array

DIMS = 4
PROCESS = """
import sys, time
import numpy as np
from pathlib import Path
from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.vectors import VectorStore
store = VectorStore(Layout(Path(sys.argv[1])), "abc", 4)
wanted = np.array([content_digest(str(n).encode()) for n in range(int(sys.argv[2]))], ID_DTYPE)
def append(ids):
    store.append(ids, np.full((len(ids), 4), 0.5, np.float16), np.full(len(ids), 9, np.int32), "cpu")
"""
APPEND_WHAT_IS_MISSING = (
    PROCESS
    + """
print("begins", flush=True)
for start in range(0, len(wanted), 20):
    with store.writing(timeout_s=60):
        chunk = wanted[start:start + 20]
        missing = chunk[~np.isin(chunk, store.ids())]
        if len(missing):
            append(missing)
"""
)
APPEND_FOR_EVER = (
    PROCESS
    + """
with store.writing():
    for start in range(0, len(wanted), 100):
        append(wanted[start:start + 100])
        if start == 300:
            print("four chunks are there", flush=True)
"""
)
HOLD = PROCESS + "\nwith store.writing():\n    print('held', flush=True)\n    time.sleep(60)\n"


@pytest.fixture
def store(tmp_path) -> VectorStore:
    return VectorStore(Layout(tmp_path / ".rds"), "abc", DIMS)


def made_ids(start: int, end: int) -> np.ndarray:
    return np.array([content_digest(str(number).encode()) for number in range(start, end)], ID_DTYPE)


def made_vectors(start: int, end: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(end, DIMS))[start:]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def append(store: VectorStore, start: int, end: int, made_on: str = "cpu") -> None:
    with store.writing():
        store.append(made_ids(start, end), made_vectors(start, end), np.arange(start, end, dtype=np.int32), made_on)


def stored(store: VectorStore, **part: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    batches = list(store.stream(["id", "vector", "num_tokens"], **part))
    table = pa.Table.from_batches(batches)
    return id_array(table.column("id")), vector_array(table.column("vector"), DIMS), table.column("num_tokens").to_pylist()


def test_an_empty_store_has_nothing(store):
    assert store.num_rows() == 0
    assert store.ids().tolist() == [] and store.ids().dtype == ID_DTYPE
    assert list(store.stream(["id"])) == []
    assert store.made_on() == []


def test_rows_come_back_in_the_order_in_which_they_were_written(store):
    edges = [0, 1, 30, 31, 32, 500, 501, 900, 1000]
    for start, end in pairwise(edges):
        append(store, start, end)
    assert store.num_rows() == 1000
    assert (store.ids() == made_ids(0, 1000)).all()
    ids, vectors, num_tokens = stored(store)
    assert (ids == made_ids(0, 1000)).all()
    assert vectors.dtype == np.float16 and (vectors == made_vectors(0, 1000)).all()
    assert num_tokens == list(range(1000))


def test_more_rows_than_one_batch_come_back_in_order(store):
    append(store, 0, 20_000)
    append(store, 20_000, 20_005)
    assert (store.ids() == made_ids(0, 20_005)).all()
    assert len(list(store.stream(["id"]))) > 1


def test_wide_vectors_of_uneven_chunks_come_back_in_order(tmp_path):
    store = VectorStore(Layout(tmp_path / ".rds"), "wide", 4096)
    vectors = np.random.default_rng(0).normal(size=(700, 4096)).astype(np.float16)  # 5.5 MiB
    for start, end in pairwise((0, 300, 301, 590, 700)):
        store.append(made_ids(start, end), vectors[start:end], np.ones(end - start, np.int32), "cpu")
    for start, rows in ((0, None), (0, 700), (100, 550), (256, 256), (299, 2), (650, 400)):
        batches = list(store.stream(["id", "vector"], start=start, rows=rows))
        end = 700 if rows is None else start + rows
        assert (np.concatenate([id_array(batch.column("id")) for batch in batches]) == made_ids(0, 700)[start:end]).all()
        assert (np.concatenate([vector_array(batch.column("vector"), 4096) for batch in batches]) == vectors[start:end]).all()


@pytest.mark.parametrize(("start", "rows"), [(0, 5), (3, 4), (7, 1), (3, None), (9, 10), (0, 0), (10, 5), (0, 10)])
def test_a_part_is_cut_out_by_place(store, start, rows):
    for begin, end in ((0, 4), (4, 5), (5, 10)):
        append(store, begin, end)
    ids = [id_array(batch.column("id")) for batch in store.stream(["id"], start=start, rows=rows)]
    expected = made_ids(0, 10)[start : None if rows is None else start + rows]
    assert (np.concatenate([np.empty(0, ID_DTYPE), *ids]) == expected).all()


def test_two_encoders_have_two_tables(store, tmp_path):
    other = VectorStore(Layout(tmp_path / ".rds"), "abd", 2)
    append(store, 0, 3)
    other.append(made_ids(0, 1), np.zeros((1, 2), np.float16), np.ones(1, np.int32), "cpu")
    assert (store.num_rows(), other.num_rows()) == (3, 1)


def test_what_made_the_vectors_is_known(store):
    append(store, 0, 3, "cuda torch 2.13.0")
    append(store, 3, 5, "cpu torch 2.13.0")
    append(store, 5, 6, "cpu torch 2.13.0")
    assert store.made_on() == ["cpu torch 2.13.0", "cuda torch 2.13.0"]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((3, 4), np.float32), r"float32 \(3, 4\)"),
        (np.zeros((3, 5), np.float16), r"float16 \(3, 5\)"),
        (np.zeros((2, 4), np.float16), r"float16 \(2, 4\)"),
        (np.zeros(12, np.float16), r"float16 \(12,\)"),
    ],
)
def test_vectors_of_another_kind_or_size_are_refused(store, vectors, said):
    with pytest.raises(StateError, match=rf"vectors are {said}; embeddings_abc takes float16 \(3, 4\)"):
        store.append(made_ids(0, 3), vectors, np.ones(3, np.int32), "cpu")
    assert store.num_rows() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_told_with_its_example(store, value):
    append(store, 0, 2)
    vectors = made_vectors(0, 5)
    vectors[3, 2] = vectors[4, 0] = value
    told = f"2 vectors are not finite in float16, such as that of example {bytes(made_ids(3, 4)[0]).hex()}; set the encoder's dtype to float32"
    with pytest.raises(StateError, match=told):
        store.append(made_ids(0, 5), vectors, np.ones(5, np.int32), "cpu")
    assert store.num_rows() == 2


def test_two_processes_that_append_what_is_missing_write_no_id_twice(store, start_process):
    processes = [start_process(APPEND_WHAT_IS_MISSING, store.layout.home, 400) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    ids = store.ids()
    assert len(ids) == 400
    assert (np.sort(ids) == np.sort(made_ids(0, 400))).all()


def test_a_process_killed_while_it_appends_leaves_whole_chunks(store, start_process):
    process = start_process(APPEND_FOR_EVER, store.layout.home, 200_000)
    process.kill()
    process.wait()
    num_rows = store.num_rows()
    assert 400 <= num_rows < 200_000 and num_rows % 100 == 0
    assert (store.ids() == made_ids(0, num_rows)).all()
    append(store, num_rows, num_rows + 7)
    assert (store.ids() == made_ids(0, num_rows + 7)).all()


def test_a_folder_left_by_a_kill_before_the_first_commit_counts_as_empty(store):
    append(store, 0, 3)
    folder = store.layout.vectors / "embeddings_abc.lance"
    for manifest in (folder / "_versions").iterdir():
        manifest.unlink()
    assert store.num_rows() == 0
    append(store, 5, 9)
    assert (store.ids() == made_ids(5, 9)).all()


def test_who_holds_the_right_to_append_is_told(store, start_process):
    holder = start_process(HOLD, store.layout.home, 0)
    with pytest.raises(BusyError, match=rf"the vector table embeddings_abc is held by process {holder.pid} "), store.writing(timeout_s=0.2):
        pass


def test_a_full_disk_keeps_the_vectors_stored_before(small_disk):
    store = VectorStore(Layout(small_disk), "abc", 128)
    vectors = np.random.default_rng(0).normal(size=(8000, 128)).astype(np.float16)  # 2 MiB
    store.append(made_ids(0, 100), vectors[:100], np.ones(100, np.int32), "cpu")
    with pytest.raises(StateError, match=r"8,000 vectors cannot be added to embeddings_abc .*No space left.*; mend the disk and run again"):
        store.append(made_ids(0, 8000), vectors, np.ones(8000, np.int32), "cpu")
    assert store.num_rows() == 100
    store.append(made_ids(100, 200), vectors[100:200], np.ones(100, np.int32), "cpu")
    assert (store.ids() == made_ids(0, 200)).all()
