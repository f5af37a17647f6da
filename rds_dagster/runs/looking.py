"""What changed outside Dagster: files of pools, queries and test items of tasks, the encoder's folder (not the hub), the whitening's file.

Reads stats and small files only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from rds_dagster.embeddings.embed_queries import query_content, test_content
from rds_dagster.embeddings.identity import is_on_hub
from rds_dagster.embeddings.register import encoder_content
from rds_dagster.embeddings.whitening_file import whitening_content, whitening_key, whitening_path
from rds_dagster.errors import InputError, MissingExtraError, SettingsError
from rds_dagster.pools.look import pool_state
from rds_dagster.runs.loading import LoadedProject
from rds_dagster.storage.tables import TableStore


def changed_outside(project: LoadedProject, *, verify: bool = False) -> dict[str, str]:
    """Asset key -> reason, for assets that were made from files that are different now; only assets that were made before."""
    return dict(_changes(project, TableStore(project.layout), verify=verify))


def _changes(project: LoadedProject, store: TableStore, *, verify: bool) -> Iterator[tuple[str, str]]:
    for pool in project.pools:
        state = partial(pool_state, project.layout, pool.settings, root=project.folder, verify=verify)
        yield from _change(store, f"raw/{pool.name}", state, "the pool's files changed", "state")
    encoder = project.corpus.encoder_settings
    if not is_on_hub(encoder):  # looking must not need a network
        yield from _change(store, f"encoders/{encoder.name}", partial(encoder_content, project.layout, encoder), "the encoder's files changed", "content")
    if encoder.whiten:
        content = partial(whitening_content, whitening_path(project.folder, encoder.name))
        yield from _change(store, whitening_key(encoder.name), content, "the whitening's file changed")
    for task in project.tasks:
        yield from _change(store, f"queries/{task.name}", partial(query_content, task.settings, root=project.folder), "the task's queries changed", "content")
        yield from _change(store, f"test_items/{task.name}", partial(test_content, task.settings, root=project.folder), "the task's test items changed")


def _change(store: TableStore, key: str, content: Callable[[], str], reason: str, detail: str | None = None) -> Iterator[tuple[str, str]]:
    """The asset with the reason if its content is not what was recorded (as its fingerprint, or as the detail named), or cannot be read any more."""
    made = store.manifest(key)
    if made is None:
        return
    try:
        changed = content() != (made.fingerprint if detail is None else made.details.get(detail))
    except (InputError, SettingsError, MissingExtraError) as error:  # making the asset will fail with it, and hold back only what stands below
        yield key, str(error)
    else:
        if changed:
            yield key, reason
