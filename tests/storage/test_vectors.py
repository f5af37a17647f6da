import time
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from rds_dagster.errors import BusyError, StateError
from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.storage.ids import id_array
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.vectors import VectorStore, remove_dropped, stored_tables, vector_array

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
RETAIN_FOR_EVER = (
    PROCESS
    + """
left = np.sort(wanted)
while len(left) > 50:
    left = left[50:]
    with store.writing():
        store.retain(left)
        store.tidy()
    if len(left) % 1000 == 950:
        print("one more", flush=True)
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
        end = 700 if rows is None else start + rows
        for slice_bytes in (None, 2**20, 2**30):
            batches = list(store.stream(["id", "vector"], start=start, rows=rows, slice_bytes=slice_bytes))
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


def tidied(store: VectorStore) -> None:
    with store.writing():
        store.tidy()


def retained(store: VectorStore, ids: np.ndarray) -> int:
    with store.writing():
        return store.retain(np.sort(ids))


def test_rows_that_leave_take_nothing_with_them(store):
    """Against the slow twin: every row, in written order, with its vector and its tokens."""
    for start, end in pairwise((0, 1, 300, 301, 302, 9000, 9700)):
        append(store, start, end, f"machine {start % 2}")
    left = np.sort(np.random.default_rng(1).permutation(9700)[:6000])
    assert retained(store, made_ids(0, 9700)[left]) == 3700
    for _ in range(2):  # and they are still so when old versions are gone
        ids, vectors, num_tokens = stored(store)
        assert (ids == made_ids(0, 9700)[left]).all()
        assert (vectors == made_vectors(0, 9700)[left]).all()
        assert num_tokens == left.tolist()
        assert (np.concatenate([id_array(b.column("id")) for b in store.stream(["id", "vector"], start=77, rows=4000)]) == ids[77:4077]).all()
        tidied(store)
    assert store.made_on() == ["machine 0", "machine 1"]
    append(store, 9700, 9710)
    assert (store.ids() == np.concatenate([ids, made_ids(9700, 9710)])).all()


def test_rows_that_are_all_needed_are_left_as_they_are(store):
    assert retained(store, made_ids(0, 5)) == 0, "there is no table yet"
    append(store, 0, 5)
    files = sorted(store.folder.rglob("*"))
    assert retained(store, made_ids(0, 9)) == 0
    assert sorted(store.folder.rglob("*")) == files


def test_all_rows_may_leave(store):
    append(store, 0, 5)
    assert retained(store, made_ids(7, 9)) == 5
    tidied(store)
    assert store.num_rows() == 0 and store.ids().tolist() == []
    append(store, 3, 6)
    assert (store.ids() == made_ids(3, 6)).all()


def test_tidying_merges_chunks_in_their_order_and_frees_old_versions(store):
    edges = [0, *np.cumsum(np.random.default_rng(2).integers(1, 400, 30)).tolist()]
    for start, end in pairwise(edges):
        append(store, start, end)
    assert store.has_old_versions()
    before = store.num_bytes()
    tidied(store)
    assert not store.has_old_versions()
    assert len(list((store.folder / "data").iterdir())) == 1
    assert store.num_bytes() < before
    ids, vectors, num_tokens = stored(store)
    assert (ids == made_ids(0, edges[-1])).all() and (vectors == made_vectors(0, edges[-1])).all()
    assert num_tokens == list(range(edges[-1]))
    for start, end in pairwise([edges[-1], edges[-1] + 10, edges[-1] + 500]):
        append(store, start, end)
    tidied(store)
    assert (store.ids() == made_ids(0, edges[-1] + 500)).all()


def test_what_a_killed_append_left_is_freed(store):
    append(store, 0, 3)
    (store.folder / "data" / "0123.lance").write_bytes(b"never committed")
    append(store, 3, 4)
    tidied(store)
    assert not (store.folder / "data" / "0123.lance").exists()
    assert (store.ids() == made_ids(0, 4)).all()


def test_a_table_that_is_tidied_while_its_devices_are_read_is_read_again(store, monkeypatch):
    """Status takes no lock: it may have opened the version that goes."""
    append(store, 0, 3, "cpu")
    append(store, 3, 4, "cuda")
    opened = [store._open()]
    tidied(store)
    really_open = VectorStore._open
    monkeypatch.setattr(VectorStore, "_open", lambda self: opened.pop() if opened else really_open(self))
    assert store.made_on() == ["cpu", "cuda"]
    assert not opened


def test_a_table_that_is_dropped_is_gone_and_the_others_stay(store, tmp_path):
    layout = Layout(tmp_path / ".rds")
    other = VectorStore(layout, "abd", 2)
    append(store, 0, 3)
    other.append(made_ids(0, 1), np.zeros((1, 2), np.float16), np.ones(1, np.int32), "cpu")
    half = VectorStore(layout, "ace", 0)
    half.folder.mkdir()
    assert stored_tables(layout) == [store, other, half]
    with store.writing():
        store.drop()
    assert stored_tables(layout) == [other, half]
    assert (store.num_rows(), store.num_bytes(), other.num_rows()) == (0, 0, 1)
    append(store, 5, 9)
    assert (store.ids() == made_ids(5, 9)).all()


def test_a_removal_that_was_killed_leaves_no_table_behind_and_is_ended_by_the_next(store, tmp_path):
    layout = Layout(tmp_path / ".rds")
    assert (stored_tables(layout), remove_dropped(layout)) == ([], 0)
    append(store, 0, 3)
    store.folder.rename(store.folder.with_suffix(".dropped"))
    assert (stored_tables(layout), store.num_rows()) == ([], 0)
    append(store, 0, 1)
    with store.writing():
        store.drop()
    assert list(layout.vectors.iterdir()) == []
    append(store, 0, 3)
    size = store.num_bytes()  # anew: LanceDB writes the time down, in a number of bytes that varies
    store.folder.rename(store.folder.with_suffix(".dropped"))
    assert remove_dropped(layout) == size
    assert list(layout.vectors.iterdir()) == []


def test_a_process_killed_while_rows_leave_leaves_a_whole_table(store, start_process):
    for start in range(0, 4000, 500):
        append(store, start, start + 500)
    order = made_ids(0, 4000)
    for wait_s in (0.01, 0.03, 0.07):
        process = start_process(RETAIN_FOR_EVER, store.layout.home, 4000)
        time.sleep(wait_s)
        process.kill()
        process.wait()
        ids, vectors, num_tokens = stored(store)
        assert len(ids) < 4000 and len(ids) % 50 == 0
        assert (ids == order[np.isin(order, ids)]).all()
        assert (vectors == made_vectors(0, 4000)[num_tokens]).all()
    tidied(store)
    assert (store.ids() == ids).all() and not store.has_old_versions()


def test_rows_cannot_leave_on_a_full_disk_and_all_stay(small_disk):
    store = VectorStore(Layout(small_disk), "abc", 128)
    vectors = np.random.default_rng(0).normal(size=(2800, 128)).astype(np.float16)  # 0.7 MiB
    store.append(made_ids(0, 2800), vectors, np.ones(2800, np.int32), "cpu")
    with pytest.raises(StateError, match=r"rows cannot be taken out of embeddings_abc \(.*No space left.*; mend the disk and run again, the vectors are unt"):
        retained(store, made_ids(0, 2500))
    assert (store.ids() == made_ids(0, 2800)).all()
