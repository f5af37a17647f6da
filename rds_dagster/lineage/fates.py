"""Where examples stand in the state of today: kept, left out by a sample, lost to another, dropped by cleaning, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Required, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_dagster.cleaning.unique import NOT_SAMPLED
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.lineage.lists import above, content_of
from rds_dagster.schema import Message
from rds_dagster.storage.ids import id_array, positions_in
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

Place = tuple[str, str, int]  # pool, file, line
Standing = Literal["kept", "not_sampled", "lost", "dropped", "gone"]
STAGES = ("clean", "unique")
OPENING_CHARS = 24
READ = ("kept", "losers", "quarantine")


class _Row(TypedDict, total=False):
    id: Required[bytes]
    reason: str
    keeper_id: bytes
    keeper_pool: str


@dataclass(frozen=True)
class Fate:
    """One example today: in which pool, and by or to what. pool is None where it is gone; ``other`` is the keeper or the reason of the drop."""

    standing: Standing
    pool: str | None = None
    other: str | None = None
    owner: str | None = None
    """The pool of the keeper."""

    @property
    def words(self) -> str:
        """What people read."""
        match self.standing:
            case "kept":
                return f"pool {self.pool} keeps it"
            case "not_sampled":
                return f"the sample of pool {self.pool} leaves it out"
            case "lost":
                return f"it loses to {(self.other or '')[:12]} of pool {self.owner}"
            case "dropped":
                return f"cleaning of pool {self.pool} drops its row: {self.other}"
            case "gone":
                return "it stands in no pool"


def openings_of(messages: list[Message]) -> tuple[str, ...]:
    """How each message begins, as JSON writes it; nothing for empty ones."""
    said = (json.dumps(message["content"][:OPENING_CHARS], ensure_ascii=False)[1:-1] for message in messages)
    return tuple(opening for opening in said if opening)


def is_state_of(store: TableStore, version: Manifest) -> bool:
    """Whether the clean and unique pools of today are those that a version was made from."""
    clean, unique = _pools_of_today(store)
    now = {manifest.key: manifest.fingerprint for manifest in [*clean, *unique]}
    wanted = [key for key in above(version) if key.split("/")[0] in STAGES]
    return all(now.get(key) == content_of(version, key) for key in wanted) and {m.key for m in clean} <= set(wanted)


def find_fates(store: TableStore, places: Mapping[bytes, Collection[Place]], openings: Mapping[bytes, Collection[str]]) -> dict[bytes, Fate] | None:
    """The fate of each example, given where it stood and how its messages begin: a row that cleaning drops has no id, so it is known by both.

    None where a table of today is missing, so that nothing can be said of any.
    """
    clean, unique = _pools_of_today(store)
    if not unique or not all((store.layout.home / file.path).exists() for m in [*clean, *unique] for file in m.files if file.table in READ):
        return None
    fates: dict[bytes, Fate] = {}
    for fate, example in _sightings(store, unique, np.array(sorted(places), ID_DTYPE)):
        fates.setdefault(example, fate)
    missing = {place: example for example, own in places.items() if example not in fates for place in own}
    for fate, place, excerpt in _drops(store, clean, missing):
        if any(opening in excerpt for opening in openings[missing[place]]):  # else another row has moved there
            fates.setdefault(missing[place], fate)
    return {example: fates.get(example, Fate("gone")) for example in places}


def _pools_of_today(store: TableStore) -> tuple[list[Manifest], list[Manifest]]:
    """The manifests of unique/*, and before them those of clean/* that they unite; none where one of these is gone."""
    unique = store.manifests("unique")
    clean = [store.manifest(key) for key in sorted({key for manifest in unique for key in manifest.parents})]
    return ([m for m in clean if m], unique) if all(clean) else ([], [])


def _sightings(store: TableStore, unique: list[Manifest], wanted: np.ndarray) -> Iterator[tuple[Fate, bytes]]:
    """What is kept first, then why it is not: left out by a sample, lost to another."""
    for manifest in unique:
        for row in _rows(store, manifest, "kept", ["id"], wanted):
            yield Fate("kept", _pool(manifest)), row["id"]
    for manifest in unique:
        for row in _rows(store, manifest, "quarantine", ["id", "reason"], wanted):
            if row["reason"] == NOT_SAMPLED:
                yield Fate("not_sampled", _pool(manifest)), row["id"]
    for manifest in unique:
        for row in _rows(store, manifest, "losers", ["id", "keeper_id", "keeper_pool"], wanted):
            if row["keeper_id"] != row["id"]:  # else the same text in another pool, which says what became of it
                yield Fate("lost", _pool(manifest), row["keeper_id"].hex(), row["keeper_pool"]), row["id"]


def _drops(store: TableStore, clean: list[Manifest], places: Collection[Place]) -> Iterator[tuple[Fate, Place, str]]:
    """Those of the places whose rows cleaning drops today, with the beginning of the row."""
    files = pa.array(sorted({file for _, file, _ in places}), pa.string())
    for manifest in clean:
        for batch in store.stream(manifest, "quarantine", ["pool", "file", "line", "reason", "excerpt"]):
            for row in batch.filter(pc.is_in(batch.column("file"), files)).to_pylist():
                place = (row["pool"], row["file"], row["line"])
                if place in places:
                    yield Fate("dropped", row["pool"], row["reason"]), place, row["excerpt"] or ""


def _rows(store: TableStore, manifest: Manifest, table: str, columns: list[str], wanted: np.ndarray) -> Iterator[_Row]:
    """The rows of the wanted examples, (M,) S16, sorted."""
    for batch in store.stream(manifest, table, columns):
        yield from batch.filter(pa.array(positions_in(wanted, id_array(batch.column("id")))[1])).to_pylist()


def _pool(manifest: Manifest) -> str:
    return manifest.key.split("/", 1)[1]
