import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tiny_lm import ngram
from benchmarks.tiny_lm.ngram import WittenBell

ALPHABET = [0, 97, 98, 255]
records_of_few_bytes = st.lists(st.lists(st.sampled_from(ALPHABET), max_size=9).map(bytes), min_size=1, max_size=8)


class SlowWittenBell:
    """The formula of the module's docstring with dicts, one symbol at a time; symbols are 0 to 255, "end" and "start"."""

    def __init__(self, records):
        self.seen = defaultdict(Counter)
        for record in records:
            symbols = ["start"] * 4 + list(record) + ["end"]
            for place in range(4, len(symbols)):
                for length in range(5):
                    self.seen[tuple(symbols[place - length : place])][symbols[place]] += 1

    def probability(self, symbol, context):
        lower = self.probability(symbol, context[1:]) if context else 1 / 257
        followers = self.seen.get(context)
        if followers is None:
            return lower
        return (followers[symbol] + len(followers) * lower) / (followers.total() + len(followers))

    def bits(self, record):
        symbols = ["start"] * 4 + list(record) + ["end"]
        return -sum(math.log2(self.probability(symbols[place], tuple(symbols[place - 4 : place]))) for place in range(4, len(symbols)))


def test_the_probabilities_of_a_worked_example():
    """Trained on "ab" and "a": without context a is seen 2 times of 5, b once, the end 2 times, 3 kinds in all."""
    model = WittenBell.train([b"ab", b"a"])
    a, b, end = (2 + 3 / 257) / 8, (1 + 3 / 257) / 8, (2 + 3 / 257) / 8
    first_a = a
    for _ in range(4):  # the contexts of 1, 2, 3 and 4 start symbols were each seen twice, and a both times
        first_a = (2 + 1 * first_a) / 3
    assert model.next_symbol(b"")[ord("a")] == pytest.approx(first_a)
    after_a_b, after_a_end = b, end
    for _ in range(4):  # after "a" with 0, 1, 2 and 3 start symbols: b once, the end once
        after_a_b, after_a_end = (1 + 2 * after_a_b) / 4, (1 + 2 * after_a_end) / 4
    assert model.next_symbol(b"a")[ord("b")] == pytest.approx(after_a_b)
    assert model.next_symbol(b"a")[256] == pytest.approx(after_a_end)
    assert model.bits([b"a"]).tolist() == [pytest.approx(-math.log2(first_a * after_a_end))]
    assert first_a == pytest.approx(0.990759, abs=1e-6)
    assert after_a_b == pytest.approx(0.476654, abs=1e-6)


def test_a_context_that_was_never_seen_says_what_its_shorter_form_says():
    model = WittenBell.train([b"ab", b"a"])
    assert np.array_equal(model.next_symbol(b"zzza"), model.next_symbol(b"yyya"))
    assert np.array_equal(model.next_symbol(b"z"), model.next_symbol(b"zzzz"))
    assert model.next_symbol(b"z")[ord("q")] == pytest.approx(3 / 257 / 8)


@given(records_of_few_bytes, st.lists(st.sampled_from([*ALPHABET, 7]), max_size=6).map(bytes))
@settings(max_examples=60, deadline=None)
def test_the_bytes_and_the_end_share_all_of_the_probability(records, before):
    shares = WittenBell.train(records).next_symbol(before)
    assert shares.shape == (257,)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares > 0).all()


@given(records_of_few_bytes, records_of_few_bytes)
@settings(max_examples=60, deadline=None)
def test_bits_are_those_of_a_plain_loop_over_dicts(learn, held_out):
    slow = SlowWittenBell(learn)
    assert WittenBell.train(learn).bits(held_out) == pytest.approx([slow.bits(record) for record in held_out])


def test_the_bits_of_a_record_are_the_sum_over_its_symbols():
    model = WittenBell.train([b"the cat sat", b"the hat", b""])
    record = b"the cat had a hat\xff"
    one_by_one = [model.next_symbol(record[:place])[symbol] for place, symbol in enumerate([*record, 256])]
    assert model.bits([b"x", record, b""])[1] == pytest.approx(-np.log2(one_by_one).sum())


def test_chunks_order_and_company_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    records = [bytes(generator.integers(97, 101, generator.integers(0, 30)).astype(np.uint8)) for _ in range(200)]
    whole = WittenBell.train(records).bits(records)
    monkeypatch.setattr(ngram, "CHUNK_BYTES", 100)
    turned = WittenBell.train(records[::-1])
    assert np.array_equal(turned.bits(records), whole)
    assert np.array_equal(np.concatenate([turned.bits([record]) for record in records]), whole)


def test_learning_a_text_makes_it_cheaper():
    record = b"a record that stands in the training text"
    with_it = WittenBell.train([b"something else", record]).bits([record])
    assert with_it[0] < WittenBell.train([b"something else"]).bits([record])[0] / 4


def test_nothing_to_learn_is_refused_and_nothing_to_code_costs_nothing():
    with pytest.raises(ValueError, match="a 5-gram is to be trained on 0 records; give it at least 1"):
        WittenBell.train([])
    assert WittenBell.train([b""]).bits([]).shape == (0,)
