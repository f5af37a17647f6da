"""Which assets are stale, and why: what Dagster says, what the manifests say, and what changed outside.

An asset is stale if Dagster says so, or its manifest is missing, or the manifest is not what Dagster recorded (a run was killed
between the two), or the files that it was made from changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG, CachingStaleStatusResolver, StaleCause, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.event_log.base import AssetRecord

from rds_dagster.runs.loading import LoadedProject
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

MISSING = "never materialized"


@dataclass(frozen=True)
class Staleness:
    """``stale``: key -> reasons, for assets that can be made anew now or once what is above them is; ``following``: what stands below them."""

    stale: dict[dg.AssetKey, tuple[str, ...]]
    following: frozenset[dg.AssetKey]


def find_stale(project: LoadedProject, instance: dg.DagsterInstance, changed: dict[str, str]) -> Staleness:
    """Compare what is stored with what is recorded; ``changed`` is what looking.changed_outside found."""
    keys, context = project.graph.toposorted_asset_keys, LoadingContextForTest(instance)
    records = AssetRecord.blocking_get_many(context, keys)  # all in one query; the resolver finds them in the context
    resolver = CachingStaleStatusResolver(instance, project.graph, context)
    manifests = {manifest.key: manifest for manifest in TableStore(project.layout).all_manifests()}  # one by one, unique/*'s file is read for each pool
    stale = {}
    for key, record in zip(keys, records, strict=True):
        name = key.to_user_string()
        reasons = tuple(_reasons(key, resolver, _recorded_version(record), manifests.get(name), project.layout, changed.get(name)))
        if reasons:
            stale[key] = reasons
    return Staleness(stale, frozenset(descendants(project, stale) - stale.keys()))


def descendants(project: LoadedProject, keys: object) -> set[dg.AssetKey]:
    """Everything downstream of the given keys, themselves left out unless they stand below one another."""
    found: set[dg.AssetKey] = set()
    waiting = list(keys)  # type: ignore[call-overload]
    while waiting:
        children = project.graph.get(waiting.pop()).child_keys - found
        found |= children
        waiting.extend(children)
    return found


def _reasons(
    key: dg.AssetKey, resolver: CachingStaleStatusResolver, recorded: str | None, manifest: Manifest | None, layout: Layout, changed: str | None
) -> list[str]:
    status = resolver.get_status(key)
    if status == StaleStatus.MISSING:
        return [MISSING]
    found = [changed] if changed else []
    if status == StaleStatus.STALE:
        found += sorted({_in_words(cause, key) for cause in resolver.get_stale_root_causes(key)})  # what the UI's badge says
    if manifest is None:
        return [*found, "what it made is gone"]
    if any(not (layout.home / file.path).exists() for file in manifest.files):
        found.append("a file that it made is gone")
    if recorded != manifest.fingerprint:
        found.append("what is stored is newer than Dagster's record")
    return found


def _recorded_version(record: AssetRecord | None) -> str | None:
    """The data version of the latest materialization."""
    made = record.asset_entry.last_materialization if record else None
    return (made.tags or {}).get(DATA_VERSION_TAG) if made else None


def _in_words(cause: StaleCause, key: dg.AssetKey) -> str:
    return cause.reason if cause.asset_key == key else f"{cause.asset_key.to_user_string()} {cause.reason}"
