"""A version's lists, and how deep it read each: what tells whether an example was among its candidates, long after these are gone.

A selector takes from a list (a task's, a query's, a source's, or the one list of all) in its order. So a version has taken every candidate above the
last that it took from a list: an example above that place which it does not hold was not in the list, and so no candidate (lists of sources
aside: an example is in one of them). The lists of two versions can be compared where both rank by the same numbers: same kind of list,
same queries, same encoder and whitening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict

import numpy as np
import pyarrow as pa

from rds_dagster.fingerprint import ID_DTYPE, seeded_fractions
from rds_dagster.storage.ids import id_array
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

NARROW = ["id", "position", "pool", "source", "task", "query", "rank", "score"]
SCORING = ("encoders", "whitening")  # groups whose assets decide what a score is, besides the queries of its task
SELECTING = ("method", "selector", "tasks", "on_taken", "balanced", "seed")


class PickRow(TypedDict):
    """One selected example, without its text; id as 16 bytes."""

    id: bytes
    position: int
    pool: str
    source: str
    task: str | None
    query: str | None
    rank: int
    score: float | None


@dataclass(frozen=True, eq=False)
class Lists:
    """The K picks of one version as read from its folder (NARROW columns), and where each of its lists ended."""

    manifest: Manifest
    picks: pa.Table
    ids: np.ndarray
    """(K,) S16, in the order of picking."""
    ends: Mapping[str, PickRow]
    """List -> the last example taken from it."""
    _compared: dict[tuple[str, str | None], bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How people call the version."""
        return f"version {self.manifest.fingerprint[:8]}"

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks that the version is for, sorted; none where it is random."""
        return sorted(key.rsplit("/", 1)[1] for key in self.manifest.parents if key.startswith("scores/"))

    @cached_property
    def pools(self) -> list[str]:
        """The pools that it may pick from, sorted."""
        return sorted(key.split("/", 1)[1] for key in self.manifest.parents if key.startswith("unique/"))

    @cached_property
    def has_all(self) -> bool:
        """Whether it took every candidate that there was."""
        return len(self.ids) == sum(_rows_of(self.manifest, f"unique/{pool}") for pool in self.pools)

    def not_in(self, other: Lists) -> list[PickRow]:
        """The examples that the other version does not hold, in the order of picking."""
        rows: list[PickRow] = self.picks.filter(pa.array(~np.isin(self.ids, other.ids))).to_pylist()
        return rows

    def is_comparable(self, other: Lists, task: str | None) -> bool:
        """``are_comparable``, asked once for each task."""
        key = (other.manifest.fingerprint, task)
        if key not in self._compared:
            self._compared[key] = are_comparable(self.manifest, other.manifest, task)
        return self._compared[key]

    def is_above_end(self, list_name: str, row: PickRow) -> bool:
        """Whether a candidate that ranks like this pick of a comparable version was surely taken from the list."""
        return list_name in self.ends and _key(self.manifest, row) < _key(self.manifest, self.ends[list_name])


def read_lists(store: TableStore, manifest: Manifest) -> Lists:
    """The picks of a version, from its own folder."""
    picks = store.read(manifest, "examples", NARROW)
    ids, kind = id_array(picks.column("id")), _kind(manifest)[0]
    values = _fractions(manifest, ids) if manifest.settings["method"] == "random" else -picks.column("score").to_numpy()
    lists = picks.column(kind).to_numpy() if kind in NARROW else np.full(len(ids), "")
    names, codes = np.unique(lists.astype(str), return_inverse=True)
    order = np.lexsort((ids, values, codes))
    last = order[np.cumsum(np.bincount(codes, minlength=len(names))) - 1] if len(ids) else order
    ends: list[PickRow] = picks.take(pa.array(last)).to_pylist()
    return Lists(manifest, picks, ids, dict(zip(names.tolist(), ends, strict=True)))


def list_of(manifest: Manifest, row: PickRow) -> str:
    """The name of the list that an example was taken from: its query, task or source, empty where there is one list for all."""
    kind, value = _kind(manifest)[0], ""
    if kind == "query":
        value = row["query"] or ""
    elif kind == "task":
        value = row["task"] or ""
    elif kind == "source":
        value = row["source"]
    return value


def list_words(manifest: Manifest, list_name: str) -> str:
    """How people call a list."""
    kind = _kind(manifest)[0]
    return f"the list of {kind} {list_name}" if kind in ("query", "task", "source") else "the list of all"


def are_comparable(one: Manifest, other: Manifest, task: str | None) -> bool:
    """Whether two versions rank a list by the same numbers; ``task`` is whose list it is where tasks have lists of their own."""
    kind = _kind(one)
    if kind != _kind(other):
        return False
    tasks = kind[1:] if kind[0] in ("mean_max", "global_top") else [task] if task is not None else []
    same = [f"queries/{name}" for name in tasks]
    return all(content_of(one, key) == content_of(other, key) is not None for key in same) and _scoring(one) == _scoring(other)


def above(manifest: Manifest) -> Mapping[str, Mapping[str, object]]:
    """Everything that a version was made from: key -> fingerprint, settings, rows, dropped."""
    upstream = manifest.details["upstream"]
    assert isinstance(upstream, dict), "make_mixture wrote it"
    return upstream


def content_of(manifest: Manifest, key: str) -> str | None:
    """The fingerprint of something upstream; None if it was not."""
    entry = above(manifest).get(key)
    return str(entry["fingerprint"]) if entry else None


def _scoring(manifest: Manifest) -> dict[str, str | None]:
    return {key: content_of(manifest, key) for key in above(manifest) if key.split("/")[0] in SCORING}


def _kind(manifest: Manifest) -> tuple[str, ...]:
    """What the lists are, and on what their order depends besides the scores."""
    said = manifest.settings
    tasks = sorted(key.rsplit("/", 1)[1] for key in manifest.parents if key.startswith("scores/"))
    if said["method"] == "random":
        return ("source" if said["balanced"] else "random", str(said["seed"]))
    if said["selector"] == "round_robin":
        return ("query", *tasks) if len(tasks) == 1 else ("task",)
    return (str(said["selector"]), *tasks)


def _key(manifest: Manifest, row: PickRow) -> tuple[float, bytes]:
    """Its place in a list: smaller is taken first."""
    if row["score"] is not None:
        return -row["score"], row["id"]
    return float(_fractions(manifest, np.array([row["id"]], ID_DTYPE))[0]), row["id"]


def _fractions(manifest: Manifest, ids: np.ndarray) -> np.ndarray:
    """What a random version draws by."""
    seed = manifest.settings["seed"]
    assert isinstance(seed, int), "MixtureSettings checked it"
    return seeded_fractions(ids, seed, "mixture")


def _rows_of(manifest: Manifest, key: str) -> int:
    rows = above(manifest)[key]["rows"]
    assert isinstance(rows, int), "a manifest's count"
    return rows
