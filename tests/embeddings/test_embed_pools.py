"""Vectors of small pools in a real LanceDB table: equal to the encoder's own, made once, and whole again after a kill."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.texts import stream_conversations
from rds_dagster.cleaning.unique import owned_ids, unify_pools
from rds_dagster.embeddings.embed_pools import EmbeddedPools, embed_pools
from rds_dagster.embeddings.encoder import EncodedBatch, Encoder, load_encoder
from rds_dagster.embeddings.identity import TINY_FOLDER
from rds_dagster.embeddings.register import current_encoder, register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import StateError
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.render import render
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore, vector_array


def stored(vectors: VectorStore) -> dict[bytes, bytes]:
    """The bits of each vector by id; no id twice."""
    found: dict[bytes, bytes] = {}
    for batch in vectors.stream(["id", "vector"]):
        rows = vector_array(batch.column("vector"), vectors.dims)
        assert rows.dtype == np.float16
        for example, vector in zip(batch.column("id").to_pylist(), rows, strict=True):
            assert example not in found
            found[example] = vector.tobytes()
    return found


def pools_of(root: Path) -> list[PoolSettings]:
    return [PoolSettings(name, f"pools/{name}") for name in ("sums", "towns", "chat") if (root / "pools" / name).exists()]


def clean_all(root: Path, home: Path) -> TableStore:
    store = TableStore(Layout(home))
    for pool in pools_of(root):
        record_pool(store, pool, root=root)
        clean_pool(store, pool, CleaningSettings(), root=root)
    unify_pools(store, pools_of(root))
    return store


def embed_all(root: Path, home: Path, encoder: EncoderSettings) -> tuple[VectorStore, EmbeddedPools]:
    store = clean_all(root, home)
    _, identity = register_encoder(store, encoder)
    made = embed_pools(store, identity, encoder.name, [pool.name for pool in pools_of(root)])
    return VectorStore(store.layout, identity.fingerprint, identity.dims), made


def hide_weights(flow, tmp_path: Path):
    """The flow with its model in a folder of its own that has lost its weights, as after a disk was put away; its identity was taken before."""
    folder = shutil.copytree(TINY_FOLDER, tmp_path / "model")
    encoder = replace(flow.encoder, model=str(folder))
    _, identity = register_encoder(flow.store, encoder)
    (folder / "model.safetensors").unlink()
    return identity


# ---- right -------------------------------------------------------------------------------------------------------------------------------------------


def test_each_kept_example_has_the_vector_that_the_encoder_gives_its_text(flow) -> None:
    model = load_encoder(flow.encoder)
    found = stored(flow.vectors())
    assert sorted(found) == flow.live_bytes
    for pool in flow.pools:
        texts = {}
        for example, messages in stream_conversations(flow.store, flow.store.need(f"clean/{pool}"), owned_ids(flow.store, [pool])):
            texts[example] = render(messages, what="full", eos="<|eos|>")
        for example, text in texts.items():  # one at a time, so in quite another company
            assert found[example] == model.encode([text])[0].astype(np.float16).tobytes()


def test_vectors_are_finite_and_of_norm_1(flow) -> None:
    vectors = np.array([np.frombuffer(bits, np.float16) for bits in stored(flow.vectors()).values()], np.float64)
    assert vectors.shape == (34, 160)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-3


def test_the_manifests_assert_what_is_there(flow) -> None:
    encoder = flow.store.need("encoders/tiny")
    for pool, kept in (("sums", 16), ("towns", 10), ("chat", 8)):
        manifest, unique = flow.store.need(f"embeddings/{pool}"), flow.store.need(f"unique/{pool}")
        assert manifest == flow.embedded.manifests[pool]
        assert manifest.parents == {unique.key: unique.fingerprint, encoder.key: encoder.fingerprint}
        assert (manifest.counts.kept, manifest.text("encoder"), manifest.number("dims")) == (kept, encoder.fingerprint, 160)
    assert flow.embedded.rows_computed == {"sums": 16, "towns": 10, "chat": 8} and flow.embedded.rows_reused == {"sums": 0, "towns": 0, "chat": 0}
    tokens = sum(sum(batch.column("num_tokens").to_pylist()) for batch in flow.vectors().stream(["num_tokens"]))
    assert flow.embedded.tokens == tokens > 34 * 10
    assert len(flow.vectors().made_on()) == 1


def test_the_same_bits_come_out_when_files_and_lines_are_in_another_order(flow, tmp_path: Path) -> None:
    for pool in flow.pools:
        files = sorted((flow.root / "pools" / pool).rglob("*.jsonl"))
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
        random.Random(7).shuffle(lines)
        for name, part in (("z/first.jsonl", lines[:3]), ("second.jsonl", lines[3:])):
            path = tmp_path / "pools" / pool / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(part))
    vectors, _ = embed_all(tmp_path, tmp_path / "home", flow.encoder)
    assert stored(vectors) == stored(flow.vectors())


# ---- only what is new --------------------------------------------------------------------------------------------------------------------------------


def test_a_second_run_computes_no_vector_and_needs_no_weights(own_flow, tmp_path: Path) -> None:
    identity = hide_weights(own_flow, tmp_path)
    assert identity.fingerprint == own_flow.store.need("embeddings/sums").text("encoder")
    before = stored(own_flow.vectors())
    again = embed_pools(own_flow.store, identity, "tiny", own_flow.pools)
    assert (again.rows_computed, again.tokens) == ({"sums": 0, "towns": 0, "chat": 0}, 0)
    assert again.rows_reused == {"sums": 16, "towns": 10, "chat": 8}
    assert stored(own_flow.vectors()) == before and again.manifests == own_flow.embedded.manifests


def test_a_run_with_something_new_does_need_the_weights(own_flow, tmp_path: Path) -> None:
    line = {"messages": [{"role": "user", "content": "What is new?"}, {"role": "assistant", "content": "This."}]}
    (own_flow.root / "pools/chat/new.jsonl").write_text(json.dumps(line))
    clean_all(own_flow.root, own_flow.root / "home")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        embed_pools(own_flow.store, hide_weights(own_flow, tmp_path), "tiny", own_flow.pools)


def test_growth_embeds_only_what_is_new(own_flow) -> None:
    lines = [{"messages": [{"role": "user", "content": f"What is {n} less 1?"}, {"role": "assistant", "content": f"{n - 1}."}]} for n in (51, 52, 53)]
    (own_flow.root / "pools/sums/c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = stored(own_flow.vectors())
    clean_all(own_flow.root, own_flow.root / "home")
    made = embed_pools(own_flow.store, current_encoder(own_flow.store, own_flow.encoder), "tiny", own_flow.pools)
    assert made.rows_computed == {"sums": 3, "towns": 0, "chat": 0} and made.rows_reused == {"sums": 16, "towns": 10, "chat": 8}
    after = stored(own_flow.vectors())
    assert list(after)[:34] == list(before) and len(after) == 37 and before.items() <= after.items()
    assert made.manifests["towns"] == own_flow.embedded.manifests["towns"]


def test_pools_can_be_embedded_one_by_one(flow, tmp_path: Path) -> None:
    store = clean_all(flow.root, tmp_path)
    _, identity = register_encoder(store, flow.encoder)
    assert embed_pools(store, identity, "tiny", ["towns"]).rows_computed == {"towns": 10}
    assert store.manifest("embeddings/sums") is None
    assert embed_pools(store, identity, "tiny", ["chat", "sums", "towns"]).rows_computed == {"chat": 8, "sums": 16, "towns": 0}
    assert stored(VectorStore(store.layout, identity.fingerprint, identity.dims)) == stored(flow.vectors())


def test_each_encoder_has_a_table_of_its_own(own_flow) -> None:
    before = stored(own_flow.vectors())
    _, mean = register_encoder(own_flow.store, replace(own_flow.encoder, pooling="mean"))
    assert embed_pools(own_flow.store, mean, "tiny", own_flow.pools).rows_computed == {"sums": 16, "towns": 10, "chat": 8}
    other = stored(own_flow.vectors())
    assert sorted(other) == sorted(before) and all(other[i] != before[i] for i in before)
    _, first = register_encoder(own_flow.store, own_flow.encoder)
    assert embed_pools(own_flow.store, first, "tiny", own_flow.pools).rows_computed == {"sums": 0, "towns": 0, "chat": 0}


def test_a_pool_without_a_kept_example_has_a_manifest_and_no_vector(flow, tmp_path: Path) -> None:
    shutil.copytree(flow.root / "pools", tmp_path / "pools")
    for other in ("sums", "towns"):
        shutil.rmtree(tmp_path / "pools" / other)
    (tmp_path / "pools/chat/new/c.jsonl").write_text('{"messages": []}\n')
    vectors, made = embed_all(tmp_path, tmp_path / "home", flow.encoder)
    assert made.manifests["chat"].counts.kept == 0 and vectors.num_rows() == 0


# ---- after a kill ------------------------------------------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from rds_dagster.embeddings import embed_pools as stage
from rds_dagster.embeddings.identity import TINY_FOLDER
from rds_dagster.embeddings.register import register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

append = VectorStore.append

def append_and_wait(self, *chunk):
    append(self, *chunk)
    print("a chunk is written", flush=True)
    time.sleep(60)

VectorStore.append = append_and_wait
stage.CHUNK_ROWS = 5
store = TableStore(Layout(Path(sys.argv[1])))
_, identity = register_encoder(store, EncoderSettings("tiny", sys.argv[2], dtype="float32"))
stage.embed_pools(store, identity, "tiny", ["sums", "towns", "chat"])
"""


def test_a_run_killed_halfway_goes_on_from_its_last_chunk(flow, tmp_path: Path, start_process: Callable) -> None:
    store = clean_all(flow.root, tmp_path)
    process = start_process(KILLED, tmp_path, flow.encoder.model)
    process.kill()
    process.wait()
    _, identity = register_encoder(store, flow.encoder)
    vectors = VectorStore(store.layout, identity.fingerprint, identity.dims)
    there = stored(vectors)
    assert 5 <= len(there) < 34 and store.manifest("embeddings/sums") is None
    made = embed_pools(store, identity, "tiny", flow.pools)
    assert sum(made.rows_computed.values()) == 34 - len(there) and sum(made.rows_reused.values()) == len(there)
    whole = stored(vectors)
    assert list(whole)[: len(there)] == list(there)
    assert whole == stored(flow.vectors())  # bit for bit what an unbroken run wrote


def test_chunks_hold_rows_in_id_order_and_their_sizes_do_not_matter(flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rds_dagster.embeddings.embed_pools.CHUNK_ROWS", 7)
    vectors, _ = embed_all(flow.root, tmp_path, flow.encoder)
    assert stored(vectors) == stored(flow.vectors())
    ids, whole = vectors.ids(), flow.vectors().ids()
    assert np.array_equal(whole, np.sort(whole)) and not np.array_equal(ids, whole)  # one chunk holds all of the small pools, or several do


# ---- beside the model --------------------------------------------------------------------------------------------------------------------------------


def test_the_model_goes_on_while_a_chunk_is_written(flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rds_dagster.embeddings.embed_pools.CHUNK_ROWS", 5)
    went_on, append, encode_stream = Event(), VectorStore.append, Encoder.encode_stream
    started: list[int] = []

    def append_when_the_model_went_on(self: VectorStore, *chunk: object) -> None:
        started.append(len(chunk[0]))
        assert went_on.wait(60), "the model waits for the first chunk to be written"
        append(self, *chunk)

    def watched(self: Encoder, *args: object, **kwargs: object) -> Iterator[EncodedBatch]:
        for batch in encode_stream(self, *args, **kwargs):
            if started:
                went_on.set()
            yield batch

    monkeypatch.setattr(VectorStore, "append", append_when_the_model_went_on)
    monkeypatch.setattr(Encoder, "encode_stream", watched)
    vectors, _ = embed_all(flow.root, tmp_path, replace(flow.encoder, batch_tokens=96))
    assert went_on.is_set() and started[0] < 34 == sum(started) == vectors.num_rows()


def test_an_error_in_writing_stops_the_run_and_what_was_written_stays(flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rds_dagster.embeddings.embed_pools.CHUNK_ROWS", 5)
    append, written = VectorStore.append, []

    def append_once(self: VectorStore, *chunk: object) -> None:
        if written:
            raise StateError("the disk is full")
        append(self, *chunk)
        written.append(len(chunk[0]))

    monkeypatch.setattr(VectorStore, "append", append_once)
    store = clean_all(flow.root, tmp_path)
    _, identity = register_encoder(store, replace(flow.encoder, batch_tokens=96))
    with pytest.raises(StateError, match="the disk is full"):
        embed_pools(store, identity, "tiny", flow.pools)
    assert VectorStore(store.layout, identity.fingerprint, identity.dims).num_rows() == written[0] and store.manifest("embeddings/sums") is None


def test_an_error_in_encoding_is_raised_when_the_chunk_before_it_is_written(flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rds_dagster.embeddings.embed_pools.CHUNK_ROWS", 5)
    encode_stream = Encoder.encode_stream

    def breaks_off(self: Encoder, *args: object, **kwargs: object) -> Iterator[EncodedBatch]:
        rows = 0
        for batch in encode_stream(self, *args, **kwargs):
            yield batch
            rows += len(batch.rows)
            if rows >= 5:
                raise StateError("the device is gone")

    monkeypatch.setattr(Encoder, "encode_stream", breaks_off)
    store = clean_all(flow.root, tmp_path)
    _, identity = register_encoder(store, replace(flow.encoder, batch_tokens=96))
    with pytest.raises(StateError, match="the device is gone"):
        embed_pools(store, identity, "tiny", flow.pools)
    assert 5 <= VectorStore(store.layout, identity.fingerprint, identity.dims).num_rows() < 34


# ---- refused -----------------------------------------------------------------------------------------------------------------------------------------


def test_an_example_without_a_text_is_refused(flow, tmp_path: Path) -> None:
    shutil.copytree(flow.root / "pools", tmp_path / "pools")
    store = clean_all(tmp_path, tmp_path / "home")
    file = tmp_path / "pools/towns/all.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[2:]))
    towns = PoolSettings("towns", "pools/towns")
    record_pool(store, towns, root=tmp_path)
    clean_pool(store, towns, CleaningSettings(), root=tmp_path)  # and unique/* is as before
    _, identity = register_encoder(store, flow.encoder)
    with pytest.raises(StateError, match=r"2 examples of unique/\* have no text in clean/\*; run `rds run` to bring both to one state"):
        embed_pools(store, identity, "tiny", ["towns"])
    assert store.manifest("embeddings/towns") is None


def test_a_pool_that_is_not_unified_is_refused(tiny_encoder: EncoderSettings, tmp_path: Path) -> None:
    store = TableStore(Layout(tmp_path))
    _, identity = register_encoder(store, tiny_encoder)
    with pytest.raises(StateError, match="unique/sums is not materialized yet"):
        embed_pools(store, identity, "tiny", ["sums"])
