"""What changed outside Dagster: files of pools, queries and test items of tasks, the encoder's folder. Reads stats and small files only."""

from __future__ import annotations

from collections.abc import Iterator

from rds_dagster.embeddings.embed_queries import query_content, test_content
from rds_dagster.pools.look import look, raw_fingerprint
from rds_dagster.runs.loading import LoadedProject
from rds_dagster.storage.tables import TableStore


def changed_outside(project: LoadedProject, *, verify: bool = False) -> dict[str, str]:
    """Asset key -> reason, for assets that were made from files that are different now; only assets that were made before."""
    return dict(_changes(project, TableStore(project.layout), verify=verify))


def _changes(project: LoadedProject, store: TableStore, *, verify: bool) -> Iterator[tuple[str, str]]:
    for pool in project.pools:
        made = store.manifest(f"raw/{pool.name}")
        if made and raw_fingerprint(look(project.layout, pool.settings, root=project.folder, verify=verify)) != made.fingerprint:
            yield made.key, "the pool's files changed"
    for task in project.tasks:
        made = store.manifest(f"queries/{task.name}")
        if made and query_content(task.settings, root=project.folder) != made.details["content"]:
            yield made.key, "the task's queries changed"
        made = store.manifest(f"test_items/{task.name}")
        if made and test_content(task.settings, root=project.folder) != made.fingerprint:
            yield made.key, "the task's test items changed"
