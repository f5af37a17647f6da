"""How much of a GPU the encoder uses: tokens a second and model FLOPs beside the card's own bf16 matrix rate, for three sizes of language models.

    python -m benchmarks.gpu [--models 0.1B 0.5B 1.5B] [--texts 4000] [--batch-tokens 16384] [--repeats 5] [--json FILE]

The weights are random, which changes no speed; the shapes are those of SmolLM2-135M (Llama), Qwen2.5-0.5B and Qwen2.5-1.5B with a small vocabulary. Lengths
are spread as in six real pools. Each repeat takes turns: the matrix rate (products of 8192 x 8192), the encoder's own way (batches by length,
one ahead of the last, pooled, vectors on the host), and the paper's way (one example at a time, all hidden states, the head) on a few of the texts.
Exits with 1 where torch finds no GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from benchmarks.figures import Figures
from rds_dagster.embeddings.backbone import Backbone
from rds_dagster.embeddings.batching import Batch, BucketBatcher
from rds_dagster.embeddings.devices import BATCH_TOKENS
from rds_dagster.embeddings.identity import EncoderIdentity, ResolvedDtype
from rds_dagster.embeddings.running import OneAhead, Runner
from rds_dagster.embeddings.settings import EncoderSettings

MAX_TOKENS = 2048
VOCABULARY = 8192
MATRIX = 8192  # rows and columns of the products that measure the card
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


def build_model(shape: Shape, *, vocabulary: int, dtype: ResolvedDtype, device: str) -> PreTrainedModel:
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


def make_runner(model: PreTrainedModel, shape: Shape, dtype: ResolvedDtype, device: str) -> Runner:
    """The encoder's own way to run the backbone of ``model`` on a GPU."""
    settings = EncoderSettings(name="random", dtype=dtype)
    identity = EncoderIdentity(settings, Path(), (), 0, "weighted_mean", "full", MAX_TOKENS, dtype, shape.hidden, "")
    return OneAhead(Backbone(identity, model.base_model, device))


def make_batches(lengths: np.ndarray, runner: Runner, batch_tokens: int) -> list[Batch]:
    """Random tokens of these lengths as the encoder puts them into batches."""
    rng = np.random.default_rng(0)
    batcher = BucketBatcher(max_tokens=MAX_TOKENS, batch_tokens=batch_tokens, pad_id=0, rules=runner.rules)
    full = [batcher.add(row, rng.integers(VOCABULARY, size=length, dtype=np.int32)) for row, length in enumerate(lengths)]
    return [*(batch for batch in full if batch is not None), *batcher.flush()]


def run_batches(runner: Runner, batches: Sequence[Batch]) -> float:
    """Seconds until all vectors are on the host."""
    began = time.perf_counter()
    for _ in runner.run(batches):
        pass
    return time.perf_counter() - began


@torch.inference_mode()
def run_one_by_one(model: PreTrainedModel, lengths: np.ndarray, device: str) -> float:
    """Seconds of the paper's way."""
    began = time.perf_counter()
    for length in lengths:
        tokens = torch.randint(VOCABULARY, (1, int(length))).to(device)
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0].float()  # (T, D)
        weight = torch.arange(1, len(states) + 1, device=device, dtype=torch.float32)
        torch.nn.functional.normalize((states * (weight / weight.sum()).unsqueeze(1)).sum(dim=0), dim=0).cpu()
    return time.perf_counter() - began


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


def measure(figures: Figures, name: str, *, texts: int, batch_tokens: int, repeats: int, device: str) -> None:
    """One size of model, after a round that warms up."""
    shape, lengths = SHAPES[name], spread_lengths(texts)
    model = build_model(shape, vocabulary=VOCABULARY, dtype="bfloat16", device=device)
    runner, few = make_runner(model, shape, "bfloat16", device), lengths[:FEW_TEXTS]
    batches, flops = make_batches(lengths, runner, batch_tokens), model_flops(shape, lengths)
    rates: dict[str, list[float]] = {"matrix": [], "encoder": [], "used": [], "one by one": []}
    for number in range(repeats + 1):
        took = {"matrix": matrix_rate(device), "encoder": run_batches(runner, batches), "one by one": run_one_by_one(model, few, device)}
        if number:
            rates["matrix"].append(took["matrix"])
            rates["encoder"].append(lengths.sum() / took["encoder"])
            rates["used"].append(flops / took["encoder"])
            rates["one by one"].append(few.sum() / took["one by one"])
    figures.figure(f"{name}: bf16 products of the card", [rate / 1e12 for rate in rates["matrix"]], "TFLOP/s")
    figures.figure(f"{name}: encoder", rates["encoder"], "tokens/s")
    figures.figure(f"{name}: encoder, model FLOPs", [rate / 1e12 for rate in rates["used"]], "TFLOP/s")
    figures.figure(f"{name}: the paper's way", rates["one by one"], "tokens/s")
    figures.ratio(f"{name}: model FLOPs / bf16 products of the card", rates["used"], rates["matrix"], "higher")
    figures.ratio(f"{name}: encoder / the paper's way", rates["encoder"], rates["one by one"], "higher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--texts", type=int, default=4000, help="conversations to embed")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS["cuda"], help="tokens of a batch, padding included")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures and ratios to this file too")
    said = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here, so there is nothing to measure; run this on a machine with one and a CUDA build of torch")
    figures = Figures("gpu")
    for name in said.models:
        measure(figures, name, texts=said.texts, batch_tokens=said.batch_tokens, repeats=said.repeats, device="cuda:0")
    figures.write(said.json)


if __name__ == "__main__":
    main()
