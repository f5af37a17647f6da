"""What a user chooses about an encoder; checked when it is made, before any file is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.pools.render import What as What

Pooling = Literal["weighted_mean", "mean", "last_token"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]

BUNDLED_MODELS = ("tiny", "minilm")
"""Words for models that need no network: the language model that this package carries, and MiniLM, which the extra of that name brings."""

DEFAULT_MODEL = "tiny"
DEFAULT_MAX_TOKENS = 2048  # where the paper truncates (arXiv 2503.01807)
SMALLEST_MAX_TOKENS = 8  # the shortest length bucket


@dataclass(frozen=True)
class WhitenSettings:
    """PCA whitening of the vectors when they are scored (embeddings/whitening.py): ``dims``, the numbers that a whitened vector has."""

    dims: int

    def __post_init__(self) -> None:
        if type(self.dims) is not int or self.dims < 1:
            raise SettingsError(f"encoder: whiten.dims is {self.dims!r}; expected a whole number, at least 1")


@dataclass(frozen=True)
class EncoderSettings:
    """One encoder: which model makes the vectors, of which part of a conversation, and how; raises SettingsError.

    ``model``: a Hugging Face folder, a hub id, or one of the words tiny and minilm (BUNDLED_MODELS). ``pooling``: weighted_mean
    is RDS+, last_token plain RDS. ``what``: the part of a conversation that is rendered. ``max_tokens``: longer texts lose their end; None
    = 2048 or the model's limit, whichever is smaller. ``dtype`` auto = bfloat16 on cuda, float32 elsewhere. ``device`` auto = cuda, else mps,
    else cpu; with auto every GPU works that torch sees and that is of the first one's kind, each in a process of its own, with cuda the first
    alone (CUDA_VISIBLE_DEVICES says which ones torch sees). ``batch_tokens``: tokens of a batch, padding included; None = the device's default.
    It changes speed, memory and the last bits. ``whiten``: how scores are taken of the vectors, which are stored as the model makes them; None
    = as they are.
    """

    name: str = DEFAULT_MODEL
    model: str = DEFAULT_MODEL
    pooling: Pooling = "weighted_mean"
    what: What = "full"
    max_tokens: int | None = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    batch_tokens: int | None = None
    whiten: WhitenSettings | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise SettingsError(f"encoder name is {self.name!r}; expected small letters, digits and underscores, beginning with a letter")
        if not isinstance(self.model, str) or not self.model.strip():
            raise SettingsError(f"encoder {self.name!r}: model is {self.model!r}; expected a model folder, a hub id, or one of {', '.join(BUNDLED_MODELS)}")
        for field, value, choices in (
            ("pooling", self.pooling, get_args(Pooling)),
            ("what", self.what, get_args(What)),
            ("dtype", self.dtype, get_args(Dtype)),
            ("device", self.device, get_args(Device)),
        ):
            if value not in choices:
                raise unknown_choice(f"encoder {self.name!r}: {field}", value, choices)
        if self.whiten is not None and not isinstance(self.whiten, WhitenSettings):
            raise SettingsError(f"encoder {self.name!r}: whiten is {self.whiten!r}; expected WhitenSettings(dims=...), or None")
        for field, number, least in (("max_tokens", self.max_tokens, SMALLEST_MAX_TOKENS), ("batch_tokens", self.batch_tokens, 1)):
            if number is not None and (type(number) is not int or number < least):  # not isinstance: True is an int too
                raise SettingsError(f"encoder {self.name!r}: {field} is {number!r}; expected a whole number of tokens, at least {least}, or null")
