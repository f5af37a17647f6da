"""Vectors for every kept example that has none yet: assets embeddings/<pool>. One pass serves all stale pools.

Rows are written in chunks, by a thread beside the model; after a kill the next run goes on from the last one written. The model is not loaded
when nothing is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType

import numpy as np

from rds_dagster.cleaning.texts import stream_conversations
from rds_dagster.embeddings.encoder import EncodedBatch, Encoder, load_encoder
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.progress import Progress
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, fingerprint
from rds_dagster.pools.render import render
from rds_dagster.storage.ids import positions_in
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore, make_recipe
from rds_dagster.storage.vectors import VectorStore

CODE = 1  # raise when an embeddings manifest would change for equal inputs
CHUNK_ROWS = 4096  # rows of one commit, unless CHUNK_S seconds are over sooner: a kill costs at most one that fills and one that is being written
CHUNK_S = 20.0


@dataclass(frozen=True)
class EmbeddedPools:
    """What came of it: manifests by pool, rows and tokens computed, rows found stored, by pool."""

    manifests: dict[str, Manifest]
    rows_computed: dict[str, int]
    rows_reused: dict[str, int]
    tokens: int


def embed_pools(store: TableStore, encoder: EncoderIdentity, encoder_name: str, pools: Sequence[str], *, model: Encoder | None = None) -> EmbeddedPools:
    """Make embeddings/<pool> current for the given pools; ``model`` is ``encoder`` loaded, for a caller that has it at hand."""
    assert model is None or model.identity.fingerprint == encoder.fingerprint, "another encoder's model"
    vectors = VectorStore(store.layout, encoder.fingerprint, encoder.dims)
    with vectors.writing():
        unique = {pool: store.need(f"unique/{pool}") for pool in pools}
        missing = _missing(store, vectors, unique)
        tokens = _embed_missing(store, model or load_encoder(encoder), vectors, missing) if any(len(ids) for ids in missing.values()) else 0
    manifests = {}
    for pool in pools:
        owned = unique[pool].rows("kept")
        parents = {unique[pool].key: unique[pool].fingerprint, f"encoders/{encoder_name}": encoder.fingerprint}
        recipe = make_recipe("embeddings", CODE, {}, parents)
        manifests[pool] = Manifest(
            key=f"embeddings/{pool}",
            fingerprint=fingerprint("embeddings", encoder.fingerprint, unique[pool].fingerprint),
            recipe=recipe,
            settings={},
            parents=parents,
            counts=Counts(owned, owned),
            details={"encoder": encoder.fingerprint, "dims": encoder.dims},
        )
        store.commit([manifests[pool]])
    computed = {pool: len(ids) for pool, ids in missing.items()}
    return EmbeddedPools(manifests, computed, {pool: unique[pool].rows("kept") - computed[pool] for pool in pools}, tokens)


def _missing(store: TableStore, vectors: VectorStore, unique: dict[str, Manifest]) -> dict[str, np.ndarray]:
    """The ids that each pool keeps and that have no vector yet, sorted; beside them the stored ids and one pool's are held, and no longer than this."""
    stored = vectors.ids()
    stored.sort()  # in place
    missing = {}
    for pool, manifest in unique.items():
        ids = store.ids(manifest, "kept")
        ids.sort()
        missing[pool] = ids[~positions_in(stored, ids)[1]] if len(stored) else ids
    return missing


@dataclass
class _Chunk:
    """Rows that are encoded and not yet handed to the writer."""

    parts: list[EncodedBatch] = field(default_factory=list)
    rows: int = 0


class _Writer:
    """Appends chunks to ``vectors`` in a thread, one at a time, while the next one fills; use it in a ``with``, which ends when all is written.

    An error in writing is raised by whichever call comes next, in a failed ``with`` it stays behind the error that ended that.
    """

    def __init__(self, vectors: VectorStore, ids: np.ndarray, model: Encoder) -> None:
        self._vectors = vectors
        self._ids = ids
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self._wait()

    def put(self, chunk: _Chunk) -> None:
        """Write a chunk when the one before is written; waits for that."""
        self._wait()
        self._writing = self._thread.submit(self._write, chunk)

    def check(self) -> None:
        """Raise the error of a chunk that could not be written, if it is known by now."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, chunk: _Chunk) -> None:
        rows = np.concatenate([part.rows for part in chunk.parts])
        order = np.argsort(rows)
        made = np.concatenate([part.vectors for part in chunk.parts])[order].astype(np.float16)
        self._vectors.append(self._ids[rows[order]], made, np.concatenate([part.num_tokens for part in chunk.parts])[order], self._model.made_on)


def _embed_missing(store: TableStore, model: Encoder, vectors: VectorStore, missing: dict[str, np.ndarray]) -> int:
    """Encode and store the missing examples; returns tokens embedded."""
    ids = np.concatenate(list(missing.values()))  # (N,) S16
    ids.sort()  # in place
    chunk, tokens, found, began = _Chunk(), 0, np.zeros(len(ids), bool), monotonic()
    with Progress("embed", total=len(ids)) as progress, _Writer(vectors, ids, model) as writer:
        for batch in model.encode_stream(_texts(store, model.identity, missing, ids, found), progress=progress):
            chunk.parts.append(batch)
            chunk.rows += len(batch.rows)
            tokens += int(batch.num_tokens.sum())
            writer.check()
            if chunk.rows >= CHUNK_ROWS or monotonic() - began >= CHUNK_S:
                writer.put(chunk)
                chunk, began = _Chunk(), monotonic()
        if chunk.rows:
            writer.put(chunk)
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
