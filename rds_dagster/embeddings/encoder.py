"""A loaded encoder: texts in, unit vectors out.

D hidden size, N texts. Texts are tokenised ahead of the model, put into batches by length, and run on a CPU's cores, a GPU or several. A
vector depends on its text and the encoder alone, bit for bit on one kind of device (backbone, batching).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from rds_dagster.embeddings.backbone import EncodedBatch
from rds_dagster.embeddings.batching import Batch, Batcher, Rules
from rds_dagster.embeddings.devices import BATCH_TOKENS, device_name, find_devices, kind_of
from rds_dagster.embeddings.identity import EncoderIdentity, describe_encoder, load_config, load_tokenizer, resolve_model
from rds_dagster.embeddings.progress import Progress
from rds_dagster.embeddings.running import Runner, load_runner
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.embeddings.workers import Workers
from rds_dagster.pools.render import render
from rds_dagster.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedBatch", "Encoder", "EncoderIdentity", "describe_encoder", "load_encoder", "resolve_model"]

FIRST_SLAB_TEXTS = 64  # tokenised at once: few at first, so that the model begins soon
SLAB_TEXTS = 1024


def load_encoder(encoder: EncoderSettings | EncoderIdentity, *, devices: Sequence[str] | None = None) -> Encoder:
    """Load the backbone onto its device; raises SettingsError, MissingExtraError, and StateError where weights are missing.

    ``devices``: torch's names, such as ``("cuda:0", "cuda:1")``; None = those that the settings mean. With several the model is loaded when texts
    come: onto the first if they are few, else onto each, in a process of its own (workers).
    """
    identity = encoder if isinstance(encoder, EncoderIdentity) else describe_encoder(encoder)
    loaded = Encoder(identity, load_tokenizer(identity.folder, identity.settings), tuple(devices or find_devices(identity.settings)))
    if len(loaded.devices) == 1:
        _ = loaded.runner
    return loaded


class Encoder:
    """Made by ``load_encoder``; holds the model and nothing of what it encodes."""

    def __init__(self, identity: EncoderIdentity, tokenizer: PreTrainedTokenizerBase, devices: tuple[str, ...]) -> None:
        import torch

        self.identity = identity
        self.devices = devices
        self.batch_tokens = identity.settings.batch_tokens or BATCH_TOKENS[kind_of(devices[0])]
        self._tokenizer = tokenizer
        self._rules: Rules | None = None
        self._cores = torch.get_num_threads()

    @cached_property
    def runner(self) -> Runner:
        """The model on the first device, in this process."""
        return load_runner(self.identity, self.devices[0], self._cores)

    @property
    def made_on(self) -> str:
        """What else decides the last bits of a vector, such as ``cpu AVX2 torch 2.13.0 transformers 5.23.0 batch 1024``."""
        import torch
        import transformers

        device = self.devices[0]
        rules = self._rules or (self.runner.rules if len(self.devices) == 1 else None)
        way = rules.way if rules else ""  # of several devices it is known when texts have come
        return f"{kind_of(device)} {device_name(device)} torch {torch.__version__} transformers {transformers.__version__} batch {self.batch_tokens}{way}"

    def encode_conversations(self, conversations: Iterable[Sequence[Message]], *, progress: Progress | None = None) -> np.ndarray:
        """The vectors of conversations in their order, (N, D) float32 of norm 1; each is rendered as the encoder's ``what`` says."""
        return self.encode((render(messages, what=self.identity.what, eos=self.identity.eos) for messages in conversations), progress=progress)

    def encode(self, texts: Iterable[str], *, progress: Progress | None = None) -> np.ndarray:
        """The texts' vectors in their order, (N, D) float32 of norm 1; raises as ``encode_stream`` does."""
        batches = list(self.encode_stream(enumerate(texts), progress=progress))
        vectors = np.empty((sum(len(batch.rows) for batch in batches), self.identity.dims), np.float32)
        for batch in batches:
            vectors[batch.rows] = batch.vectors
        return vectors

    def encode_stream(self, rows: Iterable[tuple[int, str]], *, progress: Progress | None = None) -> Iterator[EncodedBatch]:
        """Encode (row number, text) pairs; every row comes out once, in the order in which length buckets fill (on several devices: are done).

        Reads at most two slabs ahead. Raises ValueError naming the rows of texts without a token, and StateError where a vector is not finite
        or a device's process ends.
        """
        texts = iter(rows)
        first = list(islice(texts, SLAB_TEXTS))
        if not first:
            return
        with self._running(is_short=len(first) < SLAB_TEXTS) as runner:
            self._rules = runner.rules
            batcher = runner.rules.batcher(max_tokens=self.identity.max_tokens, batch_tokens=self.batch_tokens, pad_id=self._pad_id())
            for encoded in runner.run(_batches(batcher, self._token_lists(chain(first, texts)))):
                if progress is not None:
                    progress.update(len(encoded.rows), int(encoded.num_tokens.sum()))
                yield encoded

    def _running(self, *, is_short: bool) -> AbstractContextManager[Runner]:
        return nullcontext(self.runner) if is_short or len(self.devices) == 1 else Workers(self.identity, self.devices, self._cores)

    def _token_lists(self, rows: Iterable[tuple[int, str]]) -> Iterator[tuple[int, np.ndarray]]:
        """(row, tokens (L,) int32), tokenised one slab ahead of the model, by as many threads as the tokenizer takes."""
        slabs = _slabs(rows)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise") as worker:
            ahead = worker.submit(self._tokenise, next(slabs, []))
            for slab in slabs:
                ready, ahead = ahead, worker.submit(self._tokenise, slab)
                yield from ready.result()
            yield from ahead.result()

    def _tokenise(self, slab: list[tuple[int, str]]) -> list[tuple[int, np.ndarray]]:
        if not slab:
            return []
        token_lists = self._tokenizer(
            [text for _, text in slab],
            truncation=True,
            max_length=self.identity.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        empty = [row for (row, _), tokens in zip(slab, token_lists, strict=True) if not tokens]
        if empty:
            raise ValueError(f"the texts of rows {empty} give no tokens; drop empty examples in cleaning first")
        return [(row, np.asarray(tokens, np.int32)) for (row, _), tokens in zip(slab, token_lists, strict=True)]

    def _pad_id(self) -> int:
        config = load_config(self.identity.folder, self.identity.settings).get_text_config()
        for pad_id in (self._tokenizer.pad_token_id, config.pad_token_id):
            if isinstance(pad_id, int) and pad_id >= 0:
                return pad_id
        return 0


def _slabs(rows: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Lists of rows, each twice as long as the last up to SLAB_TEXTS."""
    left, size = iter(rows), FIRST_SLAB_TEXTS
    while slab := list(islice(left, size)):
        yield slab
        size = min(2 * size, SLAB_TEXTS)


def _batches(batcher: Batcher, token_lists: Iterable[tuple[int, np.ndarray]]) -> Iterator[Batch]:
    for row, tokens in token_lists:
        batch = batcher.add(row, tokens)
        if batch is not None:
            yield batch
    yield from batcher.flush()
