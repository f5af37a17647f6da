"""How fast conversations of real pools become stored vectors, beside the bare model, the paper's way and sentence-transformers.

    python -m benchmarks.embedding --data DIR [--models tiny minilm] [--texts 2000] [--repeats 5] [--limits-only] [--json FILE]

Rates are real tokens a second, without padding and dummies. In each repeat the sides take turns, and each figure is the median of the repeats:

- end to end: `embed_pools` on clean pools, which reads, renders, tokenises, runs, pools and writes to LanceDB; the model is loaded before;
- bare model: texts of these lengths, perfectly sorted, in batches of one length (nothing padded), run as the encoder runs them (one batch a core,
  its own linear layers), the limit; and as transformers runs them, one batch after the other on all cores;
- bare tokenising of the same texts; "bare model + tokenising" has the time of both, one after the other, and is the limit of a small language model;
- the paper's way, for language models: one example at a time, tokenised when its turn comes, through the model with its language-model head and the
  states of all layers kept; on some of the texts;
- sentence-transformers' `encode` with weighted mean pooling, for models that are not language models; on some of the texts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.figures import Figures
from benchmarks.tiny_lm.corpus import records
from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.texts import stream_conversations
from rds_dagster.cleaning.unique import unify_pools
from rds_dagster.embeddings.backbone import load_model
from rds_dagster.embeddings.embed_pools import embed_pools
from rds_dagster.embeddings.encoder import Encoder, load_encoder
from rds_dagster.embeddings.identity import load_config, load_tokenizer
from rds_dagster.embeddings.onednn import through_onednn
from rds_dagster.embeddings.register import register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.render import render
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

SOURCES = ("alpaca", "dolly", "flan_cot", "t0_50k", "gpteacher_codegen", "alpaca_zh")
SLAB_TEXTS = 1024  # tokenised at once
SLOW_SHARE = 8  # the slow ways take one text of so many

Rates = dict[str, list[float]]
Way = Callable[[], int]
"""Does its work once and says how many real tokens it took."""


@dataclass(frozen=True)
class Pools:
    """Clean pools in a store, ready to be embedded; ``texts`` as an encoder sees them."""

    store: TableStore
    names: list[str]

    def texts(self, encoder: Encoder) -> list[str]:
        """All kept examples, rendered."""
        found = []
        for name in self.names:
            wanted = np.sort(self.store.ids(self.store.need(f"unique/{name}"), "kept"))
            for _, messages in stream_conversations(self.store, self.store.need(f"clean/{name}"), wanted):
                found.append(render(messages, what=encoder.identity.what, eos=encoder.identity.eos))
        return found


def make_pools(root: Path, data: Path, texts: int) -> Pools:
    """Equal parts of some sources, spread over each file, as clean pools in ``root``."""
    store, pools = TableStore(Layout(root / "state")), [PoolSettings(source, f"{source}.jsonl") for source in SOURCES]
    for pool in pools:
        found = list(records(data, pool.name))
        with (root / f"{pool.name}.jsonl").open("w") as file:
            for messages in found[:: max(1, len(found) * len(SOURCES) // texts)]:
                file.write(json.dumps({"messages": messages}) + "\n")
        record_pool(store, pool, root=root)
        clean_pool(store, pool, CleaningSettings(), root=root)
    unify_pools(store, pools)
    return Pools(store, list(SOURCES))


def end_to_end(pools: Pools, encoder: Encoder) -> int:
    """Embed everything into an empty table."""
    VectorStore(pools.store.layout, encoder.identity.fingerprint, encoder.identity.dims).drop()
    return embed_pools(pools.store, encoder.identity, encoder.identity.settings.name, pools.names, model=encoder).tokens


def tokenised(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> Iterator[list[int]]:
    """The texts' tokens, a slab at a time."""
    for start in range(0, len(texts), SLAB_TEXTS):
        yield from tokenizer(list(texts[start : start + SLAB_TEXTS]), truncation=True, max_length=max_tokens, return_attention_mask=False)["input_ids"]


def bare_batches(lengths: np.ndarray, batch_tokens: int, vocabulary: int) -> list[torch.Tensor]:
    """Random tokens in batches of ``batch_tokens``, each of one length: texts of these lengths, perfectly sorted, cut to the shortest of their batch."""
    generator = torch.Generator().manual_seed(0)
    ordered = np.sort(lengths)
    batches, start = [], 0
    while start < len(ordered):
        width = int(ordered[start])
        rows = max(1, min(batch_tokens // width, len(ordered) - start))
        batches.append(torch.randint(vocabulary, (rows, width), generator=generator))
        start += rows
    return batches


@torch.inference_mode()
def as_transformers_runs_it(model: PreTrainedModel, batches: list[torch.Tensor]) -> int:
    """One batch after the other, each on all cores."""
    for batch in batches:
        model(input_ids=batch)
    return sum(batch.numel() for batch in batches)


def one_batch_a_core(model: PreTrainedModel, batches: list[torch.Tensor]) -> int:
    """As the encoder runs them."""
    cores = torch.get_num_threads()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        tokens = sum(workers.map(lambda batch: as_transformers_runs_it(model, [batch]), batches))
    torch.set_num_threads(cores)
    return tokens


@torch.inference_mode()
def the_papers_way(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> int:
    """One example at a time, all hidden states, through the head; position-weighted mean of the last states (SGPT), as RDS+ has it."""
    tokens = 0
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt").to(model.device)
        states = model(**given, output_hidden_states=True).hidden_states[-1]  # (1, T, D)
        weight = torch.arange(1, states.shape[1] + 1, dtype=torch.float32, device=model.device)
        torch.nn.functional.normalize((states[0].float() * (weight / weight.sum()).unsqueeze(1)).sum(dim=0), dim=0).cpu().numpy()
        tokens += states.shape[1]
    return tokens


def sentence_transformers_way(encoder: Encoder, texts: Sequence[str], tokens: int) -> Way | None:
    """`encode` with weighted mean pooling and normalised vectors, batches of 32 as it has them; None where it is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    pooling = Pooling(encoder.identity.dims, pooling_mode="weightedmean")
    backbone = Transformer(str(encoder.identity.folder), model_kwargs={"dtype": getattr(torch, encoder.identity.dtype)})
    model = SentenceTransformer(modules=[backbone, pooling], device="cpu")
    model.max_seq_length = encoder.identity.max_tokens

    def run() -> int:
        model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return tokens

    return run


def in_turns(ways: dict[str, Way], repeats: int, *, beside: dict[str, Callable[[], float]] | None = None) -> Rates:
    """Tokens a second of each way, ``repeats`` times in turns, after one round that warms up; ``beside``: rates of something else, measured in turn too."""
    rates: Rates = {name: [] for name in (*ways, *(beside or {}))}
    for number in range(repeats + 1):
        for name, rate in (beside or {}).items():
            value = rate()
            if number:
                rates[name].append(value)
        for name, way in ways.items():
            began = time.perf_counter()
            tokens = way()
            if number:
                rates[name].append(tokens / (time.perf_counter() - began))
    return rates


def measure(figures: Figures, pools: Pools, settings: EncoderSettings, repeats: int, *, with_peers: bool) -> None:
    """All ways of one encoder, or ours and the limits alone."""
    began = time.perf_counter()
    encoder = load_encoder(register_encoder(pools.store, settings)[1])
    name, texts = f"{settings.model}, {settings.dtype}", pools.texts(encoder)
    figures.figure(f"{name}: loading the model", [time.perf_counter() - began], "s")
    tokenizer, longest = load_tokenizer(encoder.identity.folder, settings), encoder.identity.max_tokens
    lengths = np.array([len(tokens) for tokens in tokenised(tokenizer, texts, longest)])
    plain, fast, total = load_model(encoder.identity).eval(), load_model(encoder.identity).eval(), int(lengths.sum())
    if settings.dtype == "float32":
        fast = through_onednn(fast)
    batches = bare_batches(lengths, encoder.batch_tokens, load_config(encoder.identity.folder, settings).get_text_config().vocab_size)
    is_language_model = encoder.runner.backbone.is_causal
    few = texts[::SLOW_SHARE]
    ways: dict[str, Way] = {
        "end to end": lambda: end_to_end(pools, encoder),
        "bare model": lambda: one_batch_a_core(fast, batches),
        "tokenising": lambda: sum(map(len, tokenised(tokenizer, texts, longest))),
    }
    if with_peers:
        ways["bare model as transformers runs it"] = lambda: as_transformers_runs_it(plain, batches)
    if with_peers and is_language_model:
        whole = AutoModelForCausalLM.from_pretrained(encoder.identity.folder, dtype=getattr(torch, settings.dtype)).eval()
        ways["the paper's way"] = lambda: the_papers_way(whole, tokenizer, few, longest)
    elif with_peers and (peer := sentence_transformers_way(encoder, few, int(lengths[::SLOW_SHARE].sum()))):
        ways["sentence-transformers"] = peer
    elif with_peers:
        print("sentence-transformers is not installed; pip install sentence-transformers to have it beside")
    rates = in_turns(ways, repeats)
    print(f"{name}: {len(texts):,} conversations of {total / len(texts):.0f} tokens on average, {torch.get_num_threads()} threads")
    rates["bare model + tokenising"] = [1 / (1 / model + 1 / words) for model, words in zip(rates["bare model"], rates["tokenising"], strict=True)]
    for way, values in rates.items():
        figures.figure(f"{name}: {way}", values, "tokens/s")
    for way in rates:
        if way not in ("end to end", "tokenising"):
            figures.ratio(f"{name}: end to end / {way}", rates["end to end"], rates[way], "higher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/<source>.jsonl.zst")
    parser.add_argument("--models", nargs="+", default=["tiny"], help="tiny, minilm, or model folders")
    parser.add_argument("--texts", type=int, default=2000, help="conversations to embed, about")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--limits-only", action="store_true", help="leave out the slow peers, so that more texts fit the time")
    parser.add_argument("--json", type=Path, help="write the figures and ratios to this file too")
    said = parser.parse_args()
    figures = Figures("embedding")
    with TemporaryDirectory() as folder:
        pools = make_pools(Path(folder), said.data, said.texts)
        for number, model in enumerate(said.models):
            measure(
                figures,
                pools,
                EncoderSettings(name=f"encoder_{number}", model=model, device="cpu", dtype=said.dtype),
                said.repeats,
                with_peers=not said.limits_only,
            )
    figures.write(said.json)


if __name__ == "__main__":
    main()
