"""What the generator planted and where, so that tests and reports can check what the flow caught."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rds_dagster.errors import InputError

LEDGER_FILE = "planted.json"
CopyKind = Literal["verbatim", "white_space", "word_changed", "casing", "punctuation"]


@dataclass(frozen=True, order=True)
class Place:
    """A record: its pool, its file relative to the pool's folder, and its line (JSON array: element, Parquet: row) from 1."""

    pool: str
    file: str
    line: int


@dataclass(frozen=True)
class PoolWritten:
    """What one pool holds: its files, all records, how many of them are broken, and how many are fresh conversations (neither broken nor planted)."""

    pool: str
    files: tuple[str, ...]
    records: int
    broken: int
    fresh: int


@dataclass(frozen=True)
class PlantedBroken:
    """A record that the cleaning stage must drop, and the reason that it must give."""

    place: Place
    reason: str


@dataclass(frozen=True)
class PlantedCopy:
    """A record made from another: ``verbatim`` and ``white_space`` copies are exact duplicates, the other kinds near-duplicates."""

    place: Place
    original: Place
    kind: CopyKind


@dataclass(frozen=True)
class PlantedLeak:
    """A test item of a task that stands in a pool, verbatim or with its letter case changed."""

    place: Place
    task: str
    item: str
    kind: Literal["verbatim", "casing"]


@dataclass(frozen=True)
class TaskWritten:
    """A task's number of queries and of test items."""

    task: str
    queries: int
    test_items: int


@dataclass(frozen=True)
class DemoLedger:
    """All that ``write_demo`` wrote and planted. No original of a copy is itself a copy, broken, or leaked, so copies and losses correspond one to one."""

    seed: int
    pools: tuple[PoolWritten, ...]
    tasks: tuple[TaskWritten, ...]
    broken: tuple[PlantedBroken, ...]
    exact_duplicates: tuple[PlantedCopy, ...]
    near_duplicates: tuple[PlantedCopy, ...]
    leaked: tuple[PlantedLeak, ...]

    @property
    def records(self) -> int:
        """Records in all pools."""
        return sum(pool.records for pool in self.pools)

    @property
    def unique_records(self) -> int:
        """Records that remain after the broken ones and one of each exact pair are dropped."""
        return self.records - len(self.broken) - len(self.exact_duplicates)

    def as_json(self) -> str:
        """The ledger as indented JSON, as ``planted.json`` holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class GrowthLedger:
    """What ``write_growth`` wrote: one file of a pool, its records, and those of them that are copies of records that stood there before."""

    seed: int
    pool: str
    file: str
    records: int
    known: tuple[PlantedCopy, ...]


def read_ledger(folder: Path) -> DemoLedger:
    """The ledger of a folder that ``write_demo`` wrote; raises InputError if there is none."""
    path = folder / LEDGER_FILE
    if not path.exists():
        raise InputError(f"{path} does not exist; write the demo data into {folder} first (write_demo)")
    said = json.loads(path.read_text(encoding="utf-8"))
    return DemoLedger(
        seed=said["seed"],
        pools=tuple(PoolWritten(**{**pool, "files": tuple(pool["files"])}) for pool in said["pools"]),
        tasks=tuple(TaskWritten(**task) for task in said["tasks"]),
        broken=tuple(PlantedBroken(Place(**row["place"]), row["reason"]) for row in said["broken"]),
        exact_duplicates=tuple(_copy(row) for row in said["exact_duplicates"]),
        near_duplicates=tuple(_copy(row) for row in said["near_duplicates"]),
        leaked=tuple(PlantedLeak(Place(**row["place"]), row["task"], row["item"], row["kind"]) for row in said["leaked"]),
    )


def _copy(row: dict[str, dict[str, object]]) -> PlantedCopy:
    return PlantedCopy(Place(**row["place"]), Place(**row["original"]), row["kind"])  # type: ignore[arg-type]
