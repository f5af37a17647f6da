"""Materialize what is stale, and only that: frontier by frontier, one Dagster run each, until nothing is.

Dagster's "Unsynced" is not transitive (1.13): only what stands directly below a change is listed, and an upstream run may change
nothing. So after each run staleness is asked anew. Blocking checks hold only within one Dagster run, so before each frontier
whatever has a failed blocking check upstream is left out and named; the other branches go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.execution.execute_in_process_result import ExecuteInProcessResult

from rds_dagster.errors import SettingsError
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.orphans import free_orphans, process_tags
from rds_dagster.runs.staleness import descendants, find_stale

LOCK_TIMEOUT_S = 10.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
BARE_KEY = re.compile(r"""(?<![\w:"'/*])([a-z][a-z0-9_*]*(?:/[a-z0-9_*]+)+)(?!["'])""")

Say = Callable[[str], None]


@dataclass
class WalkResult:
    """What `rds run` did: keys made, keys that failed with their messages, keys left out because of a failed check or failure upstream."""

    made: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        """Whether everything stale was made."""
        return not self.failed and not self.blocked


def select(project: LoadedProject, selection: str | None) -> AbstractSet[dg.AssetKey]:
    """The assets that a selection means, widened to what can only be made together; raises SettingsError if it matches none.

    Dagster's selection syntax; a bare key such as ``mixtures/mine`` or ``clean/*`` stands for ``key:"..."``.
    """
    every = set(project.graph.materializable_asset_keys)
    if selection is None:
        return every
    written = BARE_KEY.sub(r'key:"\1"', selection)
    try:
        chosen = dg.AssetSelection.from_string(written).resolve(project.graph) & every
    except dg.DagsterError as error:
        raise SettingsError(
            f"the selection {selection!r} cannot be read: {error}. Try a key such as mixtures/NAME, a group such as group:clean, or +mixtures/NAME"
        ) from error
    if not chosen:
        groups = ", ".join(sorted(project.graph.all_group_names))
        raise SettingsError(f"the selection {selection!r} matches no asset; groups are {groups}; `rds status` lists the keys")
    for key in list(chosen):
        chosen = chosen | project.graph.get(key).execution_set_asset_keys
    return chosen


def run_stale(folder: Path, selection: str | None, say: Say, *, verify: bool = False) -> WalkResult:
    """What `rds run` does: under the project's lock, free orphaned runs, look at the pools, make what is stale."""
    project = load_project(folder)
    with project_lock(project.layout, LOCK_TIMEOUT_S), open_instance(project.layout) as instance:
        for run_id in free_orphans(instance):
            say(f"run {run_id[:8]} was killed; marked as failed")
        return walk(project, instance, selection, say, verify=verify)


def walk(project: LoadedProject, instance: dg.DagsterInstance, selection: str | None, say: Say, *, verify: bool = False) -> WalkResult:
    """Make everything stale in the selection; talks through ``say``. Never raises for a failing asset: see the result."""
    chosen = select(project, selection)
    result = WalkResult()
    given_up: set[dg.AssetKey] = set()
    changed = changed_outside(project, verify=verify)
    _check_again(project, instance, chosen, say)
    while True:
        staleness = find_stale(project, instance, changed)
        result.blocked = blocked_by_checks(project, instance, chosen & (staleness.stale.keys() | staleness.following))
        held_back = given_up | descendants(project, given_up) | {dg.AssetKey.from_user_string(name) for name in result.blocked}
        waiting = {key for key in staleness.stale if key in chosen} - held_back
        frontier = waiting - descendants(project, waiting)
        if not frontier:
            for key in (descendants(project, given_up) & chosen) - given_up:
                result.blocked.setdefault(key.to_user_string(), "something upstream failed")
            return result
        for key in sorted(frontier):
            say(f"  {key.to_user_string()}: {'; '.join(staleness.stale[key])}")
        run = _run(project, instance, frontier)
        given_up |= _record(run, frontier, result, changed, say)


def _check_again(project: LoadedProject, instance: dg.DagsterInstance, chosen: AbstractSet[dg.AssetKey], say: Say) -> None:
    """Run the failing blocking checks of the selection once more: their settings may have been mended."""
    failing = failing_blocking_checks(project, instance)
    names = {f"{key.asset_key.to_user_string()}:{key.name}": key for key in project.graph.asset_check_keys}
    checks = {names[check] for asset, check in failing.items() if asset in chosen and check in names}
    if checks:
        job = project.repository.get_implicit_global_asset_job_def().get_subset(asset_check_selection=checks)
        run = job.execute_in_process(instance=instance, raise_on_error=False, tags=process_tags(), run_config=QUIET)
        for evaluation in run.get_asset_check_evaluations():
            say(f"check {evaluation.asset_key.to_user_string()}:{evaluation.check_name} {'passes now' if evaluation.passed else 'still fails'}")


def blocked_by_checks(project: LoadedProject, instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[str, str]:
    """Asset -> why it may not run: the latest result of a blocking check on something upstream is a failure, of the data that is there now."""
    failing = failing_blocking_checks(project, instance)
    below = {down: check for key, check in failing.items() for down in descendants(project, [key])}
    return {key.to_user_string(): f"blocked by the failing check {below[key]}" for key in sorted(keys) if key in below}


def failing_blocking_checks(project: LoadedProject, instance: dg.DagsterInstance) -> dict[dg.AssetKey, str]:
    """Asset -> its blocking check whose latest run failed, as ``asset:check``."""
    blocking = [key for key in project.graph.asset_check_keys if project.graph.get(key).blocking]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(blocking)
    failing = {}
    for key, record in latest.items():
        event = record.event.dagster_event if record.event else None
        said = event.event_specific_data if event else None
        if isinstance(said, AssetCheckEvaluation) and not said.passed and said.severity == dg.AssetCheckSeverity.ERROR:
            failing[key.asset_key] = f"{key.asset_key.to_user_string()}:{key.name}"
    return failing


def _run(project: LoadedProject, instance: dg.DagsterInstance, frontier: set[dg.AssetKey]) -> ExecuteInProcessResult:
    job = project.repository.get_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=sorted(frontier), raise_on_error=False, tags=process_tags(), run_config=QUIET)


def _record(run: ExecuteInProcessResult, frontier: set[dg.AssetKey], result: WalkResult, changed: dict[str, str], say: Say) -> set[dg.AssetKey]:
    """Take a run's events into the result; returns the assets of the frontier that were not made."""
    made = {event.asset_key for event in run.get_asset_materialization_events() if event.asset_key}
    for event in run.get_asset_materialization_events():
        name = event.step_materialization_data.materialization.asset_key.to_user_string()
        result.made.append(name)
        changed.pop(name, None)
        say(f"✓ {name}: {_figures(event.step_materialization_data.materialization.metadata)}")
    for evaluation in run.get_asset_check_evaluations():
        if not evaluation.passed:
            word = "failed" if evaluation.severity == dg.AssetCheckSeverity.ERROR else "warns"
            say(f"! check {evaluation.asset_key.to_user_string()}:{evaluation.check_name} {word}: {evaluation.description or ''}")
    lost = frontier - made
    if lost:
        message = _failure(run)
        for key in sorted(lost):
            result.failed[key.to_user_string()] = message
            say(f"✗ {key.to_user_string()}: {message}")
    return lost


def _failure(run: ExecuteInProcessResult) -> str:
    """The message of the first failed step: the project's own error where there is one."""
    for event in run.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause:
                error = error.cause
            return " ".join(error.message.split())
    return "the run did not start; see the Dagster UI"


def _figures(metadata: object) -> str:
    assert isinstance(metadata, dict)
    said = {name: getattr(metadata.get(name), "value", None) for name in ("dagster/row_count", "rows_computed", "rows_reused", "seconds")}
    parts = [f"{said['dagster/row_count']:,} rows"]
    if said["rows_computed"] is not None:
        parts.append(f"{said['rows_computed']:,} computed, {said['rows_reused']:,} reused")
    dropped = sum(getattr(value, "value", 0) for name, value in metadata.items() if name.startswith("dropped/"))
    if dropped:
        parts.append(f"{dropped:,} dropped")
    if said["seconds"] is not None:
        parts.append(f"{said['seconds']:.1f} s")
    return ", ".join(parts)
