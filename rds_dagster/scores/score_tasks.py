"""Assets scores/rds/<task>: every kept example scored for every task, and each query's top list.

One pass over the vectors serves all stale tasks. A block's scores for a query set are written once, under a name made of both, and
reused for good; so growth costs the last block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster import schema
from rds_dagster.embeddings.embed_queries import query_schema, read_vectors
from rds_dagster.embeddings.whitening_file import whitening_key
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, content_digest, fingerprint, ids_fingerprint
from rds_dagster.scores.blocks import Block, live_blocks
from rds_dagster.scores.products import products_for
from rds_dagster.scores.settings import METHOD, ScoreSettings
from rds_dagster.scores.shortlist import Shortlist
from rds_dagster.scores.similarity import FILTER_DEPTHS, QuerySets, TaskScores, score_sets
from rds_dagster.scores.space import Space, open_space
from rds_dagster.storage.ids import id_array, id_column
from rds_dagster.storage.manifest import Counts, Manifest, TableFile
from rds_dagster.storage.tables import TableStore, make_recipe, write_parquet

CODE = 1  # raise when scores would change for equal vectors
MOST_WORKERS = 8  # blocks in work at once, one a core: two made the peak at 949 queries 993 MiB for 5.8 million examples

MERGED_AT_ONCE = 2  # tasks whose top lists are; each holds the ids and scores of one task's


@dataclass(frozen=True)
class ScoredTasks:
    """What came of it: manifests by task; examples whose scores were computed now and found stored, by task."""

    manifests: dict[str, Manifest]
    rows_computed: dict[str, int]
    rows_reused: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Task:
    name: str
    queries: Manifest
    vectors: np.ndarray  # (M, D), or (M, d) where they are whitened
    folder: Path

    def paths(self, block: Block) -> tuple[Path, Path]:
        return self.folder / f"{block.name}.parquet", self.folder / f"{block.name}.top.parquet"


def score_key(task: str) -> str:
    """The asset key of a task's scores."""
    return f"scores/{METHOD}/{task}"


def score_tasks(
    store: TableStore, tasks: Sequence[str], pools: Sequence[str], live: np.ndarray, settings: ScoreSettings, *, whitened: str | None = None
) -> ScoredTasks:
    """Make scores/rds/<task> current for the given tasks.

    live (N,) S16: the ids that unique/* keeps over all ``pools``, sorted. ``whitened``: the name of the encoder whose whitening is applied to pools
    and queries; None = scores of the vectors as they are. Raises StateError if embeddings, queries and whitening stem from different encoders.
    """
    embeddings = [store.need(f"embeddings/{pool}") for pool in pools]
    space = open_space(store, embeddings, store.need(whitening_key(whitened)) if whitened else None)
    open_tasks = [_open_task(store, name, space, settings) for name in tasks]
    with ThreadPoolExecutor(1) as beside:
        is_new = not all(task.folder.exists() for task in open_tasks)  # all is to be scored for one of them
        warming = beside.submit(_warm_up, open_tasks, len(live) if is_new else 0)
        blocks = live_blocks(space.vectors, live)
        warming.result()
    computed = dict.fromkeys(tasks, 0)
    missing = [(block, [task for task in open_tasks if not all(path.exists() for path in task.paths(block))]) for block in blocks]
    for block, scored in _score_missing(space, [(block, stale) for block, stale in missing if stale], settings.depth):
        for task in scored:
            computed[task.name] += len(block.ids)
    content = ids_fingerprint(live)
    with ThreadPoolExecutor(MERGED_AT_ONCE) as threads:
        made = threads.map(lambda task: _write_task(store, task, blocks, embeddings, space, content, settings), open_tasks)
        manifests = dict(zip(tasks, made, strict=True))
    return ScoredTasks(manifests, computed, {name: len(live) - computed[name] for name in tasks})


def _warm_up(tasks: Sequence[_Task], num_rows: int) -> None:
    """Load what makes scoring quick, if so many rows are worth it, by scoring next to nothing; beside ``live_blocks`` this costs hardly any time."""
    if not tasks:
        return
    dims = tasks[0].vectors.shape[1]
    products = products_for(num_rows * sum(len(task.vectors) for task in tasks) * dims)
    if products is not None:
        score_sets(np.ones((FILTER_DEPTHS, dims), np.float16), QuerySets([np.ones((1, dims), np.float32)]), 1, products)


def _open_task(store: TableStore, name: str, space: Space, settings: ScoreSettings) -> _Task:
    queries, encoder = store.need(f"queries/{name}"), space.vectors.encoder
    if queries.text("encoder") != encoder:
        raise StateError(f"queries/{name} was embedded by encoder {queries.text('encoder')[:8]}, the pools by {encoder[:8]}; run `rds run 'queries/{name}'`")
    stored = read_vectors(store, queries)
    encoder, *whitening = space.identity
    content = fingerprint(METHOD, CODE, encoder, content_digest(stored.tobytes()), settings.depth, *whitening)
    return _Task(name, queries, space.queries(stored), store.layout.score_blocks / content)


def _score_missing(space: Space, missing: list[tuple[Block, list[_Task]]], depth: int) -> Iterator[tuple[Block, list[_Task]]]:
    """Read each block once and write its scores for the tasks beside it, a block a core; yields both as they are done, in order."""
    if not missing:
        return
    pairs = sum(len(block.ids) * len(task.vectors) for block, tasks in missing for task in tasks)
    products = products_for(pairs * missing[0][1][0].vectors.shape[1])
    sets = {tuple(task.name for task in tasks): QuerySets([task.vectors for task in tasks]) for _, tasks in missing}
    workers = 1 if products is None else min(len(missing), products.most_threads, MOST_WORKERS)
    free = SimpleQueue[np.ndarray]()
    for _ in range(workers):
        free.put(np.empty((max(len(block.ids) for block, _ in missing), space.vectors.dims), np.float16))

    def score(work: tuple[Block, list[_Task]]) -> tuple[Block, list[_Task]]:
        block, tasks = work
        memory = free.get()
        try:
            found = score_sets(space.read(block, memory), sets[tuple(task.name for task in tasks)], depth, products)
        finally:
            free.put(memory)
        for task, scores in zip(tasks, found, strict=True):
            _write_block(task, block, scores)
        return work

    if products is None or workers == 1:  # and one block in memory, however many there are
        yield from map(score, missing)
        return
    with products.threads(workers) as threads:
        yield from threads.map(score, missing)


def _write_block(task: _Task, block: Block, scores: TaskScores) -> None:
    scores_path, top_path = task.paths(block)
    num_queries, depth = scores.top.rows.shape
    top = pa.table(
        [
            pa.array(np.repeat(np.arange(num_queries, dtype=np.int32), depth)),
            pa.array(np.tile(np.arange(1, depth + 1, dtype=np.int32), num_queries)),
            id_column(block.ids[scores.top.rows.ravel()]),
            pa.array(scores.top.scores.ravel()),
        ],
        schema=schema.TOP,
    )
    write_parquet(top_path, top, schema.TOP, plain=("id", "score"))
    table = pa.table([id_column(block.ids), pa.array(scores.best), pa.array(scores.best_query)], schema=schema.SCORE)
    write_parquet(scores_path, table, schema.SCORE, plain=("id", "score"))


def _write_task(
    store: TableStore, task: _Task, blocks: list[Block], embeddings: list[Manifest], space: Space, content: str, settings: ScoreSettings
) -> Manifest:
    """``content``: fingerprint of the ids that are scored."""
    parents = {m.key: m.fingerprint for m in [*embeddings, task.queries, *([space.recorded] if space.recorded else [])]}
    recipe = make_recipe("scores", CODE, settings, parents)
    draft = store.draft(score_key(task.name), recipe)
    draft.write("top", merge_tops((pq.read_table(task.paths(block)[1]) for block in blocks), len(task.vectors), settings.depth), schema.TOP)
    columns = [name for name in query_schema(1).names if name != "vector"]
    draft.write("queries", store.read(task.queries, "queries", columns), schema.QUERY)
    block_files = []
    for block in blocks:
        path = task.paths(block)[0]
        block_files.append(TableFile("scores", str(path.relative_to(store.layout.home)), len(block.ids), path.stat().st_size))
    num_scores = sum(len(block.ids) for block in blocks)
    manifest = draft.manifest(
        fingerprint=fingerprint("scores", task.folder.name, task.queries.fingerprint, content),
        settings={"method": METHOD, "depth": settings.depth, **({"whitened_to": space.whitening.dims} if space.whitening else {})},
        parents=parents,
        counts=Counts(num_scores, num_scores),
        details={"queries": len(task.vectors), "blocks": len(blocks), "embedded": sorted(m.parents[f"unique/{m.key.split('/', 1)[1]}"] for m in embeddings)},
        more_files=block_files,
    )
    store.commit([manifest])
    return manifest


def merge_tops(tops: Iterable[pa.Table], num_queries: int, depth: int) -> pa.Table:
    """The first ``depth`` of each query over the top lists of several sets of examples, ties to the smaller id; TOP tables in and out.

    One at a time, and of each only what may still count: for 500 queries the lists of all blocks would take 55 bytes an example.
    """
    shortlist, kept_ids, num_kept = Shortlist(num_queries, depth), [np.empty(0, ID_DTYPE)], 0
    for table in tops:
        query, score = table.column("query").to_numpy(), table.column("score").to_numpy()
        kept = shortlist.offer_pairs(query, score, num_kept)
        kept_ids.append(id_array(table.column("id").take(pa.array(kept))))
        num_kept += len(kept)
    query, rows, score = shortlist.lists()
    ids = np.concatenate(kept_ids)[rows]
    order = np.lexsort((ids, -score, query))
    counts = np.bincount(query)
    rank = np.arange(1, len(order) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    order, rank = order[rank <= depth], rank[rank <= depth]
    columns = [pa.array(query[order].astype(np.int32)), pa.array(rank.astype(np.int32)), id_column(ids[order]), pa.array(score[order])]
    return pa.table(columns, schema=schema.TOP)
