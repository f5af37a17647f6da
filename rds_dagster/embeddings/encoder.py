"""A loaded encoder: texts in, unit vectors out. Only the backbone runs, and only its last hidden state is kept.

B rows of a batch, T tokens, D hidden size, N texts. A vector depends on its text and the encoder alone, bit for bit on one kind of device:
shapes are fixed (batching), and the attention kernel is always the same one. A causal backbone gets no mask at all, for with padding on
the right no real token sees it; any other gets a mask that always has padding in it, so that transformers cannot drop it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from rds_dagster.embeddings.batching import Batch, BucketBatcher
from rds_dagster.embeddings.identity import (
    EncoderIdentity,
    ResolvedDevice,
    describe_encoder,
    load_config,
    load_tokenizer,
    quiet_transformers,
    resolve_device,
    resolve_model,
)
from rds_dagster.embeddings.pooling import POOLINGS
from rds_dagster.embeddings.progress import Progress
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.pools.render import render
from rds_dagster.schema import Message

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["EncodedBatch", "Encoder", "EncoderIdentity", "describe_encoder", "load_encoder", "resolve_model"]

SLAB_TEXTS = 1024  # texts tokenised at once
PROBE_TOKENS = 16
BATCH_TOKENS: dict[ResolvedDevice, int] = {
    # tiny, one batch a core on two cores, 4,000 texts of 167 tokens: 36,279 real tokens/s at 1024, 31,107 at 2048, where the part-filled batches
    # at the end hold more dummies. MiniLM on one core, 2,000 Alpaca texts: 3,115 at 512, 2,976 at 1024, 2,628 at 2048.
    "cpu": 1024,
    "cuda": 16384,  # not measured
    "mps": 8192,  # not measured
}


@dataclass(frozen=True)
class EncodedBatch:
    """b examples: the caller's ``rows`` (b,) int64, ``vectors`` (b, D) float32 of norm 1, ``num_tokens`` (b,) int32 after truncation."""

    rows: np.ndarray
    vectors: np.ndarray
    num_tokens: np.ndarray


def load_encoder(encoder: EncoderSettings | EncoderIdentity) -> Encoder:
    """Load the backbone onto its device; raises SettingsError, MissingExtraError, and StateError where weights are missing."""
    identity = encoder if isinstance(encoder, EncoderIdentity) else describe_encoder(encoder)
    device = resolve_device(identity.settings)
    model = _load_backbone(identity).to(device).eval()
    if device == "cpu" and identity.dtype == "float32":
        from rds_dagster.embeddings.onednn import through_onednn

        model = through_onednn(model)
    tokenizer = load_tokenizer(identity.folder, identity.settings)
    return Encoder(identity, model, tokenizer, device)


class Encoder:
    """Made by ``load_encoder``; holds the model and nothing of what it encodes."""

    def __init__(self, identity: EncoderIdentity, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: ResolvedDevice) -> None:
        import torch

        self.identity = identity
        self.batch_tokens = identity.settings.batch_tokens or BATCH_TOKENS[device]
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._cores = torch.get_num_threads()
        self._pool = POOLINGS[identity.pooling]
        self._is_causal = self._probe_causal()

    @property
    def made_on(self) -> str:
        """What else decides the last bits of a vector, such as ``cpu AVX2 torch 2.13.0 transformers 5.23.0 batch 1024``."""
        import torch
        import transformers

        kind = torch.cuda.get_device_name() if self._device == "cuda" else torch.backends.cpu.get_cpu_capability() if self._device == "cpu" else "gpu"
        return f"{self._device} {kind} torch {torch.__version__} transformers {transformers.__version__} batch {self.batch_tokens}"

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
        """Encode (row number, text) pairs; every row comes out once, in the order in which length buckets fill, not in the order given.

        Reads at most two slabs ahead. Raises ValueError naming the rows of texts without a token, and StateError where a vector is not finite.
        """
        batcher = BucketBatcher(max_tokens=self.identity.max_tokens, batch_tokens=self.batch_tokens, pad_id=self._pad_id(), always_padded=not self._is_causal)
        for encoded in self._run_all(_batches(batcher, self._token_lists(rows))):
            if progress is not None:
                progress.update(len(encoded.rows), int(encoded.num_tokens.sum()))
            yield encoded

    def _token_lists(self, rows: Iterable[tuple[int, str]]) -> Iterator[tuple[int, np.ndarray]]:
        """(row, tokens (L,) int32), tokenised one slab ahead of the model."""
        texts = iter(rows)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise") as worker:
            ahead = worker.submit(self._tokenise, list(islice(texts, SLAB_TEXTS)))
            while slab := list(islice(texts, SLAB_TEXTS)):
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

    def _run_all(self, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
        """The batches in their order. On a CPU one batch a core, each on one thread: a fifth faster than sharing each, and the same bits on any core count."""
        import torch

        if self._device != "cpu":
            yield from map(self._run, batches)
            return
        running: deque[Future[EncodedBatch]] = deque()
        with ThreadPoolExecutor(self._cores, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(1,)) as workers:
            try:
                for batch in batches:
                    running.append(workers.submit(self._run, batch))
                    if len(running) > self._cores:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                torch.set_num_threads(self._cores)

    def _run(self, batch: Batch) -> EncodedBatch:
        import torch

        num_examples = len(batch.rows)
        with torch.inference_mode():
            tokens = torch.from_numpy(batch.tokens).to(self._device).long()  # (B, T)
            lengths = torch.from_numpy(batch.lengths).to(self._device)  # (B,)
            mask = torch.arange(tokens.shape[1], device=self._device) < lengths.unsqueeze(1)  # (B, T)
            vectors = self._pool(self._hidden(tokens, mask), mask)[:num_examples].cpu().numpy()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise StateError(
                f"row {batch.rows[~finite][0]}: encoder {self.identity.settings.name!r} gives a vector that is not finite in {self.identity.dtype}; "
                "set dtype: float32 or bfloat16, and if it is one of them, mend the model's weights"
            )
        return EncodedBatch(rows=batch.rows, vectors=vectors, num_tokens=batch.lengths[:num_examples])

    def _hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states (B, T, D), after the final norm."""
        hidden: Tensor = self._model(input_ids=tokens, attention_mask=None if self._is_causal else mask.long()).last_hidden_state
        return hidden

    def _probe_causal(self) -> bool:
        """True if no state changes when a later token does; also checks that the states have ``dims`` numbers."""
        import torch

        vocabulary = self._model.config.get_text_config().vocab_size
        num_tokens = min(PROBE_TOKENS, self.identity.max_tokens)
        tokens = torch.randint(vocabulary, (1, num_tokens), generator=torch.Generator().manual_seed(0)).to(self._device)
        changed = tokens.clone()
        changed[0, -1] = (tokens[0, -1] + 1) % vocabulary
        with torch.inference_mode():
            before, after = (self._model(input_ids=given, attention_mask=None).last_hidden_state for given in (tokens, changed))
        if before.shape[-1] != self.identity.dims:
            raise SettingsError(
                f"encoder {self.identity.settings.name!r}: the states of {self.identity.settings.model!r} have {before.shape[-1]} numbers, "
                f"its config says {self.identity.dims}; such models are not supported"
            )
        return torch.equal(before[:, :-1], after[:, :-1])

    def _pad_id(self) -> int:
        for pad_id in (self._tokenizer.pad_token_id, self._model.config.get_text_config().pad_token_id):
            if isinstance(pad_id, int) and pad_id >= 0:
                return pad_id
        return 0


def _batches(batcher: BucketBatcher, token_lists: Iterable[tuple[int, np.ndarray]]) -> Iterator[Batch]:
    for row, tokens in token_lists:
        batch = batcher.add(row, tokens)
        if batch is not None:
            yield batch
    yield from batcher.flush()


def _load_backbone(identity: EncoderIdentity) -> PreTrainedModel:
    """The model without a head; of an encoder-decoder its encoder."""
    import torch
    from safetensors import SafetensorError
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoModel, AutoModelForTextEncoding

    config = load_config(identity.folder, identity.settings)
    for part in (config, config.get_text_config()):
        part.use_cache = False
        part.output_hidden_states = False
    has_encoder_class = config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    loader = AutoModelForTextEncoding if has_encoder_class else AutoModel
    try:
        with quiet_transformers():
            model, report = loader.from_pretrained(
                identity.folder,
                config=config,
                dtype=getattr(torch, identity.dtype),
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise StateError(
            f"encoder {identity.settings.name!r}: the weights in {identity.folder} are damaged ({error}); copy the whole model folder again"
        ) from error
    unused = ("pooler.", "decoder.") if config.is_encoder_decoder else ("pooler.",)  # the last hidden state does not pass through them
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
    if missing:
        raise StateError(
            f"encoder {identity.settings.name!r}: {identity.folder} lacks {len(missing)} weights of its model, such as {missing[0]}; "
            "they would be random numbers. Copy the whole model folder again"
        )
    return model.get_encoder() if config.is_encoder_decoder and not has_encoder_class else model
