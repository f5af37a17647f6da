"""What assets and checks are handed: the project's folder and its stores. Merged once, in definitions.py; tests replace it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse

RESOURCE = "project"  # the name under which ops ask for it


class Project(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One project: ``folder`` holds assets/ and pyproject.toml, ``home`` its state (`.rds`); both absolute."""

    folder: str
    home: str

    @property
    def root(self) -> Path:
        """The project folder; relative sources of pools start here."""
        return Path(self.folder)

    @property
    def layout(self) -> Layout:
        """Every path of the state."""
        return Layout(Path(self.home))

    @property
    def tables(self) -> TableStore:
        """The Parquet tables."""
        return TableStore(self.layout)

    @property
    def warehouse(self) -> Warehouse:
        """The DuckDB warehouse."""
        return Warehouse(self.layout)
