"""Noticing what changes outside Dagster: files of pools and tasks, of the encoder and its whitening, and the promises of checks.

watch_files             names, sizes and times only; asks for the asset that looks at a file once the file has come to rest
check_again             asks for blocking checks whose promise was mended, or that a killed run left out
look_at_object_stores   a schedule, since listing a store costs requests
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation

from rds_dagster.components.automation import REFRESH
from rds_dagster.components.check_outcomes import latest_evaluations
from rds_dagster.components.checks import PROMISE
from rds_dagster.embeddings.identity import is_on_hub, model_files, resolve_model
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.embeddings.whitening_file import whitening_key, whitening_path
from rds_dagster.errors import InputError, MissingExtraError, SettingsError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools.addresses import local_path
from rds_dagster.pools.files import PoolFile, list_files
from rds_dagster.pools.look import recorded_files
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.project import project_folder
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

WATCH, CHECK_AGAIN, LOOK_AT_STORES = "watch_files", "check_again", "look_at_object_stores"
WATCH_INTERVAL_S = 15
CHECK_INTERVAL_S = 30
QUIET_S = 5.0  # a file written to within this time may still be growing; it must also look the same at two ticks
RETRY_S = 600.0  # the same files are not asked for again within this time after a run on them failed
STORES_CRON = "23 * * * *"

Listing = Callable[[Path], list[PoolFile]]


@dataclass(frozen=True)
class WatchedFiles:
    """The local files behind one asset, and how to list them; raises InputError, SettingsError or MissingExtraError where that fails."""

    key: str
    listing: Listing

    @property
    def is_pool(self) -> bool:
        """A pool's manifest says which files it was made from; other assets do not, and may run the encoder when they are made."""
        return self.key.startswith("raw/")


@dataclass(frozen=True)
class Source:
    """Where one asset's files lie: paths, globs, folders or addresses."""

    key: str
    addresses: tuple[str, ...]

    @property
    def is_remote(self) -> bool:
        """Whether any of them lies in an object store or another remote file system."""
        return any(local_path(address) is None for address in self.addresses)

    def listing(self, root: Path) -> list[PoolFile]:
        """Its files as they are now; raises as ``list_files`` does."""
        return list_files(self.addresses, root=root)


@dataclass
class WatchCursor:
    """What the watcher remembers from tick to tick; asset key -> state of its files.

    ``seen`` at the last tick; ``known`` to be what the asset was made from (not for pools: their manifests say); ``asked``: for which state, and after
    which materialization, a run was asked for last.
    """

    seen: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)


def watchers(pools: Sequence[PoolSettings], tasks: Sequence[TaskSettings], encoder: EncoderSettings) -> dg.Definitions:
    """The sensors, and the schedule if anything lies in an object store."""
    watched = watched_files(pools, tasks, encoder)
    sensors = [_watch_files(watched)] if watched else []
    schedules = [_look_at_stores(remote)] if (remote := [source.key for source in _sources(pools, tasks) if source.is_remote]) else []
    return dg.Definitions(sensors=[*sensors, *([_check_again()] if pools else [])], schedules=schedules)


def watched_files(pools: Sequence[PoolSettings], tasks: Sequence[TaskSettings], encoder: EncoderSettings) -> list[WatchedFiles]:
    """What of a project lies in files of this machine."""
    watched = [WatchedFiles(source.key, source.listing) for source in _sources(pools, tasks) if not source.is_remote]
    if not is_on_hub(encoder):
        watched.append(WatchedFiles(f"encoders/{encoder.name}", partial(_encoder_files, encoder)))
    if encoder.whiten:
        watched.append(WatchedFiles(whitening_key(encoder.name), partial(_whitening_file, encoder.name)))
    return watched


def _sources(pools: Sequence[PoolSettings], tasks: Sequence[TaskSettings]) -> list[Source]:
    sources = [Source(f"raw/{pool.name}", (pool.source,) if isinstance(pool.source, str) else pool.source) for pool in pools]
    sources += [Source(f"queries/{task.name}", (task.queries,)) for task in tasks]
    return sources + [Source(f"test_items/{task.name}", (task.test_items,)) for task in tasks if task.test_items is not None]


def watch(
    watched: Sequence[WatchedFiles], instance: dg.DagsterInstance, root: Path, layout: Layout, cursor: WatchCursor, *, now_s: float
) -> tuple[list[str], dict[str, str], WatchCursor]:
    """One look: the keys to ask for, key -> why a changed one is left for later, and the next cursor. Reads names, sizes and times, and no content.

    An asset that was never made is left out: making it is not the watcher's to decide.
    """
    store, is_on = TableStore(layout), _is_refreshing(instance)
    entries = {r.asset_entry.asset_key.to_user_string(): r.asset_entry for r in instance.get_asset_records([_asset_key(one.key) for one in watched])}
    after, wanted, waiting = WatchCursor(), [], {}
    for one in watched:
        entry, manifest = entries.get(one.key), store.manifest(one.key)
        made = entry.last_materialization_storage_id if entry else None
        if made is None or entry is None or manifest is None:
            continue
        state, youngest_s = _now(one.listing, root)
        after.seen[one.key] = state
        asked = cursor.asked.get(one.key)
        known = _recorded_state(manifest) if one.is_pool else cursor.known.get(one.key, state)
        if not one.is_pool:
            if asked and asked[0] == state and asked[1] != made:
                known = state
            after.known[one.key] = known
        if state == known:
            continue
        if asked:
            after.asked[one.key] = asked
        if why := _reason_to_wait(state, cursor.seen.get(one.key), now_s - youngest_s) or _run_to_wait_for(instance, entry.last_run_id, asked, state, now_s):
            waiting[one.key] = why
        elif not one.is_pool and not is_on:
            waiting[one.key] = f"it changed, and {REFRESH} is off"
        else:
            wanted.append(one.key)
            after.asked[one.key] = (state, made)
    return wanted, waiting, after


def _watch_files(watched: Sequence[WatchedFiles]) -> dg.SensorDefinition:
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        said = json.loads(context.cursor) if context.cursor else {}
        cursor = WatchCursor(said.get("seen", {}), said.get("known", {}), {key: (state, made) for key, (state, made) in said.get("asked", {}).items()})
        root = project_folder()
        keys, waiting, after = watch(watched, context.instance, root, Layout.of_project(root), cursor, now_s=time.time())
        requests = [_request(context.instance, keys, after)] if keys else []
        told = "; ".join(f"{key}: {why}" for key, why in sorted(waiting.items())) or "no file changed"
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else dg.SkipReason(told), cursor=json.dumps(vars(after)))

    return dg.SensorDefinition(
        WATCH,
        evaluation_fn=evaluate,
        target=dg.AssetSelection.assets(*(_asset_key(one.key) for one in watched)),
        minimum_interval_seconds=WATCH_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Looks at names, sizes and times of the project's files, and records a pool's files anew once they changed and came to rest; "
            f"what may run the encoder (queries) is asked for only while {REFRESH} is on."
        ),
    )


def _request(instance: dg.DagsterInstance, keys: Sequence[str], after: WatchCursor) -> dg.RunRequest:
    """One run for all of them. Dagster never starts a run key twice: it holds the last materialization and the last run beside the files' state,
    so that files which come back, and those whose run failed, are asked for again.
    """
    records = instance.get_asset_records([_asset_key(key) for key in keys])
    last = {r.asset_entry.asset_key.to_user_string(): (r.asset_entry.last_materialization_storage_id, r.asset_entry.last_run_id) for r in records}
    run_key = fingerprint(WATCH, [(key, after.asked[key][0], last[key]) for key in sorted(keys)])
    return dg.RunRequest(run_key=run_key, asset_selection=[_asset_key(key) for key in sorted(keys)])


def _check_again() -> dg.SensorDefinition:
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not _is_refreshing(context.instance):
            return dg.SensorResult(skip_reason=dg.SkipReason(f"{REFRESH} is off"))
        assert context.repository_def is not None, "the code server has it"
        found = checks_to_run_again(context.repository_def, context.instance)
        if not found:
            return dg.SensorResult(skip_reason=dg.SkipReason("no blocking check was mended or left out"))
        run_key = fingerprint(CHECK_AGAIN, sorted((key.to_user_string(), why) for key, why in found.items()))
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=run_key, asset_selection=[], asset_check_keys=sorted(found))])

    return dg.SensorDefinition(
        CHECK_AGAIN,
        evaluation_fn=evaluate,
        target=dg.AssetSelection.all_asset_checks(),
        minimum_interval_seconds=CHECK_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"While {REFRESH} is on: runs blocking checks again whose promise was mended in YAML, or that a killed run left out.",
    )


def checks_to_run_again(repository: dg.RepositoryDefinition, instance: dg.DagsterInstance) -> dict[dg.AssetCheckKey, str]:
    """Blocking checks that failed with another promise than they have now, or that never saw the latest materialization of their asset.

    Check -> what is new (the promise and the materialization), which is to be tried once. Checks of assets that are being made are left out.
    """
    graph = repository.asset_graph
    blocking = [key for key in graph.asset_check_keys if graph.get(key).blocking]
    said = latest_evaluations(instance, blocking)
    entries = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(list({key.asset_key for key in blocking}))}
    found = {}
    for key in blocking:
        entry = entries.get(key.asset_key)
        made = entry.last_materialization_storage_id if entry else None
        if entry is None or made is None or _is_running(instance, entry.last_run_id):
            continue
        promise = graph.get(key).metadata.get(PROMISE)
        latest = said.get(key)
        is_mended = latest is not None and not latest.passed and _promise(latest) != promise
        if is_mended or latest is None or _seen(latest) != made:
            found[key] = f"{promise} {made}"
    return found


def _look_at_stores(keys: Sequence[str]) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=LOOK_AT_STORES,
        cron_schedule=STORES_CRON,
        target=dg.AssetSelection.assets(*(_asset_key(key) for key in keys)),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Lists what lies in object stores once an hour; what is unchanged is neither read nor made again.",
    )


def _now(listing: Listing, root: Path) -> tuple[str, float]:
    """The state of the files, and when the youngest was written (seconds since 1970; 0 if it is not known); what cannot be listed is a state as well."""
    try:
        files = listing(root)
    except (InputError, MissingExtraError, SettingsError) as error:  # the asset fails with it, and shows it
        return fingerprint("unreadable", str(error)), 0.0
    return _state(files), max((int(file.stamp.split("-")[0]) for file in files), default=0) / 1e9


def _state(files: Iterable[PoolFile]) -> str:
    return fingerprint("listed", [(file.file, file.address, file.size, file.stamp) for file in files])


def _recorded_state(manifest: Manifest) -> str:
    return _state(raw.file for raw in recorded_files(manifest))


def _reason_to_wait(state: str, before: str | None, age_s: float) -> str | None:
    if state != before:
        return "it changed, and is left until it looks the same at two ticks"
    if 0 <= age_s < QUIET_S:  # a time in the future tells nothing
        return f"a file was written {age_s:.0f} s ago, and may still be growing"
    return None


def _run_to_wait_for(instance: dg.DagsterInstance, run_id: str | None, asked: tuple[str, int] | None, state: str, now_s: float) -> str | None:
    record = instance.get_run_record_by_id(run_id) if run_id else None
    if record is None:
        return None
    run = record.dagster_run
    if not run.is_finished:
        return f"run {run.run_id[:8]} is making it"
    since_s = now_s - (record.end_time or now_s)
    if not run.is_success and asked and asked[0] == state and since_s < RETRY_S:
        return f"run {run.run_id[:8]} on the same files failed {since_s:.0f} s ago; it is tried again after {RETRY_S:.0f} s, or once they change"
    return None


def _is_running(instance: dg.DagsterInstance, run_id: str | None) -> bool:
    run = instance.get_run_by_id(run_id) if run_id else None
    return run is not None and not run.is_finished


def _is_refreshing(instance: dg.DagsterInstance) -> bool:
    """Whether somebody switched on refresh_stale."""
    return any(state.name == REFRESH and state.is_running for state in instance.all_instigator_state())


def _promise(said: AssetCheckEvaluation) -> object:
    value = said.metadata.get(PROMISE)
    return value.value if value is not None else None


def _seen(said: AssetCheckEvaluation) -> int | None:
    return said.target_materialization_data.storage_id if said.target_materialization_data else None


def _asset_key(key: str) -> dg.AssetKey:
    return dg.AssetKey(key.split("/"))


def _encoder_files(encoder: EncoderSettings, root: Path) -> list[PoolFile]:
    return [_local_file(path) for path in model_files(resolve_model(encoder), encoder)]


def _whitening_file(encoder: str, root: Path) -> list[PoolFile]:
    return [_local_file(whitening_path(root, encoder))]


def _local_file(path: Path) -> PoolFile:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); put the file there again") from error
    return PoolFile(path.name, str(path), stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}")
