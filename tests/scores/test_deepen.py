"""Deeper lists from stored vectors alone: equal to one product over everything, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.scores import blocks
from rds_dagster.scores.deepen import deeper_top
from rds_dagster.scores.similarity import score_block
from rds_dagster.scores.space import Space
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.vectors import VectorStore

DIMS = 3


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[VectorStore, dict[bytes, np.ndarray]]:
    """60 vectors of small whole numbers, so that many tie, in five appends; and by id."""
    store = VectorStore(Layout(tmp_path_factory.mktemp("deepen")), "e" * 32, DIMS)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 256, (60, 16), np.uint8).view(ID_DTYPE).ravel()
    vectors = rng.integers(1, 3, (60, DIMS)).astype(np.float16)
    with store.writing():
        for start in range(0, 60, 12):
            store.append(ids[start : start + 12], vectors[start : start + 12], np.ones(12, np.int32), "here")
    return store, dict(zip(ids.tolist(), vectors, strict=True))


@given(depth=st.integers(1, 70), kept=st.integers(1, 60), block=st.sampled_from([1, 4, 16, 64]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_deeper_lists_equal_one_product_over_all_that_is_kept(
    stored: tuple[VectorStore, dict[bytes, np.ndarray]], depth: int, kept: int, block: int, seed: int
) -> None:
    store, by_id = stored
    rng = np.random.default_rng(seed)
    live = np.sort(rng.permutation(np.array(list(by_id), ID_DTYPE))[:kept])
    queries = rng.integers(1, 3, (4, DIMS)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block * 2 * DIMS)
        found = deeper_top(Space(store), live, queries, depth)
    whole = score_block(np.array([by_id[i] for i in live.tolist()]), queries, depth).top
    assert np.array_equal(found.rows, whole.rows)
    assert np.array_equal(found.scores, whole.scores)
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)
