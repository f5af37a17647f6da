"""The examples that a mixture may pick, in id order, with the pool that owns each and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rds_dagster.cleaning.unique import owned_ids
from rds_dagster.errors import BudgetError
from rds_dagster.storage.tables import TableStore, id_array, positions_in


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
    ids = owned_ids(store, pools)
    pool, source = np.empty(len(ids), np.int32), np.empty(len(ids), np.int32)
    numbers: dict[str, int] = {}  # source -> its number in the order of appearance
    for number, name in enumerate(pools):
        for batch in store.stream(store.need(f"unique/{name}"), "kept", ["id", "source"]):
            rows, _ = positions_in(ids, id_array(batch.column("id")))
            coded = batch.column("source").dictionary_encode()
            own = np.array([numbers.setdefault(name, len(numbers)) for name in coded.dictionary.to_pylist()], np.int32)
            pool[rows], source[rows] = number, own[coded.indices.to_numpy()]
    names = sorted(numbers)
    rank = np.empty(len(names), np.int32)
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    return Candidates(ids, pool, rank[source], tuple(pools), tuple(names))
