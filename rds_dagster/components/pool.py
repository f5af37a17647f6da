"""`Pool`: one source of conversations -> raw/<pool>, clean/<pool>, provenance/<pool>."""

import time
from collections.abc import Iterator
from typing import Literal

import dagster as dg

from rds_dagster.cleaning import clean as clean_stage
from rds_dagster.cleaning import shards
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.components.check_suites import clean_suite
from rds_dagster.components.checks import Expectation
from rds_dagster.components.resources import Project
from rds_dagster.components.results import materialized
from rds_dagster.components.scaffolding import scaffolder
from rds_dagster.components.siblings import corpus_of
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools import look
from rds_dagster.pools.settings import Format, PoolSettings, Shape

POOL_YAML = {"name": "{name}", "source": "data/{name}.jsonl", "license": "unknown"}


@dg.scaffold_with(scaffolder("PoolScaffolder", POOL_YAML))
class Pool(dg.Component, dg.Model, dg.Resolvable):
    """A source of conversations: a file, glob, folder or fsspec address, in any of the known record shapes."""

    name: str
    source: str | list[str]
    shape: Literal["auto"] | Shape = "auto"
    format: Literal["auto"] | Format = "auto"
    license: str = "unknown"
    sample: int | float | None = None
    sample_seed: int = 0
    checks: list[Expectation] = []

    @property
    def settings(self) -> PoolSettings:
        """The checked settings; raises SettingsError."""
        source = self.source if isinstance(self.source, str) else tuple(self.source)
        return PoolSettings(self.name, source, self.shape, self.format, self.license, self.sample, self.sample_seed)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The pool's assets and the checks of clean/<pool>."""
        settings, cleaning = self.settings, corpus_of(context).cleaning_settings
        return dg.Definitions(assets=[_raw_asset(settings), _clean_asset(settings, cleaning)], asset_checks=[clean_suite(self.name, self.checks)])


def _raw_asset(settings: PoolSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["raw", settings.name],
        group_name="raw",
        kinds={"parquet"},
        code_version=f"{look.CODE}-{fingerprint(settings.source)[:12]}",
        description=f"One file of pool {settings.name}: path, size, content hash. Materialize it to look at the pool's files again.",
    )
    def raw(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        manifest = look.record_pool(project.tables, settings, root=project.root)
        return materialized(project.tables, manifest, table="files", figures={"pool_bytes": manifest.number("bytes")})

    return raw


def _clean_asset(settings: PoolSettings, cleaning: CleaningSettings) -> dg.AssetsDefinition:
    name, raw = settings.name, ["raw", settings.name]
    version = f"{shards.CODE}.{clean_stage.CODE}-{fingerprint(settings.shape, settings.format, cleaning)[:12]}"

    @dg.multi_asset(
        name=f"clean_{name}",
        specs=[
            dg.AssetSpec(
                ["clean", name], deps=[raw], group_name="clean", kinds={"parquet"}, code_version=version, description=f"One valid conversation of pool {name}."
            ),
            dg.AssetSpec(
                ["provenance", name],
                deps=[raw],
                group_name="provenance",
                kinds={"parquet"},
                code_version=version,
                description=f"One place (file and line) in pool {name} where an example stands.",
            ),
        ],
    )
    def clean(project: Project) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        began = time.monotonic()
        made = clean_stage.clean_pool(project.tables, settings, cleaning, root=project.root)
        figures = {"rows_computed": made.rows_read, "rows_reused": made.rows_reused, "seconds": round(time.monotonic() - began, 3)}
        yield materialized(project.tables, made.clean, table="index", figures=figures)
        lineage = {"id": [f"clean/{name}.id"], "source": [f"clean/{name}.source"], "file": [f"raw/{name}.file"]}
        yield materialized(project.tables, made.provenance, table="places", columns_from=lineage)

    return clean
