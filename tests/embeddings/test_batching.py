import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.batching import BatchRules, BucketBatcher


def make(*, max_tokens=64, batch_tokens=64, leave_room=False, has_dummies=True):
    return BucketBatcher(max_tokens=max_tokens, batch_tokens=batch_tokens, pad_id=7, rules=BatchRules(leave_room, has_dummies))


def example(length, start=100):
    return np.arange(start, start + length, dtype=np.int32)


def run(batcher, lengths):
    full = [batch for row, length in enumerate(lengths) if (batch := batcher.add(row, example(length, 100 * row))) is not None]
    return full + list(batcher.flush())


def test_a_full_bucket_leaves_at_once_and_the_rest_is_filled_up_with_dummies():
    batcher = make(batch_tokens=32)  # buckets of 16 tokens have 2 rows
    assert batcher.add(5, example(9)) is None
    assert batcher.add(6, example(3)) is None  # another bucket
    full = batcher.add(7, example(16, 200))
    assert full is not None
    assert full.rows.tolist() == [5, 7]
    assert full.tokens.tolist() == [[*range(100, 109), *[7] * 7], [*range(200, 216)]]
    assert full.lengths.tolist() == [9, 16]
    (rest,) = batcher.flush()
    assert (rest.rows.tolist(), rest.tokens.shape, rest.lengths.tolist()) == ([6], (4, 8), [3, 1, 1, 1])
    assert rest.tokens[1:].tolist() == [[7] * 8] * 3
    assert list(batcher.flush()) == []


@pytest.mark.parametrize("leave_room", [False, True])
def test_without_dummies_the_rest_has_only_its_own_rows(leave_room):
    batcher = make(max_tokens=16, batch_tokens=64, leave_room=leave_room, has_dummies=False)
    assert [batcher.add(row, example(length)) for row, length in enumerate((16, 15, 3))] == [None] * 3
    short, long = batcher.flush()
    assert (short.rows.tolist(), short.tokens.shape) == ([2], (1, 8))
    assert (long.rows.tolist(), long.tokens.shape, long.lengths.tolist()) == ([0, 1], (2, 16), [16, 15])


@pytest.mark.parametrize(
    ("length", "leave_room", "shape"),
    [(1, False, (8, 8)), (8, False, (8, 8)), (9, False, (4, 16)), (60, False, (1, 60)), (8, True, (4, 16)), (7, True, (8, 8)), (60, True, (4, 60))],
)
def test_a_shape_follows_from_the_length_alone(length, leave_room, shape):
    assert make(max_tokens=60, leave_room=leave_room).shape(length) == shape


def test_fewer_batch_tokens_than_an_example_has_means_one_row():
    (batch,) = run(make(batch_tokens=4), [50])
    assert batch.tokens.shape == (1, 56)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 45), max_size=60),
    max_tokens=st.integers(45, 50),
    batch_tokens=st.integers(1, 200),
    leave_room=st.booleans(),
    has_dummies=st.booleans(),
)
def test_every_row_comes_out_once_whole_and_in_the_shape_of_its_length(lengths, max_tokens, batch_tokens, leave_room, has_dummies):
    batcher = make(max_tokens=max_tokens, batch_tokens=batch_tokens, leave_room=leave_room, has_dummies=has_dummies)
    seen = []
    for batch in run(batcher, lengths):
        for place, row in enumerate(batch.rows.tolist()):
            num_rows, num_tokens = batcher.shape(lengths[row])
            assert batch.tokens.shape[1] == num_tokens
            assert batch.tokens.shape[0] == num_rows if has_dummies else len(batch.rows) <= batch.tokens.shape[0] <= num_rows
            assert batch.lengths[place] == lengths[row]
            assert batch.tokens[place, : lengths[row]].tolist() == example(lengths[row], 100 * row).tolist()
            assert (batch.tokens[place, lengths[row] :] == 7).all()
        seen += batch.rows.tolist()
        if leave_room and has_dummies:
            assert (batch.lengths < batch.tokens.shape[1]).any(), "a mask without padding would be dropped"
    assert sorted(seen) == list(range(len(lengths)))
