"""How fast a mixture is selected: the selectors alone, beside the reference's way in plain Python, and whole mixtures out of a stored state.

    python -m benchmarks.selection [--examples 1000000] [--work DIR] [--repeats 5] [--json FILE]

Budgets are the paper's shares of its pool: with `--examples 5800000` they are 326,000 and 2,500,000. Printed, one line a figure:

- the reference's semantics (dicts of floats, sorted lists popped from the head) beside ours on equal scores, at pools that it can bear; the picks are equal;
- round robin over 7 tasks on scores in memory: independent ones, correlated ones (four of seven follow one another), and ones of 64 levels, so that nearly
  all are ties; beside numpy's sort of the same seven columns, which nothing that ranks can do without;
- what users run, `make_mixture`: scores, ids, texts and places read from Parquet, a version folder written; beside a bare reading of the same columns and
  a bare writing of the same tables. ``--work`` keeps the state between runs (at 5.8 million it takes minutes and 3 GB to make);
- the peak memory of each, in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import Figures
from benchmarks.memory import POOLS, TASKS, build
from rds_dagster.mixtures.selectors import OnTaken, round_robin_tasks
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore, write_parquet

SHARES = (326_000 / 5_800_000, 2_500_000 / 5_800_000)  # of the pool, in the paper (arXiv 2503.01807)
BOUNDS_S = (20, 60)  # what the two budgets may take at 5.8 million
BOUND_MIB = 2560
REFERENCE_EXAMPLES = (20_000, 100_000, 400_000)  # beyond, plain Python takes minutes
REFERENCE_REPEATS_TO = 100_000
NUM_TASKS = len(TASKS)
KINDS = ("independent", "correlated", "ties")
ON_TAKEN: tuple[OnTaken, ...] = ("skip_turn", "next_best")
DIMS = 32  # vectors only have to be scored here; scoring has its own benchmark

Result = TypeVar("Result")


def make_scores(kind: str, examples: int) -> np.ndarray:
    """Scores (N, T) float32 of one of KINDS."""
    rng = np.random.default_rng(0)
    scores = np.empty((examples, NUM_TASKS), np.float32)
    shared = rng.standard_normal(examples, np.float32)
    for task in range(NUM_TASKS):
        own = rng.standard_normal(examples, np.float32)
        scores[:, task] = 0.9 * shared + 0.436 * own if kind == "correlated" and task < 4 else own
        if kind == "ties":
            scores[:, task] = np.round(own * 8).clip(-32, 31)
    return scores


def plain_python(scores: list[dict[int, float]], budget: int) -> dict[int, float]:
    """The reference's semantics (skip_turn), with its data structures: one dict of floats a task, sorted lists popped from the head; row -> score.

    Kinder than the reference in two things: nothing is printed a pick, and what is taken is looked up in a dict. As there, a pick keeps the smallest score
    with which it was popped.
    """
    queues = [sorted(task.items(), key=lambda item: item[1], reverse=True) for task in scores]
    picked: dict[int, float] = {}
    while len(picked) < budget:
        for queue in queues:
            row, score = queue.pop(0)
            picked[row] = min(score, picked.get(row, score))
            if len(picked) == budget:
                break
    return picked


def beside_plain_python(figures: Figures, repeats: int) -> None:
    """Both on equal scores, alternated; the picks have to be the same."""
    for examples in REFERENCE_EXAMPLES:
        budget, scores = round(examples * SHARES[0]), make_scores("correlated", examples)
        as_dicts = [dict(enumerate(column.tolist())) for column in scores.T]
        ours, theirs = [], []
        for _ in range(repeats if examples <= REFERENCE_REPEATS_TO else 1):
            picks, ours_s = timed(partial(round_robin_tasks, scores, budget))
            picked, theirs_s = timed(partial(plain_python, as_dicts, budget))
            if picks.rows.tolist() != list(picked):
                raise RuntimeError(f"{budget:,} of {examples:,}: the picks differ from the reference's")
            ours.append(ours_s)
            theirs.append(theirs_s)
        size = f"{budget:,} of {examples:,}"
        figures.figure(f"selector, {size}", ours, "s")
        figures.figure(f"the reference's way in plain Python, {size}", theirs, "s")
        figures.ratio(f"the reference's way / the selector, {size}", theirs, ours, "higher")


def selectors(figures: Figures, examples: int, repeats: int) -> None:
    """The selectors on scores in memory, each kind and setting in a process of its own."""
    for budget in budgets(examples):
        for kind in KINDS:
            for on_taken in ON_TAKEN:
                found = child("selector", kind, on_taken, str(examples), str(budget), str(repeats))
                what = f"selector, {kind} scores, {on_taken}, {budget:,} of {examples:,}"
                figures.figure(what, found["ours"], "s")
                figures.figure(f"{what}, peak memory", found["peak"], "MiB")
                figures.ratio(f"{what} / a bare sort of the columns", found["ours"], found["limit"], "lower")


def mixtures(figures: Figures, home: Path, examples: int, repeats: int) -> None:
    """`make_mixture` on the state in ``home``, which is made first where it is not there."""
    if not (home / "scored").exists():
        began = time.perf_counter()
        child("build", str(home), str(examples))
        (home / "scored").touch()
        figures.figure(f"making the state of {examples:,} examples", [time.perf_counter() - began], "s")
    for budget, bound_s in zip(budgets(examples), BOUNDS_S, strict=True):
        for on_taken in ON_TAKEN:
            what, ours, limit, peak = f"make_mixture, {on_taken}, {budget:,} of {examples:,}", [], [], []
            for _ in range(repeats):
                made = child("mixture", str(home), on_taken, str(budget))
                ours += made["ours"]
                peak += made["peak"]
                limit += child("bare", str(home))["ours"]
            figures.figure(what, ours, "s")
            figures.figure(f"{what}, peak memory", peak, "MiB")
            figures.ratio(f"{what} / bare reading and writing of the same columns", ours, limit, "lower")
            if max(ours) > bound_s or max(peak) > BOUND_MIB:
                print(f"{what}: OVER its bounds of {bound_s} s and {BOUND_MIB:,} MiB", flush=True)


def budgets(examples: int) -> list[int]:
    """The paper's budgets for a pool of this size, to the thousand."""
    return [max(1, round(examples * share / 1000) * 1000) for share in SHARES]


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What some work returns, and the seconds it took."""
    gc.collect()
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def child(*stage: str) -> dict[str, list[float]]:
    """Run one stage in a fresh process; what it measured."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.selection", "--stage", *stage], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"stage {' '.join(stage)} failed:\n{done.stderr[-4000:]}")
    measured: dict[str, list[float]] = json.loads(done.stdout)
    return measured


def measure(stage: str, *said: str) -> dict[str, list[float]]:
    """One stage in this process: seconds of ours and of the limit, and this process's peak in MiB."""
    if stage == "build":
        ours = [timed(lambda: build_state(Path(said[0]), int(said[1])))[1]]
    elif stage == "mixture":
        ours = [run_mixture(Path(said[0]), said[1] == "next_best", int(said[2]))]
    elif stage == "bare":
        ours = [timed(lambda: bare_mixture(Path(said[0])))[1]]
    else:
        return measure_selector(make_scores(said[0], int(said[2])), int(said[3]), "next_best" if said[1] == "next_best" else "skip_turn", int(said[4]))
    return {"ours": ours, "peak": [peak_mib()]}


def measure_selector(scores: np.ndarray, budget: int, on_taken: OnTaken, repeats: int) -> dict[str, list[float]]:
    """Round robin over scores (N, T) in turns with a sort of each column, after one that warms up and whose peak counts."""
    select = partial(round_robin_tasks, scores, budget, on_taken)
    select()
    peak, ours, limit = peak_mib(), [], []
    for _ in range(repeats):
        ours.append(timed(select)[1])
        limit.append(timed(partial(sort_columns, scores))[1])
    return {"ours": ours, "limit": limit, "peak": [peak]}


def sort_columns(scores: np.ndarray) -> None:
    """Sort each column, by value alone."""
    for column in scores.T:
        np.sort(column)


def build_state(home: Path, examples: int) -> None:
    """What cleaning, embedding and scoring would leave: conversations of two short turns, and their scores for seven tasks of 50 queries."""
    from rds_dagster.cleaning.unique import owned_ids
    from rds_dagster.scores.score_tasks import score_tasks
    from rds_dagster.scores.settings import ScoreSettings

    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    build(home, examples, DIMS)
    store = TableStore(Layout(home))
    score_tasks(store, TASKS, POOLS, owned_ids(store, POOLS), ScoreSettings())


def run_mixture(home: Path, next_best: bool, budget: int) -> float:
    """Seconds of making the mixture ``measured`` from nothing."""
    from rds_dagster.mixtures.make_mixture import make_mixture

    store = TableStore(Layout(home))
    shutil.rmtree(store.layout.mixtures, ignore_errors=True)
    store.forget("mixtures/measured")
    settings = MixtureSettings("measured", budget, on_taken="next_best" if next_best else "skip_turn")
    made, seconds = timed(lambda: make_mixture(store, settings, POOLS, TASKS))
    if made.manifest.counts.kept != budget:
        raise RuntimeError(f"the mixture has {made.manifest.counts.kept:,} examples; expected {budget:,}")
    return seconds


def bare_mixture(home: Path) -> None:
    """Read the columns that the mixture was made from, and write the tables that came of it, with nothing in between."""
    store = TableStore(Layout(home))
    for pool in POOLS:
        _read(store, f"unique/{pool}", "kept", ["id", "source"])
        _read(store, f"clean/{pool}", "index", ["id", "shard", "row"])
        _read(store, f"clean/{pool}", "shard", ["id", "messages"])
        _read(store, f"provenance/{pool}", "places", None)
    for number, task in enumerate(TASKS):
        _read(store, f"scores/rds/{task}", "scores", ["score", "best_query", *(["id"] if number == 0 else [])])
    mixture = store.need("mixtures/measured")
    for table in ("examples", "provenance"):
        read = store.read(mixture, table)
        write_parquet(home / "bare.parquet", read, read.schema)
        (home / "bare.parquet").unlink()


def _read(store: TableStore, key: str, table: str, columns: list[str] | None) -> None:
    for path in store.paths(store.need(key), table):
        for batch in pq.ParquetFile(path).iter_batches(65_536, columns=columns, use_threads=False):
            del batch


def peak_mib() -> float:
    """Peak memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000, help="examples of the pool")
    parser.add_argument("--work", type=Path, help="folder for the stored state, kept for the next run; left out: a temporary one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["reference", "selectors", "mixtures"], choices=["reference", "selectors", "mixtures"])
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.stage:
        print(json.dumps(measure(*said.stage)))
        return
    figures = Figures("selection")
    if "reference" in said.only:
        beside_plain_python(figures, said.repeats)
    if "selectors" in said.only:
        selectors(figures, said.examples, said.repeats)
    if "mixtures" in said.only:
        with tempfile.TemporaryDirectory() as temporary:
            mixtures(figures, (said.work or Path(temporary)) / f"state-{said.examples}", said.examples, said.repeats)
    figures.write(said.json)


if __name__ == "__main__":
    main()
