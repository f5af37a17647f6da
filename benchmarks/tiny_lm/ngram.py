"""A byte-level 5-gram with interpolated Witten-Bell smoothing: a baseline that the tiny language model has to beat.

A record is its bytes and then one end symbol, so 257 symbols can come next; in front of a record stand four start symbols, which are seen but never
predicted. With c(h, s) how often symbol s followed the context h in training, c(h) the sum of that over s, T(h) the number of different symbols that
followed h, and h' the context without its oldest symbol:

    p(s | h) = (c(h, s) + T(h) p(s | h')) / (c(h) + T(h)),   p(s | h) = p(s | h') where h was never seen,   p(s | no context at all) starts from 1 / 257

Source: Witten and Bell, "The zero-frequency problem" (IEEE Transactions on Information Theory 37(4), 1991), method C, in the interpolated form of
Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998), section 2.5.

The last n symbols are one integer of 9 n bits, the newest symbol lowest. Sorted, the codes of one context stand together, and a look-up is a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

ORDER = 5
END, START = 256, 257
NUM_SYMBOLS = 257  # that can be predicted: the bytes and END
SYMBOL_BITS = 9
CHUNK_BYTES = 1 << 23  # of records at a time: with their codes and the sorted copy about 300 MB


@dataclass(frozen=True)
class Counts:
    """How often n symbols in a row were seen, and what followed the n - 1 in front of the last.

    codes (U,) ascending, counts (U,); contexts (C,) ascending, totals (C,) for c(h), distinct (C,) for T(h). All int64.
    """

    codes: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    distinct: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, counts: np.ndarray) -> Counts:
        """From ascending codes, each there once."""
        contexts, starts = np.unique(codes >> SYMBOL_BITS, return_index=True)
        return cls(codes, counts, contexts, np.add.reduceat(counts, starts), np.diff(starts, append=len(codes)))

    def interpolate(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """p(s | h) of each code (h, s), (n,) float64; ``lower`` is p(s | h'), (n,)."""
        context = _places(self.contexts, codes >> SYMBOL_BITS)
        symbol = _places(self.codes, codes)
        total, distinct = (np.where(context < 0, 0, values[context]) for values in (self.totals, self.distinct))
        count = np.where(symbol < 0, 0, self.counts[symbol])
        return np.where(context < 0, lower, (count + distinct * lower) / np.maximum(total + distinct, 1))


class WittenBell:
    """A trained model. Make one with ``train``."""

    def __init__(self, orders: list[Counts]) -> None:
        self._orders = orders  # of 1, 2, ..., ORDER symbols

    @classmethod
    def train(cls, records: Iterable[bytes]) -> WittenBell:
        """Count the records, each of which begins and ends anew. Raises ValueError if there are none."""
        seen = [np.unique(_codes(chunk), return_counts=True) for chunk in _chunks(records)]
        if not seen:
            raise ValueError("a 5-gram is to be trained on 0 records; give it at least 1")
        codes, counts = _merged(np.concatenate([codes for codes, _ in seen]), np.concatenate([counts for _, counts in seen]))
        orders = [Counts.of(codes, counts)]
        for order in range(ORDER - 1, 0, -1):  # the start symbols give every place all its orders, so the short ones are sums of the long
            codes, counts = _merged(codes & _low(order), counts)
            orders.append(Counts.of(codes, counts))
        return cls(orders[::-1])

    def bits(self, records: Iterable[bytes]) -> np.ndarray:
        """What each record costs with its end symbol, in bits; (records,) float64."""
        costs = [np.zeros(0)]
        for chunk in _chunks(records):
            lengths = np.array([len(record) + 1 for record in chunk])
            costs.append(np.add.reduceat(-np.log2(self._probabilities(_codes(chunk))), np.cumsum(lengths) - lengths))
        return np.concatenate(costs)

    def next_symbol(self, before: bytes) -> np.ndarray:
        """Probability of each byte, and at place 256 of the end, after the first bytes of a record; (257,) float64, its sum is 1."""
        context = 0
        for symbol in [START] * (ORDER - 1) + list(before):
            context = (context << SYMBOL_BITS | symbol) & _low(ORDER - 1)
        return self._probabilities(context << SYMBOL_BITS | np.arange(NUM_SYMBOLS))

    def _probabilities(self, codes: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = np.full(len(codes), 1 / NUM_SYMBOLS)
        for order, counts in enumerate(self._orders, 1):
            probabilities = counts.interpolate(codes & _low(order), probabilities)
        return probabilities


def _codes(records: list[bytes]) -> np.ndarray:
    """The ORDER symbols that end at each byte and at each end of the records, in their order; int64."""
    lengths = np.array([len(record) for record in records])
    ends = np.cumsum(lengths + ORDER) - 1  # laid out as start symbols, bytes and END, record after record; these are the places of END
    is_byte = np.ones(ends[-1] + 1, bool)
    is_byte[ends] = False
    for place in range(ORDER - 1):
        is_byte[ends - lengths - 1 - place] = False
    symbols = np.full(len(is_byte), START, np.int64)
    symbols[is_byte] = np.frombuffer(b"".join(records), np.uint8)
    symbols[ends] = END
    codes: np.ndarray = symbols.copy()
    for back in range(1, ORDER):
        codes[back:] |= symbols[:-back] << (SYMBOL_BITS * back)
    ended: np.ndarray = codes[symbols != START]
    return ended


def _chunks(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk, size = [], 0
    for record in records:
        chunk.append(record)
        size += len(record) + ORDER
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _merged(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending codes, each once, with the sums of their counts."""
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[starts], np.add.reduceat(counts[order], starts)


def _places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted value stands in the ascending keys; -1 where it does not."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)


def _low(order: int) -> int:
    """The bits of the last ``order`` symbols."""
    return (1 << (SYMBOL_BITS * order)) - 1
