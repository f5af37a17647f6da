"""How much of a GPU the encoder uses: tokens a second and model FLOPs beside the card's own bf16 matrix rate, for three sizes of language models.

    python -m benchmarks.gpu [--data DIR] [--models 0.1B 0.5B 1.5B] [--texts 8000] [--repeats 5] [--json FILE]

The weights are random, which changes no speed; the shapes are those of SmolLM2-135M (Llama), Qwen2.5-0.5B and Qwen2.5-1.5B with the vocabulary of the
shipped tokenizer. Texts are conversations of six real pools (--data, with pool/<source>.jsonl.zst), or of their lengths. In each repeat the sides take
turns, after a round that warms up:

- the card's matrix rate: products of 8192 x 8192;
- the encoder, from texts to vectors on the host: tokenising, packing, the model, pooling;
- the same from batches that were made before: what tokenising costs beside it;
- transformers' own model over perfectly sorted, already tokenised batches of one length (nothing padded), on some of the texts;
- the paper's way: one text at a time, tokenised when its turn comes, all hidden states, the head; on a few of the texts.

FLOPs are those of real tokens, without padding and dummies. Exits with 1 where torch finds no GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

from benchmarks.embedding import SOURCES, as_transformers_runs_it, bare_batches, in_turns, the_papers_way, tokenised
from benchmarks.figures import Figures
from benchmarks.tiny_lm.corpus import records
from rds_dagster.embeddings.batching import Batch
from rds_dagster.embeddings.encoder import Encoder, load_encoder
from rds_dagster.embeddings.identity import load_tokenizer, resolve_model
from rds_dagster.embeddings.running import Runner
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.pools.render import render

MAX_TOKENS = 2048
MATRIX = 8192  # rows and columns of the products that measure the card
SORTED_SHARE = 8  # transformers' own way takes one text of so many
SORTED_BATCH = 16384  # tokens of its batches
FEW_TEXTS = 64  # of the paper's way
# Tokens of 2,030 conversations of alpaca, dolly, flan_cot, t0_50k, gpteacher_codegen and alpaca_zh (the shipped tokenizer): every twentieth part.
LENGTH_QUANTILES = (17, 35, 46, 56, 65, 72, 78, 86, 93, 101, 110, 120, 131, 145, 164, 184, 217, 266, 357, 544, 1024)


@dataclass(frozen=True)
class Shape:
    """A language model without its weights; ``bias``: of the projections of queries, keys and values, which makes it a Qwen2."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    bias: bool


SHAPES = {
    "0.1B": Shape(layers=30, hidden=576, inner=1536, heads=9, kv_heads=3, bias=False),
    "0.5B": Shape(layers=24, hidden=896, inner=4864, heads=14, kv_heads=2, bias=True),
    "1.5B": Shape(layers=28, hidden=1536, inner=8960, heads=12, kv_heads=2, bias=True),
}


def build_model(shape: Shape, *, vocabulary: int, dtype: str, device: str) -> PreTrainedModel:
    """A language model with random weights (seed 0), made on ``device``."""
    torch.manual_seed(0)
    config = (Qwen2Config if shape.bias else LlamaConfig)(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    return model


def shipped_tokenizer() -> PreTrainedTokenizerBase:
    """That of the language model that the package carries."""
    return load_tokenizer(resolve_model(EncoderSettings()), EncoderSettings())


def model_folder(shape: Shape, folder: Path, *, dtype: str, device: str) -> Path:
    """Such a model with the shipped tokenizer, as a folder that the encoder loads."""
    tokenizer = shipped_tokenizer()
    tokenizer.model_max_length = MAX_TOKENS
    build_model(shape, vocabulary=len(tokenizer), dtype=dtype, device=device).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_flops(shape: Shape, lengths: np.ndarray) -> float:
    """Of the forward passes over examples of these ``lengths`` (N,), no head, no padding: two a weight and token, and causal attention's two products."""
    head = shape.hidden // shape.heads
    attention = shape.hidden * head * (2 * shape.heads + 2 * shape.kv_heads)  # queries and output, keys and values
    weights = shape.layers * (attention + 3 * shape.hidden * shape.inner)
    tokens = lengths.astype(np.float64)
    return float(2 * weights * tokens.sum() + shape.layers * 2 * shape.hidden * (tokens * (tokens + 1)).sum())


def spread_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Lengths (count,) int64, spread as in the real pools, in a random order."""
    places = (np.arange(count) + 0.5) / count
    lengths = np.interp(places, np.linspace(0, 1, len(LENGTH_QUANTILES)), LENGTH_QUANTILES).round().astype(np.int64)
    return np.random.default_rng(seed).permutation(lengths)


def make_texts(count: int, data: Path | None) -> list[str]:
    """Rendered conversations: equal parts of real pools in ``data``, spread over each file and mixed; without it words, as many as tokens are asked for."""
    if data is None:
        return [" ".join(["the"] * length) for length in spread_lengths(count)]
    found, eos = [], str(shipped_tokenizer().eos_token)
    for source in SOURCES:
        conversations = list(records(data, source))
        step = max(1, len(conversations) * len(SOURCES) // count)
        found += [render(messages, what="full", eos=eos) for messages in conversations[::step]]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def make_batches(encoder: Encoder, token_lists: Sequence[Sequence[int]]) -> list[Batch]:
    """Token lists as the encoder puts them into batches."""
    batcher = encoder.runner.rules.batcher(max_tokens=MAX_TOKENS, batch_tokens=encoder.batch_tokens, pad_id=0)
    full = [batcher.add(row, np.asarray(tokens, np.int32)) for row, tokens in enumerate(token_lists)]
    return [*(batch for batch in full if batch is not None), *batcher.flush()]


def run_batches(runner: Runner, batches: Sequence[Batch]) -> int:
    """All vectors to the host; real tokens."""
    return sum(int(encoded.num_tokens.sum()) for encoded in runner.run(batches))


def encode(encoder: Encoder, texts: Sequence[str]) -> int:
    """Texts to vectors; real tokens."""
    return sum(int(encoded.num_tokens.sum()) for encoded in encoder.encode_stream(enumerate(texts)))


@torch.inference_mode()
def sorted_batches(model: PreTrainedModel, batches: Sequence[torch.Tensor]) -> int:
    """The backbone as transformers runs it over these batches, one after the other; real tokens."""
    tokens = as_transformers_runs_it(model, list(batches))
    if batches[0].is_cuda:
        torch.cuda.synchronize()
    return tokens


@torch.inference_mode()
def matrix_rate(device: str, size: int = MATRIX, products: int = 20) -> float:
    """FLOPs a second of bf16 products of ``size`` x ``size``."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    (left @ right)[0, 0].item()
    began = time.perf_counter()
    for _ in range(products):
        last = left @ right
    last[0, 0].item()  # waits
    return 2 * products * size**3 / (time.perf_counter() - began)


def measure(figures: Figures, name: str, texts: Sequence[str], folder: Path, repeats: int, device: str = "cuda") -> None:
    """One size of model."""
    shape = SHAPES[name]
    settings = EncoderSettings(name="random", model=str(model_folder(shape, folder, dtype="bfloat16", device=device)), device=device, dtype="bfloat16")
    encoder, tokenizer = load_encoder(settings), load_tokenizer(folder, settings)
    token_lists = list(tokenised(tokenizer, texts, MAX_TOKENS))
    lengths = np.array([len(tokens) for tokens in token_lists])
    batches = make_batches(encoder, token_lists)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    in_order = [batch.to(device) for batch in bare_batches(lengths[::SORTED_SHARE], SORTED_BATCH, whole.config.vocab_size)]
    rates = in_turns(
        {
            "encoder": lambda: encode(encoder, texts),
            "encoder, batches made before": lambda: run_batches(encoder.runner, batches),
            "transformers, sorted batches": lambda: sorted_batches(whole.base_model, in_order),
            "the paper's way": lambda: the_papers_way(whole, tokenizer, texts[:FEW_TEXTS], MAX_TOKENS),
        },
        repeats,
        beside={"bf16 products of the card": lambda: matrix_rate(device)},
    )
    peak = rates.pop("bf16 products of the card")
    used = [rate * model_flops(shape, lengths) / lengths.sum() for rate in rates["encoder"]]
    print(
        f"{name}: {len(texts):,} texts of {lengths.mean():.0f} tokens, {1 - lengths.sum() / sum(b.tokens.size for b in batches):.2%} of the tokens are dummies"
    )
    for way, values in rates.items():
        figures.figure(f"{name}: {way}", values, "tokens/s")
    figures.figure(f"{name}: encoder, texts", [rate * len(texts) / lengths.sum() for rate in rates["encoder"]], "texts/s")
    figures.figure(f"{name}: encoder, model FLOPs", [rate / 1e12 for rate in used], "TFLOP/s")
    figures.figure(f"{name}: bf16 products of the card", [rate / 1e12 for rate in peak], "TFLOP/s")
    figures.ratio(f"{name}: model FLOPs / bf16 products of the card", used, peak, "higher")
    for way in rates:
        if way != "encoder":
            figures.ratio(f"{name}: encoder / {way}", rates["encoder"], rates[way], "higher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with pool/<source>.jsonl.zst; without it texts of their lengths are made up")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--texts", type=int, default=8000, help="conversations to embed, about")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures and ratios to this file too")
    said = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here, so there is nothing to measure; run this on a machine with one and a CUDA build of torch")
    figures, texts = Figures("gpu"), make_texts(said.texts, said.data)
    for name in said.models:
        with TemporaryDirectory() as folder:
            measure(figures, name, texts, Path(folder), said.repeats)
        torch.cuda.empty_cache()
    figures.write(said.json)


if __name__ == "__main__":
    main()
