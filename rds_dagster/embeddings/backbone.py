"""The model on one device, without its head: a batch in, its unit vectors out. Only the last hidden state is kept.

B rows of a batch, T tokens, D hidden size. A vector depends on its text and the encoder alone, bit for bit on one kind of device: lengths are
padded to fixed shapes (batching), and the attention kernel is always the same one. A causal backbone gets no mask at all, for with padding on
the right no real token sees it; any other gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rds_dagster.embeddings.batching import Batch, BatchRules, Rules
from rds_dagster.embeddings.devices import kind_of, to_device
from rds_dagster.embeddings.identity import EncoderIdentity, load_config, quiet_transformers
from rds_dagster.embeddings.pooling import POOLINGS
from rds_dagster.errors import SettingsError, StateError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.cuda import Event
    from transformers import PreTrainedModel

PROBE_TOKENS = 16


@dataclass(frozen=True)
class EncodedBatch:
    """b examples: the caller's ``rows`` (b,) int64, ``vectors`` (b, D) float32 of norm 1, ``num_tokens`` (b,) int32 after truncation."""

    rows: np.ndarray
    vectors: np.ndarray
    num_tokens: np.ndarray


@dataclass(frozen=True)
class Launched:
    """A batch whose ``vectors`` (b, D) are on their way to the host; they are there after ``arrived``, or already where that is None."""

    batch: Batch
    vectors: Tensor
    arrived: Event | None


class Backbone:
    """``model``, given over to it, on ``device`` (torch's name); ``is_causal``: no state of a token depends on later ones. Raises SettingsError."""

    def __init__(self, identity: EncoderIdentity, model: PreTrainedModel, device: str) -> None:
        self.identity = identity
        self.device = device
        self.model = model.to(device).eval()
        if device == "cpu" and identity.dtype == "float32":
            from rds_dagster.embeddings.onednn import through_onednn

            self.model = through_onednn(self.model)
        self._pool = POOLINGS[identity.pooling]
        self.is_causal = self._probe_causal()

    @property
    def rules(self) -> Rules:
        """What a GPU asks of the batches."""
        return BatchRules(leave_room=not self.is_causal, has_dummies=True)

    def run(self, batch: Batch) -> EncodedBatch:
        """The vectors of a batch's examples; raises StateError where one is not finite."""
        return self.fetch(self.launch(batch))

    def launch(self, batch: Batch) -> Launched:
        """Hand a batch to the device. A GPU goes on with it when this returns, and waits for nothing of the host. Raises StateError if it does not fit."""
        import torch

        with torch.inference_mode():
            try:
                vectors = self._embed(batch)[: len(batch.rows)]
            except torch.OutOfMemoryError as error:
                raise StateError(
                    f"encoder {self.identity.settings.name!r}: a batch of {batch.tokens.size:,} tokens does not fit the memory of {self.device}; "
                    f"set batch_tokens below that (and max_tokens, which is {self.identity.max_tokens:,}, if it is no less), or use a smaller model. "
                    "What was stored before stays"
                ) from error
            if kind_of(self.device) != "cuda":
                return Launched(batch, vectors.cpu(), None)
            return Launched(batch, vectors.to("cpu", non_blocking=True), torch.cuda.current_stream(self.device).record_event())

    def fetch(self, launched: Launched) -> EncodedBatch:
        """Wait for what ``launch`` began; raises StateError where a vector is not finite."""
        if launched.arrived is not None:
            launched.arrived.synchronize()
        batch, vectors = launched.batch, launched.vectors.numpy()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise StateError(
                f"row {batch.rows[~finite][0]}: encoder {self.identity.settings.name!r} gives a vector that is not finite in {self.identity.dtype}; "
                "set dtype: float32 or bfloat16, and if it is one of them, mend the model's weights"
            )
        return EncodedBatch(rows=batch.rows, vectors=vectors, num_tokens=batch.lengths[: len(batch.rows)])

    def _embed(self, batch: Batch) -> Tensor:
        """The vectors (B, D) float32 of a batch, on the device."""
        import torch

        mask = torch.arange(batch.tokens.shape[1]) < torch.from_numpy(batch.lengths).unsqueeze(1)  # (B, T), on the host
        tokens = to_device(torch.from_numpy(batch.tokens), self.device).long()  # (B, T)
        return self._pool(self._hidden(tokens, mask), mask)

    def _hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states (B, T, D), after the final norm."""
        given = None if self.is_causal else to_device(mask, self.device).long()
        hidden: Tensor = self.model(input_ids=tokens, attention_mask=given).last_hidden_state
        return hidden

    def _probe_causal(self) -> bool:
        """True if no state changes when a later token does; also checks that the states have ``dims`` numbers."""
        import torch

        vocabulary = self.model.config.get_text_config().vocab_size
        num_tokens = min(PROBE_TOKENS, self.identity.max_tokens)
        tokens = torch.randint(vocabulary, (1, num_tokens), generator=torch.Generator().manual_seed(0)).to(self.device)
        changed = tokens.clone()
        changed[0, -1] = (tokens[0, -1] + 1) % vocabulary
        with torch.inference_mode():
            before, after = (self.model(input_ids=given, attention_mask=None).last_hidden_state for given in (tokens, changed))
        if before.shape[-1] != self.identity.dims:
            raise SettingsError(
                f"encoder {self.identity.settings.name!r}: the states of {self.identity.settings.model!r} have {before.shape[-1]} numbers, "
                f"its config says {self.identity.dims}; such models are not supported"
            )
        return torch.equal(before[:, :-1], after[:, :-1])


def load_model(identity: EncoderIdentity) -> PreTrainedModel:
    """The model without a head, on the CPU; of an encoder-decoder its encoder. Raises StateError where weights are damaged or missing."""
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
