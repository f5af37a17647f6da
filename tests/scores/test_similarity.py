"""Scores against plain numpy, against whole-number arithmetic that rounds once, and the promise that no bit depends on a row's company."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.scores import similarity
from rds_dagster.scores.similarity import PRODUCT_ROWS, TaskScores, cosine_product, score_block


def random_units(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact_cosines(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(N, M) float32 by Python's whole numbers: the sum has no rounding at all, and the result one."""
    left, right = ([[int(number * GRID) for number in row] for row in grid_rows(rows)] for rows in (vectors, queries))
    sums = [[sum(a * b for a, b in zip(row, query, strict=True)) for query in right] for row in left]
    return np.array([[np.float32(value / 2**52) for value in row] for row in sums], np.float32)


def slow_top(cosines: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    rows = [sorted(range(len(cosines)), key=lambda row: (-cosines[row, query], row))[:depth] for query in range(cosines.shape[1])]
    return rows, [[float(cosines[row, query]) for row in mine] for query, mine in enumerate(rows)]


def same(one: TaskScores, other: TaskScores) -> bool:
    pairs = [(one.best, other.best), (one.best_query, other.best_query), (one.top.rows, other.top.rows), (one.top.scores, other.top.scores)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@st.composite
def tied_worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Vectors and queries of small whole numbers, none zero, so that cosines tie; and a depth."""
    dims = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.integers(1, 3))

    def rows(count: int) -> np.ndarray:
        found = rng.integers(-spread, spread, (count, dims), endpoint=True).astype(np.float32)
        found[~found.any(axis=1)] = 1
        return found

    return rows(draw(st.integers(1, 40))), rows(draw(st.integers(1, 5))), draw(st.integers(1, 45))


# ---- by hand -------------------------------------------------------------------------------------------------------------------------------------------


def test_each_example_gets_its_largest_cosine_and_the_query_that_gave_it() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 4], [-1, 0]], np.float16)
    queries = np.array([[5, 0], [0, 1]], np.float32)
    scores = score_block(vectors, queries, depth=2)
    assert scores.best.tolist() == [1.0, 1.0, np.float32(0.8), 0.0]
    assert scores.best_query.tolist() == [0, 1, 1, 1]
    assert scores.top.rows.tolist() == [[0, 2], [1, 2]]
    assert scores.top.scores.tolist() == [[1.0, np.float32(0.6)], [1.0, np.float32(0.8)]]


def test_the_first_query_wins_a_tie_and_the_smaller_row_stands_first_in_a_list() -> None:
    scores = score_block(np.array([[2, 2], [1, 1], [7, 7]], np.float16), np.array([[1, 1], [3, 3]], np.float32), depth=2)
    assert scores.best_query.tolist() == [0, 0, 0]
    assert scores.top.rows.tolist() == [[0, 1], [0, 1]]


def test_lists_are_as_long_as_the_block_where_that_is_shorter_than_the_depth() -> None:
    assert score_block(random_units(3, 4), random_units(2, 4, seed=1), depth=10).top.rows.shape == (2, 3)


def test_shapes_and_dtypes_are_those_that_the_tables_hold() -> None:
    scores = score_block(random_units(5, 4).astype(np.float16), random_units(2, 4, seed=1), depth=3)
    found = [(a.shape, a.dtype) for a in (scores.best, scores.best_query, scores.top.rows, scores.top.scores)]
    assert found == [((5,), np.float32), ((5,), np.int32), ((2, 3), np.int64), ((2, 3), np.float32)]


# ---- against plain numpy and exact arithmetic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 16, 384, 2048])
def test_scores_equal_the_plain_cosine(dims: int) -> None:
    vectors, queries = random_units(1500, dims).astype(np.float16), random_units(17, dims, seed=1) * 3
    wide, asked = vectors.astype(np.float64), queries.astype(np.float64)
    plain = (wide @ asked.T) / np.linalg.norm(wide, axis=1)[:, None] / np.linalg.norm(asked, axis=1)
    scores = score_block(vectors, queries, depth=20)
    assert np.abs(scores.best - plain.max(axis=1)).max() < 1e-6
    assert np.abs(plain[np.arange(1500), scores.best_query] - plain.max(axis=1)).max() < 1e-6
    assert np.abs(scores.top.scores - np.sort(plain, axis=0)[: -20 - 1 : -1].T).max() < 1e-6


@given(tied_worlds(), st.sampled_from([1, 3, 7, PRODUCT_ROWS]))
@settings(max_examples=150, deadline=None)
def test_lists_and_scores_equal_the_slow_twin(world: tuple[np.ndarray, np.ndarray, int], product_rows: int) -> None:
    vectors, queries, depth = world
    cosines = exact_cosines(vectors, queries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "PRODUCT_ROWS", product_rows)
        scores = score_block(vectors.astype(np.float16), queries, depth)
    assert np.array_equal(scores.best, cosines.max(axis=1))
    assert scores.best_query.tolist() == [max(range(len(queries)), key=lambda m: (row[m], -m)) for row in cosines]
    assert (scores.top.rows.tolist(), scores.top.scores.tolist()) == slow_top(cosines, depth)


def test_float64_holds_every_sum_exactly() -> None:
    vectors, queries = random_units(40, 384).astype(np.float16), random_units(6, 384, seed=1)
    assert np.array_equal(cosine_product(vectors, grid_rows(queries).T), exact_cosines(vectors, queries))


def test_the_top_collector_forgets_nothing_when_it_shrinks_often() -> None:
    vectors, queries = random_units(5_000, 8), random_units(3, 8, seed=1)
    cosines = cosine_product(vectors, grid_rows(queries).T)
    order = np.argsort(-cosines, axis=0, kind="stable")[:2].T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "PRODUCT_ROWS", 2)
        top = score_block(vectors, queries, depth=2).top
    assert np.array_equal(top.rows, order) and np.array_equal(top.scores, np.take_along_axis(cosines.T, order, axis=1))


def test_a_zero_vector_is_as_far_from_every_query() -> None:
    scores = score_block(np.array([[0, 0], [3, 4]], np.float32), np.array([[1, 0], [-1, 0]], np.float32), depth=2)
    assert scores.best.tolist() == [0.0, np.float32(0.6)] and scores.top.scores[1].tolist() == [0.0, np.float32(-0.6)]


# ---- no bit depends on company -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_queries", [1, 8, 9, 16, 50])
@pytest.mark.parametrize("dims", [64, 100, 384])
def test_the_bits_of_a_score_do_not_depend_on_place_or_neighbours(num_queries: int, dims: int) -> None:
    # from 8 queries on, a float32 product of OpenBLAS gives other bits to rows at other places
    vectors, queries = random_units(2 * PRODUCT_ROWS + 37, dims).astype(np.float16), random_units(num_queries, dims, seed=1)
    whole = cosine_product(vectors, grid_rows(queries).T)
    rng = np.random.default_rng(2)
    for _ in range(3):
        order = rng.permutation(len(vectors))[: rng.integers(1, len(vectors))]
        scores = score_block(vectors[order], queries, depth=5)
        assert np.array_equal(scores.best, whole[order].max(axis=1))
        assert np.array_equal(scores.best_query, whole[order].argmax(axis=1))
    for row in (0, 7, PRODUCT_ROWS, len(vectors) - 1):
        assert np.array_equal(cosine_product(vectors[row : row + 1], grid_rows(queries).T)[0], whole[row])


def test_the_bits_of_a_score_do_not_depend_on_the_other_queries() -> None:
    vectors, queries = random_units(300, 384), random_units(50, 384, seed=1)
    whole = cosine_product(vectors, grid_rows(queries).T)
    for number in (0, 17, 49):
        assert np.array_equal(score_block(vectors, queries[number : number + 1], depth=1).best, whole[:, number])


def test_the_same_bits_come_out_with_another_number_of_threads(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from rds_dagster.embeddings.unit_grid import grid_rows
from rds_dagster.scores.similarity import cosine_product
rng = np.random.default_rng(0)
vectors, queries = rng.standard_normal((3000, 384)).astype(np.float16), rng.standard_normal((50, 384), np.float32)
np.save(sys.argv[1], cosine_product(vectors, grid_rows(queries).T))
"""
    for threads in ("1", "2", "3"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{threads}.npy")], check=True, env={"OPENBLAS_NUM_THREADS": threads})
    one, two, three = (np.load(tmp_path / f"{threads}.npy") for threads in ("1", "2", "3"))
    assert np.array_equal(one, two) and np.array_equal(one, three)


@given(tied_worlds(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_block_in_another_order_has_the_same_scores(world: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    vectors, queries, depth = world
    order = np.random.default_rng(seed).permutation(len(vectors))
    scores, shuffled = score_block(vectors, queries, depth), score_block(vectors[order], queries, depth)
    assert np.array_equal(shuffled.best, scores.best[order]) and np.array_equal(shuffled.best_query, scores.best_query[order])
    assert np.array_equal(shuffled.top.scores, scores.top.scores)  # which of the tied rows stand in the list depends on the order, their scores do not
    assert same(score_block(vectors, queries, depth), scores)
