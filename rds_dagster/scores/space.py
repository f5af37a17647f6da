"""The space in which cosines are taken: the vectors of one encoder as they are stored, or whitened; examples and queries alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rds_dagster.embeddings.whitening import Whitening
from rds_dagster.embeddings.whitening_file import recorded_whitening
from rds_dagster.errors import StateError
from rds_dagster.scores.blocks import Block, read_block
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore


@dataclass(frozen=True, eq=False)
class Space:
    """``recorded``: the manifest of whitening/<name>, None where the vectors are scored as they are stored; ``whitening``: what it holds."""

    vectors: VectorStore
    recorded: Manifest | None = None
    whitening: Whitening | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """Fingerprints of what makes the space: the encoder and, if there is one, the whitening."""
        return (self.vectors.encoder, *([self.recorded.fingerprint] if self.recorded else []))

    def read(self, block: Block, into: np.ndarray | None = None) -> np.ndarray:
        """The block's live vectors in id order: (n, D) float16 as stored, or (n, d) float32, whitened; ``into`` as ``read_block`` takes it."""
        stored = read_block(self.vectors, block, into)
        return stored if self.whitening is None else self.whitening.apply(stored)

    def queries(self, vectors: np.ndarray) -> np.ndarray:
        """The vectors of a query set, (M, D) float32 as stored with it, in this space: (M, D) or (M, d) float32."""
        return vectors if self.whitening is None else self.whitening.apply(vectors)


def open_space(store: TableStore, embeddings: Sequence[Manifest], whitening: Manifest | None = None) -> Space:
    """The space of embeddings/* and whitening/<name>; raises StateError if they stem from different encoders."""
    vectors = vector_store(store, embeddings)
    if whitening is None:
        return Space(vectors)
    if whitening.text("encoder") != vectors.encoder:
        raise StateError(
            f"{whitening.key} was fitted on vectors of encoder {whitening.text('encoder')[:8]}, the pools were embedded by {vectors.encoder[:8]}; "
            "run `rds run 'embeddings/*'` to bring them to one, or `rds fit-whitening --force`"
        )
    return Space(vectors, whitening, recorded_whitening(store, whitening))


def vector_store(store: TableStore, embeddings: Sequence[Manifest]) -> VectorStore:
    """The vectors behind embeddings/*; raises StateError if pools were embedded by different encoders."""
    encoders = {(m.text("encoder"), m.number("dims")) for m in embeddings}
    if len(encoders) != 1:
        raise StateError(f"embeddings/* stem from {len(encoders)} encoders; run `rds run 'embeddings/*'` to bring all pools to one")
    ((encoder, dims),) = encoders
    return VectorStore(store.layout, encoder, dims)
