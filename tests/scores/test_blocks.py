"""Blocks over a real LanceDB table: appending touches only the last one, and what is not kept is not in them."""

from pathlib import Path

import numpy as np
import pytest

from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, ids_fingerprint
from rds_dagster.scores import blocks
from rds_dagster.scores.blocks import BLOCK_BYTES, block_rows, live_blocks, read_block
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.vectors import VectorStore

DIMS = 4


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VectorStore:
    """An empty table whose blocks hold 8 vectors."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 2 * DIMS)
    return VectorStore(Layout(tmp_path), "e" * 32, DIMS)


def some_ids(count: int, seed: int = 0) -> np.ndarray:
    """Distinct, in no order, some with a zero byte at the end."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (count, 16), np.uint8)
    found[::5, -2:] = 0
    return found.view(ID_DTYPE).ravel()


def append(store: VectorStore, ids: np.ndarray) -> np.ndarray:
    vectors = np.random.default_rng(int.from_bytes(bytes(ids[0])[:2])).standard_normal((len(ids), store.dims)).astype(np.float16)
    with store.writing():
        store.append(ids, vectors, np.full(len(ids), 3, np.int32), "here")
    return vectors


def names(store: VectorStore, live: np.ndarray) -> list[str]:
    return [block.name for block in live_blocks(store, np.sort(live))]


def test_a_block_is_a_power_of_two_of_rows_within_its_bytes() -> None:
    for dims in (1, 64, 384, 4096, 5000):
        rows = block_rows(dims)
        assert rows & (rows - 1) == 0 and rows * 2 * dims <= BLOCK_BYTES < 2 * rows * 2 * dims
    assert block_rows(384) == 131_072


def test_blocks_cover_the_table_in_written_order_each_in_id_order(store: VectorStore) -> None:
    ids = some_ids(20)
    append(store, ids[:13])
    append(store, ids[13:])
    found = live_blocks(store, np.sort(ids))
    assert [(block.start, block.rows) for block in found] == [(0, 8), (8, 8), (16, 4)]
    for block in found:
        assert np.array_equal(block.ids, np.sort(ids[block.start : block.start + 8]))
        assert block.name == ids_fingerprint(ids[block.start : block.start + 8])


def test_appended_vectors_change_only_the_last_block(store: VectorStore) -> None:
    ids = some_ids(30)
    append(store, ids[:20])
    before = names(store, ids[:20])
    append(store, ids[20:])
    after = names(store, ids)
    assert len(before) == 3 and len(after) == 4
    assert after[:2] == before[:2] and after[2] != before[2]


def test_ids_that_are_no_longer_kept_are_left_out_and_an_empty_block_is_passed_over(store: VectorStore) -> None:
    ids = some_ids(24)
    append(store, ids)
    live = np.concatenate([ids[:3], ids[16:]])  # of the first block three, of the second none
    found = live_blocks(store, np.sort(live))
    assert [(block.start, block.rows, len(block.ids)) for block in found] == [(0, 8, 3), (16, 8, 8)]
    assert np.array_equal(found[0].ids, np.sort(ids[:3]))
    assert found[1].name == names(store, ids)[2]


def test_a_block_is_read_in_id_order_without_what_is_not_kept(store: VectorStore) -> None:
    ids = some_ids(20)
    vectors = np.concatenate([append(store, ids[:11]), append(store, ids[11:])])
    live = np.sort(ids[np.arange(20) % 3 > 0])
    by_id = dict(zip(ids.tolist(), vectors, strict=True))
    for block in live_blocks(store, live):
        read = read_block(store, block)
        assert read.dtype == np.float16
        assert np.array_equal(read, np.array([by_id[i] for i in block.ids.tolist()]))


def test_an_id_without_a_vector_is_refused_with_the_numbers(store: VectorStore) -> None:
    ids = some_ids(5)
    append(store, ids[:3])
    with pytest.raises(StateError, match=r"5 examples are kept and 3 of them have a vector; run `rds run 'embeddings/\*'` first"):
        live_blocks(store, np.sort(ids))


def test_no_table_and_nothing_kept_gives_no_block(store: VectorStore) -> None:
    assert live_blocks(store, np.empty(0, ID_DTYPE)) == []
    append(store, some_ids(3))
    assert live_blocks(store, np.empty(0, ID_DTYPE)) == []
