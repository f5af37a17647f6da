"""Every path of a project's state, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths under one home folder (``<project>/.rds``, or what ``RDS_HOME`` names), absolute."""

    home: Path

    @classmethod
    def of_project(cls, project: Path) -> Layout:
        """The layout of a project folder; ``RDS_HOME`` overrides."""
        return cls(Path(os.environ.get("RDS_HOME") or project / ".rds").resolve())

    @property
    def manifests(self) -> Path:
        """One JSON file per asset, or per group of assets that switch over together; the truth about what is finished."""
        return self.home / "manifests"

    @property
    def tables(self) -> Path:
        """Parquet files, named by fingerprint, that manifests point at."""
        return self.home / "tables"

    @property
    def shards(self) -> Path:
        """Cached readings of pool files, by content of the file and settings."""
        return self.home / "shards"

    @property
    def score_blocks(self) -> Path:
        """Cached scores of blocks of vectors, by content of block and query set."""
        return self.home / "scores"

    @property
    def vectors(self) -> Path:
        """The LanceDB database: one append-only table per encoder fingerprint."""
        return self.home / "vectors.lance"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file."""
        return self.home / "warehouse.duckdb"

    @property
    def mixtures(self) -> Path:
        """One folder per mixture, in it one self-contained folder per version."""
        return self.home / "mixtures"

    @property
    def exports(self) -> Path:
        """One folder per mixture, in it one folder per exported version."""
        return self.home / "exports"

    @property
    def reports(self) -> Path:
        """One HTML page per mixture."""
        return self.home / "reports"

    @property
    def dagster(self) -> Path:
        """The Dagster instance (``DAGSTER_HOME``)."""
        return self.home / "dagster"

    @property
    def digests(self) -> Path:
        """Cached content hashes of big files, by path, size and modification time."""
        return self.home / "digests.json"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.home / "locks"
