"""How batches run on one device: one a core on a CPU, one ahead of the last on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

import numpy as np

from rds_dagster.embeddings.backbone import Backbone, EncodedBatch, Launched, load_model
from rds_dagster.embeddings.batching import Batch, BatchRules, Rules
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.packed import pack_where_possible

WAITING_PER_CORE = 4  # batches made and not begun, so that the cores go on while a slab of texts is read
PROBED_TOKENS = 512  # of a probed batch; 16 and 64 tokens a row, so products of 16 to 512 rows are compared
PROBED_SHAPES = ((16, (1, 5)), (64, (3,)))  # (T, numbers of rows that must give the bits of the whole batch)


class Runner(Protocol):
    """What runs batches."""

    @property
    def rules(self) -> Rules:
        """How they must be made."""
        ...

    def run(self, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
        """The vectors of the batches' examples; raises StateError where one is not finite."""
        ...


def load_runner(identity: EncoderIdentity, device: str, cores: int) -> OnCores | OneAhead:
    """Load the model onto ``device``; ``cores`` are used if that is a CPU. Raises SettingsError and StateError."""
    backbone = Backbone(identity, load_model(identity), device)
    return OnCores(backbone, cores) if device == "cpu" else OneAhead(pack_where_possible(backbone))


class OnCores:
    """One batch a core, each on one thread: a fifth faster than sharing each among the cores, and the same bits on any number of them.

    ``ahead``: batches taken before the first one's vectors are given.
    """

    def __init__(self, backbone: Backbone, cores: int) -> None:
        self.backbone = backbone
        self.ahead = (1 + WAITING_PER_CORE) * cores
        self._cores = cores

    @cached_property
    def rules(self) -> BatchRules:
        """No dummies if the bits on this CPU are the same without them."""
        return BatchRules(leave_room=not self.backbone.is_causal, has_dummies=not self._rows_stand_alone())

    def run(self, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
        """The batches in their order."""
        running = deque[Future[EncodedBatch]]()
        with _single_threads(self._cores) as workers:
            try:
                for batch in batches:
                    running.append(workers.submit(self.backbone.run, batch))
                    if len(running) > self.ahead:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def _rows_stand_alone(self) -> bool:
        """Whether a row's bits are the same with any number of rows beside it, and, of a model that sees both ways, with padding in the batch or none.

        oneDNN's and MKL's products gave the same bits for 8 to 1,536 rows as for 2,048, at 13 sizes of layers, in float32 and bfloat16, with
        AVX-512, AVX2 and SSE4.1 alike (not for a single row of a product, which no batch has: the shortest bucket has 8 tokens). tests/embeddings
        asks the shipped model and MiniLM again at all their shapes; this asks the model at hand, on the processor at hand, at three.
        """
        rng = np.random.default_rng(0)
        vocabulary, longest = self.backbone.model.config.get_text_config().vocab_size, self.backbone.identity.max_tokens
        for num_tokens, counts in PROBED_SHAPES:
            num_tokens = min(num_tokens, longest)
            tokens = rng.integers(vocabulary, size=(PROBED_TOKENS // num_tokens, num_tokens), dtype=np.int32)
            lengths = np.full(len(tokens), num_tokens, np.int32)
            lengths[-1] -= 3  # so that the whole batch is padded, and its first rows are not
            probes = [Batch(np.arange(count), tokens[:count], lengths[:count]) for count in (len(tokens), *counts)]
            with _single_threads(self._cores) as workers:
                whole, *parts = workers.map(lambda batch: self.backbone.launch(batch).vectors.numpy(), probes)
            if not all(np.array_equal(whole[: len(part)], part) for part in parts):
                return False
        return True


@contextmanager
def _single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """``count`` threads in each of which torch uses one; the setting of this process is given back."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(before)


class OneAhead:
    """On a GPU: a batch is handed over before the vectors of the last are fetched, so that the next one is queued when the last one ends.

    Nothing waits on the host where batches are packed. Where they are padded, transformers looks at the positions (causal models) or the mask
    (others) at the start of each forward pass, and so waits there for the last one's kernels.
    """

    ahead = 2

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.rules = backbone.rules

    def run(self, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
        """The batches in their order."""
        last: Launched | None = None
        for batch in batches:
            launched = self.backbone.launch(batch)
            if last is not None:
                yield self.backbone.fetch(last)
            last = launched
        if last is not None:
            yield self.backbone.fetch(last)
