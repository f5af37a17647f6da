"""Batches without padding: examples one behind the other in a single row of a fixed number of tokens.

For devices whose attention kernel is told where examples begin (packed), so that a batch of any lengths has one shape and an example's
arithmetic is the same wherever it stands in it. What is left free at the end is filled up with dummy examples: on average less than the shortest
of the examples that wait is long, and much in the last batch only.

T tokens of a batch, b examples, S examples and dummies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rds_dagster.embeddings.batching import Batch

MOST_WAITING = (
    32  # examples that did not fit, before a batch is closed: on the lengths of six real pools 0.03% of 32,768 tokens are dummies then, 0.07% of 16,384
)


@dataclass(frozen=True)
class PackRules:
    """What a device asks of batches that takes them packed: nothing but their number of tokens. ``is_compiled``: the layers that run them are."""

    is_compiled: bool = False

    @property
    def way(self) -> str:
        """How batches are run, as far as it decides the last bits."""
        return " packed compiled" if self.is_compiled else " packed"

    def batcher(self, *, max_tokens: int, batch_tokens: int, pad_id: int) -> Packer:
        """See ``Packer``."""
        return Packer(max_tokens=max_tokens, batch_tokens=batch_tokens, pad_id=pad_id)


class Packer:
    """Takes token lists one by one and gives a batch when hardly anything fits into it any more; holds one unfinished batch.

    ``max_tokens``: no list is longer. ``batch_tokens``: T, unless ``max_tokens`` is more. ``pad_id``: fills dummies.

    A batch has ``tokens`` (1, T) int32, ``lengths`` (S,) int32, which add up to T, and ``rows`` (b,) int64 for the first b <= S of them.
    """

    def __init__(self, *, max_tokens: int, batch_tokens: int, pad_id: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = max(batch_tokens, max_tokens)
        self._pad_id = pad_id
        self._packed: list[tuple[int, np.ndarray]] = []
        self._free = self._num_tokens
        self._waiting: list[tuple[int, np.ndarray]] = []

    def add(self, row: int, tokens: np.ndarray) -> Batch | None:
        """Take one example, tokens (L,) int32 with 1 <= L <= max_tokens; returns a batch if one is full now."""
        assert 1 <= len(tokens) <= self._max_tokens, f"{len(tokens)} tokens, limit {self._max_tokens}"
        self._put(row, tokens)
        return self._emit() if not self._free or len(self._waiting) == MOST_WAITING else None

    def flush(self) -> Iterator[Batch]:
        """What is left."""
        while self._packed:
            yield self._emit()

    def _put(self, row: int, tokens: np.ndarray) -> None:
        if len(tokens) <= self._free:
            self._packed.append((row, tokens))
            self._free -= len(tokens)
        else:
            self._waiting.append((row, tokens))

    def _emit(self) -> Batch:
        examples, waiting = self._packed, self._waiting
        batch = self._batch(examples)
        self._packed, self._free, self._waiting = [], self._num_tokens, []
        for row, tokens in waiting:  # oldest first, so that none waits for long
            self._put(row, tokens)
        return batch

    def _batch(self, examples: list[tuple[int, np.ndarray]]) -> Batch:
        tokens, at = np.full((1, self._num_tokens), self._pad_id, np.int32), 0
        for _, example in examples:
            tokens[0, at : at + len(example)] = example
            at += len(example)
        whole, rest = divmod(self._num_tokens - at, self._max_tokens)
        dummies = [self._max_tokens] * whole + [rest] * (rest > 0)
        lengths = np.array([*(len(example) for _, example in examples), *dummies], np.int32)
        return Batch(rows=np.array([row for row, _ in examples], np.int64), tokens=tokens, lengths=lengths)
