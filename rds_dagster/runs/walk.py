"""Materialize what is stale, and only that: frontier by frontier, one Dagster run each, until nothing is.

Dagster's "Unsynced" is not transitive (1.13): only what stands directly below a change is listed, and an upstream run may change
nothing. So after each run staleness is asked anew. Blocking checks hold only within one Dagster run, so before each frontier
whatever has a failed blocking check upstream is left out and named; the other branches go on.
"""

from __future__ import annotations

import re
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from socket import socketpair
from threading import current_thread, main_thread

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.execution.execute_in_process_result import ExecuteInProcessResult
from dagster_shared.error import SerializableErrorInfo

from rds_dagster.components.check_outcomes import latest_evaluations
from rds_dagster.errors import RdsError, SettingsError
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.orphans import free_orphans, process_tags
from rds_dagster.runs.staleness import MISSING, Staleness, descendants, find_stale
from rds_dagster.runs.supply import refused_budgets
from rds_dagster.storage.atomic import remove_old_partials
from rds_dagster.storage.tables import TableStore

LOCK_TIMEOUT_S = 10.0
LEFTOVER_S = 3600.0  # half-written files older than this are of a killed process; a run that Dagster's UI started may be writing younger ones
MAX_MAKINGS = 3  # of one asset within one walk
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
OWN_ERRORS = f"{RdsError.__module__}."  # what the messages of the project's own errors begin with
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # dagster warns of a parameter of its own selections
            chosen = dg.AssetSelection.from_string(written).resolve(project.graph) & every
    except dg.DagsterInvalidSubsetError:  # a word that is no key
        chosen = set()
    except dg.DagsterError as error:
        raise SettingsError(
            f"the selection {selection!r} cannot be read: {error}. Try a key such as mixtures/NAME, a group such as group:clean, or +mixtures/NAME"
        ) from error
    if not chosen:
        groups = ", ".join(sorted(project.graph.all_group_names))
        near = get_close_matches(selection, [key.to_user_string() for key in every], n=1)
        raise SettingsError(f"the selection {selection!r} matches no asset{f'; did you mean {near[0]}?' if near else ''}; groups are {groups}")
    return _whole(project, chosen)


def run_stale(folder: Path, selection: str | None, say: Say, *, verify: bool = False) -> WalkResult:
    """What `rds run` does: under the project's lock, free orphaned runs, look at the pools, make what is stale."""
    project = load_project(folder)
    with project_lock(project.layout, LOCK_TIMEOUT_S), open_instance(project.layout) as instance:
        for run_id in free_orphans(instance):
            say(f"run {run_id[:8]} was killed; marked as failed")
        remove_old_partials(project.layout.home, LEFTOVER_S)
        forget_removed(project)
        return walk(project, instance, selection, say, verify=verify)


def forget_removed(project: LoadedProject) -> None:
    """Take the manifests of assets that the project no longer has out of the state, and so out of every union in SQL; version folders stay."""
    store, known = TableStore(project.layout), {key.to_user_string() for key in project.graph.materializable_asset_keys}
    for manifest in store.all_manifests():
        if manifest.key not in known:
            store.forget(manifest.key)


def walk(project: LoadedProject, instance: dg.DagsterInstance, selection: str | None, say: Say, *, verify: bool = False) -> WalkResult:
    """Make everything stale in the selection; talks through ``say``. Never raises for a failing asset: see the result."""
    chosen = select(project, selection)
    result = WalkResult()
    given_up: set[dg.AssetKey] = set()
    changed = changed_outside(project, verify=verify)
    unchecked = _check_again(project, instance, chosen, say)
    staleness = find_stale(project, instance, changed)
    _name_left_out(project, chosen, staleness, say)
    while True:
        result.blocked = blocked_by_checks(project, instance, chosen & (staleness.stale.keys() | staleness.following))
        given_up |= _give_up_restless(project, chosen & staleness.stale.keys() - given_up, staleness, result, say)
        held_back = given_up | descendants(project, given_up | unchecked.keys()) | {dg.AssetKey.from_user_string(name) for name in result.blocked}
        short = _fail(refused_budgets(project, staleness, chosen, held_back), result, say)
        given_up |= short
        held_back |= short | descendants(project, short)
        waiting = {key for key in staleness.stale if key in chosen} - held_back
        frontier = _whole(project, waiting - descendants(project, waiting))
        if not frontier:
            given_up |= _fail(unchecked, result, say)
            for key in (descendants(project, given_up) & chosen) - given_up:
                above = sorted(failed.to_user_string() for failed in given_up if key in descendants(project, [failed]))
                result.blocked.setdefault(key.to_user_string(), f"{above[0]} failed")
            return result
        say(f"making {len(frontier)}: {', '.join(key.to_user_string() for key in sorted(frontier))}")
        for key in sorted(frontier):
            if staleness.stale.get(key) != (MISSING,):
                say(f"  {key.to_user_string()}: {'; '.join(staleness.stale.get(key, ('made together with what is stale',)))}")
        run = _run(project, instance, frontier)
        given_up |= _record(project, run, frontier, result, changed, say)
        unchecked = {key: message for key, message in unchecked.items() if key not in frontier}  # made anew, so checked anew
        staleness = find_stale(project, instance, changed)


def _name_left_out(project: LoadedProject, chosen: AbstractSet[dg.AssetKey], staleness: Staleness, say: Say) -> None:
    """Say which stale assets stand above the selection but not in it: what is made is made from their old state."""
    left_out = {above for key in chosen for above in project.graph.get_ancestor_asset_keys(key)} & staleness.stale.keys() - chosen
    if left_out:
        names = ", ".join(key.to_user_string() for key in sorted(left_out))
        say(f"not selected, but stale upstream: {names} (add + before a key to include what is above it)")


def _give_up_restless(project: LoadedProject, stale: AbstractSet[dg.AssetKey], staleness: Staleness, result: WalkResult, say: Say) -> set[dg.AssetKey]:
    """Fail what is stale again after MAX_MAKINGS makings, so that a walk ends; returns it with what is made together with it."""
    made = Counter(result.made)
    restless = {
        key: f"made {MAX_MAKINGS} times in this run and stale again: {'; '.join(staleness.stale[key])}. Nothing may change what it reads while a run goes on"
        for key in stale
        if made[key.to_user_string()] >= MAX_MAKINGS
    }
    return _whole(project, _fail(restless, result, say))


def _fail(messages: Mapping[dg.AssetKey, str], result: WalkResult, say: Say) -> set[dg.AssetKey]:
    """Take failures into the result and say them; returns their assets."""
    for key, message in sorted(messages.items()):
        result.failed[key.to_user_string()] = message
        say(f"✗ {key.to_user_string()}: {message}")
    return set(messages)


def _whole(project: LoadedProject, keys: Iterable[dg.AssetKey]) -> set[dg.AssetKey]:
    """The keys, and what can only be made together with them."""
    return {member for key in keys for member in project.graph.get(key).execution_set_asset_keys}


def _check_again(project: LoadedProject, instance: dg.DagsterInstance, chosen: AbstractSet[dg.AssetKey], say: Say) -> dict[dg.AssetKey, str]:
    """Run the checks on the selection, and on what stands above it, that a killed run left out, and blocking ones that failed (they may be mended).

    Returns asset -> why its checks could not run: nothing below it may be made until it is made, and so checked, anew.
    """
    near = chosen | {above for key in chosen for above in project.graph.get_ancestor_asset_keys(key)}
    checks = {key for key in open_checks(project, instance) if key.asset_key in near}
    if not checks:
        return {}
    job = project.repository.get_implicit_global_asset_job_def().get_subset(asset_check_selection=checks)
    with _interrupting():
        run = job.execute_in_process(instance=instance, raise_on_error=False, tags=process_tags(), run_config=QUIET)
    for evaluation in run.get_asset_check_evaluations():
        say(f"check {evaluation.asset_key.to_user_string()}:{evaluation.check_name} {'passes now' if evaluation.passed else 'still fails'}")
    failures = {step: _words(error) for step, error in _errors(run).items()}
    silent = checks - {evaluation.asset_check_key for evaluation in run.get_asset_check_evaluations()}
    return {key.asset_key: f"its checks could not run: {failures.get(_step(project, key), 'the run did not start; see the Dagster UI')}" for key in silent}


def blocked_by_checks(project: LoadedProject, instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[str, str]:
    """Asset -> why it may not run: the latest result of a blocking check on something upstream is a failure, of the data that is there now."""
    failing = failing_blocking_checks(project, instance)
    below = {down: check for key, check in failing.items() for down in descendants(project, [key])}
    return {key.to_user_string(): f"blocked by the failing check {below[key]}" for key in sorted(keys) if key in below}


def failing_blocking_checks(project: LoadedProject, instance: dg.DagsterInstance) -> dict[dg.AssetKey, str]:
    """Asset -> its blocking check whose latest run failed, as ``asset:check``."""
    latest = latest_evaluations(instance, _blocking(project))
    return {key.asset_key: f"{key.asset_key.to_user_string()}:{key.name}" for key, said in latest.items() if _is_failure(said)}


def open_checks(project: LoadedProject, instance: dg.DagsterInstance) -> set[dg.AssetCheckKey]:
    """Blocking checks that failed, and all that never looked at the latest materialization of their asset."""
    every, blocking = project.graph.asset_check_keys, set(_blocking(project))
    latest = latest_evaluations(instance, every)
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(list({key.asset_key for key in every}))}
    found = set()
    for key in every:
        made = records[key.asset_key].last_materialization_storage_id if key.asset_key in records else None
        said = latest.get(key)
        seen = said.target_materialization_data.storage_id if said and said.target_materialization_data else None
        if made is not None and (said is None or seen != made or (key in blocking and _is_failure(said))):
            found.add(key)
    return found


def _blocking(project: LoadedProject) -> list[dg.AssetCheckKey]:
    return [key for key in project.graph.asset_check_keys if project.graph.get(key).blocking]


def _is_failure(said: AssetCheckEvaluation) -> bool:
    return not said.passed and said.severity == dg.AssetCheckSeverity.ERROR


def _run(project: LoadedProject, instance: dg.DagsterInstance, frontier: set[dg.AssetKey]) -> ExecuteInProcessResult:
    job = project.repository.get_implicit_global_asset_job_def()
    with _interrupting():
        return job.execute_in_process(instance=instance, asset_selection=sorted(frontier), raise_on_error=False, tags=process_tags(), run_config=QUIET)


@contextmanager
def _interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt afterwards if the process was asked to stop: dagster makes a failed step of that, or nothing at all.

    It puts signal handlers of its own in place, so the signals are read from Python's wake-up descriptor. In the main thread; elsewhere nothing is done.
    """
    if current_thread() is not main_thread():
        yield
        return
    ours, theirs = socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
        with suppress(BlockingIOError):
            if {signal.SIGINT, signal.SIGTERM} & set(ours.recv(4096)):
                raise KeyboardInterrupt


def _record(
    project: LoadedProject, run: ExecuteInProcessResult, frontier: set[dg.AssetKey], result: WalkResult, changed: dict[str, str], say: Say
) -> set[dg.AssetKey]:
    """Take a run's events into the result; returns the assets of the frontier that were not made, or that could not be checked."""
    made = {event.asset_key for event in run.get_asset_materialization_events() if event.asset_key}
    for event in run.get_asset_materialization_events():
        name = event.step_materialization_data.materialization.asset_key.to_user_string()
        result.made.append(name)
        changed.pop(name, None)
        say(f"✓ {name}: {_figures(event.step_materialization_data.materialization.metadata)}")
    stopping: dict[dg.AssetKey, str] = {}
    for evaluation in run.get_asset_check_evaluations():
        if not evaluation.passed:
            word = "failed" if evaluation.severity == dg.AssetCheckSeverity.ERROR else "warns"
            if _is_failure(evaluation):
                stopping[evaluation.asset_key] = evaluation.check_name
            say(f"! check {evaluation.asset_key.to_user_string()}:{evaluation.check_name} {word}: {evaluation.description or ''}")
    failures = {step: _words(error) for step, error in _errors(run).items()}
    lost = {key: failures.get(_step(project, key), "the run did not start; see the Dagster UI") for key in frontier - made}
    for check in project.graph.asset_check_keys:
        if _step(project, check) in failures and check.asset_key not in lost:
            failed = stopping.get(check.asset_key)
            why = f"its blocking check {failed} failed" if failed else f"its checks could not run: {failures[_step(project, check)]}"
            lost[check.asset_key] = f"made, but {why}"
    return _fail(lost, result, say)


def _step(project: LoadedProject, key: dg.AssetKey | dg.AssetCheckKey) -> str:
    """The name of the step that makes an asset, or that runs a check."""
    return project.graph.assets_def_for_key(key).node_def.name


def _errors(run: ExecuteInProcessResult) -> dict[str, SerializableErrorInfo]:
    """Step -> its failure."""
    return {str(event.step_key): event.step_failure_data.error for event in run.all_events if event.is_step_failure and event.step_failure_data.error}


def _words(error: SerializableErrorInfo) -> str:
    """The project's own error where there is one, else the first cause."""
    chain = [error]
    while chain[-1].cause:
        chain.append(chain[-1].cause)
    own = [link for link in chain if link.message.startswith(OWN_ERRORS)]
    return " ".join((own or chain)[-1].message.removeprefix(OWN_ERRORS).split())


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
