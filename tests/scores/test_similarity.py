"""Scores against plain numpy, whole-number arithmetic and float64 sums of all pairs, and the promise that no bit depends on a row's company."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.scores import filtering, similarity
from rds_dagster.scores.products import Bfloat16Products, NumpyProducts, Products, TorchProducts
from rds_dagster.scores.similarity import FILTER_DEPTHS, TILE_ROWS, QuerySets, TaskScores, TopList, score_block, score_sets


def random_units(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact_cosines(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(N, M) float32 by Python's whole numbers: the sum has no rounding at all, and the result one."""
    left, right = ([[int(number * GRID) for number in row] for row in grid_rows(rows)] for rows in (vectors, queries))
    sums = [[sum(a * b for a, b in zip(row, query, strict=True)) for query in right] for row in left]
    return np.array([[np.float32(value / 2**52) for value in row] for row in sums], np.float32)


def all_cosines(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(N, M) float32 from float64 sums of all pairs: how every score was made before float32 said which pairs matter."""
    cosines: np.ndarray = (grid_rows(vectors) @ np.ascontiguousarray(grid_rows(queries).T)).astype(np.float32)
    return cosines


def plain_scores(vectors: np.ndarray, queries: np.ndarray, depth: int) -> TaskScores:
    """The same of a whole block, with nothing left out."""
    cosines = all_cosines(vectors, queries)
    order = np.argsort(-cosines, axis=0, kind="stable")[:depth].T
    top = TopList(order, np.take_along_axis(cosines.T, order, axis=1))
    return TaskScores(cosines.max(axis=1), cosines.argmax(axis=1).astype(np.int32), top)


def slow_top(cosines: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    rows = [sorted(range(len(cosines)), key=lambda row: (-cosines[row, query], row))[:depth] for query in range(cosines.shape[1])]
    return rows, [[float(cosines[row, query]) for row in mine] for query, mine in enumerate(rows)]


def same(one: TaskScores, other: TaskScores) -> bool:
    pairs = [(one.best, other.best), (one.best_query, other.best_query), (one.top.rows, other.top.rows), (one.top.scores, other.top.scores)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


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


@given(tied_worlds(), st.sampled_from([1, 3, 7, TILE_ROWS]))
@settings(max_examples=150, deadline=None)
def test_lists_and_scores_equal_the_slow_twin(world: tuple[np.ndarray, np.ndarray, int], tile_rows: int) -> None:
    vectors, queries, depth = world
    cosines = exact_cosines(vectors, queries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "TILE_ROWS", tile_rows)
        scores = score_block(vectors.astype(np.float16), queries, depth)
    assert np.array_equal(scores.best, cosines.max(axis=1))
    assert scores.best_query.tolist() == [max(range(len(queries)), key=lambda m: (row[m], -m)) for row in cosines]
    assert (scores.top.rows.tolist(), scores.top.scores.tolist()) == slow_top(cosines, depth)


def test_float64_holds_every_sum_exactly() -> None:
    vectors, queries = random_units(40, 384).astype(np.float16), random_units(6, 384, seed=1)
    assert np.array_equal(all_cosines(vectors, queries), exact_cosines(vectors, queries))


def test_the_top_lists_forget_nothing_when_rows_come_two_by_two() -> None:
    vectors, queries = random_units(5_000, 8), random_units(3, 8, seed=1)
    cosines = all_cosines(vectors, queries)
    order = np.argsort(-cosines, axis=0, kind="stable")[:2].T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "TILE_ROWS", 2)
        top = score_block(vectors, queries, depth=2).top
    assert np.array_equal(top.rows, order) and np.array_equal(top.scores, np.take_along_axis(cosines.T, order, axis=1))


def test_a_zero_vector_is_as_far_from_every_query() -> None:
    scores = score_block(np.array([[0, 0], [3, 4]], np.float32), np.array([[1, 0], [-1, 0]], np.float32), depth=2)
    assert scores.best.tolist() == [0.0, np.float32(0.6)] and scores.top.scores[1].tolist() == [0.0, np.float32(-0.6)]


# ---- quick products say which pairs matter ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[NumpyProducts, TorchProducts, Bfloat16Products], ids=["numpy", "torch", "bfloat16"])
def products(request: pytest.FixtureRequest) -> Products:
    if request.param is Bfloat16Products and not Bfloat16Products.is_there():
        pytest.skip("oneDNN does not multiply in bfloat16 on this processor")
    return request.param()


def close_worlds(rng: np.random.Generator, rows: int, sizes: tuple[int, ...], dims: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Random vectors of which many are equal or differ in one coordinate's last bits, and query sets of the same kind: float32 cannot tell them apart."""

    def near_copies(count: int) -> np.ndarray:
        few = rng.standard_normal((max(count // 8, 1), dims)).astype(np.float32)
        found = few[rng.integers(0, len(few), count)]
        at = rng.integers(0, dims, count)
        found[np.arange(count), at] *= 1 + rng.integers(-3, 4, count).astype(np.float32) * np.float32(2.0**-22)
        return found

    return near_copies(rows), [near_copies(size) for size in sizes]


@pytest.mark.parametrize("is_stored", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("seed", range(6))
def test_scores_have_the_bits_of_float64_sums_of_all_pairs(products: Products, seed: int, is_stored: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes, depth, dims = ((9, 1, 40), (3, 17), (60,))[seed % 3], int(rng.integers(1, 12)), int(rng.choice([1, 3, 50, 384]))
    vectors, sets = close_worlds(rng, int(rng.integers(FILTER_DEPTHS * depth, 1000)), sizes, dims)
    vectors = vectors.astype(np.float16) if is_stored else vectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filtering, "TILE_ROWS", int(rng.choice([1, 33, 256, TILE_ROWS])))
        found = score_sets(vectors, QuerySets(sets), depth, products)
    for queries, scores in zip(sets, found, strict=True):
        assert same(scores, plain_scores(vectors, queries, depth))


@given(tied_worlds(), st.integers(1, 2), st.sampled_from([1, 3, 7, 100, TILE_ROWS]), st.sampled_from([NumpyProducts, TorchProducts]))
@settings(max_examples=160, deadline=None)
def test_ties_fall_as_they_do_without_a_filter(world: tuple[np.ndarray, np.ndarray, int], depth: int, tile_rows: int, maker: type) -> None:
    few, queries, _ = world
    vectors = np.tile(few, (FILTER_DEPTHS * depth // len(few) + 1, 1)).astype(np.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filtering, "TILE_ROWS", tile_rows)
        (scores,) = score_sets(vectors, QuerySets([queries]), depth, maker())
    assert same(scores, plain_scores(vectors, queries, depth))


def test_random_vectors_of_several_tiles_have_the_bits_of_float64_sums(products: Products) -> None:
    vectors, queries = random_units(2 * TILE_ROWS + 77, 384).astype(np.float16), random_units(120, 384, seed=1)
    ends = [0, 1, 9, 50, 120]
    found = score_sets(vectors, QuerySets([queries[start:end] for start, end in pairwise(ends)]), 30, products)
    for scores, (start, end) in zip(found, pairwise(ends), strict=True):
        assert same(scores, plain_scores(vectors, queries[start:end], 30))


def test_vectors_that_are_all_alike_fill_the_lists_in_row_order(products: Products) -> None:
    for vectors in (np.zeros((700, 5), np.float16), np.ones((700, 5), np.float16)):
        (scores,) = score_sets(vectors, QuerySets([random_units(4, 5)]), 3, products)
        assert scores.top.rows.tolist() == [[0, 1, 2]] * 4
        assert same(scores, plain_scores(vectors, random_units(4, 5), 3))


def test_a_product_of_nothing_but_negative_zeros_is_zero(products: Products) -> None:
    vectors = np.zeros((FILTER_DEPTHS, 3), np.float32)
    (scores,) = score_sets(vectors, QuerySets([-np.ones((1, 3), np.float32)]), 1, products)
    assert not np.signbit(scores.best).any() and not np.signbit(scores.top.scores).any()


@pytest.mark.parametrize("rows", [4, 100])
def test_what_is_not_finite_is_refused(rows: int) -> None:
    vectors = random_units(rows, 3)
    vectors[2, 1] = np.nan
    for examples, queries in ((vectors, random_units(2, 3)), (random_units(rows, 3), vectors[:3])):
        for products in (None, NumpyProducts()):
            with pytest.raises(ValueError, match="a vector or a query is not finite, so it has no cosines; embed in float32"):
                score_sets(examples, QuerySets([queries]), 2, products)


# ---- no bit depends on company -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_queries", [1, 8, 9, 16, 50])
@pytest.mark.parametrize("dims", [64, 100, 384])
def test_the_bits_of_a_score_do_not_depend_on_place_or_neighbours(num_queries: int, dims: int) -> None:
    # from 8 queries on, a float32 product of OpenBLAS gives other bits to rows at other places
    vectors, queries = random_units(2 * TILE_ROWS + 37, dims).astype(np.float16), random_units(num_queries, dims, seed=1)
    whole = all_cosines(vectors, queries)
    rng = np.random.default_rng(2)
    for _ in range(3):
        order = rng.permutation(len(vectors))[: rng.integers(1, len(vectors))]
        scores = score_block(vectors[order], queries, depth=5)
        (filtered,) = score_sets(vectors[order], QuerySets([queries]), 5, NumpyProducts())
        assert same(scores, filtered)
        assert np.array_equal(scores.best, whole[order].max(axis=1))
        assert np.array_equal(scores.best_query, whole[order].argmax(axis=1))
    for row in (0, 7, TILE_ROWS, len(vectors) - 1):
        assert np.array_equal(all_cosines(vectors[row : row + 1], queries)[0], whole[row])


def test_the_bits_of_a_score_do_not_depend_on_the_other_queries() -> None:
    vectors, queries = random_units(300, 384), random_units(50, 384, seed=1)
    whole = all_cosines(vectors, queries)
    for number in (0, 17, 49):
        assert np.array_equal(score_block(vectors, queries[number : number + 1], depth=1).best, whole[:, number])


@given(tied_worlds(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_block_in_another_order_has_the_same_scores(world: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    vectors, queries, depth = world
    order = np.random.default_rng(seed).permutation(len(vectors))
    scores, shuffled = score_block(vectors, queries, depth), score_block(vectors[order], queries, depth)
    assert np.array_equal(shuffled.best, scores.best[order]) and np.array_equal(shuffled.best_query, scores.best_query[order])
    assert np.array_equal(shuffled.top.scores, scores.top.scores)  # which of the tied rows stand in the list depends on the order, their scores do not
    assert same(score_block(vectors, queries, depth), scores)


@pytest.mark.parametrize("depth", [5, 500])  # so few rows that of the second all pairs are summed
def test_the_same_bits_come_out_with_another_number_of_threads(depth: int, tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from rds_dagster.scores.products import NumpyProducts
from rds_dagster.scores.similarity import QuerySets, score_sets
rng = np.random.default_rng(0)
vectors, sets = rng.standard_normal((3000, 384)).astype(np.float16), QuerySets([rng.standard_normal((50, 384), np.float32)])
(found,) = score_sets(vectors, sets, int(sys.argv[2]), NumpyProducts())
np.savez(sys.argv[1], best=found.best, best_query=found.best_query, rows=found.top.rows, scores=found.top.scores)
"""
    for threads in ("1", "2", "3"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{threads}.npz"), str(depth)], check=True, env={"OPENBLAS_NUM_THREADS": threads})
    one, two, three = (np.load(tmp_path / f"{threads}.npz") for threads in ("1", "2", "3"))
    assert all(np.array_equal(one[name], two[name]) and np.array_equal(one[name], three[name]) for name in ("best", "best_query", "rows", "scores"))


def test_where_cosines_lie_closer_than_bfloat16_tells_a_block_is_scored_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Bfloat16Products.is_there():
        pytest.skip("oneDNN does not multiply in bfloat16 on this processor")
    rng = np.random.default_rng(0)
    vectors = (np.ones(96) + 0.1 * rng.standard_normal((6_000, 96))).astype(np.float16)
    queries = (np.ones(96) + 0.1 * rng.standard_normal((12, 96))).astype(np.float32)
    began: list[Products] = []
    real = filtering._score
    monkeypatch.setattr(filtering, "_score", lambda vectors, sets, depth, products: began.append(products) or real(vectors, sets, depth, products))
    (scores,) = score_sets(vectors, QuerySets([queries]), 20, Bfloat16Products())
    assert [type(products) for products in began] == [Bfloat16Products, TorchProducts]
    assert same(scores, plain_scores(vectors, queries, 20))
