"""The model over packed batches: attention that is told where examples begin, and layers compiled once for the one shape there is.

For causal language models in bfloat16 or float16 on an NVIDIA GPU; others run in padded batches (backbone). Whether a model can be packed is asked of
the model: its vectors must be those of its own attention.

T tokens of a batch, S examples and dummies in it, H and K heads of queries and of keys, E size of a head, D hidden size.
"""

from __future__ import annotations

import logging
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rds_dagster.embeddings.backbone import Backbone
from rds_dagster.embeddings.batching import Batch
from rds_dagster.embeddings.devices import kind_of, to_device
from rds_dagster.embeddings.packing import PackRules
from rds_dagster.embeddings.pooling import places_packed, pool_packed
from rds_dagster.errors import StateError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

ATTENTION = "rds_packed"  # our attention's name among those of transformers
OLDEST_CAPABILITY = (8, 0)  # of GPUs that torch's flash attention runs on (Ampere)
LARGEST_HEAD, HEAD_STEP = 256, 8  # numbers of a head that it takes: up to so many, and a multiple of
KNOWN_LAYERS = {"full_attention", "sliding_attention"}  # others may mask what none of our arguments says (chunks)
MOVING_ROPES = {"dynamic", "longrope"}  # whose angles depend on the longest example of a batch
PROBED_LENGTHS = (3, 40, 1, 17, 25)
LEAST_COSINE = 0.995  # between the vectors of both attentions: bfloat16 left 0.9999 (24 layers), attention to a neighbour far less
COMPILERS = ("cc", "gcc", "clang")


class _CannotPackError(Exception):
    """The model asks something of its attention that packing does not offer."""


class PackedBackbone(Backbone):
    """``backbone``'s model, switched over to packed attention."""

    def __init__(self, backbone: Backbone) -> None:
        _register()
        self.identity, self.device, self.model, self.is_causal = backbone.identity, backbone.device, backbone.model, True
        self.model.set_attn_implementation(ATTENTION)
        self._is_compiled = False

    @property
    def rules(self) -> PackRules:
        """See ``Backbone``."""
        return PackRules(self._is_compiled)

    def _embed(self, batch: Batch) -> Tensor:
        import torch

        on_host = (batch.tokens[0], places_packed(batch.lengths), np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int32))
        tokens, places, ends = (to_device(torch.from_numpy(part), self.device) for part in on_host)
        longest = self.identity.max_tokens  # the kernel's grid follows from it, no sum does
        if self._is_compiled:
            torch._dynamo.maybe_mark_dynamic(ends, 0)  # S is another in each batch
        states = self.model(
            input_ids=tokens.long().unsqueeze(0),
            position_ids=places.unsqueeze(0),
            attention_mask=None,
            cu_seq_lens_q=ends,
            cu_seq_lens_k=ends,
            max_length_q=longest,
            max_length_k=longest,
        ).last_hidden_state
        return pool_packed(states[0], batch.lengths, self.identity.pooling)

    def compile(self) -> None:
        """Fuse what stands between a layer's matrix products, by one compilation for all layers, when the next batch comes.

        Without measurements of variants on the device, since the quickest of them, and with it the order of sums, could be another tomorrow.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer  # what transformers' decoder layers are

        for part in self.model.modules():
            if isinstance(part, GradientCheckpointingLayer):
                part.compile(dynamic=False, options={"deterministic": True})  # else another encoder's T would make this one's a variable
        self._is_compiled = True


def pack_where_possible(backbone: Backbone) -> Backbone:
    """The same model over packed batches, its layers compiled, where model and device allow it; else ``backbone``."""
    if not (_is_device_fit(backbone.device) and backbone.identity.dtype != "float32"):
        return backbone
    packed = try_packing(backbone)
    if packed is None:
        logging.getLogger(__name__).info("encoder %r runs in padded batches: its attention cannot be packed", backbone.identity.settings.name)
        return backbone
    if can_compile():
        packed.compile()
    return packed


def try_packing(backbone: Backbone) -> PackedBackbone | None:
    """The model over packed batches if its vectors are the same there; else None, and the model is as it was."""
    model = backbone.model
    if not backbone.is_causal or not model._supports_attention_backend or _tokens_meet_elsewhere(model):
        return None
    before = model.config._attn_implementation
    try:
        batches = _probe(backbone)
        own = np.concatenate([backbone.run(batch).vectors for batch in batches])
        packed = PackedBackbone(backbone)
        (batch,) = _packed(batches)
        vectors = packed.run(batch).vectors
        if (np.einsum("nd,nd->n", own, vectors) > LEAST_COSINE).all():
            return packed
    except (_CannotPackError, StateError):  # StateError: random tokens give no finite vectors, so there is nothing to compare
        pass
    model.set_attn_implementation(before)
    return None


def _tokens_meet_elsewhere(model: PreTrainedModel) -> bool:
    """Whether an example's states may depend on others of its row in spite of our attention: by states beside it, unknown masks, or moving positions."""
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    ropes: set[str] = set()
    for part in model.modules():
        kind = getattr(part, "rope_type", None)  # of each kind of layer, or of all
        ropes.update(kind.values() if isinstance(kind, dict) else [kind] if isinstance(kind, str) else [])
    return bool(model._is_stateful or layers - KNOWN_LAYERS or ropes & MOVING_ROPES)


@cache
def can_compile() -> bool:
    """Whether torch can compile for a GPU here: Triton is there, and what it builds its launchers with."""
    import torch
    from torch.utils._triton import has_triton

    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    return has_headers and any(map(shutil.which, COMPILERS)) and has_triton() and not torch._dynamo.config.disable


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within each example, as transformers asks for it: query (1, H, T, E), key and value (1, K, T, E) to (1, T, H, E).

    cu_seq_lens_q (S + 1,) int32: where examples begin, and T; none is longer than max_length_q. Raises _CannotPackError.
    """
    import torch

    is_plain = attention_mask is None and softcap is None and s_aux is None and (sliding_window or max_length_q) >= max_length_q
    fits = query.shape[-1] == value.shape[-1] <= LARGEST_HEAD and query.shape[-1] % HEAD_STEP == 0 and query.dtype == key.dtype == value.dtype
    if cu_seq_lens_q is None or not is_plain or not fits:
        raise _CannotPackError
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))  # (T, H, E)
    if query.device.type != "cpu" and query.dtype not in (torch.bfloat16, torch.float16):
        raise _CannotPackError
    if query.device.type == "cpu":
        return _attend_one_by_one(query, key, value, cu_seq_lens_q, scaling).unsqueeze(0), None
    found = torch.ops.aten._flash_attention_forward(  # torch.nn.attention.varlen has it in public, but older ones without grouped heads
        query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, 0.0, True, False, scale=scaling
    )
    return found[0].unsqueeze(0), None


def _attend_one_by_one(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float | None) -> Tensor:
    """The same on a CPU, (T, H, E), for which torch has no such kernel."""
    import torch

    found = torch.empty_like(query)
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        asked, keys, values = (part[start:end].transpose(0, 1).unsqueeze(0) for part in (query, key, value))  # (1, H, t, E)
        states = torch.nn.functional.scaled_dot_product_attention(asked, keys, values, is_causal=True, scale=scaling, enable_gqa=True)
        found[start:end] = states[0].transpose(0, 1)
    return found


@cache
def _register() -> None:
    """Make our attention known to transformers; a model that uses it is given no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_packed)


def _is_device_fit(device: str) -> bool:
    import torch

    is_nvidia = kind_of(device) == "cuda" and torch.version.hip is None
    return is_nvidia and torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY


def _probe(backbone: Backbone) -> list[Batch]:
    """Examples of random tokens, each in a batch of its own, with padding."""
    rng, vocabulary = np.random.default_rng(0), backbone.model.config.get_text_config().vocab_size
    batches = []
    for row, length in enumerate(PROBED_LENGTHS):
        length = min(length, backbone.identity.max_tokens)
        batches.append(Batch(np.array([row]), rng.integers(vocabulary, size=(1, length), dtype=np.int32), np.array([length], np.int32)))
    return batches


def _packed(batches: list[Batch]) -> list[Batch]:
    """The same examples in one packed batch."""
    lengths = [int(batch.lengths[0]) for batch in batches]
    packer = PackRules().batcher(max_tokens=max(lengths), batch_tokens=sum(lengths), pad_id=0)
    full = [packer.add(row, batch.tokens[0]) for row, batch in enumerate(batches)]
    return [*(batch for batch in full if batch is not None), *packer.flush()]
