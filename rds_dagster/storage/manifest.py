"""A manifest is what makes a table finished: which files, made from what, by which settings, with which counts.

It is written last and atomically. ``fingerprint`` is over the content, ``recipe`` over settings and parents: an equal
recipe means that the stored result can be reused, an equal fingerprint that nothing downstream need run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Literal

from rds_dagster.errors import StateError

FORMAT = 1  # of the manifest file itself


@dataclass(frozen=True)
class TableFile:
    """One Parquet file of a table: ``path`` relative to the home folder, rows and bytes; ``table`` says which table of the asset."""

    table: str
    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Counts:
    """What went in, what was kept, and what was dropped by reason; in = kept + dropped, always."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + sum(self.dropped.values()):
            raise StateError(f"rows do not add up: {self.rows_in:,} in, {self.kept:,} kept, {dict(self.dropped)} dropped; please report this as a bug")


@dataclass(frozen=True)
class Manifest:
    """What an asset is, as last finished.

    ``key`` such as ``clean/dolly``; ``parents`` maps keys to their fingerprints; ``details`` holds what only this kind of asset has
    (JSON values).
    """

    key: str
    fingerprint: str
    recipe: str
    settings: Mapping[str, object]
    parents: Mapping[str, str]
    counts: Counts
    files: tuple[TableFile, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: library_versions())

    def paths(self, table: str) -> list[str]:
        """Paths (relative to the home folder) of the files of one of the asset's tables, in order."""
        return [file.path for file in self.files if file.table == table]

    def rows(self, table: str) -> int:
        """Rows of one of the asset's tables."""
        return sum(file.rows for file in self.files if file.table == table)

    def number(self, name: str) -> int:
        """An integer among the details."""
        value = self.details[name]
        assert isinstance(value, int), name
        return value

    def text(self, name: str) -> str:
        """A string among the details."""
        value = self.details[name]
        assert isinstance(value, str), name
        return value


def dump_manifests(manifests: list[Manifest]) -> str:
    """The JSON text of manifests that switch over together."""
    return json.dumps({"format": FORMAT, "manifests": [asdict(manifest) for manifest in manifests]}, indent=1, ensure_ascii=False, sort_keys=True)


def load_manifests(text: str | bytes, *, where: str) -> list[Manifest]:
    """Manifests from JSON text; raises StateError naming ``where`` if it is not of this format."""
    try:
        said = json.loads(text)
        if said["format"] != FORMAT:
            raise StateError(f"{where} has manifest format {said['format']}, this version reads {FORMAT}; remove it and run again to rebuild")
        return [
            Manifest(**{**entry, "counts": Counts(**entry["counts"]), "files": tuple(TableFile(**file) for file in entry["files"])})
            for entry in said["manifests"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{where} is not a manifest ({error}); remove it and run again to rebuild") from error


LIBRARIES: tuple[Literal["rds-dagster", "duckdb", "lancedb", "pyarrow", "numpy"], ...] = ("rds-dagster", "duckdb", "lancedb", "pyarrow", "numpy")


def library_versions() -> dict[str, str]:
    """Versions of what shapes the stored bytes."""
    return {name: _version(name) for name in LIBRARIES}


@cache
def _version(name: str) -> str:
    """Looked up once a process: the five took 12 ms, for every manifest."""
    return version(name)
