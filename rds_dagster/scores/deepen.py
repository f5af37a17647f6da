"""Deeper top lists for a selector that ran out: another streaming product over the stored vectors; no model, nothing stored."""

from __future__ import annotations

import numpy as np

from rds_dagster.embeddings.embed_queries import read_vectors
from rds_dagster.embeddings.whitening_file import GROUP as WHITENING
from rds_dagster.errors import StateError
from rds_dagster.scores.blocks import live_blocks
from rds_dagster.scores.products import products_for
from rds_dagster.scores.similarity import QuerySets, TopList, score_sets
from rds_dagster.scores.space import Space, open_space
from rds_dagster.storage.ids import positions_in
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore


def deeper_lists(store: TableStore, scores: Manifest, live: np.ndarray, depth: int) -> TopList:
    """The stored top lists of scores/rds/<task>, to another depth and among ``live`` (N,) S16, sorted, alone: by the vectors that it was made from.

    Raises StateError if one of those has changed since.
    """
    parents = [store.need(key) for key in scores.parents]
    for parent in parents:
        if parent.fingerprint != scores.parents[parent.key]:
            raise StateError(f"{parent.key} changed since {scores.key} was made, and deeper lists are needed; run `rds run '{scores.key}'` first")
    embeddings = [parent for parent in parents if parent.key.startswith("embeddings/")]
    whitening = next((parent for parent in parents if parent.key.startswith(f"{WHITENING}/")), None)
    (queries,) = [parent for parent in parents if parent.key.startswith("queries/")]
    return deeper_top(open_space(store, embeddings, whitening), live, read_vectors(store, queries), depth)


def deeper_top(space: Space, live: np.ndarray, queries: np.ndarray, depth: int) -> TopList:
    """The first ``depth`` rows of each query among ``live`` (N,) S16, sorted; queries (M, D) float32 as stored; rows count within ``live``.

    Peak memory: two depths a query beside one block.
    """
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    sets = QuerySets([space.queries(queries)])
    products = products_for(len(live) * sets.units.size)
    for block in live_blocks(space.vectors, live):
        top = score_sets(space.read(block), sets, depth, products)[0].top
        places = positions_in(live, block.ids)[0]
        rows, scores = np.hstack([rows, places[top.rows]]), np.hstack([scores, top.scores])
        order = np.lexsort((rows, -scores), axis=1)[:, :depth]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return TopList(rows, scores)
