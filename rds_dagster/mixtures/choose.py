"""Settings and stored scores -> picks: which task and query chose each example, at which rank and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster.errors import BudgetError, StateError
from rds_dagster.mixtures.candidates import Candidates
from rds_dagster.mixtures.random_choice import balanced, unbalanced
from rds_dagster.mixtures.selectors import DepthExhausted, Picks, global_top, mean_max, round_robin_queries, round_robin_tasks
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores.deepen import deeper_lists
from rds_dagster.scores.score_tasks import score_key
from rds_dagster.scores.similarity import TopList
from rds_dagster.storage.ids import SortedIds, id_array, id_order, positions_in, take_ids
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

SELECTORS = {"mean_max": mean_max, "global_top": global_top}


@dataclass(frozen=True, eq=False)
class Choice:
    """K chosen rows of the candidates in order of picking; task and query are names, all None for random.

    rows (K,) int64; ranks (K,) int64 from 1; scores (K,) float32, NaN for random. ``deepened``: how often deeper top lists had to be made.
    """

    rows: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    tasks: pa.Array
    queries: pa.Array
    deepened: int = 0


def choose(store: TableStore, settings: MixtureSettings, candidates: Candidates, tasks: Sequence[str]) -> Choice:
    """The picks of a mixture; tasks: all that it is for, in order. Raises BudgetError before any scores are read."""
    if not len(candidates.ids):
        raise BudgetError(
            f"mixture {settings.name!r}: nothing to choose from, its pools ({', '.join(candidates.pools)}) keep 0 examples after cleaning and deduplication; "
            "mend their files (the quarantine says why rows were dropped) or name other pools"
        )
    if not settings.allow_short:
        candidates.refuse_budget(settings.name, settings.budget)
    if settings.method == "random":
        return _choose_at_random(settings, candidates)
    if len(tasks) == 1 and settings.selector == "round_robin":
        return _choose_by_queries(store, settings, candidates, tasks[0])
    return _choose_by_tasks(store, settings, candidates, tasks)


def _choose_at_random(settings: MixtureSettings, candidates: Candidates) -> Choice:
    short = settings.allow_short
    if settings.balanced:
        rows = balanced(candidates.ids, candidates.source, len(candidates.sources), settings.budget, settings.seed, allow_short=short)
    else:
        rows = unbalanced(candidates.ids, settings.budget, settings.seed, allow_short=short)
    nothing = pa.nulls(len(rows), pa.string())
    return Choice(rows, np.arange(1, len(rows) + 1), np.full(len(rows), np.nan, np.float32), nothing, nothing)


def _choose_by_queries(store: TableStore, settings: MixtureSettings, candidates: Candidates, task: str) -> Choice:
    scores = store.need(score_key(task))
    top = _stored_top(store, scores, candidates.ids)
    budget = min(settings.budget, len(candidates.ids))
    deepened = 0
    while True:
        try:
            picks = round_robin_queries(top.rows, top.scores, budget, settings.on_taken, complete=top.rows.shape[1] == len(candidates.ids))
            break
        except DepthExhausted as short:
            top = deeper_lists(store, scores, candidates.ids, min(short.needed_depth, len(candidates.ids)))
            deepened += 1
    names = store.read(scores, "queries", ["query"]).column("query").combine_chunks()
    return Choice(picks.rows, picks.ranks, picks.scores, pa.array([task] * len(picks.rows)), names.take(pa.array(picks.lists)), deepened)


def _choose_by_tasks(store: TableStore, settings: MixtureSettings, candidates: Candidates, tasks: Sequence[str]) -> Choice:
    tables = _score_tables(store, candidates.ids, tasks)
    scores = np.empty((len(candidates.ids), len(tasks)), np.float32)  # (N, T)
    for number, table in enumerate(tables):
        scores[:, number] = _column(store, table.manifest, "score")[table.rows]
    if settings.selector == "round_robin":
        picks = round_robin_tasks(scores, settings.budget, settings.on_taken, allow_short=settings.allow_short)
    else:
        picks = SELECTORS[settings.selector](scores, settings.budget, allow_short=settings.allow_short)
    del scores
    return Choice(picks.rows, picks.ranks, picks.scores, pa.array(list(tasks)).take(pa.array(picks.lists)), _best_queries(store, tables, picks))


@dataclass(frozen=True, eq=False)
class _ScoreTable:
    """A task's scores, as stored; rows (N,) uint32: where each candidate stands in it."""

    manifest: Manifest
    rows: np.ndarray


def _score_tables(store: TableStore, ids: np.ndarray, tasks: Sequence[str]) -> list[_ScoreTable]:
    """The score tables of some tasks for candidates (N,) S16; ids are read and sorted once for all that have the same blocks."""
    rows: dict[tuple[str, ...], np.ndarray] = {}
    tables = []
    for task in tasks:
        manifest = store.need(score_key(task))
        blocks = tuple(Path(path).name for path in manifest.paths("scores"))  # a block is named by its ids, and holds them in order
        if blocks not in rows:
            rows[blocks] = _rows_of(store, manifest, ids)
        tables.append(_ScoreTable(manifest, rows[blocks]))
    return tables


def _rows_of(store: TableStore, manifest: Manifest, ids: np.ndarray) -> np.ndarray:
    """Where the candidates (N,) S16 stand in a score table, (N,) uint32; raises StateError if one is not there."""
    stored = store.ids(manifest, "scores")
    order = id_order(stored)
    stored = take_ids(stored, order)
    if np.array_equal(stored, ids):
        return order.astype(np.uint32)
    places, is_there = SortedIds(stored).places(ids)
    if not is_there.all():
        raise StateError(f"{manifest.key} scores {int(is_there.sum()):,} of {len(ids):,} candidates; run `rds run '{manifest.key}'` to score the others")
    rows: np.ndarray = order[places].astype(np.uint32)
    return rows


def _column(store: TableStore, manifest: Manifest, name: str) -> np.ndarray:
    """One column of a score table, whole, as stored."""
    values, at = np.empty(manifest.rows("scores"), np.float32 if name == "score" else np.int32), 0
    for batch in store.stream(manifest, "scores", [name]):
        values[at : at + batch.num_rows] = batch.column(name).to_numpy()
        at += batch.num_rows
    return values


def _best_queries(store: TableStore, tables: Sequence[_ScoreTable], picks: Picks) -> pa.Array:
    """For each pick the query of its task that it is most similar to."""
    names, numbers = [pa.array([], pa.string())], np.empty(len(picks.rows), np.int64)
    for list_number, table in enumerate(tables):
        mine = picks.lists == list_number
        if mine.any():
            first = sum(map(len, names))
            numbers[mine] = _column(store, table.manifest, "best_query")[table.rows[picks.rows[mine]]] + first
            names.append(store.read(table.manifest, "queries", ["query"]).column("query").combine_chunks())
    return pa.concat_arrays(names).take(pa.array(numbers))


def _stored_top(store: TableStore, scores: Manifest, ids: np.ndarray) -> TopList:
    """The stored top lists without what the mixture may not pick, cut to the shortest: each is still the head of its full list."""
    table = store.read(scores, "top", ["query", "id", "score"])
    rows, is_candidate = positions_in(ids, id_array(table.column("id")))
    query = table.column("query").to_numpy()[is_candidate]
    num_queries = scores.number("queries")
    counts = np.bincount(query, minlength=num_queries)
    rank = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < counts.min()
    shape = (num_queries, int(counts.min()))
    return TopList(rows[is_candidate][chosen].reshape(shape), table.column("score").to_numpy()[is_candidate][chosen].reshape(shape))
