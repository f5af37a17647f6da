"""The latest outcome of asset checks, as Dagster recorded them: for reports, and to hold back what stands below a failing check."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from rds_dagster.exports.report import CheckOutcome

EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def latest_evaluations(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, AssetCheckEvaluation]:
    """Check -> its latest evaluation; checks that never ran are left out.

    A killed run leaves checks that were planned and never looked: what such a check said before stands.
    """
    storage, found = instance.event_log_storage, {}
    for key, record in storage.get_latest_asset_check_execution_by_key(list(keys)).items():
        if record.status not in EVALUATED:
            before = storage.get_asset_check_execution_history(key, limit=1, status=EVALUATED)
            record = before[0] if before else record
        event = record.event.dagster_event if record.event else None
        said = event.event_specific_data if event else None
        if isinstance(said, AssetCheckEvaluation):
            found[key] = said
    return found


def latest_outcomes(instance: dg.DagsterInstance, specs: Iterable[dg.AssetCheckSpec]) -> list[CheckOutcome]:
    """The latest outcomes of the given checks, by asset and check; those that never ran are left out."""
    blocking = {spec.key: spec.blocking for spec in specs}
    found = sorted(latest_evaluations(instance, blocking).items(), key=lambda item: (item[0].asset_key, item[0].name))
    return [
        CheckOutcome(key.asset_key.to_user_string(), key.name, said.passed, "blocking" if blocking[key] else "warning", said.description or "")
        for key, said in found
    ]
