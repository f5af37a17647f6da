"""A pool of random unit vectors and query sets as embedding would leave them, without texts: what benchmarks of scoring work on.

`python -m benchmarks.synthetic HOME [--examples 5800000] [--dims 384]` builds one; `benchmarks.scoring` does so by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.embeddings.embed_pools import CHUNK_ROWS
from rds_dagster.embeddings.embed_queries import query_schema
from rds_dagster.fingerprint import ID_DTYPE, fingerprint, ids_fingerprint
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

ENCODER = fingerprint("random vectors")
POOL = "synthetic"
QUERY_SETS = {"mmlu": 285, "gsm8k": 8, "bbh": 81, "tydiqa": 9, "codex": 16, "squad": 500, "alpaca_eval": 50}
"""Task -> its number of queries, as in the paper (arXiv 2503.01807): 949 in all."""


def build(home: Path, examples: int, dims: int, query_sets: Mapping[str, int] = QUERY_SETS) -> None:
    """Grow the pool in ``home`` to so many examples, none before, and lay the query sets; what is there already is kept."""
    store = TableStore(Layout(home))
    vectors = VectorStore(store.layout, ENCODER, dims)
    for number, (task, size) in enumerate(query_sets.items()):
        if store.manifest(f"queries/{task}") is None:
            lay_queries(store, task, random_units(np.random.default_rng([1, number]), size, dims))
    with vectors.writing():
        for start in range(vectors.num_rows(), examples, CHUNK_ROWS):
            rows = min(CHUNK_ROWS, examples - start)
            rng = np.random.default_rng([2, start])
            vectors.append(random_ids(rng, rows), random_units(rng, rows, dims).astype(np.float16), np.full(rows, 300, np.int32), "random")
    _lay_pool(store, np.sort(vectors.ids()), dims)


def random_ids(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows,) S16 in no order, as hashes are."""
    ids: np.ndarray = rng.integers(0, 256, (rows, 16), np.uint8).view(ID_DTYPE).ravel()
    return ids


def random_units(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    """(rows, dims) float32 of norm 1."""
    vectors = rng.standard_normal((rows, dims), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _lay_pool(store: TableStore, ids: np.ndarray, dims: int) -> None:
    unit = fingerprint(POOL, ids_fingerprint(ids))
    source = pa.repeat("random", len(ids))
    unique = store.draft(f"unique/{POOL}", unit)
    unique.write("kept", pa.table([id_column(ids), source], schema=schema.UNIQUE), schema.UNIQUE)
    counts = Counts(len(ids), len(ids))
    store.commit([unique.manifest(fingerprint=unit, settings={}, parents={}, counts=counts)])
    embedded = store.draft(f"embeddings/{POOL}", unit)
    details = {"encoder": ENCODER, "dims": dims}
    store.commit([embedded.manifest(fingerprint=unit, settings={}, parents={f"unique/{POOL}": unit}, counts=counts, details=details)])


def lay_queries(store: TableStore, task: str, vectors: np.ndarray) -> None:
    """The query set of a task with these vectors (M, D) float32."""
    size, dims = vectors.shape
    names = [f"{task} {number}" for number in range(size)]
    table = pa.table(
        [
            pa.array(names),
            pa.array([name.encode().rjust(16)[-16:] for name in names], schema.ID),
            pa.array([[{"role": "user", "content": name}] for name in names], schema.MESSAGES),
            pa.array(names),
            pa.array([9] * size, pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dims),
        ],
        schema=query_schema(dims),
    )
    draft = store.draft(f"queries/{task}", fingerprint(task))
    draft.write("queries", table, table.schema)
    details = {"encoder": ENCODER, "dims": dims}
    store.commit([draft.manifest(fingerprint=fingerprint(task), settings={}, parents={}, counts=Counts(size, size), details=details)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--examples", type=int, default=5_800_000)
    parser.add_argument("--dims", type=int, default=384)
    said = parser.parse_args()
    build(said.home, said.examples, said.dims)


if __name__ == "__main__":
    main()
