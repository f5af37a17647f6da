"""What entered a mixture and what left it between two versions, and why.

Read from the two version folders alone, and from the clean and unique pools of today where the newer version was made from them: these
say exactly why an example is no candidate any more. Where they are pruned or have moved on, the reason says that it is not known any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from rds_dagster.cleaning.texts import BATCH_ROWS, tidy
from rds_dagster.errors import SettingsError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.lineage.fates import Fate, Place, find_fates, is_state_of, openings_of
from rds_dagster.lineage.lists import SCORING, SELECTING, Lists, PickRow, above, content_of, read_lists
from rds_dagster.lineage.reasons import Reason, Side, why_entered, why_left
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.mixtures.versions import Version, find_version, version_before
from rds_dagster.schema import Message, duplicate_key
from rds_dagster.storage.ids import id_array, positions_in
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore, stream_parquet

TEXT_CHARS = 120


@dataclass(frozen=True)
class Moved:
    """One example that entered (position, rank and score as in the newer version) or left (as in the older one); ``text``: its first words."""

    id: str
    position: int
    pool: str
    source: str
    task: str | None
    query: str | None
    rank: int
    score: float | None
    reason: Reason
    why: str
    text: str


@dataclass(frozen=True)
class Changed:
    """One setting or one thing upstream that differs: its value or fingerprint before and after; None where it was not there."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Share:
    """How many examples a task, or a source (as pool/source), gave to each version, and which share of all."""

    name: str
    before: int
    after: int
    share_before: float
    share_after: float


@dataclass(frozen=True)
class VersionFacts:
    """Which version; ``made`` in UTC."""

    fingerprint: str
    made: str
    examples: int
    budget: int
    is_current: bool


@dataclass(frozen=True)
class Diff:
    """Two versions of one mixture; ``entered`` in the order of the newer one, ``left`` in that of the older one."""

    mixture: str
    before: VersionFacts
    after: VersionFacts
    stayed: int
    jaccard: float
    settings: tuple[Changed, ...]
    upstream: tuple[Changed, ...]
    entered: tuple[Moved, ...]
    left: tuple[Moved, ...]
    tasks: tuple[Share, ...]
    sources: tuple[Share, ...]

    @property
    def entered_by_reason(self) -> dict[Reason, int]:
        """How many entered for which reason, the most first."""
        return dict(Counter(moved.reason for moved in self.entered).most_common())

    @property
    def left_by_reason(self) -> dict[Reason, int]:
        """How many left for which reason, the most first."""
        return dict(Counter(moved.reason for moved in self.left).most_common())


def diff_versions(store: TableStore, mixture: str, before: str, after: str) -> Diff:
    """Compare two versions, each named by ``current``, ``previous`` or the first digits of its fingerprint.

    Raises SettingsError for a version that is not there (it lists those that are) or for one and the same, StateError if the mixture was never made.
    """
    older, newer = find_version(store, mixture, before), find_version(store, mixture, after)
    if older.fingerprint == newer.fingerprint:
        raise SettingsError(f"both {before!r} and {after!r} are version {older.fingerprint[:12]} of mixture {mixture!r}; name two versions")
    return _diff(store, mixture, older, newer)


def diff_to_previous(store: TableStore, mixture: str) -> Diff | None:
    """The current version against the one before it; None if there is none."""
    older = version_before(store, mixture)
    return None if older is None else _diff(store, mixture, older, find_version(store, mixture, "current"))


def _diff(store: TableStore, mixture: str, older: Version, newer: Version) -> Diff:
    a, b = read_lists(store, older.manifest), read_lists(store, newer.manifest)
    settings = _changed_settings(a, b)
    selecting = tuple(change.name for change in settings if change.name in SELECTING or change.name.split("/")[0] in ("queries", *SCORING))
    left, entered = _Moves(store, a, b), _Moves(store, b, a)
    fates, are_of_b = left.fates(store), is_state_of(store, newer.manifest)
    num_both = len(b.ids) - len(entered.rows)
    return Diff(
        mixture=mixture,
        before=_facts(older),
        after=_facts(newer),
        stayed=num_both,
        jaccard=num_both / (len(a.ids) + len(entered.rows)),
        settings=settings,
        upstream=_changed_upstream(a.manifest, b.manifest),
        entered=tuple(entered.moved(i, why_entered(i, left.side, entered.side, selecting)) for i in entered.rows),
        left=tuple(left.moved(i, why_left(i, left.side, entered.side, selecting, _fate(fates, i), are_of_b)) for i in left.rows),
        tasks=_shares(_counts(a, "task"), _counts(b, "task")),
        sources=_shares(_counts(a, "pool", "source"), _counts(b, "pool", "source")),
    )


class _Moves:
    """The examples that one version holds and the other does not, by id in the order of picking, with what is asked of their texts and places."""

    def __init__(self, store: TableStore, lists: Lists, other: Lists) -> None:
        self.rows: dict[bytes, PickRow] = {row["id"]: row for row in lists.not_in(other)}
        self.places: dict[bytes, set[Place]] = {example: set() for example in self.rows}
        self.openings: dict[bytes, tuple[str, ...]] = {}
        self.texts: dict[bytes, str] = {}
        keys: dict[bytes, bytes] = {}
        for example, messages in _conversations(store, lists.manifest, self.rows):
            keys[example], self.openings[example], self.texts[example] = duplicate_key(messages), openings_of(messages), _first_words(messages)
        for batch in store.stream(lists.manifest, "provenance", ["id", "pool", "file", "line"]):
            for example, pool, file, line in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if example in self.places:
                    self.places[example].add((pool, file, line))
        pools = {example: {pool for pool, _, _ in own} for example, own in self.places.items()}
        self.side = Side(lists, self.rows, keys, pools, {key: example for example, key in keys.items()})

    def fates(self, store: TableStore) -> dict[bytes, Fate] | None:
        """Where they stand today; None if that cannot be said."""
        return find_fates(store, self.places, self.openings) if self.rows else None

    def moved(self, example: bytes, said: tuple[Reason, str]) -> Moved:
        """One of them, with its reason."""
        row = self.rows[example]
        return Moved(
            id=example.hex(),
            position=row["position"],
            pool=row["pool"],
            source=row["source"],
            task=row["task"],
            query=row["query"],
            rank=row["rank"],
            score=row["score"],
            reason=said[0],
            why=said[1],
            text=self.texts[example],
        )


def _fate(fates: Mapping[bytes, Fate] | None, example: bytes) -> Fate | None:
    return None if fates is None else fates[example]


def _facts(version: Version) -> VersionFacts:
    budget = version.manifest.settings["budget"]
    assert isinstance(budget, int), "MixtureSettings checked it"
    return VersionFacts(version.fingerprint, version.made, version.manifest.counts.kept, budget, version.is_current)


def _first_words(messages: list[Message]) -> str:
    """Of the first user turn, on one line."""
    first = next((message["content"] for message in messages if message["role"] == "user"), "")
    text = " ".join(first.split())
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def _conversations(store: TableStore, manifest: Manifest, ids: Collection[bytes]) -> Iterator[tuple[bytes, list[Message]]]:
    """The messages of some examples of a version, streamed from its own folder."""
    wanted = np.array(sorted(ids), ID_DTYPE)
    for path in store.paths(manifest, "examples") if ids else []:
        for batch in stream_parquet(path, ["id", "messages"], BATCH_ROWS):
            rows = batch.filter(pa.array(positions_in(wanted, id_array(batch.column("id")))[1])).to_pylist()
            yield from ((row["id"], tidy(row["messages"])) for row in rows)


def _counts(lists: Lists, *columns: str) -> Counter[str]:
    """How many picks share the values of the columns, which are joined by a slash; picks without a value are left out."""
    groups = lists.picks.group_by(list(columns)).aggregate([([], "count_all")]).to_pylist()
    return Counter({"/".join(row[name] for name in columns): row["count_all"] for row in groups if row[columns[0]] is not None})


def _changed_settings(a: Lists, b: Lists) -> tuple[Changed, ...]:
    """The mixture's own settings, with the tasks and pools that it really has; then queries, encoder and whitening; then settings upstream."""
    own = [field.name for field in fields(MixtureSettings) if field.name not in ("name", "tasks", "pools")]
    values = [{name: _said(lists.manifest.settings.get(name)) for name in own} for lists in (a, b)]
    for lists, said in zip((a, b), values, strict=True):
        said.update({"tasks": _said(lists.tasks), "pools": _said(lists.pools)})
    contents = [{key: content_of(lists.manifest, key) for key in above(lists.manifest) if key.split("/")[0] in ("queries", *SCORING)} for lists in (a, b)]
    further = [
        {f"{key} {name}": _said(value) for key, entry in above(lists.manifest).items() for name, value in _settings_of(entry).items()} for lists in (a, b)
    ]
    both = further[0].keys() & further[1].keys()  # settings of what came or went say nothing more
    kept = [{name: value for name, value in said.items() if name in both} for said in further]
    return (*_changes(*values), *_changes(*contents), *_changes(*kept))


def _settings_of(entry: Mapping[str, object]) -> Mapping[str, object]:
    settings = entry["settings"]
    assert isinstance(settings, dict), "a manifest's settings"
    return settings


def _changed_upstream(a: Manifest, b: Manifest) -> tuple[Changed, ...]:
    contents = [{key: content_of(manifest, key) for key in above(manifest)} for manifest in (a, b)]
    return _changes(*contents)


def _changes(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> tuple[Changed, ...]:
    names = [*before, *(name for name in after if name not in before)]
    return tuple(Changed(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name))


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _shares(before: Counter[str], after: Counter[str]) -> tuple[Share, ...]:
    """By count after, then before, the most first."""
    totals = before.total() or 1, after.total() or 1
    names = sorted({*before, *after}, key=lambda name: (-after[name], -before[name], name))
    return tuple(Share(name, before[name], after[name], before[name] / totals[0], after[name] / totals[1]) for name in names)
