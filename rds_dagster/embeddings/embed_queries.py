"""Query sets with their vectors, made as a pool example's is; and the held-out items: assets queries/<task>, test_items/<task>."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rds_dagster import schema
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.fingerprint import ID_DTYPE, fingerprint, ids_fingerprint
from rds_dagster.pools.render import render
from rds_dagster.queries.read import TaskItem, read_queries, read_test_items
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, make_recipe

CODE = 1  # raise when the bytes of the tables would change


def query_schema(dims: int) -> pa.Schema:
    """QUERY with its vector, D float32."""
    return schema.QUERY.append(pa.field("vector", pa.list_(pa.float32(), dims)))


def query_content(task: TaskSettings, *, root: Path) -> str:
    """Fingerprint of a task's queries as their files are now."""
    return _content("query set", read_queries(task, root=root))


def test_content(task: TaskSettings, *, root: Path) -> str:
    """Fingerprint of a task's test items as their files are now; the data version of test_items/<task>."""
    return _content("test items", read_test_items(task, root=root))


def embed_queries(store: TableStore, task: TaskSettings, encoder: EncoderIdentity, encoder_name: str, *, root: Path) -> tuple[Manifest, int]:
    """Make queries/<task> current; returns its manifest and how many queries were encoded now. No model is loaded when nothing changed."""
    items = read_queries(task, root=root)
    content = _content("query set", items)
    parents = {f"encoders/{encoder_name}": encoder.fingerprint}
    recipe = make_recipe("queries", CODE, {"content": content}, parents)
    if current := store.reusable(f"queries/{task.name}", recipe):
        return current, 0
    texts = [render(item.messages, what=encoder.what, eos=encoder.eos) for item in items]
    encoded = list(load_encoder(encoder).encode_stream(enumerate(texts)))
    vectors = np.empty((len(items), encoder.dims), np.float32)  # (M, D)
    num_tokens = np.empty(len(items), np.int32)
    for batch in encoded:
        vectors[batch.rows], num_tokens[batch.rows] = batch.vectors, batch.num_tokens
    table = pa.table(
        [
            pa.array([item.name for item in items]),
            pa.array([item.id for item in items], schema.ID),
            pa.array([item.messages for item in items], schema.MESSAGES),
            pa.array(texts),
            pa.array(num_tokens),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), encoder.dims),
        ],
        schema=query_schema(encoder.dims),
    )
    draft = store.draft(f"queries/{task.name}", recipe)
    draft.write("queries", table, table.schema)
    manifest = draft.manifest(
        fingerprint=fingerprint("queries", content, encoder.fingerprint),
        settings={"queries": task.queries, "limit": task.limit},
        parents=parents,
        counts=Counts(len(items), len(items)),
        details={"encoder": encoder.fingerprint, "dims": encoder.dims, "content": content},
    )
    store.commit([manifest])
    return manifest, len(items)


def record_test_items(store: TableStore, task: TaskSettings, *, root: Path) -> Manifest:
    """Make test_items/<task> current; an empty table if the task names no file."""
    items = read_test_items(task, root=root)
    content = _content("test items", items)
    draft = store.draft(f"test_items/{task.name}", make_recipe("test_items", CODE, {"content": content}, {}))
    draft.write("items", _test_table(items), schema.TEST_ITEM)
    ids = np.array([item.id for item in items], ID_DTYPE)
    manifest = draft.manifest(
        fingerprint=content,
        settings={"test_items": task.test_items},
        parents={},
        counts=Counts(len(items), len(items)),
        details={"distinct": len(np.unique(ids)), "ids": ids_fingerprint(ids)},
    )
    store.commit([manifest])
    return manifest


def read_vectors(store: TableStore, queries: Manifest) -> np.ndarray:
    """The vectors of a query set, (M, D) float32, in the file's order."""
    column = store.read(queries, "queries", ["vector"]).column("vector").combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(-1, queries.number("dims")))


def _content(what: str, items: Sequence[TaskItem]) -> str:
    return fingerprint(what, [(item.name, item.id) for item in items])


def _test_table(items: Sequence[TaskItem]) -> pa.Table:
    return pa.table(
        [pa.array([i.name for i in items], pa.string()), pa.array([i.id for i in items], schema.ID), pa.array([i.messages for i in items], schema.MESSAGES)],
        schema=schema.TEST_ITEM,
    )
