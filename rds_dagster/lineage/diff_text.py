"""A diff of two versions as people read it: the text of `rds diff`, and the small table of the asset's metadata."""

from __future__ import annotations

from collections.abc import Sequence

from rds_dagster.lineage.diff import Changed, Diff, Moved, Share
from rds_dagster.lineage.reasons import REASON_WORDS, Reason

SHOWN = 10  # examples of each reason
SHOWN_SHARES = 20
TABLE_SHARES = 8  # tasks and sources each in the metadata


def diff_text(said: Diff) -> str:
    """The diff as people read it; long lists are cut, and say so."""
    before, after = said.before, said.after
    lines = [
        f"mixture {said.mixture}",
        *(
            f"  {name} {version.fingerprint[:12]}  made {version.made}, {version.examples:,} examples{' (current)' if version.is_current else ''}"
            for name, version in (("from", before), ("to  ", after))
        ),
        f"  {said.stayed:,} stayed, {len(said.entered):,} entered, {len(said.left):,} left; Jaccard {said.jaccard:.4f}",
    ]
    upstream = [change for change in said.upstream if change.name.split("/")[0] in ("raw", "clean", "unique")]
    lines += _changes("settings, queries and encoder", said.settings) + _changes("pools", upstream)
    lines += _examples("entered", said.entered, said.entered_by_reason) + _examples("left", said.left, said.left_by_reason)
    lines += _shares("shares by task", said.tasks) + _shares("shares by source", said.sources)
    return "\n".join(lines)


def diff_rows(said: Diff) -> list[list[str]]:
    """The small table, without its head: what, before, after."""
    before, after = said.before, said.after
    rows = [
        ["version", before.fingerprint[:12], after.fingerprint[:12]],
        ["examples", f"{before.examples:,}", f"{after.examples:,}"],
        ["stayed", "", f"{said.stayed:,}"],
        ["entered", "", f"{len(said.entered):,}"],
        *([f"entered: {REASON_WORDS[reason]}", "", f"{count:,}"] for reason, count in said.entered_by_reason.items()),
        ["left", f"{len(said.left):,}", ""],
        *([f"left: {REASON_WORDS[reason]}", f"{count:,}", ""] for reason, count in said.left_by_reason.items()),
        ["Jaccard", "", f"{said.jaccard:.4f}"],
    ]
    for kind, shares in (("task", said.tasks), ("source", said.sources)):
        rows += [[f"{kind} {s.name}", _share(s.before, s.share_before), _share(s.after, s.share_after)] for s in shares[:TABLE_SHARES]]
    return rows


def _changes(title: str, changes: Sequence[Changed]) -> list[str]:
    if not changes:
        return []
    return ["", f"changed: {title}", *(f"  {change.name}  {_short(change.before)} -> {_short(change.after)}" for change in changes)]


def _examples(title: str, moved: Sequence[Moved], counts: dict[Reason, int]) -> list[str]:
    lines = ["", f"{title}  {len(moved):,}"]
    for reason, count in counts.items():
        lines.append(f"  {count:,}  {REASON_WORDS[reason]}")
        for one in [one for one in moved if one.reason == reason][:SHOWN]:
            chosen = "" if one.task is None else f"  task {one.task}, query {one.query}, rank {one.rank:,}"
            lines += [f"    {one.id[:12]}  {one.pool}/{one.source}{chosen}", f"      {one.why}", f"      | {one.text}"]
        if count > SHOWN:
            lines.append(f"    … and {count - SHOWN:,} more; --json lists all")
    return lines


def _shares(title: str, shares: Sequence[Share]) -> list[str]:
    if not shares:
        return []
    width = max(len(share.name) for share in shares[:SHOWN_SHARES])
    lines = [f"  {s.name:<{width}}  {_share(s.before, s.share_before):>16} -> {_share(s.after, s.share_after)}" for s in shares[:SHOWN_SHARES]]
    return ["", title, *lines, *([f"  … and {len(shares) - SHOWN_SHARES:,} more; --json lists all"] if len(shares) > SHOWN_SHARES else [])]


def _share(count: int, share: float) -> str:
    return f"{count:,} ({share:.1%})"


def _short(value: str | None) -> str:
    """A value as it is, a fingerprint by its first digits."""
    if value is None:
        return "none"
    return value[:12] if len(value) == 32 and set(value) <= set("0123456789abcdef") else value
