"""Why an example entered a mixture or left it between two versions: rules over the two versions' lists, the surest first.

Each gives a reason to count by and a sentence to read. What is certain comes from the lists (lists.py): a version has taken every
candidate above the last that it took from a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rds_dagster.lineage.fates import Fate
from rds_dagster.lineage.lists import Lists, PickRow, content_of, list_of, list_words

Reason = Literal[
    "new", "new_pool", "stands_in", "room",  # entered
    "source_left", "pool_left", "cleaning", "duplicate", "not_sampled", "replaced", "beaten", "not_known",  # left
    "settings", "budget",  # both
]  # fmt: skip

REASON_WORDS: Mapping[Reason, str] = {
    "new": "new among the candidates of its pool",
    "new_pool": "its pool is new to the mixture",
    "stands_in": "stands in for one alike that left",
    "room": "its list reaches further now",
    "source_left": "its source left",
    "pool_left": "its pool left the mixture",
    "cleaning": "dropped by cleaning",
    "duplicate": "lost as a duplicate",
    "not_sampled": "left out by its pool's sample",
    "replaced": "one alike took its place",
    "beaten": "beaten by better ones",
    "not_known": "no candidate any more; why is not known any more",
    "settings": "settings or queries changed",
    "budget": "the budget changed",
}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two versions. Of the examples that only it holds, by id: the pick, the key of which a pool holds one, and the pools it stood in."""

    lists: Lists
    rows: Mapping[bytes, PickRow]
    duplicate_keys: Mapping[bytes, bytes]
    pools: Mapping[bytes, set[str]]
    twins: Mapping[bytes, bytes]
    """``duplicate_keys`` turned round."""


def why_entered(example: bytes, a: Side, b: Side, selecting: Sequence[str]) -> tuple[Reason, str]:
    """Why ``b`` holds an example that ``a``, the older one, does not; ``selecting``: the names of changed settings and contents that bear on picks."""
    row = b.rows[example]
    if twin := a.twins.get(b.duplicate_keys[example]):
        return "stands_in", f"alike but for white space to {twin.hex()[:12]}, which left"
    if not b.pools[example] & set(a.lists.pools):
        return "new_pool", f"pool {row['pool']} is not among those of {a.lists.name}"
    if a.lists.has_all:
        return "new", f"{a.lists.name} took all of its candidates, and this was none of them"
    cut = _cut(row, b.lists, a.lists)
    if cut and cut.is_above:
        return "new", f"it was not in that list then: {cut.words}"
    known = "; it was a candidate already" if _is_unchanged(row["pool"], a, b) else ""
    if selecting:
        return "settings", f"changed: {', '.join(selecting)}{known}"
    budgets = [_budget(side) for side in (a, b)]
    said = f"{cut.words if cut else 'its list reaches further'}{known}"
    return ("budget", f"{budgets[0]:,} -> {budgets[1]:,}; {said}") if budgets[1] > budgets[0] else ("room", said)


def why_left(example: bytes, a: Side, b: Side, selecting: Sequence[str], fate: Fate | None, is_fate_of_b: bool) -> tuple[Reason, str]:
    """Why ``b`` no longer holds an example of ``a``.

    ``fate``: where it stands today, None where that cannot be said; ``is_fate_of_b``: the pools of today are those that ``b`` was made from.
    """
    row = a.rows[example]
    has_place = bool(a.pools[example] & set(b.lists.pools))
    if fate and is_fate_of_b:
        is_candidate = fate.standing == "kept" and fate.pool in b.lists.pools
        return _outranked(row, a, b, selecting) if is_candidate else _no_candidate(row, fate, b, has_place=has_place)
    if twin := b.twins.get(a.duplicate_keys[example]):
        return "replaced", f"{twin.hex()[:12]} of pool {b.rows[twin]['pool']} entered, which is alike but for white space"
    if not has_place:
        return "pool_left", f"pool {row['pool']} is not among those of {b.lists.name}"
    cut = _cut(row, a.lists, b.lists)
    today = f"; today {fate.words}" if fate else ""
    if b.lists.has_all:
        return "not_known", f"{b.lists.name} took all of its candidates, and this was none of them{today}"
    if cut and cut.is_above:
        return "not_known", f"{cut.words}, so it was not in that list any more{today}"
    reason, said = _outranked(row, a, b, selecting)
    return reason, said if _is_unchanged(row["pool"], a, b) else f"{said}; whether it was still a candidate is not known any more{today}"


@dataclass(frozen=True)
class _Cut:
    """Where an example stands in a list of the other version: above its end or not."""

    is_above: bool
    words: str


def _cut(row: PickRow, own: Lists, other: Lists) -> _Cut | None:
    """The example against the end of its list in the other version; None if the two do not rank by the same numbers.

    Every candidate is in every list, but for those of sources: there an example can have moved from one to another.
    """
    if not own.is_comparable(other, row["task"]):
        return None
    name = list_of(own.manifest, row)
    where, last = list_words(own.manifest, name), other.ends.get(name)
    if last is None:
        return _Cut(False, f"{other.name} took nothing from {where}")
    is_above = other.is_above_end(name, row)
    if row["score"] is None or last["score"] is None:
        return _Cut(is_above, f"it comes {'before' if is_above else 'after'} the last that {other.name} took from {where}")
    return _Cut(is_above, f"it has {row['score']:.4f} in {where}, of which {other.name} took down to {last['score']:.4f}")


def _outranked(row: PickRow, a: Side, b: Side, selecting: Sequence[str]) -> tuple[Reason, str]:
    """It is a candidate still, or would not have been taken if it were."""
    if selecting:
        return "settings", f"changed: {', '.join(selecting)}"
    cut, budgets = _cut(row, a.lists, b.lists), [_budget(side) for side in (a, b)]
    said = cut.words if cut else "others are ranked before it"
    if cut and cut.is_above:  # only a source can change
        said = "its source changed, and in the list of the new one others come before it"
    return ("budget", f"{budgets[0]:,} -> {budgets[1]:,}; {said}") if budgets[1] < budgets[0] else ("beaten", said)


def _no_candidate(row: PickRow, fate: Fate, b: Side, *, has_place: bool) -> tuple[Reason, str]:
    """By its fate in the pools that ``b`` was made from."""
    match fate.standing:
        case "kept":
            return "pool_left", f"{fate.words}, which is not among those of {b.lists.name}"
        case "not_sampled":
            return "not_sampled", fate.words
        case "lost":
            return "duplicate", fate.words
        case "dropped":
            return "cleaning", fate.words
        case "gone":
            return ("source_left", fate.words + " any more") if has_place else ("pool_left", f"pool {row['pool']} is not among those of {b.lists.name}")


def _is_unchanged(pool: str, a: Side, b: Side) -> bool:
    """Whether a pool kept the same examples for both versions."""
    contents = [content_of(side.lists.manifest, f"unique/{pool}") for side in (a, b)]
    return contents[0] is not None and contents[0] == contents[1]


def _budget(side: Side) -> int:
    budget = side.lists.manifest.settings["budget"]
    assert isinstance(budget, int), "MixtureSettings checked it"
    return budget
