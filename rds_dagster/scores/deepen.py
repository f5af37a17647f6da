"""Deeper top lists for a selector that ran out: another streaming product over the stored vectors; no model, nothing stored."""

from __future__ import annotations

import numpy as np

from rds_dagster.scores.blocks import live_blocks, read_block
from rds_dagster.scores.similarity import TopList, score_block
from rds_dagster.storage.tables import positions_in
from rds_dagster.storage.vectors import VectorStore


def deeper_top(vectors: VectorStore, live: np.ndarray, queries: np.ndarray, depth: int) -> TopList:
    """The first ``depth`` rows of each query among ``live`` (N,) S16, sorted; queries (M, D) float32; rows count within ``live``.

    Peak memory: two depths a query beside one block.
    """
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for block in live_blocks(vectors, live):
        top = score_block(read_block(vectors, block), queries, depth).top
        places = positions_in(live, block.ids)[0]
        rows, scores = np.hstack([rows, places[top.rows]]), np.hstack([scores, top.scores])
        order = np.lexsort((rows, -scores), axis=1)[:, :depth]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return TopList(rows, scores)
