"""Whether the pools can supply what mixtures ask for: known once unique/* are fresh, before anything is embedded or scored."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import dagster as dg

from rds_dagster.errors import BudgetError
from rds_dagster.mixtures.candidates import read_candidates
from rds_dagster.runs.loading import LoadedProject
from rds_dagster.runs.staleness import Staleness, descendants
from rds_dagster.storage.tables import TableStore


def refused_budgets(
    project: LoadedProject, staleness: Staleness, chosen: AbstractSet[dg.AssetKey], held_back: AbstractSet[dg.AssetKey]
) -> dict[dg.AssetKey, str]:
    """Mixture -> the BudgetError that making it would raise; of the chosen ones that may be made, where nothing can change unique/* of their pools any more.

    ``held_back`` will not be made in this walk.
    """
    store, refused = TableStore(project.layout), {}
    moving = staleness.stale.keys() | descendants(project, chosen & staleness.stale.keys())
    for settings in (mixture.settings for mixture in project.mixtures):
        key = dg.AssetKey(["mixtures", settings.name])
        if settings.allow_short or key not in chosen - held_back or key not in staleness.stale.keys() | staleness.following:
            continue
        pools = settings.pools or tuple(pool.name for pool in project.pools)
        unique = [store.manifest(f"unique/{pool}") for pool in pools if dg.AssetKey(["unique", pool]) not in moving]
        kept = [manifest.counts.kept for manifest in unique if manifest]
        if len(kept) == len(pools) and settings.budget > sum(kept):
            try:
                read_candidates(store, pools).refuse_budget(settings.name, settings.budget)
            except BudgetError as error:
                refused[key] = f"{type(error).__name__}: {error}"
    return refused
