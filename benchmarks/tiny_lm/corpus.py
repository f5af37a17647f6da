"""The text that the tiny language model learns: sources whose licences let the weights be given away, and the demo's own.

Records are rendered as the package renders them. A record whose normalised text stood before is left out first, over all sources; then 2% of
each source are held out by a seeded hash of their text, so that no copy of a held-out record is learnt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import zstandard

from rds_dagster.demo import write_demo
from rds_dagster.fingerprint import ID_DTYPE, seeded_fractions
from rds_dagster.pools.render import render
from rds_dagster.schema import Message, duplicate_key, example_id

HELD_OUT = 0.02
HELD_OUT_SEED = 0
DEMO_SEEDS = range(100, 108)  # not the seed of `rds demo`: what it shows is not what the model has learnt by heart
DEMO = "demo"


@dataclass(frozen=True)
class Source:
    """``passes``: how often training goes through it. Small sources come more often, or the big ones would be all that is learnt."""

    licence: str
    what: str
    passes: float


SOURCES = {
    "flan_cot": Source("Apache-2.0", "seven chain-of-thought sets of FLAN", 2.5),
    "t0_50k": Source("Apache-2.0", "a sample of P3, prompts over public NLP sets", 0.8),
    "dolly": Source("CC BY-SA 3.0, Databricks", "instructions written by people", 2.5),
    "ei_code_example": Source("MIT", "code instructions", 4),
    "gpteacher_codegen": Source("MIT", "code instructions", 4),
    "gpteacher_roleplay": Source("MIT", "role play", 3),
    "gpteacher_toolformer": Source("MIT", "instructions with tools", 2),
    "anthropic_evals": Source("CC BY 4.0, Anthropic", "model-written yes/no questions", 0.4),
    DEMO: Source("Apache-2.0", "the demo generator's pools, of eight other seeds than the demo's", 1),
}


@dataclass(frozen=True)
class Texts:
    """One source's rendered records (the assistant's turns end with ``eos``): to learn, held out, and how many were left out as exact duplicates."""

    learn: list[str]
    held_out: list[str]
    duplicates: int


def read_corpus(data: Path, *, eos: str) -> dict[str, Texts]:
    """All sources, by name; ``data`` holds ``pool/<source>.jsonl.zst``."""
    seen: set[bytes] = set()
    return {source: _split(records(data, source), seen, eos) for source in SOURCES}


def records(data: Path, source: str) -> Iterator[list[Message]]:
    """The conversations of one source in the order of its file."""
    if source == DEMO:
        yield from _demo_records()
        return
    with (data / "pool" / f"{source}.jsonl.zst").open("rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as plain:
        for line in TextIOWrapper(plain, "utf-8"):
            yield json.loads(line)["messages"]


def _split(conversations: Iterator[list[Message]], seen: set[bytes], eos: str) -> Texts:
    kept: list[tuple[bytes, str]] = []
    duplicates = 0
    for messages in conversations:
        if any(not message["content"].strip() for message in messages):
            continue
        key = duplicate_key(messages)
        if key in seen:
            duplicates += 1
            continue
        seen.add(key)
        kept.append((example_id(messages), render(messages, what="full", eos=eos)))
    fractions = seeded_fractions(np.array([example for example, _ in kept], ID_DTYPE), HELD_OUT_SEED, "held out of the tiny language model")
    is_held_out = fractions < HELD_OUT
    learn = [text for (_, text), held in zip(kept, is_held_out, strict=True) if not held]
    return Texts(learn, [text for (_, text), held in zip(kept, is_held_out, strict=True) if held], duplicates)


def _demo_records() -> Iterator[list[Message]]:
    """The valid conversations of the demo's pools."""
    from rds_dagster.cleaning.clean import clean_pool
    from rds_dagster.cleaning.settings import CleaningSettings
    from rds_dagster.cleaning.texts import stream_conversations
    from rds_dagster.demo.plan import POOLS
    from rds_dagster.pools.look import record_pool
    from rds_dagster.pools.settings import PoolSettings
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    for seed in DEMO_SEEDS:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write_demo(root, seed=seed)
            store = TableStore(Layout(root / "state"))
            for plan in POOLS:
                pool = PoolSettings(plan.pool, f"pools/{plan.pool}")
                record_pool(store, pool, root=root)
                manifest = clean_pool(store, pool, CleaningSettings(), root=root).clean
                ids = np.sort(store.ids(manifest, "index"))
                yield from (list(messages) for _, messages in stream_conversations(store, manifest, ids))


def digest(texts: Sequence[str]) -> str:
    """32 hex digits over the texts in their order; a checkpoint goes on only with the text it was made from."""
    whole = hashlib.blake2b(digest_size=16)
    for text in texts:
        whole.update(hashlib.blake2b(text.encode(), digest_size=16).digest())
    return whole.hexdigest()
