"""`Mixture`: a selected set for some tasks -> mixtures/<name>, exports/<name>, reports/<name>."""

import time
from collections.abc import Callable
from functools import partial
from typing import get_args

import dagster as dg

from rds_dagster.components.check_outcomes import latest_outcomes
from rds_dagster.components.check_suites import clean_suite, embeddings_suite, mixture_suite, scores_suite, unique_suite
from rds_dagster.components.checks import Expectation
from rds_dagster.components.resources import Project
from rds_dagster.components.results import Metadata, file_link, markdown_table, materialized
from rds_dagster.components.scaffolding import scaffolder
from rds_dagster.components.siblings import corpus_of, mixture_names, need_known, pool_names, pools_in_order, task_names
from rds_dagster.errors import SettingsError
from rds_dagster.exports import export_mixture as export_stage
from rds_dagster.exports import report_mixture as report_stage
from rds_dagster.exports.formats import ExportFormat
from rds_dagster.fingerprint import fingerprint
from rds_dagster.lineage.diff import diff_to_previous
from rds_dagster.lineage.diff_text import diff_rows
from rds_dagster.mixtures import make_mixture as mixture_stage
from rds_dagster.mixtures.selectors import OnTaken
from rds_dagster.mixtures.settings import Method, MixtureSettings, Selector
from rds_dagster.scores.settings import METHOD

MIXTURE_YAML = {"name": "{name}", "budget": 1000}


@dg.scaffold_with(scaffolder("MixtureScaffolder", MIXTURE_YAML))
class Mixture(dg.Component, dg.Model, dg.Resolvable):
    """A selected set: how many examples, chosen how, for which tasks, from which pools."""

    name: str
    budget: int
    method: Method = "rds"
    selector: Selector = "round_robin"
    tasks: list[str] = []
    on_taken: OnTaken = "skip_turn"
    balanced: bool = True
    seed: int = 0
    pools: list[str] = []
    required_sources: list[str] = []
    allow_short: bool = False
    pinned: list[str] = []
    """Versions (fingerprints, or their first digits) whose vectors `rds prune` keeps."""
    exports: list[ExportFormat] = ["messages", "parquet"]
    compare_with: str | None = None
    checks: list[Expectation] = []

    @property
    def settings(self) -> MixtureSettings:
        """The checked settings; raises SettingsError."""
        return MixtureSettings(
            name=self.name,
            budget=self.budget,
            method=self.method,
            selector=self.selector,
            tasks=tuple(self.tasks),
            on_taken=self.on_taken,
            balanced=self.balanced,
            seed=self.seed,
            pools=tuple(self.pools),
            required_sources=tuple(self.required_sources),
            allow_short=self.allow_short,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The mixture's assets and checks; raises SettingsError if it names what does not exist."""
        pools, tasks = pool_names(context), task_names(context)
        need_known("pool", f"mixture {self.name!r}: pools", self.pools, pools)
        need_known("task", f"mixture {self.name!r}: tasks", self.tasks, tasks)
        if self.compare_with is not None:
            need_known("mixture", f"mixture {self.name!r}: compare_with", [self.compare_with], mixture_names(context))
        settings = self.settings
        self._check_outputs()
        self._check_supply(pools, tasks)
        licenses = {pool.name: pool.license for pool in pools_in_order(context)}
        assets = [
            _mixture_asset(settings, pools, tasks),
            _export_asset(self.name, list(self.exports), licenses),
            _report_asset(settings, self.compare_with, licenses, tasks, partial(self._check_specs, context, tasks)),
        ]
        return dg.Definitions(assets=assets, asset_checks=[mixture_suite(settings, self.checks)])

    def _check_outputs(self) -> None:
        if not self.exports:
            raise SettingsError(f"mixture {self.name!r}: exports is []; expected at least one of {', '.join(get_args(ExportFormat))}")
        twice = sorted({name for name in self.exports if self.exports.count(name) > 1})
        if twice:
            raise SettingsError(f"mixture {self.name!r}: exports names {', '.join(twice)} more than once; name each format once")
        if self.compare_with == self.name:
            raise SettingsError(f"mixture {self.name!r}: compare_with names the mixture itself; name another mixture, or leave compare_with out")

    def _check_supply(self, pools: list[str], tasks: list[str]) -> None:
        if not pools:
            raise SettingsError(
                f"mixture {self.name!r} has nothing to choose from: the project has no pool; "
                "add one with `dg scaffold defs rds_dagster.components.Pool pools/NAME`"
            )
        if self.method == "rds" and not tasks:
            raise SettingsError(
                f"mixture {self.name!r} has nothing to choose by: method 'rds' needs a task, and the project has none; "
                "add one with `dg scaffold defs rds_dagster.components.Task tasks/NAME`, or set method: random"
            )

    def _check_specs(self, context: dg.ComponentLoadContext, tasks: list[str]) -> list[dg.AssetCheckSpec]:
        """The checks of everything that the mixture is made from, and its own; asked when the report is made, since there are many."""
        pools, added = pools_in_order(context), corpus_of(context).checks
        suites = [suite for pool in pools for suite in (clean_suite(pool.name, pool.checks), unique_suite(pool.name, added.unique))]
        if self.method != "random":  # else the page would depend on whether scores were made before it
            suites += [embeddings_suite(pool.name, added.embeddings) for pool in pools]
            suites += [scores_suite(task, added.scores) for task in self.tasks or tasks]
        return [spec for suite in [*suites, mixture_suite(self.settings, self.checks)] for spec in suite.check_specs]


def _mixture_asset(settings: MixtureSettings, pools: list[str], tasks: list[str]) -> dg.AssetsDefinition:
    own_pools, own_tasks = list(settings.pools) or pools, list(settings.tasks) or tasks
    scores = [] if settings.method == "random" else [["scores", METHOD, task] for task in own_tasks]

    @dg.asset(
        key=["mixtures", settings.name],
        deps=[*(["unique", pool] for pool in own_pools), *scores],
        group_name="mixtures",
        kinds={"parquet"},
        code_version=f"{mixture_stage.CODE}-{fingerprint(settings, own_pools, own_tasks if scores else [])[:12]}",
        description="One selected example: its position, the query of the task that chose it, at which rank and score.",
    )
    def mixture(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        began = time.monotonic()
        made = mixture_stage.make_mixture(project.tables, settings, pools, tasks)
        figures = {"deeper_lists": made.deepened, "reused": str(made.reused), "seconds": round(time.monotonic() - began, 3)}
        lineage = {"id": [f"unique/{pool}.id" for pool in own_pools], "score": [f"scores/{METHOD}/{task}.score" for task in own_tasks if scores]}
        result = materialized(project.tables, made.manifest, table="examples", figures=figures, columns_from=lineage)
        return result._replace(metadata={**(result.metadata or {}), **_against_version_before(project, settings.name)})

    return mixture


def _against_version_before(project: Project, name: str) -> Metadata:
    """What entered and left since the version before; nothing for the first version."""
    diff = diff_to_previous(project.tables, name)
    if diff is None:
        return {}
    table = dg.MetadataValue.md(markdown_table(["against the version before", "before", "now"], diff_rows(diff)))
    return {"entered": len(diff.entered), "left": len(diff.left), "jaccard": diff.jaccard, "against_version_before": table}


def _export_asset(name: str, formats: list[str], licenses: dict[str, str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["exports", name],
        deps=[["mixtures", name], *(["provenance", pool] for pool in licenses)],
        group_name="exports",
        kinds={"json", "parquet"},
        code_version=f"{export_stage.CODE}-{fingerprint(formats, licenses)[:12]}",
        description=f"The training files of mixture {name}, with provenance and a manifest.",
    )
    def export(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        manifest = export_stage.export_mixture(project.tables, name, formats, licenses)
        folder = (project.layout.home / manifest.files[0].path).parent
        result = materialized(project.tables, manifest, columns_from={"messages": [f"mixtures/{name}.messages"]})
        return result._replace(metadata={**(result.metadata or {}), "folder": file_link(folder)})

    return export


def _report_asset(
    settings: MixtureSettings, compare_with: str | None, licenses: dict[str, str], tasks: list[str], check_specs: Callable[[], list[dg.AssetCheckSpec]]
) -> dg.AssetsDefinition:
    name, compared = settings.name, [["mixtures", compare_with]] if compare_with else []
    own_tasks = [] if settings.method == "random" else list(settings.tasks) or tasks

    @dg.asset(
        key=["reports", name],
        deps=[["mixtures", name], ["exports", name], *compared, *([stage, pool] for stage in ("clean", "unique") for pool in licenses)],
        group_name="reports",
        kinds={"html"},
        code_version=f"{report_stage.CODE}-{fingerprint(compare_with, licenses)[:12]}",
        description=f"The page about mixture {name} that people read.",
    )
    def report(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        manifest = report_stage.report_mixture(project.tables, name, licenses, own_tasks, compare_with, latest_outcomes(context.instance, check_specs()))
        result = materialized(project.tables, manifest)
        return result._replace(metadata={**(result.metadata or {}), "page": file_link(project.layout.home / manifest.files[0].path)})

    return report
