"""Examples one behind the other: every one once and whole, batches of one size, hardly a dummy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.packing import MOST_WAITING, Packer, PackRules
from rds_dagster.embeddings.pooling import places_packed

PAD = 7


def pack(token_lists, *, max_tokens, batch_tokens):
    packer = PackRules().batcher(max_tokens=max_tokens, batch_tokens=batch_tokens, pad_id=PAD)
    full = [packer.add(row, np.asarray(tokens, np.int32)) for row, tokens in enumerate(token_lists)]
    return [batch for batch in full if batch is not None], list(packer.flush())


def test_examples_stand_one_behind_the_other_and_dummies_fill_the_rest():
    full, rest = pack([[1, 1, 1], [2, 2], [3]], max_tokens=4, batch_tokens=10)
    assert full == []
    (batch,) = rest
    assert batch.tokens.tolist() == [[1, 1, 1, 2, 2, 3, PAD, PAD, PAD, PAD]] and batch.tokens.dtype == np.int32
    assert batch.lengths.tolist() == [3, 2, 1, 4] and batch.rows.tolist() == [0, 1, 2]
    assert places_packed(batch.lengths).tolist() == [0, 1, 2, 0, 1, 0, 0, 1, 2, 3]


def test_a_dummy_is_no_longer_than_an_example_may_be():
    _, (batch,) = pack([[1]], max_tokens=4, batch_tokens=11)
    assert batch.lengths.tolist() == [1, 4, 4, 2]


def test_a_batch_holds_the_longest_example_whatever_was_asked_for():
    full, _ = pack([list(range(16))], max_tokens=16, batch_tokens=8)
    assert [batch.tokens.shape for batch in full] == [(1, 16)]


def test_what_does_not_fit_waits_and_stands_first_in_the_next_batch():
    full, rest = pack([[1] * 6, [2] * 5, [3] * 4], max_tokens=10, batch_tokens=10)
    assert [batch.rows.tolist() for batch in full] == [[0, 2]]
    assert [batch.rows.tolist() for batch in rest] == [[1]]


def test_a_batch_is_closed_when_many_wait():
    full, rest = pack([[0] * 6] * (MOST_WAITING + 1), max_tokens=10, batch_tokens=10)
    assert len(full) == 1 and len(full) + len(rest) == MOST_WAITING + 1


@given(lengths=st.lists(st.integers(1, 20), max_size=120), batch_tokens=st.integers(1, 90))
@settings(max_examples=100, deadline=None)
def test_every_row_comes_out_once_and_whole_and_all_batches_are_of_one_size(lengths, batch_tokens):
    token_lists = [[row] * length for row, length in enumerate(lengths)]
    full, rest = pack(token_lists, max_tokens=20, batch_tokens=batch_tokens)
    seen = []
    for batch in [*full, *rest]:
        assert batch.tokens.shape == (1, max(batch_tokens, 20)) and batch.lengths.sum() == batch.tokens.size and batch.lengths.min() > 0
        parts = np.split(batch.tokens[0], np.cumsum(batch.lengths)[:-1])
        assert [part.tolist() for part in parts[: len(batch.rows)]] == [token_lists[row] for row in batch.rows]
        assert all((part == PAD).all() for part in parts[len(batch.rows) :])
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_hardly_a_token_is_a_dummys_but_in_the_last_batch():
    lengths = np.random.default_rng(0).geometric(1 / 170, 5_000).clip(1, 2048)
    full, rest = pack([np.zeros(length, np.int32) for length in lengths], max_tokens=2048, batch_tokens=16_384)
    packed = sum(int(batch.lengths[: len(batch.rows)].sum()) for batch in full)
    assert len(full) > 40 and packed > 0.998 * 16_384 * len(full) and len(rest) <= 3


def test_an_example_longer_than_allowed_is_our_mistake():
    with pytest.raises(AssertionError, match="5 tokens, limit 4"):
        Packer(max_tokens=4, batch_tokens=8, pad_id=0).add(0, np.zeros(5, np.int32))
