"""The examples that a mixture may pick, in id order, with the pool that owns each and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_dagster.errors import BudgetError
from rds_dagster.storage.tables import TableStore, id_array


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
    tables = [store.read(store.need(f"unique/{pool}"), "kept", ["id", "source"]) for pool in pools]
    names = sorted({name for table in tables for name in pc.unique(table.column("source")).to_pylist()})
    ids = np.concatenate([id_array(table.column("id")) for table in tables])
    pool = np.repeat(np.arange(len(pools), dtype=np.int32), [table.num_rows for table in tables])
    codes = [pc.index_in(table.column("source"), pa.array(names, pa.string())).to_numpy() for table in tables]
    order = np.argsort(ids)
    return Candidates(ids[order], pool[order], np.concatenate(codes)[order].astype(np.int32), tuple(pools), tuple(names))
