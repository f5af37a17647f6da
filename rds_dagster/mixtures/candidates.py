"""The examples that a mixture may pick, in id order, with the pool that owns each and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rds_dagster.cleaning.places import coded
from rds_dagster.errors import BudgetError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.storage.ids import id_order, take_ids
from rds_dagster.storage.tables import TableStore


@dataclass(frozen=True, eq=False)
class Candidates:
    """ids (N,) S16 in order; pool (N,) int32 into ``pools``; source (N,) int32 into ``sources``, which are in the alphabet's order."""

    ids: np.ndarray
    pool: np.ndarray
    source: np.ndarray
    pools: tuple[str, ...]
    sources: tuple[str, ...]

    def refuse_budget(self, mixture: str, budget: int) -> None:
        """Raise BudgetError with the numbers by pool if fewer examples are there than the budget."""
        if budget <= len(self.ids):
            return
        counts = np.bincount(self.pool, minlength=len(self.pools))
        by_pool = ", ".join(f"{pool} {count:,}" for pool, count in zip(self.pools, counts, strict=True))
        raise BudgetError(
            f"mixture {mixture!r} asks for {budget:,} examples; its {len(self.pools)} pools hold {len(self.ids):,} unique ones ({by_pool}). "
            f"Set budget <= {len(self.ids)}, add a folder under assets/pools, or set allow_short: true"
        )


def read_candidates(store: TableStore, pools: Sequence[str]) -> Candidates:
    """What unique/* of the given pools keep."""
    manifests = [store.need(f"unique/{pool}") for pool in pools]
    counts = [manifest.rows("kept") for manifest in manifests]
    ids, at = np.empty(sum(counts), ID_DTYPE), 0  # as stored, pool by pool
    for manifest, count in zip(manifests, counts, strict=True):
        ids[at : at + count] = store.ids(manifest, "kept")
        at += count
    names, source = coded((batch.column(0) for manifest in manifests for batch in store.stream(manifest, "kept", ["source"])), len(ids))
    order = id_order(ids)
    pool = np.repeat(np.arange(len(pools), dtype=np.int32), counts)
    return Candidates(take_ids(ids, order), pool[order], source[order], tuple(pools), tuple(names))
