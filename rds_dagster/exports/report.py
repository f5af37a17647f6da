"""One mixture as a page for people: one HTML file, nothing to load, no script; the same data gives the same bytes.

It answers four questions in this order: what was picked and does it fit the tasks, where do the examples come from, what was
thrown out and why, can it be trusted. This module holds what the page is made of and the rendering; the plots are in report_plots.py,
the page is templates/report.html.j2. Texts come from anywhere, so all of them are escaped, shortened, and stripped of what could garble the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
import numpy as np
from markupsafe import Markup

from rds_dagster.exports import report_plots
from rds_dagster.exports.report_plots import Histogram

QUERY_CHARS = 460  # of a query, about four lines at 1200 px
EXCERPT_CHARS = 260  # of a picked example before it is unfolded, about three lines
UNFOLDED_CHARS = 2000
MAX_SOURCES = 30  # shown one by one; the smaller ones are shown as one
CELL_CHARS = 160  # of a quarantine row
SHORT_ID = 12  # hex digits shown of an id; the whole id is in its title

_GARBLING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

Turns = tuple[tuple[str, str], ...]
"""A conversation as (role, content) pairs."""


@dataclass(frozen=True)
class Drop:
    """How many records of a pool a stage dropped for one reason."""

    stage: str
    reason: str
    count: int


@dataclass(frozen=True)
class PoolFunnel:
    """One pool on its way: records read, valid ones, those it owns after deduplication, those selected; and its licence as stated."""

    pool: str
    read: int
    clean: int
    unique: int
    selected: int
    drops: tuple[Drop, ...]
    license: str | None = None

    @property
    def dropped(self) -> int:
        """Records dropped at any stage."""
        return sum(drop.count for drop in self.drops)

    @property
    def adds_up(self) -> bool:
        """Whether read = unique + dropped."""
        return self.read == self.unique + self.dropped


@dataclass(frozen=True)
class SourceShare:
    """One source of one pool: its unique examples, those selected, and those in the mixture compared with (None without one)."""

    pool: str
    source: str
    unique: int
    selected: int
    compared: int | None = None


@dataclass(frozen=True)
class Pick:
    """One selected example: rank (1 is best) in the list it was picked from, score for its task, pool, id in hex, conversation."""

    rank: int
    score: float
    pool: str
    id: str
    turns: Turns


@dataclass(frozen=True)
class QueryPicks:
    """One query of a task and its best picks."""

    query: str
    turns: Turns
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class TaskFit:
    """One task: its queries, the examples picked for it, mean scores for the task, the lowest score picked, score histogram and some queries.

    ``mean_selected`` and ``lowest`` are None where nothing was picked for the task, ``mean_compared`` without a mixture to compare with.
    The histogram counts scores for this task of all unique examples, of the examples picked for this task, and of the mixture compared with.
    """

    task: str
    queries: int
    selected: int
    mean_selected: float | None
    mean_unique: float
    lowest: float | None
    scores: Histogram
    examples: tuple[QueryPicks, ...]
    mean_compared: float | None = None


@dataclass(frozen=True)
class LowPick:
    """An example that was only just selected."""

    task: str
    pick: Pick


@dataclass(frozen=True)
class QuarantineRow:
    """One row that left the flow, and where it stood."""

    stage: str
    reason: str
    pool: str
    file: str
    line: int
    detail: str
    excerpt: str


@dataclass(frozen=True)
class CheckOutcome:
    """The latest outcome of one asset check."""

    asset: str
    check: str
    passed: bool
    severity: Literal["blocking", "warning"]
    detail: str


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. Pairs are (name, value) in the order to be shown; paths are relative to the project folder."""

    mixture: str
    method: str
    budget: int
    settings: tuple[tuple[str, str], ...]
    pools: tuple[PoolFunnel, ...]
    sources: tuple[SourceShare, ...]
    tasks: tuple[TaskFit, ...]
    lengths: Histogram
    lowest: tuple[LowPick, ...]
    quarantine: tuple[QuarantineRow, ...]
    checks: tuple[CheckOutcome, ...]
    fingerprints: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    compared_with: str | None = None

    @property
    def selected(self) -> int:
        """Examples in the mixture."""
        return sum(pool.selected for pool in self.pools)

    @property
    def read(self) -> int:
        """Records read from all pools."""
        return sum(pool.read for pool in self.pools)

    @property
    def unique(self) -> int:
        """Examples that could have been selected."""
        return sum(pool.unique for pool in self.pools)

    @property
    def dropped(self) -> int:
        """Records dropped at any stage."""
        return sum(pool.dropped for pool in self.pools)

    @property
    def compared(self) -> int:
        """Examples in the mixture compared with."""
        return sum(source.compared or 0 for source in self.sources)

    @property
    def reasons(self) -> tuple[Drop, ...]:
        """Drops over all pools, by stage in order of appearance, the most frequent reason first."""
        counts: dict[tuple[str, str], int] = {}
        for pool in self.pools:
            for drop in pool.drops:
                counts[drop.stage, drop.reason] = counts.get((drop.stage, drop.reason), 0) + drop.count
        stages = list(dict.fromkeys(stage for stage, _ in counts))
        return tuple(
            Drop(stage, reason, count) for (stage, reason), count in sorted(counts.items(), key=lambda item: (stages.index(item[0][0]), -item[1], item[0][1]))
        )


def make_histogram(unique: np.ndarray, selected: np.ndarray, compared: np.ndarray | None = None, *, bins: int = 32, log: bool = False) -> Histogram:
    """Counts in common bins over the range of all given values; each (N,) numeric, ``log`` for bins of equal ratio (values below 1 count as 1).

    Raises ValueError where there is no value at all.
    """
    given = [unique, selected] if compared is None else [unique, selected, compared]
    values = [np.maximum(part, 1).astype(np.float64) if log else part.astype(np.float64) for part in given]
    joined = np.concatenate(values)
    if joined.size == 0:
        raise ValueError("a histogram of no values; give at least one unique example")
    low, high = float(joined.min()), float(joined.max())
    if low == high:
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.05, high + 0.05)
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high  # geomspace rounds its ends
    counts = [tuple(int(count) for count in np.histogram(part, edges)[0]) for part in values]
    return Histogram(tuple(float(edge) for edge in edges), counts[0], counts[1], counts[2] if compared is not None else None, log)


def render_report(data: ReportData) -> str:
    """The page as text, to be written as UTF-8."""
    sources = _largest(data.sources)
    is_compared = data.compared_with is not None
    plots = {
        "funnel": Markup(report_plots.funnel([_one_line(pool.pool, 30) for pool in data.pools], data.pools)),
        "composition": Markup(report_plots.composition([_source_name(source) for source in sources], sources, is_compared=is_compared)),
        "lengths": Markup(report_plots.lengths(data.lengths)),
        "scores": [Markup(report_plots.scores(task.task, task.scores, task.mean_selected)) for task in data.tasks],
    }
    return _environment().get_template("report.html.j2").render(data=data, sources=sources, plots=plots)


def excerpt(turns: Turns, max_chars: int) -> Turns:
    """The first user turn and the turn after it, on one line each (an arrow where a line ended), shortened so that both are seen.

    The answer gets a third of ``max_chars`` at least, and what the question leaves.
    """
    folded = [(role, " \u21b5 ".join(_squeezed(line) for line in content.splitlines() if line.strip())) for role, content in turns]
    start = next((number for number, (role, _) in enumerate(folded) if role == "user"), 0)
    question, *answer = folded[start : start + 2]
    if not answer:
        return ((question[0], shown(question[1], max_chars)),)
    for_answer = max(max_chars // 3, max_chars - len(question[1]))
    for_question = max(max_chars - for_answer, max_chars - len(answer[0][1]))
    return ((question[0], shown(question[1], for_question)), (answer[0][0], shown(answer[0][1], for_answer)))


def unfolded(turns: Turns, max_chars: int) -> Turns:
    """The turns, white space as it is, up to ``max_chars`` in all."""
    kept: list[tuple[str, str]] = []
    for role, content in turns:
        if max_chars <= 0:
            break
        kept.append((role, shown(content, max_chars)))
        max_chars -= len(content)
    return tuple(kept)


def shown(text: str, max_chars: int) -> str:
    """Text fit to be seen: what garbles a page (controls, direction marks, lone surrogates) spelt out, shortened to ``max_chars`` with an ellipsis."""
    cut = text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "\u2026"
    return _GARBLING.sub(lambda found: f"\u27e8U+{ord(found.group()):04X}\u27e9", cut)


def _largest(sources: Sequence[SourceShare]) -> tuple[SourceShare, ...]:
    """The sources in their order; of more than MAX_SOURCES, the smallest (by examples selected, then unique) as one."""
    if len(sources) <= MAX_SOURCES:
        return tuple(sources)
    ranked = sorted(sources, key=lambda source: (-source.selected, -source.unique, source.pool, source.source))
    kept, rest = set(ranked[: MAX_SOURCES - 1]), ranked[MAX_SOURCES - 1 :]
    others = SourceShare(
        "others",
        f"{len(rest):,} more sources",
        sum(source.unique for source in rest),
        sum(source.selected for source in rest),
        None if rest[0].compared is None else sum(source.compared or 0 for source in rest),
    )
    return (*(source for source in sources if source in kept), others)


def _source_name(source: SourceShare) -> str:
    return _one_line(source.pool if source.source == source.pool else f"{source.pool} / {source.source}", 30)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rds_dagster.exports"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "share": _share,
        "score": _score,
        "ratio": _ratio,
        "shown": shown,
        "one_line": _one_line,
        "plural": _plural,
        "excerpt": excerpt,
        "unfolded": unfolded,
    }
    environment.globals |= {
        "QUERY_CHARS": QUERY_CHARS,
        "EXCERPT_CHARS": EXCERPT_CHARS,
        "UNFOLDED_CHARS": UNFOLDED_CHARS,
        "CELL_CHARS": CELL_CHARS,
        "SHORT_ID": SHORT_ID,
    }
    return environment


def _number(value: int | None) -> str:
    return "\u2013" if value is None else f"{value:,}"


def _share(part: int | None, whole: int) -> str:
    """Percent with one decimal; a dash where there is no whole."""
    return "\u2013" if part is None or not whole else f"{100 * part / whole:.1f}%"


def _score(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}".replace("-", "\u2212")


def _ratio(source: SourceShare, data: ReportData) -> str:
    """How many times as frequent the source is in the mixture as among the unique examples."""
    if not source.unique or not data.selected:
        return "\u2013"
    return f"\u00d7{(source.selected / data.selected) / (source.unique / data.unique):.2f}"


def _one_line(text: str, max_chars: int) -> str:
    return shown(_squeezed(text), max_chars)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun[:-1] + 'ies' if noun.endswith('y') else noun + 's'}"
