"""Peak memory of each stage against pool size: each in a process of its own, on a state that the stages before it left.

    python -m benchmarks.memory [--sizes 50000 500000] [--stages texts embedding vectors] [--dims 384] [--json FILE]
    python -m benchmarks.memory --real DIR [--stages texts embedding]

``texts`` reads and cleans one pool of short conversations in JSON Lines (one in 16 repeats an earlier one) and deduplicates it, without and with a sample.
``embedding`` goes on from there with a real but minimal encoder (one layer of random weights behind the shipped tokenizer), so that the bookkeeping shows
and not the model: first nothing is stored, then all of it. ``vectors`` scores and selects over a LanceDB table of random vectors of ``--dims`` numbers; the
budget is the same at all sizes, since what a mixture holds grows with its budget and not with the pool.

Prints one line a figure: stage, examples, peak MiB; then bytes an example, which is the growth of the peak from the smallest to the largest size, and its
ratio to the limit of 100. ``--real`` takes all records of DIR/pool (files of any known ending) as one pool, and prints the peaks beside the limit of 3 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.figures import Figures
from benchmarks.synthetic import ENCODER, lay_queries, random_units
from rds_dagster import schema
from rds_dagster.fingerprint import ID_DTYPE, fingerprint, ids_fingerprint
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

POOLS = ("one", "two", "three")
TASKS = tuple(f"task{number}" for number in range(7))  # as many as the paper has (arXiv 2503.01807)
NUM_QUERIES = 50
BUDGET = 5_000
CHUNK = 4_096
SOURCES = 6
LIMIT_BYTES = 100  # an example
REAL_LIMIT_MIB = 3 * 2**10  # of all real records
TEXT_POOL = "texts"
REPEATS = 16  # one conversation in so many stands at an earlier line too
KINDS = ("texts", "embedding", "vectors")

TEXT_STAGES = {
    "clean": "reading and cleaning",
    "unique": "deduplication",
    "unique_sampled": "deduplication, then a sample of a number",
    "embed": "embedding, nothing stored before",
    "embed_again": "embedding, all stored before",
}

MIXTURES = {
    "multi-task round robin": MixtureSettings("tasks", BUDGET),
    "multi-task next best": MixtureSettings("next", BUDGET, on_taken="next_best"),
    "single-task round robin": MixtureSettings("queries", BUDGET, tasks=TASKS[:1]),
    "single-task round robin, deeper lists": MixtureSettings("deeper", 4 * BUDGET, tasks=TASKS[:1]),
    "mean-max": MixtureSettings("means", BUDGET, selector="mean_max"),
    "global top": MixtureSettings("top", BUDGET, selector="global_top"),
    "balanced random": MixtureSettings("balanced", BUDGET, method="random"),
    "uniform random": MixtureSettings("uniform", BUDGET, method="random", balanced=False),
}


def measure(home: Path, size: int, dims: int, kinds: list[str], real: Path | None) -> Iterator[tuple[str, float]]:
    """Each stage and its peak MiB at one pool size, or on the real records; makes the stored state in ``home`` on the way."""
    if {"texts", "embedding"} & {*kinds}:
        data = home / "data"
        if real is None:
            run("build_texts", home, str(data), str(size))
        else:
            data = real / "pool"
        for stage in ("clean", "unique_sampled", "unique"):  # the last so that the whole is embedded
            yield TEXT_STAGES[stage], run(stage, home, str(data))
        if "embedding" in kinds:
            run("build_encoder", home)
            for stage in ("embed", "embed_again"):
                yield TEXT_STAGES[stage], run(stage, home, str(data))
    if "vectors" in kinds:
        run("build", home, str(size), str(dims))
        yield "scoring", run("score", home)
        for name in MIXTURES:
            yield name, run(name, home)


def bytes_an_example(small: dict[str, float], large: dict[str, float], sizes: tuple[int, int]) -> dict[str, float]:
    """Growth of each stage's peak from one size to the other, in bytes an example."""
    return {stage: (large[stage] - small[stage]) * 2**20 / (sizes[1] - sizes[0]) for stage in small}


def run(stage: str, home: Path, *more: str) -> float:
    """Run one stage in a fresh process; its peak memory in MiB."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.memory", "--stage", stage, str(home), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    if done.returncode:
        raise RuntimeError(f"stage {stage!r} failed:\n{done.stderr}")
    peak: float = json.loads(done.stdout.splitlines()[-1])
    return peak


def build_texts(data: Path, size: int) -> None:
    """One file of ``size`` conversations of two short turns with ids and sources, of which size / REPEATS repeat an earlier one."""
    data.mkdir(parents=True)
    with (data / "part-0.jsonl").open("w") as file:
        for number in range(size):
            told = number - REPEATS // 2 if number % REPEATS == REPEATS - 1 else number
            turns = [{"role": "user", "content": f"What is {told * 7919 % 10**9}?"}, {"role": "assistant", "content": f"It is {told}."}]
            file.write(json.dumps({"id": f"row-{number}", "source": f"source {number % SOURCES}", "messages": turns}) + "\n")


def build_encoder(folder: Path) -> None:
    """A Llama of one layer and hidden size 32 with random weights, and the shipped tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rds_dagster.embeddings.identity import TINY_FOLDER

    torch.manual_seed(0)
    shipped = LlamaConfig.from_pretrained(TINY_FOLDER)
    config = LlamaConfig(
        vocab_size=shipped.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=shipped.max_position_embeddings, bos_token_id=shipped.bos_token_id, eos_token_id=shipped.eos_token_id,
        pad_token_id=shipped.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in TINY_FOLDER.glob("*token*"):
        shutil.copy(path, folder)


def build(home: Path, size: int, dims: int) -> None:
    """The state that embeddings, queries and cleaning would leave: ``size`` conversations of two short turns with random unit vectors."""
    store, rng = TableStore(Layout(home)), np.random.default_rng(0)
    ids = np.unique(rng.integers(0, 256, (size, 16), np.uint8).view(ID_DTYPE).ravel())
    made = [manifest for number, pool in enumerate(POOLS) for manifest in _build_pool(store, pool, ids[number :: len(POOLS)], dims)]
    together = [manifest for manifest in made if manifest.key.startswith("unique/")]
    for manifests in (together, *([manifest] for manifest in made if manifest not in together)):
        store.commit(manifests)
    vectors = VectorStore(store.layout, ENCODER, dims)
    with vectors.writing():
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            vectors.append(chunk, random_units(rng, len(chunk), dims).astype(np.float16), np.full(len(chunk), 9, np.int32), "random")
    for task in TASKS:
        lay_queries(store, task, random_units(rng, NUM_QUERIES, dims))


def _build_pool(store: TableStore, pool: str, ids: np.ndarray, dims: int) -> Iterator[Manifest]:
    unit, rows = fingerprint(pool, ids_fingerprint(ids)), len(ids)
    at = np.arange(rows, dtype=np.int32)
    source = pa.array([f"source {number}" for number in range(SOURCES)]).take(pa.array(at % SOURCES))
    text = pa.array([f"What is {number}?" for number in range(rows)])
    turn = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"]).take(pa.array(np.tile([0, 1], rows))), text.take(pa.array(np.repeat(at, 2))), *[pa.nulls(2 * rows, pa.string())] * 3],
        names=list(schema.MESSAGE_FIELDS),
    )
    messages = pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)), turn)
    column, two = id_column(ids), pa.array(np.full(rows, 2, np.int32))
    line = pa.array(at + 1, pa.int64())
    original = pa.array([f"row-{number}" for number in range(rows)])
    tables = {
        "raw": {},
        "clean": {
            "index": pa.table([column, column, source, two, two, pa.array(np.zeros(rows, np.int32)), pa.array(at)], schema=schema.CLEAN),
            "shard": pa.table([column, column, messages, source, original, line, two, two], schema=schema.SHARD),
        },
        "provenance": {"places": pa.table([column, pa.repeat(pool, rows), pa.repeat("file.jsonl", rows), line, original, source], schema=schema.PROVENANCE)},
        "unique": {"kept": pa.table([column, source], schema=schema.UNIQUE)},
        "embeddings": {},
    }
    for group, parts in tables.items():
        draft = store.draft(f"{group}/{pool}", unit)
        for name, table in parts.items():
            draft.write(name, table.to_batches(max_chunksize=CHUNK) if name == "shard" else table, table.schema)  # as cleaning writes them
        details = {"encoder": ENCODER, "dims": dims} if group == "embeddings" else {}
        parents = {f"unique/{pool}": unit} if group == "embeddings" else {}
        yield draft.manifest(fingerprint=unit, settings={}, parents=parents, counts=Counts(rows, rows), details=details)


def stage_peak(stage: str, home: Path, more: list[str]) -> float:
    """Do one stage in this process; its peak memory in MiB."""
    from rds_dagster.cleaning.unique import owned_ids
    from rds_dagster.mixtures.make_mixture import make_mixture
    from rds_dagster.scores.score_tasks import score_tasks

    store = TableStore(Layout(home))
    if stage == "build":
        build(home, int(more[0]), int(more[1]))
    elif stage == "build_texts":
        build_texts(Path(more[0]), int(more[1]))
    elif stage == "build_encoder":
        build_encoder(home / "encoder")
    elif stage in TEXT_STAGES:
        do_text_stage(store, stage, more[0])
    elif stage == "score":
        score_tasks(store, TASKS, POOLS, owned_ids(store, POOLS), ScoreSettings())
    else:
        make_mixture(store, MIXTURES[stage], POOLS, TASKS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def do_text_stage(store: TableStore, stage: str, data: str) -> None:
    """Reading and cleaning, deduplication, or embedding of the pool at ``data``."""
    from rds_dagster.cleaning.clean import clean_pool
    from rds_dagster.cleaning.settings import CleaningSettings
    from rds_dagster.cleaning.unique import unify_pools
    from rds_dagster.embeddings.embed_pools import embed_pools
    from rds_dagster.embeddings.register import register_encoder
    from rds_dagster.embeddings.settings import EncoderSettings
    from rds_dagster.pools.look import record_pool
    from rds_dagster.pools.settings import PoolSettings

    pool = PoolSettings(TEXT_POOL, data)
    if stage == "clean":
        record_pool(store, pool, root=Path("/"))
        clean_pool(store, pool, CleaningSettings(), root=Path("/"))
    elif stage == "unique":
        unify_pools(store, [pool])
    elif stage == "unique_sampled":
        unify_pools(store, [PoolSettings(TEXT_POOL, data, sample=store.need(f"clean/{TEXT_POOL}").counts.kept // 2)])
    else:
        settings = EncoderSettings("minimal", str(store.layout.home / "encoder"))
        _, identity = register_encoder(store, settings)
        embed_pools(store, identity, settings.name, [TEXT_POOL])


def measure_real(figures: Figures, real: Path, kinds: list[str]) -> None:
    """Peak of each stage on all real records."""
    with tempfile.TemporaryDirectory() as home:
        for stage, peak in measure(Path(home), 0, 0, [kind for kind in kinds if kind != "vectors"], real):
            figures.figure(f"{stage}, all real records", [peak], "MiB")
            figures.ratio(f"{stage}, all real records / limit of 3 GiB", [peak], [REAL_LIMIT_MIB], "lower")


def measure_growth(figures: Figures, sizes: list[int], dims: int, kinds: list[str]) -> None:
    """Peak of each stage at each size, and what an example adds."""
    found: list[dict[str, float]] = []
    for size in sizes:
        found.append({})
        with tempfile.TemporaryDirectory() as home:
            for stage, peak in measure(Path(home), size, dims, kinds, None):
                figures.figure(f"{stage}, {size:,} examples", [peak], "MiB")
                found[-1][stage] = peak
    grown = bytes_an_example(found[0], found[-1], (sizes[0], sizes[-1])) if len(sizes) > 1 else {}
    for stage, growth in grown.items():
        figures.figure(stage, [growth], "bytes an example")
    for stage, growth in grown.items():
        figures.ratio(f"{stage} / limit of {LIMIT_BYTES} bytes", [growth], [LIMIT_BYTES], "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 500_000], help="pool sizes, in examples, the smallest first")
    parser.add_argument("--stages", nargs="+", choices=KINDS, default=list(KINDS), help="what to measure")
    parser.add_argument("--dims", type=int, default=384, help="hidden size of the random vectors")
    parser.add_argument("--real", type=Path, help="a folder whose `pool` holds real records; measured instead of made ones")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.stage:
        print(json.dumps(stage_peak(said.stage[0], Path(said.stage[1]), said.stage[2:])))
        return
    figures = Figures("memory")
    if said.real:
        measure_real(figures, said.real.resolve(), said.stages)
    else:
        measure_growth(figures, said.sizes, said.dims, said.stages)
    figures.write(said.json)


if __name__ == "__main__":
    main()
