"""Data checks: Great Expectations suites as Dagster asset checks, one check per expectation.

An ``Expectation`` says one promise; ``suite_checks`` turns those of one table into asset checks. What every pool, corpus and mixture is held to stands
in check_suites.py, the frames it is read from in check_frames.py. Only pandas frames are used: GX's SQLAlchemy path does not work with DuckDB
(great_expectations issues 10738 and 11579). GX takes 3.5 to 4.3 s to import, so that happens inside the op: nothing of it is known when definitions load.
No ``from __future__ import annotations`` here: Dagster reads the annotation of an op's context as an object and refuses text.
"""

import copy
import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Literal

import dagster as dg
import numpy as np
from pydantic import Field, field_validator, model_validator

from rds_dagster.components.check_frames import OFFENDERS, OFFENDERS_ATTR, Load
from rds_dagster.components.resources import Project
from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.fingerprint import fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation as GxExpectation

Severity = Literal["critical", "warning", "info"]

PROMISE = "promise"  # in a check's metadata and in its results': the fingerprint of what it promises, so that a mended check is known

MISFITS = {
    "expect_column_to_exist": "columns that do not exist are refused anyway",
    "expect_query_results_to_match_comparison": "it asks a database",
    "expect_table_column_count_to_be_between": "a check is shown only the columns that it names",
    "expect_table_column_count_to_equal": "a check is shown only the columns that it names",
    "expect_table_columns_to_match_ordered_list": "a check is shown only the columns that it names",
    "expect_table_columns_to_match_set": "a check is shown only the columns that it names",
    "expect_table_row_count_to_equal_other_table": "a check sees one table",
}
"""Expectation types of GX that cannot work here, and why."""


class Expectation(dg.Model, dg.Resolvable):
    """One promise about one table: a Great Expectations ``type`` with its ``kwargs``, under a ``name`` of its own.

    ``critical`` failures block what is downstream in the same run; ``warning`` and ``info`` are shown. The type's spelling is checked when the check
    runs (GX is too slow to import before); everything else is refused at once.
    """

    name: str
    type: str
    kwargs: Annotated[dict[str, object], dg.Resolver.default(model_field_type=dict)] = Field(default_factory=dict)
    severity: Severity = "critical"
    description: str = ""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise SettingsError(f"check name is {name!r}; expected small letters, digits and underscores, beginning with a letter")
        return name

    @field_validator("type")
    @classmethod
    def _check_type(cls, kind: str) -> str:
        if not re.fullmatch(r"expect_[a-z_]+", kind):
            raise SettingsError(f"check type is {kind!r}; expected an expectation of Great Expectations such as expect_column_values_to_be_between")
        if kind in MISFITS:
            raise SettingsError(f"check type {kind} cannot be used: {MISFITS[kind]}; check a SQL model of dbt_like_sql that states it as a column")
        return kind

    @model_validator(mode="after")
    def _check_condition(self) -> "Expectation":
        self.columns()
        return self

    def columns(self) -> list[str]:
        """The columns that the expectation looks at, each once; raises SettingsError for a row_condition that is not of GX's structured form."""
        single = [value for name in ("column", "column_A", "column_B") if isinstance(value := self.kwargs.get(name), str)]
        several = self.kwargs.get("column_list")
        listed = [name for name in several if isinstance(name, str)] if isinstance(several, list) else []
        condition = self.kwargs.get("row_condition")
        return list(dict.fromkeys([*single, *listed, *(self._condition_columns(condition) if condition is not None else [])]))

    def _condition_columns(self, condition: object) -> list[str]:
        match condition:
            case {"type": "and" | "or", "conditions": [*parts]}:
                return [name for part in parts for name in self._condition_columns(part)]
            case {"type": "comparison" | "nullity", "column": {"name": str(name)}}:
                return [name]
        raise SettingsError(  # GX also reads text, which it announces to give up with 2.0
            f"check {self.name}: row_condition is {condition!r}; expected a mapping such as "
            "{type: comparison, column: {name: num_chars}, operator: '>', parameter: 100}, or {type: and, conditions: [..]}"
        )

    @property
    def fingerprint(self) -> str:
        """Another one where the check promises something else."""
        return fingerprint(self.type, self.kwargs, self.severity)

    def sentence(self) -> str:
        """What the check promises, for people."""
        said = ", ".join(f"{name} {json.dumps(value, default=str)}" for name, value in self.kwargs.items())
        return self.description or f"{self.type.removeprefix('expect_').replace('_', ' ')}: {said}"


def suite_checks(key: dg.AssetKey, expectations: Sequence[Expectation], load: Load) -> dg.AssetChecksDefinition:
    """One asset check per expectation on the asset ``key``, run together by one op that asks ``load`` once for the columns they name."""
    if repeated := repeated_names(expectations):
        raise SettingsError(f"checks of {key.to_user_string()} name {', '.join(repeated)} more than once; name each once")

    @dg.multi_asset_check(
        name="__".join(["check", *key.path]),
        specs=[
            dg.AssetCheckSpec(e.name, asset=key, blocking=e.severity == "critical", description=e.sentence(), metadata={PROMISE: e.fingerprint})
            for e in expectations
        ],
        can_subset=True,
    )
    def check(context: dg.AssetCheckExecutionContext, project: Project) -> Iterator[dg.AssetCheckResult]:
        selected = {check_key.name for check_key in context.selected_asset_check_keys}
        yield from run_suite(key, [e for e in expectations if e.name in selected], load, project)

    return check


def run_suite(key: dg.AssetKey, expectations: Sequence[Expectation], load: Load, project: Project) -> Iterator[dg.AssetCheckResult]:
    """Run the expectations over one frame; raises SettingsError for a type or kwargs that GX does not know, before anything is loaded."""
    begin = time.perf_counter()
    promises = [_promise(key.to_user_string(), expectation) for expectation in expectations]
    frame = load(project, list(dict.fromkeys(name for e in expectations for name in e.columns())))
    findings = _validate(frame, promises)
    seconds = round(time.perf_counter() - begin, 3)
    for expectation in expectations:
        yield _result(key, expectation, frame, findings[expectation.name], seconds)


def repeated_names(expectations: Sequence[Expectation]) -> list[str]:
    """Names that stand more than once, sorted."""
    return sorted(name for name, times in Counter(e.name for e in expectations).items() if times > 1)


Cell = str | int | float | bool | None


@dataclass(frozen=True)
class _Finding:
    """What GX says of one expectation; ``error`` where it could not be evaluated, which is not bad data."""

    is_met: bool
    error: str
    observed: object
    unexpected: int | None
    unexpected_percent: float | None
    offenders: list[dict[str, Cell]]


def _promise(key: str, expectation: Expectation) -> "GxExpectation":
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when GX is imported
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    known = set(list_registered_expectation_implementations()) - MISFITS.keys()
    if expectation.type not in known:
        raise unknown_choice(f"check {expectation.name} of {key}: type", expectation.type, get_close_matches(expectation.type, known, n=5) or known)
    kwargs = copy.deepcopy(expectation.kwargs)  # GX may write into them
    said = ExpectationConfiguration(type=expectation.type, kwargs=kwargs, severity=expectation.severity, meta={"check": expectation.name})
    try:
        return said.to_domain_obj()
    except (ValueError, TypeError, GreatExpectationsError) as error:  # GX's models are pydantic 1: their ValidationError is a ValueError
        raise SettingsError(f"check {expectation.name} of {key}: {expectation.type} does not take kwargs {expectation.kwargs}: {error}") from error


def _validate(frame: "pd.DataFrame", promises: list["GxExpectation"]) -> dict[str, _Finding]:
    """Check name -> what GX found; in an ephemeral context, without progress bars and talk."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    batches = context.data_sources.add_pandas("frames").add_dataframe_asset("frame").add_batch_definition_whole_dataframe("whole")
    wanted: dict[str, object] = {"result_format": "SUMMARY", "partial_unexpected_count": OFFENDERS}
    if "id" in frame.columns:
        wanted["unexpected_index_column_names"] = ["id"]
    outcome = batches.get_batch({"dataframe": frame}).validate(gx.ExpectationSuite(name="suite", expectations=promises), result_format=wanted)
    said = json.loads(json.dumps(outcome.to_json_dict()["results"], default=_plain))  # to_json_dict leaves numpy scalars, which Dagster refuses
    return {one["expectation_config"]["meta"]["check"]: _finding(one) for one in said}


def _finding(said: dict) -> _Finding:  # type: ignore[type-arg]  # JSON of GX; taken apart here and nowhere else
    result, info = said["result"], said["exception_info"]
    entries = [info] if "raised_exception" in info else list(info.values())  # one for the expectation, or one per metric that failed
    errors = dict.fromkeys(str(entry["exception_message"]) for entry in entries if entry["raised_exception"])
    named = result.get("partial_unexpected_index_list") or []
    rows = named if named and isinstance(named[0], dict) else [{"value": value} for value in result.get("partial_unexpected_list") or []]
    return _Finding(
        is_met=said["success"] is True and not errors,
        error="; ".join(errors),
        observed=result.get("observed_value"),
        unexpected=result.get("unexpected_count"),
        unexpected_percent=result.get("unexpected_percent"),
        offenders=[{name: _cell(value) for name, value in row.items()} for row in rows[:OFFENDERS]],
    )


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


def _cell(value: object) -> Cell:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _result(key: dg.AssetKey, expectation: Expectation, frame: "pd.DataFrame", finding: _Finding, seconds: float) -> dg.AssetCheckResult:
    named: dict[str, dict[str, list[str]]] | None = frame.attrs.get(OFFENDERS_ATTR)  # only a profile has it
    offenders, observed = finding.offenders, finding.observed
    metadata: dict[str, dg.MetadataValue] = {"seconds": dg.MetadataValue.float(seconds), PROMISE: dg.MetadataValue.text(expectation.fingerprint)}  # type: ignore[type-arg]
    if named is not None:
        figure = next(iter(expectation.columns()), "")
        offenders = [] if finding.is_met else _rows(named.get(figure, {}))
        if observed is None and figure in frame.columns:
            observed = frame[figure].iloc[0].item()
    else:
        counted = {"unexpected_count": finding.unexpected, "unexpected_percent": finding.unexpected_percent}
        metadata |= {name: _metadata(value) for name, value in counted.items() if value is not None}
    is_stated = observed is not None and observed == observed  # NaN: too few rows to state the figure
    if is_stated:
        metadata["observed_value"] = _metadata(observed)
    if offenders:
        metadata["offenders"] = dg.MetadataValue.table([dg.TableRecord(row) for row in offenders])
    if finding.error:
        metadata["error"] = dg.MetadataValue.text(finding.error)
    return dg.AssetCheckResult(
        check_name=expectation.name,
        asset_key=key,
        passed=finding.is_met,
        severity=dg.AssetCheckSeverity.ERROR if expectation.severity == "critical" else dg.AssetCheckSeverity.WARN,
        description=_said(expectation, finding, observed if is_stated else None),
        metadata=metadata,
    )


def _said(expectation: Expectation, finding: _Finding, observed: object) -> str:
    if finding.error:
        return f"Could not be evaluated: {finding.error}"
    if finding.is_met:
        return expectation.sentence()
    amount = f"it is {observed}" if observed is not None else f"{finding.unexpected or 0:,} unexpected"
    return f"Broken ({amount}): {expectation.sentence()}"


def _rows(named: dict[str, list[str]]) -> list[dict[str, Cell]]:
    return [{column: value} for column, values in named.items() for value in values]


def _metadata(value: object) -> dg.MetadataValue:  # type: ignore[type-arg]
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float) and math.isfinite(value):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.json(value) if isinstance(value, (list, dict)) else dg.MetadataValue.text(str(value))
