"""Ids in order and looked up: the same as by comparing 16 bytes, also where the first eight are alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.storage.ids import SortedIds, id_order, positions_in, take_ids

# few kinds of halves, so that whole ids, and first halves alone, often repeat; zeros at the end, which S16 does not show; NaN as a 16-byte number
HALVES = st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x00\x00\x00\x00\x00\x00\x00\x01", b"\x01" + b"\0" * 7, b"\x7f\xf0\0\0\0\0\0\1", b"\1\0\0\0\0\0\xf0\x7f"])
IDS = st.lists(st.tuples(HALVES, HALVES), max_size=40)


def as_ids(pairs: list[tuple[bytes, bytes]]) -> np.ndarray:
    return np.frombuffer(b"".join(first + second for first, second in pairs), ID_DTYPE)


@settings(max_examples=150, deadline=None)
@given(IDS)
def test_the_order_is_that_of_the_bytes_and_equal_ids_stay_as_they_stood(pairs: list[tuple[bytes, bytes]]) -> None:
    ids = as_ids(pairs)
    assert id_order(ids).tolist() == sorted(range(len(pairs)), key=lambda row: pairs[row])
    assert take_ids(ids, id_order(ids)).tobytes() == b"".join(sorted(first + second for first, second in pairs))


@settings(max_examples=150, deadline=None)
@given(IDS, IDS)
def test_places_are_those_that_comparing_whole_ids_gives(stored: list[tuple[bytes, bytes]], wanted: list[tuple[bytes, bytes]]) -> None:
    ids, asked = as_ids(sorted(set(stored))), as_ids(wanted)
    expected_places, expected = positions_in(ids, asked)
    places, is_there = SortedIds(ids).places(asked)
    assert is_there.tolist() == expected.tolist() == [pair in set(stored) for pair in wanted]
    assert places[is_there].tolist() == expected_places[expected].tolist()


@pytest.mark.parametrize("piece", [slice(0, 50), slice(300, 420), slice(950, 1000), slice(0, 1000), slice(0, 0)])
def test_a_piece_of_a_sorted_table_is_found_where_it_stands(piece: slice) -> None:
    ids = np.sort(np.random.default_rng(3).integers(0, 256, (2000, 16), np.uint8).view(ID_DTYPE).ravel())
    known, others = ids[::2], ids[1::2]
    assert SortedIds(known).places(known[piece])[0].tolist() == list(range(*piece.indices(1000)))
    assert not SortedIds(known).places(others[piece])[1].any()
    assert take_ids(ids[::2], np.array([5, 0, 5])).tolist() == [known[5], known[0], known[5]]  # of every second id, which lie apart in memory
