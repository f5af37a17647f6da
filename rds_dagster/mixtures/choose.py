"""Settings and stored scores -> picks: which task and query chose each example, at which rank and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore, id_array, positions_in

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
    manifests = [store.need(score_key(task)) for task in tasks]
    scores = np.empty((len(candidates.ids), len(tasks)), np.float32)  # (N, T)
    for number, manifest in enumerate(manifests):
        scores[:, number] = _column(store, manifest, candidates.ids, "score")
    if settings.selector == "round_robin":
        picks = round_robin_tasks(scores, settings.budget, settings.on_taken, allow_short=settings.allow_short)
    else:
        picks = SELECTORS[settings.selector](scores, settings.budget, allow_short=settings.allow_short)
    del scores
    return Choice(
        picks.rows, picks.ranks, picks.scores, pa.array(list(tasks)).take(pa.array(picks.lists)), _best_queries(store, manifests, candidates.ids, picks)
    )


def _best_queries(store: TableStore, manifests: Sequence[Manifest], ids: np.ndarray, picks: Picks) -> pa.Array:
    """For each pick the query of its task that it is most similar to."""
    names = np.empty(len(picks.rows), object)
    order = np.argsort(ids[picks.rows])
    for number, manifest in enumerate(manifests):
        mine = order[picks.lists[order] == number]  # in id order
        if len(mine):
            queries = np.array(store.read(manifest, "queries", ["query"]).column("query").to_pylist(), object)
            names[mine] = queries[_column(store, manifest, ids[picks.rows[mine]], "best_query")]
    return pa.array(names, pa.string())


def _column(store: TableStore, manifest: Manifest, ids: np.ndarray, name: str) -> np.ndarray:
    """One column of a score table for sorted ids (N,) S16, streamed from its blocks."""
    values = np.empty(len(ids), np.float32 if name == "score" else np.int32)
    num_found = 0
    for batch in store.stream(manifest, "scores", ["id", name]):
        places, is_wanted = positions_in(ids, id_array(batch.column("id")))
        values[places[is_wanted]] = batch.column(name).to_numpy()[is_wanted]
        num_found += int(is_wanted.sum())
    if num_found != len(ids):
        raise StateError(f"{manifest.key} scores {num_found:,} of {len(ids):,} candidates; run `rds run '{manifest.key}'` to score the others")
    return values


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
