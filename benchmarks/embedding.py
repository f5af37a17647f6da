"""How fast an encoder embeds real conversations, end to end and beside its bare model.

    python benchmarks/embedding.py --data DIR [--models tiny minilm] [--texts 8000] [--repeats 5]

Prints one line a figure: real tokens a second (without padding and dummies) of tokenising, running and pooling, median and spread of the repeats; the
same texts' tokens through the bare backbone in batches of one length, nothing padded and nothing tokenised, as transformers runs it and with the
encoder's own linear layers and one batch a core (the limit); and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.tiny_lm.corpus import records
from rds_dagster import Encoder, EncoderSettings, load_encoder, render
from rds_dagster.embeddings.encoder import _load_backbone
from rds_dagster.embeddings.identity import load_config
from rds_dagster.embeddings.onednn import through_onednn

SOURCES = ("alpaca", "dolly", "flan_cot", "t0_50k", "gpteacher_codegen", "alpaca_zh")


def conversations(data: Path, texts: int) -> list[str]:
    """Equal parts of some sources, spread over each file, rendered."""
    chosen: list[str] = []
    for source in SOURCES:
        rendered = [render(messages, what="full", eos="") for messages in records(data, source)]
        chosen += rendered[:: max(1, len(rendered) * len(SOURCES) // texts)]
    return chosen


def tokens_a_second(run: Callable[[], int], repeats: int) -> list[float]:
    """Rates of ``repeats`` runs after one that warms up; ``run`` returns how many tokens it took."""
    run()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        tokens = run()
        rates.append(tokens / (time.perf_counter() - began))
    return rates


def bare_batches(encoder: Encoder, lengths: np.ndarray) -> list[torch.Tensor]:
    """Random tokens in batches of ``batch_tokens``, each of one length: texts of these lengths, perfectly sorted."""
    vocabulary = load_config(encoder.identity.folder, encoder.identity.settings).get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ordered = np.sort(lengths)
    batches, start = [], 0
    while start < len(ordered):
        width = int(ordered[start])
        rows = max(1, min(encoder.batch_tokens // width, len(ordered) - start))
        batches.append(torch.randint(vocabulary, (rows, width), generator=generator))
        start += rows
    return batches


@torch.inference_mode()
def as_transformers_runs_it(model: PreTrainedModel, batches: list[torch.Tensor]) -> int:
    """One batch after the other, each on all cores; returns the tokens."""
    for batch in batches:
        model(input_ids=batch)
    return sum(batch.numel() for batch in batches)


def one_batch_a_core(model: PreTrainedModel, batches: list[torch.Tensor], cores: int) -> int:
    """As the encoder runs them; returns the tokens."""
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        tokens = sum(workers.map(lambda batch: as_transformers_runs_it(model, [batch]), batches))
    torch.set_num_threads(cores)
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/<source>.jsonl.zst")
    parser.add_argument("--models", nargs="+", default=["tiny"], help="tiny, minilm, or model folders")
    parser.add_argument("--texts", type=int, default=8000, help="conversations to embed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    said = parser.parse_args()
    texts = conversations(said.data, said.texts)
    for model in said.models:
        encoder = load_encoder(EncoderSettings(model=model, device="cpu", dtype=said.dtype))
        lengths = np.concatenate([batch.num_tokens for batch in encoder.encode_stream(enumerate(texts))])
        whole = tokens_a_second(lambda encoder=encoder: sum(int(batch.num_tokens.sum()) for batch in encoder.encode_stream(enumerate(texts))), said.repeats)
        batches, threads = bare_batches(encoder, lengths), torch.get_num_threads()
        model_alone = _load_backbone(encoder.identity).eval()
        plain = tokens_a_second(lambda alone=model_alone, batches=batches: as_transformers_runs_it(alone, batches), said.repeats)
        if said.dtype == "float32":
            through_onednn(model_alone)
        limit = tokens_a_second(lambda alone=model_alone, batches=batches, cores=threads: one_batch_a_core(alone, batches, cores), said.repeats)
        print(f"{model}, {said.dtype}, {threads} threads: {len(texts):,} conversations of {lengths.mean():.0f} tokens on average")
        for name, rates in (("end to end", whole), ("bare, as transformers runs it", plain), ("bare, as the encoder runs it", limit)):
            print(f"{model}, {name}: {statistics.median(rates):,.0f} tokens/s ({min(rates):,.0f} to {max(rates):,.0f})")
        for name, rates in (("as transformers runs it", plain), ("as the encoder runs it", limit)):
            print(f"{model}, end to end / bare, {name}: {statistics.median(whole) / statistics.median(rates):.2f}")


if __name__ == "__main__":
    main()
