"""The Dagster instance of a project: its folder under the state, its settings, telemetry off, and the project's lock.

DAGSTER_HOME is set here, for this process and the servers under it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import dagster as dg
from sqlalchemy.exc import OperationalError

from rds_dagster.components.resources import hold_project
from rds_dagster.errors import StateError
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.layout import Layout
from rds_dagster.telemetry import telemetry_off

DAGSTER_YAML = """\
# Written by rds_dagster. Edit it freely: a file that differs from what rds wrote is never overwritten.
telemetry:
  enabled: false
nux: # no community pop-up in a fresh home
  enabled: false
python_logs: # so that the UI shows how far an encoding is
  managed_python_loggers: [rds_dagster]
  python_log_level: INFO
run_launcher: # the default one, and it notes the host, so that a killed run can be told from a living one
  module: rds_dagster.runs.orphans
  class: LocalRunLauncher
event_log_storage: # Dagster's own in SQLite, with the databases kept open between events
  module: rds_dagster.runs.event_log
  class: KeptOpenEventLogStorage
  config:
    base_dir:
      env: DAGSTER_HOME
"""
EARLIER_DAGSTER_YAMLS = (DAGSTER_YAML[: DAGSTER_YAML.index("event_log_storage:")],)  # what older versions wrote; such a file is brought up to date


def prepare_instance(layout: Layout) -> None:
    """Make the instance's folder and its dagster.yaml, and set DAGSTER_HOME, for this process and its children; telemetry off.

    dagster.yaml is written if it is missing or is what an older version wrote; an edited one stays. Raises StateError if the folder cannot be written.
    """
    telemetry_off()
    settings = layout.dagster / "dagster.yaml"
    if not settings.exists() or settings.read_text() in EARLIER_DAGSTER_YAMLS:
        write_text(settings, DAGSTER_YAML)
    os.environ["DAGSTER_HOME"] = str(layout.dagster)


@contextmanager
def open_instance(layout: Layout) -> Iterator[dg.DagsterInstance]:
    """The project's persistent instance, made if missing.

    Raises StateError with the mend where its records cannot be read or written inside the block: on a full disk they are the first not to fit.
    """
    prepare_instance(layout)
    try:
        with dg.DagsterInstance.from_config(str(layout.dagster)) as instance:
            yield instance
    except OperationalError as error:
        raise StateError(
            f"Dagster's records in {layout.dagster} cannot be read or written ({error.orig}); "
            "free space on the disk or make the folder writable, and run again: the last good state is untouched"
        ) from error


def project_lock(layout: Layout, timeout_s: float) -> AbstractContextManager[None]:
    """Hold the project: one run at a time, wherever it was started. Raises BusyError naming the holder after ``timeout_s`` seconds."""
    return hold_project(layout, timeout_s)
