"""Vectors for every kept example that has none yet: assets embeddings/<pool>. One pass serves all stale pools.

Rows are written in chunks; after a kill the next run goes on from the last one. The model is not loaded when nothing is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from rds_dagster.cleaning.texts import stream_conversations
from rds_dagster.embeddings.encoder import EncodedBatch, load_encoder
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.progress import Progress
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, fingerprint
from rds_dagster.pools.render import render
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, make_recipe, positions_in
from rds_dagster.storage.vectors import VectorStore

CODE = 1  # raise when an embeddings manifest would change for equal inputs
CHUNK_ROWS = 4096  # rows of one commit, unless CHUNK_S seconds are over sooner: what a kill can cost at most
CHUNK_S = 20.0


@dataclass(frozen=True)
class EmbeddedPools:
    """What came of it: manifests by pool, rows and tokens computed, rows found stored, by pool."""

    manifests: dict[str, Manifest]
    rows_computed: dict[str, int]
    rows_reused: dict[str, int]
    tokens: int


def embed_pools(store: TableStore, encoder: EncoderIdentity, encoder_name: str, pools: Sequence[str]) -> EmbeddedPools:
    """Make embeddings/<pool> current for the given pools."""
    vectors = VectorStore(store.layout, encoder.fingerprint, encoder.dims)
    with vectors.writing():
        unique = {pool: store.need(f"unique/{pool}") for pool in pools}
        owned = {pool: np.sort(store.ids(manifest, "kept")) for pool, manifest in unique.items()}
        stored = np.sort(vectors.ids())
        missing = {pool: ids[~positions_in(stored, ids)[1]] for pool, ids in owned.items()}
        tokens = _embed_missing(store, encoder, vectors, missing) if any(len(ids) for ids in missing.values()) else 0
    manifests = {}
    for pool, ids in owned.items():
        parents = {unique[pool].key: unique[pool].fingerprint, f"encoders/{encoder_name}": encoder.fingerprint}
        recipe = make_recipe("embeddings", CODE, {}, parents)
        manifests[pool] = Manifest(
            key=f"embeddings/{pool}",
            fingerprint=fingerprint("embeddings", encoder.fingerprint, unique[pool].fingerprint),
            recipe=recipe,
            settings={},
            parents=parents,
            counts=Counts(len(ids), len(ids)),
            details={"encoder": encoder.fingerprint, "dims": encoder.dims},
        )
        store.commit([manifests[pool]])
    computed = {pool: len(ids) for pool, ids in missing.items()}
    return EmbeddedPools(manifests, computed, {pool: len(owned[pool]) - computed[pool] for pool in owned}, tokens)


@dataclass
class _Chunk:
    """Rows that are encoded and not yet written."""

    parts: list[EncodedBatch] = field(default_factory=list)
    rows: int = 0


def _embed_missing(store: TableStore, encoder: EncoderIdentity, vectors: VectorStore, missing: dict[str, np.ndarray]) -> int:
    """Encode and store the missing examples; returns tokens embedded."""
    ids = np.sort(np.concatenate(list(missing.values())))  # (N,) S16
    model = load_encoder(encoder)
    chunk, tokens, found, began = _Chunk(), 0, np.zeros(len(ids), bool), monotonic()
    with Progress("embed", total=len(ids)) as progress:
        for batch in model.encode_stream(_texts(store, encoder, missing, ids, found), progress=progress):
            chunk.parts.append(batch)
            chunk.rows += len(batch.rows)
            tokens += int(batch.num_tokens.sum())
            if chunk.rows >= CHUNK_ROWS or monotonic() - began >= CHUNK_S:
                _write(vectors, ids, chunk, model.made_on)
                chunk, began = _Chunk(), monotonic()
        if chunk.rows:
            _write(vectors, ids, chunk, model.made_on)
    if not found.all():
        raise StateError(f"{int((~found).sum()):,} examples of unique/* have no text in clean/*; run `rds run` to bring both to one state")
    return tokens


def _texts(store: TableStore, encoder: EncoderIdentity, missing: dict[str, np.ndarray], ids: np.ndarray, found: np.ndarray) -> Iterator[tuple[int, str]]:
    """(row in ``ids``, rendered text) of every missing example, pool by pool; marks in ``found`` what came."""
    for pool, wanted in missing.items():
        if not len(wanted):
            continue
        for example, messages in stream_conversations(store, store.need(f"clean/{pool}"), wanted):
            row = int(np.searchsorted(ids, np.array(example, ID_DTYPE)))
            found[row] = True
            yield row, render(messages, what=encoder.what, eos=encoder.eos)


def _write(vectors: VectorStore, ids: np.ndarray, chunk: _Chunk, made_on: str) -> None:
    rows = np.concatenate([part.rows for part in chunk.parts])
    order = np.argsort(rows)
    made = np.concatenate([part.vectors for part in chunk.parts])[order].astype(np.float16)
    vectors.append(ids[rows[order]], made, np.concatenate([part.num_tokens for part in chunk.parts])[order], made_on)
