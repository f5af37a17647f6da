"""Composition root: the instances under the project's assets/, and the resources, executor, job and automation around them. No logic.

Loaded by dagster and dg through workspace.yaml or [tool.dg], and by the `rds` command.
"""

from __future__ import annotations

import logging
import os

import dagster as dg

from rds_dagster.components.automation import automated
from rds_dagster.components.resources import RESOURCE, Project
from rds_dagster.project import import_assets, project_folder
from rds_dagster.storage.layout import Layout
from rds_dagster.telemetry import telemetry_off

MAIN_JOB = "main"


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions of the project at hand; raises SettingsError naming what is wrong."""
    telemetry_off()
    project = project_folder()
    import_assets(project)
    _warn_of_temporary_instance()
    layout = Layout.of_project(project)
    return automated(
        dg.Definitions.merge(
            dg.load_from_defs_folder(path_within_project=project / "assets"),
            dg.Definitions(
                resources={RESOURCE: Project(folder=str(project), home=str(layout.home))},
                executor=dg.in_process_executor,  # 21 light steps: 13.6 s in process, over a minute with multiprocess
                jobs=[
                    dg.define_asset_job(
                        MAIN_JOB, dg.AssetSelection.all(), description="Everything, from raw pools to mixtures and reports; cheap where nothing changed."
                    )
                ],
            ),
        )
    )


def _warn_of_temporary_instance() -> None:
    if not os.environ.get("DAGSTER_HOME"):
        logging.getLogger(__name__).warning(
            "DAGSTER_HOME is not set: a temporary instance forgets its history on exit; start the UI with `rds ui`, or set it to <project>/.rds/dagster"
        )
