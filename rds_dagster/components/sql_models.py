"""`SqlModels`: every ``<folder>/<schema>/<name>.sql`` is the asset ``<schema>/<name>`` and the DuckDB table ``<schema>.<name>``.

Adding a model is adding a file. Reading SQL is in lineage/sql.py, running it in lineage/models.py; here stands only what Dagster is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from rds_dagster.components.resources import Project
from rds_dagster.components.results import materialized
from rds_dagster.components.scaffolding import scaffolder
from rds_dagster.components.siblings import mixture_names, pool_names, task_names
from rds_dagster.errors import SettingsError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.lineage.models import CODE, TABLE, materialize_model
from rds_dagster.lineage.sql import SqlModel, expand, known_keys, left_out, parse_model, refuse_cycles
from rds_dagster.project import project_folder
from rds_dagster.scores.settings import METHOD
from rds_dagster.storage.manifest import Manifest

FOLDER = "dbt_like_sql"


@dg.scaffold_with(scaffolder("SqlModelsScaffolder", {"folder": FOLDER}))
class SqlModels(dg.Component, dg.Model, dg.Resolvable):
    """Every `<schema>/<name>.sql` under `folder` (relative to the project folder) as a DuckDB table; what it depends on is read from the SQL."""

    folder: str = FOLDER

    def models(self) -> list[SqlModel]:
        """The models of the folder, by key; raises SettingsError."""
        return read_models(project_folder() / self.folder)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One asset per model."""
        all_models = [model for component in context.component_tree.get_all_components(of_type=SqlModels) for model in component.models()]
        pools, tasks, mixtures = pool_names(context), task_names(context), mixture_names(context)
        _refuse_clashes(all_models, mixtures)
        known = known_keys(pools, tasks, mixtures, [METHOD] if pools else [])
        return dg.Definitions(assets=model_assets(self.models(), all_models, known))


def read_models(folder: Path) -> list[SqlModel]:
    """The models under ``folder``, by key; raises SettingsError for a file that is not ``<schema>/<name>.sql`` or does not parse."""
    if not folder.is_dir():
        raise SettingsError(f"the folder of SQL models {folder} is not there; make it, or mend `folder` in the defs.yaml of SqlModels")
    models = []
    for path in sorted(folder.rglob("*.sql")):
        parts = path.relative_to(folder).parts
        if len(parts) != 2:
            raise SettingsError(f"SQL model {path} stands at the wrong depth; expected {folder.name}/<schema>/<name>.sql")
        try:
            models.append(parse_model(parts[0], path.stem, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise SettingsError(f"SQL model {path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    return models


def model_assets(models: Sequence[SqlModel], all_models: Sequence[SqlModel], known: Sequence[str]) -> list[dg.AssetsDefinition]:
    """An asset for each of ``models``; they may read ``all_models`` and the ``known`` assets of the pipeline. Raises SettingsError.

    A model over a union that has no member yet (``mixtures.all`` in a new project) is left out until it has one, and so is
    a model that reads one that is left out.
    """
    refuse_cycles(all_models)
    readable = [*known, *(model.key for model in all_models)]
    parents = {model.key: expand(model.dependencies, readable, file=model.file) for model in models}
    out = left_out(all_models, readable)
    return [_asset(model, parents[model.key]) for model in models if (model.schema, model.name) not in out]


def _refuse_clashes(models: Sequence[SqlModel], mixtures: Sequence[str]) -> None:
    keys = [model.key for model in models]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SettingsError(f"SQL model {twice[0]} stands in two folders of SqlModels; rename one")
    for mixture in mixtures:
        if f"reports/{mixture}" in keys:
            raise SettingsError(f"SQL model reports/{mixture}.sql has the key of the report of mixture {mixture!r}; rename one of them")


def _asset(model: SqlModel, parents: list[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key=[model.schema, model.name],
        deps=[key.split("/") for key in parents],
        group_name=model.schema,
        kinds={"sql", "duckdb"},
        code_version=fingerprint(CODE, model.code, parents)[:12],  # with the parents' names: a removed instance shows as stale
        description=model.description or f"The rows of {model.file}.",
    )
    def sql_model(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        began = time.monotonic()
        store = project.tables
        before = store.manifest(model.key)
        manifest = materialize_model(store, project.warehouse, model, {key: store.need(key).fingerprint for key in parents})
        num_rows, is_reused = manifest.counts.kept, manifest == before
        figures = {"rows_computed": 0 if is_reused else num_rows, "rows_reused": num_rows if is_reused else 0, "seconds": round(time.monotonic() - began, 3)}
        return materialized(store, manifest, table=TABLE, figures={**figures, **_problem(manifest)}, columns_from=_lineage(manifest))

    return sql_model


def _lineage(manifest: Manifest) -> dict[str, list[str]]:
    """Column -> upstream columns as ``mixtures/best.task``; empty where sqlglot could not read it."""
    lineage = manifest.details.get("lineage", {})
    assert isinstance(lineage, dict)
    return {column: [f"{key}.{source}" for key, source in sources] for column, sources in lineage.items()}


def _problem(manifest: Manifest) -> dict[str, str]:
    return {"lineage_problem": manifest.text("lineage_problem")} if "lineage_problem" in manifest.details else {}
