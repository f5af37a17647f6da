"""`Task`: a target task's query set and held-out items -> queries/<task>, test_items/<task>."""

from typing import Literal

import dagster as dg

from rds_dagster.components.resources import Project
from rds_dagster.components.results import materialized
from rds_dagster.components.scaffolding import scaffolder
from rds_dagster.components.siblings import corpus_of
from rds_dagster.embeddings import embed_queries as stage
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools.settings import Shape
from rds_dagster.queries.settings import TaskSettings

TASK_YAML = {"name": "{name}", "queries": "data/{name}.jsonl"}


@dg.scaffold_with(scaffolder("TaskScaffolder", TASK_YAML))
class Task(dg.Component, dg.Model, dg.Resolvable):
    """A target task: a few labelled examples of what the model should become good at."""

    name: str
    queries: str
    test_items: str | None = None
    shape: Literal["auto"] | Shape = "auto"
    limit: int | None = None

    @property
    def settings(self) -> TaskSettings:
        """The checked settings; raises SettingsError."""
        return TaskSettings(self.name, self.queries, self.test_items, self.shape, self.limit)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The task's two assets."""
        return dg.Definitions(assets=[_queries_asset(self.settings, corpus_of(context).encoder_settings), _test_items_asset(self.settings)])


def _queries_asset(settings: TaskSettings, encoder: EncoderSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["queries", settings.name],
        deps=[["encoders", encoder.name]],
        group_name="queries",
        kinds={"parquet"},
        code_version=f"{stage.CODE}-{fingerprint(settings.queries, settings.shape, settings.limit)[:12]}",
        description=f"One query of task {settings.name}, rendered, with its vector.",
    )
    def queries(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from rds_dagster.embeddings.register import current_encoder

        identity = current_encoder(project.tables, encoder)
        manifest, computed = stage.embed_queries(project.tables, settings, identity, encoder.name, root=project.root)
        return materialized(project.tables, manifest, table="queries", figures={"rows_computed": computed, "rows_reused": manifest.counts.kept - computed})

    return queries


def _test_items_asset(settings: TaskSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["test_items", settings.name],
        group_name="test_items",
        kinds={"parquet"},
        code_version=f"{stage.CODE}-{fingerprint(settings.test_items, settings.shape)[:12]}",
        description=f"One held-out item of task {settings.name}: for decontamination and evaluation, never for selection.",
    )
    def test_items(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        return materialized(project.tables, stage.record_test_items(project.tables, settings, root=project.root), table="items")

    return test_items
