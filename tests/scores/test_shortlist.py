"""A shortlist holds whatever may be among the largest, however the rows come, and nothing far below."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.scores.shortlist import Shortlist


def by_query(found: tuple[np.ndarray, np.ndarray, np.ndarray], num_queries: int) -> list[list[tuple[int, float]]]:
    queries, rows, cosines = found
    assert (np.diff(queries) >= 0).all()
    return [[(int(row), float(cosine)) for row, cosine in zip(rows[queries == q], cosines[queries == q], strict=True)] for q in range(num_queries)]


def slow(cosines: np.ndarray, depth: int) -> list[list[tuple[int, float]]]:
    lists = []
    for row in cosines.tolist():
        floor = np.float32(sorted(row, reverse=True)[depth - 1]) if len(row) > depth else -np.inf
        lists.append([(place, cosine) for place, cosine in enumerate(row) if cosine >= floor])
    return lists


TILES = st.sampled_from([1, 5, 40])


@given(st.integers(1, 4), st.integers(1, 120), st.integers(1, 20), TILES, st.integers(1, 50), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_it_holds_the_largest_and_their_ties(queries: int, rows: int, depth: int, tile: int, kinds: int, seed: int) -> None:
    cosines = (np.random.default_rng(seed).integers(-kinds, kinds + 1, (queries, rows)) / kinds).astype(np.float32)
    shortlist = Shortlist(queries, depth)
    for start in range(0, rows, tile):
        shortlist.offer(cosines[:, start : start + tile], start)
    assert by_query(shortlist.lists(), queries) == slow(cosines, depth)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_single_cosines_give_the_same_lists(queries: int, rows: int, depth: int, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shortlist, offered, kept = Shortlist(queries, depth), [], []
    for _ in range(parts):
        cosines = (rng.integers(-9, 10, (queries, rows)) / 9).astype(np.float32)
        places = shortlist.offer_pairs(np.repeat(np.arange(queries), rows), cosines.ravel(), len(kept))
        kept += [float(cosines.ravel()[place]) for place in places]
        offered.append(cosines)
    found = by_query(shortlist.lists(), queries)
    assert all(kept[row] == cosine for mine in found for row, cosine in mine)
    expected = slow(np.hstack(offered), depth)
    assert [[cosine for _, cosine in mine] for mine in found] == [[cosine for _, cosine in mine] for mine in expected]


def test_it_forgets_what_fell_far_behind() -> None:
    shortlist = Shortlist(2, 3)
    for start in range(0, 3000, 10):
        shortlist.offer(np.full((2, 10), start, np.float32) + np.arange(10, dtype=np.float32), start)
        assert shortlist._rows.shape[1] < 60
    assert by_query(shortlist.lists(), 2) == [[(2997, 2997.0), (2998, 2998.0), (2999, 2999.0)]] * 2


def test_rows_that_are_all_alike_are_all_held() -> None:
    shortlist = Shortlist(1, 2)
    for start in range(0, 500, 50):
        shortlist.offer(np.full((1, 50), 0.5, np.float32), start)
    assert [row for row, _ in by_query(shortlist.lists(), 1)[0]] == list(range(500))
