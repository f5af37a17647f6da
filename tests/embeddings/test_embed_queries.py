"""Query sets with their vectors, made once and only when they change; held-out items beside them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rds_dagster import schema
from rds_dagster.embeddings.embed_queries import embed_queries, query_content, query_schema, read_vectors, record_test_items, test_content
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.register import register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import InputError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import vector_array

test_content.__test__ = False  # a function of the product, not a test

TASK = TaskSettings("sums", "sums.jsonl", "held_out.jsonl")


def asked(name: str | None, question: str, answer: str) -> dict[str, object]:
    row: dict[str, object] = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    return row if name is None else {"id": name, **row}


QUERIES = [asked("b", "What is 2 plus 2?", "2 plus 2 is 4."), asked("a", "What is 10 plus 1?", "11"), asked("c", "Name a town in the north, please.", "Jever.")]


def write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "sums.jsonl", QUERIES)
    write(tmp_path / "held_out.jsonl", [asked("t0", "What is 5 plus 5?", "10"), asked("t1", "What is 5 plus 5?", "10")])
    return tmp_path


@pytest.fixture
def store(root: Path) -> TableStore:
    return TableStore(Layout(root / "home"))


@pytest.fixture
def encoder(store: TableStore, tiny_encoder: EncoderSettings) -> EncoderIdentity:
    return register_encoder(store, tiny_encoder)[1]


# ---- queries -----------------------------------------------------------------------------------------------------------------------------------------


def test_each_query_has_the_vector_that_the_encoder_gives_its_text_in_the_files_order(root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    manifest, encoded = embed_queries(store, TASK, encoder, "tiny", root=root)
    table = store.read(manifest, "queries")
    assert encoded == 3 and table.schema == query_schema(160)
    assert table.column("query").to_pylist() == ["b", "a", "c"]
    assert table.column("text").to_pylist()[0] == "<|user|>\nWhat is 2 plus 2?\n<|assistant|>\n2 plus 2 is 4.<|eos|>"
    assert table.column("id").to_pylist() == [schema.example_id(row["messages"]) for row in QUERIES]
    vectors, model = read_vectors(store, manifest), load_encoder(encoder)
    assert (vectors.shape, vectors.dtype) == ((3, 160), np.float32)
    for vector, text in zip(vectors, table.column("text").to_pylist(), strict=True):
        assert np.array_equal(vector, model.encode([text])[0])
    assert min(table.column("num_tokens").to_pylist()) > 5


def test_a_query_is_embedded_as_a_pool_example_is(flow, root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    row = json.loads((flow.root / "pools/sums/a.jsonl").read_text().splitlines()[4])
    write(root / "sums.jsonl", [row])
    manifest, _ = embed_queries(store, TASK, encoder, "tiny", root=root)
    (place,) = np.flatnonzero(flow.vectors().ids() == np.array(schema.example_id(row["messages"]), ID_DTYPE))
    (batch,) = flow.vectors().stream(["vector"], start=int(place), rows=1)
    stored = vector_array(batch.column("vector"), encoder.dims)
    assert np.array_equal(read_vectors(store, manifest).astype(np.float16), stored)


def test_the_manifest_says_what_made_it(root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    manifest, _ = embed_queries(store, TASK, encoder, "tiny", root=root)
    assert store.need("queries/sums") == manifest
    assert manifest.parents == {"encoders/tiny": encoder.fingerprint}
    assert manifest.settings == {"queries": "sums.jsonl", "limit": None}
    assert manifest.text("content") == query_content(TASK, root=root)
    assert (manifest.counts.kept, manifest.text("encoder"), manifest.number("dims")) == (3, encoder.fingerprint, 160)


def test_a_second_run_encodes_nothing_and_needs_no_weights(root: Path, store: TableStore, tiny_encoder: EncoderSettings, copy_of_tiny: Path) -> None:
    _, identity = register_encoder(store, replace(tiny_encoder, model=str(copy_of_tiny)))
    manifest, _ = embed_queries(store, TASK, identity, "tiny", root=root)
    (copy_of_tiny / "model.safetensors").unlink()
    assert embed_queries(store, TASK, identity, "tiny", root=root) == (manifest, 0)
    write(root / "sums.jsonl", QUERIES[:2])
    with pytest.raises(OSError, match=r"model\.safetensors"):
        embed_queries(store, TASK, identity, "tiny", root=root)
    assert store.need("queries/sums") == manifest


def test_changed_queries_are_made_anew(root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    first, _ = embed_queries(store, TASK, encoder, "tiny", root=root)
    content = query_content(TASK, root=root)
    write(root / "sums.jsonl", [*QUERIES[1:], QUERIES[0]])  # order counts: queries take turns in it
    assert query_content(TASK, root=root) != content
    second, encoded = embed_queries(store, TASK, encoder, "tiny", root=root)
    assert encoded == 3 and second.fingerprint != first.fingerprint
    assert np.array_equal(read_vectors(store, second), load_encoder(encoder).encode_conversations([QUERIES[place]["messages"] for place in (1, 2, 0)]))


def test_another_encoder_makes_other_vectors_of_the_same_content(
    root: Path, store: TableStore, encoder: EncoderIdentity, tiny_encoder: EncoderSettings
) -> None:
    first, _ = embed_queries(store, TASK, encoder, "tiny", root=root)
    vectors = read_vectors(store, first)
    _, mean = register_encoder(store, replace(tiny_encoder, pooling="mean"))
    second, encoded = embed_queries(store, TASK, mean, "tiny", root=root)
    assert encoded == 3 and second.text("content") == first.text("content") and second.fingerprint != first.fingerprint
    assert not np.array_equal(read_vectors(store, second), vectors)


def test_a_limit_takes_the_first_ones_and_is_part_of_the_content(root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    limited = replace(TASK, limit=2)
    manifest, encoded = embed_queries(store, limited, encoder, "tiny", root=root)
    assert encoded == 2 and store.read(manifest, "queries", ["query"]).column("query").to_pylist() == ["b", "a"]
    assert query_content(limited, root=root) != query_content(TASK, root=root)


def test_a_task_without_queries_is_refused_and_the_last_good_state_stays(root: Path, store: TableStore, encoder: EncoderIdentity) -> None:
    manifest, _ = embed_queries(store, TASK, encoder, "tiny", root=root)
    (root / "sums.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"task sums has no queries in sums\.jsonl; put at least one conversation"):
        embed_queries(store, TASK, encoder, "tiny", root=root)
    assert store.need("queries/sums") == manifest


# ---- test items --------------------------------------------------------------------------------------------------------------------------------------


def test_test_items_are_recorded_with_their_distinct_number(root: Path, store: TableStore) -> None:
    manifest = record_test_items(store, TASK, root=root)
    assert manifest.fingerprint == test_content(TASK, root=root)
    assert (manifest.counts.kept, manifest.number("distinct")) == (2, 1)
    table = store.read(store.need("test_items/sums"), "items")
    assert table.schema == schema.TEST_ITEM and table.column("item").to_pylist() == ["t0", "t1"]


def test_a_task_without_test_items_has_an_empty_table(root: Path, store: TableStore) -> None:
    manifest = record_test_items(store, replace(TASK, test_items=None), root=root)
    assert store.read(manifest, "items").num_rows == 0
    assert manifest.fingerprint == test_content(replace(TASK, test_items=None), root=root) != test_content(TASK, root=root)
