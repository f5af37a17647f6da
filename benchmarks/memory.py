"""Peak memory of scoring and selection at two pool sizes: each stage in a process of its own, over a real LanceDB table of random vectors.

    python benchmarks/memory.py [--sizes 50000 500000] [--dims 384]

Prints one line a figure: stage, examples, peak MiB; then bytes an example, which is the growth of the peak between the two sizes. The budget is the
same at both, since what a mixture holds grows with its budget, not with the pool.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.embeddings.embed_queries import query_schema
from rds_dagster.fingerprint import ID_DTYPE, fingerprint, ids_fingerprint
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, id_column
from rds_dagster.storage.vectors import VectorStore

ENCODER = fingerprint("random vectors")
POOLS = ("one", "two", "three")
TASKS = tuple(f"task{number}" for number in range(7))  # as many as the paper has (arXiv 2503.01807)
NUM_QUERIES = 50
BUDGET = 5_000
CHUNK = 4_096
SOURCES = 6

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


def measure(home: Path, size: int, dims: int) -> dict[str, float]:
    """Peak MiB of each stage at one pool size; makes the stored state in ``home`` first."""
    run("build", home, str(size), str(dims))
    peaks = {"scoring": run("score", home)}
    for name in MIXTURES:
        peaks[name] = run(name, home)
    return peaks


def bytes_an_example(small: dict[str, float], large: dict[str, float], sizes: tuple[int, int]) -> dict[str, float]:
    """Growth of each stage's peak from one size to the other, in bytes an example."""
    return {stage: (large[stage] - small[stage]) * 2**20 / (sizes[1] - sizes[0]) for stage in small}


def run(stage: str, home: Path, *more: str) -> float:
    """Run one stage in a fresh process; its peak memory in MiB."""
    done = subprocess.run([sys.executable, __file__, "--stage", stage, str(home), *more], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"stage {stage!r} failed:\n{done.stderr}")
    peak: float = json.loads(done.stdout)
    return peak


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
            vectors.append(chunk, _unit(rng, len(chunk), dims).astype(np.float16), np.full(len(chunk), 9, np.int32), "random")
    for task in TASKS:
        _build_queries(store, task, rng, dims)


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
        "provenance": {"places": pa.table([column, _same(pool, rows), _same("file.jsonl", rows), line, original, source], schema=schema.PROVENANCE)},
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


def _build_queries(store: TableStore, task: str, rng: np.random.Generator, dims: int) -> None:
    vectors = _unit(rng, NUM_QUERIES, dims)
    names = [f"q{number}" for number in range(NUM_QUERIES)]
    messages = [[{"role": "user", "content": name}, {"role": "assistant", "content": name}] for name in names]
    table = pa.table(
        [
            pa.array(names),
            pa.array([name.encode().rjust(16) for name in names], schema.ID),
            pa.array(messages, schema.MESSAGES),
            pa.array(names),
            pa.array([9] * NUM_QUERIES, pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dims),
        ],
        schema=query_schema(dims),
    )
    draft = store.draft(f"queries/{task}", fingerprint(task))
    draft.write("queries", table, table.schema)
    details = {"encoder": ENCODER, "dims": dims}
    store.commit([draft.manifest(fingerprint=fingerprint(task), settings={}, parents={}, counts=Counts(NUM_QUERIES, NUM_QUERIES), details=details)])


def _unit(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dims), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _same(text: str, rows: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(rows, np.int64)))


def stage_peak(stage: str, home: Path, more: list[str]) -> float:
    """Do one stage in this process; its peak memory in MiB."""
    from rds_dagster.cleaning.unique import owned_ids
    from rds_dagster.mixtures.make_mixture import make_mixture
    from rds_dagster.scores.score_tasks import score_tasks

    store = TableStore(Layout(home))
    if stage == "build":
        build(home, int(more[0]), int(more[1]))
    elif stage == "score":
        score_tasks(store, TASKS, POOLS, owned_ids(store, POOLS), ScoreSettings())
    else:
        make_mixture(store, MIXTURES[stage], POOLS, TASKS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=(50_000, 500_000), help="pool sizes, in examples")
    parser.add_argument("--dims", type=int, default=384, help="hidden size of the vectors")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.stage:
        print(json.dumps(stage_peak(said.stage[0], Path(said.stage[1]), said.stage[2:])))
        return
    found = []
    for size in said.sizes:
        with tempfile.TemporaryDirectory() as home:
            found.append(measure(Path(home), size, said.dims))
        for stage, peak in found[-1].items():
            print(f"{stage}, {size:,} examples: {peak:,.0f} MiB", flush=True)
    for stage, growth in bytes_an_example(found[0], found[1], (said.sizes[0], said.sizes[1])).items():
        print(f"{stage}: {growth:.0f} bytes an example")


if __name__ == "__main__":
    main()
