"""Running again by itself: the condition that every asset carries, and the sensor that evaluates it. Off until it is switched on.

when_inputs_change   an asset is made again once its inputs' contents or its own settings change, and not while something upstream is unfit
refresh_stale        the sensor: one switch in the UI, or `rds ui --auto`

What changes outside Dagster (files, the promises of checks) is noticed in watching.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import dagster as dg

REFRESH = "refresh_stale"
REFUSE_UNFIT = ("mixtures",)  # groups whose assets fail on inputs that do not fit one another; others would merely be made once more
RETRY_CRON = "7 * * * *"  # what failed is tried again once an hour: a full disk or a lost connection mends without leaving a trace in Dagster


def when_inputs_change(between: Sequence[dg.AssetKey] = ()) -> dg.AutomationCondition[dg.AssetKey]:
    """Make an asset when the data version of an input changed, its code version changed, it went missing, or (hourly) its last run failed.

    It is "handled" once a run was asked for since the last such change, not once it was updated: a run that was under way meanwhile has read the old
    inputs. So a change is never lost, what is made by hand is at most made once more (and then reused), and what automation has never seen is
    made once. An input that changed in a run which also makes the asset does not count: within a run, inputs come first.
    ``between``: inputs that stand above another input, and what lies between the two; while one of these is being made, the inputs do not fit one
    another yet (a mixture reads unique/* and scores, which were made from embeddings of an earlier state of unique/*).
    """
    condition = dg.AutomationCondition
    changed = condition.any_deps_match(condition.data_version_changed() & ~condition.executed_with_root_target()).with_label("input content changed")
    failed = (condition.execution_failed() & condition.cron_tick_passed(RETRY_CRON)).with_label("failed before, tried again hourly")
    trigger = (condition.newly_missing() | condition.code_version_changed() | changed | failed).with_label("something changed")
    ready = (
        ~condition.newly_requested().since(trigger).with_label("asked for since it changed")
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & condition.all_deps_blocking_checks_passed()
    )
    for key in between:
        ready &= ~condition.asset_matches(key, condition.in_progress() | condition.will_be_requested()).with_label(f"{key.to_user_string()} is being made")
    return ready.with_label("when_inputs_change")


def automated(definitions: dg.Definitions) -> dg.Definitions:
    """The same definitions with ``when_inputs_change`` on every asset that has no condition of its own, and the sensor that evaluates it."""
    usual, groups = when_inputs_change(), _made_together(definitions)
    above = {spec.key: {dep.asset_key for dep in spec.deps} for specs in groups for spec in specs}
    first = {spec.key: min(one.key for one in specs) for specs in groups for spec in specs}
    waiting = {key: when_inputs_change(sorted({first[one] for one in between(above, key)})) for key in above if key.path[0] in REFUSE_UNFIT}
    conditioned = definitions.permissive_map_resolved_asset_specs(
        lambda spec: spec if spec.automation_condition else spec.replace_attributes(automation_condition=waiting.get(spec.key, usual)), selection=None
    )
    sensor = dg.AutomationConditionSensorDefinition(
        REFRESH,
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Makes what is stale, stage by stage, until nothing is. Off by default: it decides when a model runs.",
    )
    return dg.Definitions.merge(conditioned, dg.Definitions(sensors=[sensor]))


def between(above: Mapping[dg.AssetKey, AbstractSet[dg.AssetKey]], key: dg.AssetKey) -> set[dg.AssetKey]:
    """The inputs of an asset that stand above another of its inputs, and what lies between; ``above``: asset -> its inputs."""
    inputs = above[key]
    below: dict[dg.AssetKey, bool] = dict.fromkeys(inputs, True)  # whether it is an input, or stands below one

    def is_below(one: dg.AssetKey) -> bool:
        if one not in below:
            below[one] = any(is_below(up) for up in above.get(one, ()))
        return below[one]

    found: set[dg.AssetKey] = set()
    waiting = [up for one in inputs for up in above.get(one, ())]
    while waiting:
        one = waiting.pop()
        if one not in found and is_below(one):
            found.add(one)
            waiting += above.get(one, ())
    return found


def _made_together(definitions: dg.Definitions) -> list[list[dg.AssetSpec]]:
    """The specs of all assets, those in one list that are only made together; read off the definitions, since resolving a graph of 344 assets takes 2 s."""
    groups = []
    for definition in definitions.assets or []:
        if isinstance(definition, dg.AssetsDefinition):
            specs = list(definition.specs)
            groups += [[spec] for spec in specs] if definition.can_subset else [specs] if specs else []
    return groups
