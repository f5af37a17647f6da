"""Scoring beside its limit: the bare float32 matrix products and per-task maxima on data in memory, and one sequential read of the vectors.

    python -m benchmarks.scoring --work DIR [--examples 5800000] [--dims 384] [--repeats 5] [--json FILE]

``--work`` gets a LanceDB table of random float16 unit vectors and the paper's seven query sets (949 queries), made once and used again: 770 bytes an
example, and while it runs about 500 more for scores and warehouse. A repeat is, each in a process of its own and one after the other: scoring everything
from nothing, reading the vectors in one scan, the bare products by oneDNN and by numpy, the same examples and 1% more, landing in DuckDB, and a bare
`create table as` of the same rows from Arrow. The bare products go round 262,144 examples in memory as often as it takes, in tiles, on all cores.
The limit is 1.5 times the quicker products and the read; it is printed with numpy's products as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.figures import Figures
from benchmarks.synthetic import ENCODER, POOL, QUERY_SETS, build, random_units
from rds_dagster.scores.products import NumpyProducts, Products, TorchProducts
from rds_dagster.scores.score_tasks import score_key, score_tasks
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore
from rds_dagster.storage.warehouse import Warehouse

GROWTH = 0.01
HELD_ROWS = 262_144  # of the bare products: 384 MiB at 384 dims
BARE_TILE = 2_048
SHARE = 1.5  # of the bare products that scoring may take, beside one read


def score(home: Path, examples: int, dims: int) -> dict[str, float]:
    """Score the first ``examples`` as they were written; blocks that are there already are used again."""
    store = TableStore(Layout(home))
    live = np.sort(VectorStore(store.layout, ENCODER, dims).ids()[:examples])
    began = time.perf_counter()
    score_tasks(store, list(QUERY_SETS), [POOL], live, ScoreSettings())
    return {"seconds": time.perf_counter() - began, "MiB": peak_mib()}


def read(home: Path, examples: int, dims: int) -> dict[str, float]:
    """Read the first ``examples`` vectors in one scan."""
    vectors = VectorStore(Layout(home), ENCODER, dims)
    next(vectors.stream(["id"], rows=1))  # imports LanceDB
    began = time.perf_counter()
    rows = sum(batch.num_rows for batch in vectors.stream(["vector"], rows=examples, slice_bytes=2**40))
    assert rows == examples, "the table holds them"
    return {"seconds": time.perf_counter() - began}


def bare(examples: int, dims: int, products: Products) -> dict[str, float]:
    """Float32 products and the largest of each example and task; numpy's BLAS takes all cores for each product, oneDNN one for each tile."""
    rng = np.random.default_rng(0)
    held = random_units(rng, min(HELD_ROWS, examples), dims)
    queries = random_units(rng, sum(QUERY_SETS.values()), dims)
    ends = np.cumsum(list(QUERY_SETS.values()))
    best, multiply = np.empty((len(ends), len(held)), np.float32), products.by(queries)

    def tile(start: int) -> None:
        at = start % len(held)
        rows = held[at : at + min(BARE_TILE, examples - start)]
        cosines, _ = multiply(rows)
        for task, end in enumerate(ends):
            np.max(cosines[ends[task - 1] if task else 0 : end], axis=0, out=best[task, at : at + len(rows)])

    with products.threads(products.most_threads) as threads:
        list(threads.map(tile, range(0, BARE_TILE * 8, BARE_TILE)))
        began = time.perf_counter()
        list(threads.map(tile, range(0, examples, BARE_TILE)))
        return {"seconds": time.perf_counter() - began}


def land(home: Path) -> dict[str, float]:
    """Make the warehouse's score tables from nothing."""
    layout = Layout(home)
    layout.warehouse.unlink(missing_ok=True)
    began = time.perf_counter()
    Warehouse(layout).land()
    return {"seconds": time.perf_counter() - began, "MiB": peak_mib()}


def land_bare(home: Path) -> dict[str, float]:
    """The same rows in the same order by `create table as` from Arrow, in a file of their own."""
    layout, seconds = Layout(home), 0.0
    copy = layout.home / "bare.duckdb"
    copy.unlink(missing_ok=True)
    for task in QUERY_SETS:
        with duckdb.connect(str(layout.warehouse), read_only=True) as warehouse:
            rows = warehouse.execute(f'select * from scores_rds."{task}"').to_arrow_table()  # noqa: F841, found by DuckDB by its name
        began = time.perf_counter()
        with duckdb.connect(str(copy)) as connection:
            connection.execute(f'create table "{task}" as select * from rows')
        seconds += time.perf_counter() - began
    copy.unlink()
    return {"seconds": seconds}


def forget_scores(home: Path) -> None:
    """Remove what scoring made."""
    store = TableStore(Layout(home))
    shutil.rmtree(store.layout.score_blocks, ignore_errors=True)
    for task in QUERY_SETS:
        store.forget(score_key(task))


def peak_mib() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


STAGES: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "score": score,
    "read": read,
    "bare by oneDNN": lambda _, examples, dims: bare(examples, dims, TorchProducts()),
    "bare by numpy": lambda _, examples, dims: bare(examples, dims, NumpyProducts()),
    "land": lambda home, _, __: land(home),
    "land bare": lambda home, _, __: land_bare(home),
}


def child(stage: str, home: Path, examples: int, dims: int) -> dict[str, float]:
    """One stage in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.scoring", "--work", str(home), "--examples", str(examples), "--dims", str(dims), "--stage", stage]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"stage {stage!r} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(home: Path, examples: int, dims: int, repeats: int) -> dict[str, list[float]]:
    """Seconds, and MiB where a name says so, of all stages."""
    grown = examples + round(examples * GROWTH)
    build(home, grown, dims)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        forget_scores(home)
        for name, stage, rows in (
            ("scoring", "score", examples),
            ("read", "read", examples),
            ("oneDNN", "bare by oneDNN", examples),
            ("numpy", "bare by numpy", examples),
            ("nothing new", "score", examples),
            ("1% more", "score", grown),
            ("landing", "land", grown),
            ("bare landing", "land bare", grown),
        ):
            for unit, value in child(stage, home, rows, dims).items():
                found.setdefault(name if unit == "seconds" else f"{name}, {unit}", []).append(value)
    return found


def report(figures: Figures, found: dict[str, list[float]], examples: int) -> None:
    """Everything that was measured, and the ratios."""
    for name, what in (
        ("scoring", f"scoring {examples:,} examples for {len(QUERY_SETS)} tasks, {sum(QUERY_SETS.values())} queries"),
        ("oneDNN", "bare products and per-task maxima, oneDNN"),
        ("numpy", "bare products and per-task maxima, numpy"),
        ("read", "one sequential read"),
        ("nothing new", "scoring again, nothing new"),
        ("1% more", "scoring with 1% more examples"),
        ("landing", "landing in DuckDB"),
        ("bare landing", "bare create table as from Arrow"),
    ):
        figures.figure(what, found[name], "s")
    figures.figure("peak memory of scoring", found["scoring, MiB"], "MiB")
    figures.figure("peak memory of landing", found["landing, MiB"], "MiB")
    quicker = [min(pair) for pair in zip(found["oneDNN"], found["numpy"], strict=True)]
    for name, products in (("the quicker", quicker), ("numpy's", found["numpy"])):
        limit = [SHARE * product + reading for product, reading in zip(products, found["read"], strict=True)]
        figures.ratio(f"scoring / (1.5 x {name} bare products + one read)", found["scoring"], limit, "lower")
    figures.ratio("landing / bare create table as", found["landing"], found["bare landing"], "lower")
    figures.ratio("scoring with 1% more / scoring", found["1% more"], found["scoring"], "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the table, used again where it is there")
    parser.add_argument("--examples", type=int, default=5_800_000)
    parser.add_argument("--dims", type=int, default=384, help="hidden size of the vectors")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures and ratios")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.stage:
        print(json.dumps(STAGES[said.stage](said.work, said.examples, said.dims)))
        return
    figures = Figures("scoring")
    report(figures, measure(said.work, said.examples, said.dims, said.repeats), said.examples)
    figures.write(said.json)


if __name__ == "__main__":
    main()
