"""The plots of the mixture report as inline SVG: matplotlib figures of their own (no pyplot), the same bytes for the same data.

Colours are Okabe and Ito's, which the colour-blind can tell apart; every series also differs in fill, line or place. Texts stay text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rds_dagster.exports.report import PoolFunnel, SourceShare

BLUE, ORANGE, SKY, VERMILION, GREY, PALE = "#0072B2", "#D98200", "#56B4E9", "#C44E00", "#6B7280", "#C9CED6"
_STYLE: dict[str, dict[str, str | float | bool]] = {
    "svg": {"fonttype": "none"},  # text stays text, in the page's own font
    "font": {"family": "sans-serif", "size": 10.5},
    "axes": {"edgecolor": "#9AA1AC", "linewidth": 0.8, "labelcolor": "#374151"},
    "hatch": {"linewidth": 0.6},
    "text": {"color": "#1F2937", "parse_math": False},  # names come from anywhere; a dollar sign begins no formula
    "xtick": {"color": "#374151"},
    "ytick": {"color": "#374151"},
}
WIDE, NARROW = 4.9, 3.4  # inches; on a phone of 360 px a wide one is shown at about its own size
ROW = 0.32  # inches a bar row
SMALL = 9.5  # points


@dataclass(frozen=True)
class Histogram:
    """Counts in common bins: ``edges`` (B+1,) rising, the others (B,); ``log`` where the bins are of equal ratio."""

    edges: tuple[float, ...]
    unique: tuple[int, ...]
    selected: tuple[int, ...]
    compared: tuple[int, ...] | None = None
    log: bool = False


def funnel(names: Sequence[str], pools: Sequence[PoolFunnel]) -> str:
    """One bar a pool over all its records: selected, kept but not selected, lost as duplicates and the like, invalid."""

    def paint(axes: Axes) -> None:
        parts = np.array([[p.selected, p.unique - p.selected, p.clean - p.unique, p.read - p.clean] for p in pools], dtype=np.float64).reshape(-1, 4)
        left = np.zeros(len(pools))
        rows = np.arange(len(pools))
        looks = ((BLUE, ""), (PALE, ""), (ORANGE, "////"), (VERMILION, "xxxx"))
        for (colour, hatch), widths in zip(looks, parts.T, strict=True):
            axes.barh(rows, widths, left=left, height=0.66, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
            left += widths
        _rows(axes, names)
        axes.set_xlabel("records read")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return _plot("Records of each pool by what became of them", max(1, len(pools)) * ROW + 0.6, paint)


def composition(names: Sequence[str], sources: Sequence[SourceShare], *, is_compared: bool) -> str:
    """Three marks a source: its share of the mixture (bar), of all unique examples (pale bar), of the mixture compared with (diamond)."""

    def paint(axes: Axes) -> None:
        rows = np.arange(len(sources))
        axes.barh(rows + 0.2, _shares([source.unique for source in sources]), height=0.34, color=PALE)
        axes.barh(rows - 0.16, _shares([source.selected for source in sources]), height=0.38, color=BLUE)
        if is_compared:
            shares = _shares([source.compared or 0 for source in sources])
            axes.plot(shares, rows - 0.16, "D", markersize=5.5, color=ORANGE, markeredgecolor="white", markeredgewidth=0.8, clip_on=False)
        _rows(axes, names)
        axes.set_xlabel("share of examples, %")
        axes.set_xlim(left=0)

    return _plot("Share of each source in this mixture and in the pool", max(1, len(sources)) * (ROW + 0.06) + 0.6, paint)


def scores(task: str, histogram: Histogram, mean_selected: float | None) -> str:
    """How the scores for one task are distributed: all unique examples, those picked for the task, the mixture compared with."""

    def paint(axes: Axes) -> None:
        _distributions(axes, histogram)
        axes.set_xlabel("score for the task")
        if mean_selected is not None:
            axes.axvline(mean_selected, color=BLUE, linewidth=1, linestyle=(0, (2, 2)))
            is_right = mean_selected > sum(axes.get_xlim()) / 2
            axes.annotate(
                f"mean {mean_selected:.2f}", (mean_selected, 1), xycoords=("data", "axes fraction"), xytext=(-4 if is_right else 4, -3),
                textcoords="offset points", ha="right" if is_right else "left", va="top", fontsize=SMALL, color=BLUE,
            )  # fmt: skip

    return _plot(f"Distribution of scores for {task}", 2.3, paint, width=NARROW)


def lengths(histogram: Histogram) -> str:
    """How long examples are, in characters."""

    def paint(axes: Axes) -> None:
        _distributions(axes, histogram)
        axes.set_xlabel("characters an example" + (" (log scale)" if histogram.log else ""))
        if histogram.log:
            axes.set_xscale("log")
            axes.minorticks_off()
            ticks = _round_numbers(histogram.edges[0], histogram.edges[-1])
            axes.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])

    return _plot("Distribution of lengths in characters", 2.5, paint)


def _distributions(axes: Axes, histogram: Histogram) -> None:
    series = [histogram.unique, histogram.selected]
    axes.stairs(_shares(histogram.unique), histogram.edges, fill=True, color=PALE)
    axes.stairs(_shares(histogram.selected), histogram.edges, fill=True, color=BLUE, alpha=0.25)
    axes.stairs(_shares(histogram.selected), histogram.edges, color=BLUE, linewidth=1.6)
    if histogram.compared is not None:
        series.append(histogram.compared)
        axes.stairs(_shares(histogram.compared), histogram.edges, color=ORANGE, linewidth=1.5, linestyle=(0, (4, 2)))
    axes.set_ylabel("% of examples")
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.set_ylim(0, 1.16 * max(1.0, *(_shares(counts).max() for counts in series)))
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.8)
    axes.set_axisbelow(True)


def _round_numbers(low: float, high: float) -> list[int]:
    """1, 2, 5, 10, ... between the two; of a wide range only the powers of ten."""
    decades = [10**power for power in range(len(f"{high:.0f}"))]
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    return [step * decade for decade in decades for step in steps if low <= step * decade <= high]


def _shares(counts: Sequence[int]) -> np.ndarray:
    """Percent of the whole, (B,); zeros where the whole is nothing."""
    values = np.array(counts, dtype=np.float64)
    shares: np.ndarray = values * 100 / max(values.sum(), 1)
    return shares


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(names)), labels=list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E5E7EB", linewidth=0.8)
    axes.set_axisbelow(True)


def _plot(title: str, height: float, paint: Callable[[Axes], None], *, width: float = WIDE) -> str:
    """An <svg> element, ``height`` by ``width`` inches, without ids of groups and without metadata, which would clash or change from call to call."""
    written = io.StringIO()
    import matplotlib  # half a second; definitions load this module
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        for group, settings in _STYLE.items():
            matplotlib.rc(group, **settings)
        matplotlib.rc("svg", hashsalt=title)  # the ids of clip paths come from content and salt, so they differ from plot to plot
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        paint(axes)
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    view = re.findall(r'viewBox="([^"]*)"', svg)[0]
    opening = f'<svg class="plot" role="img" aria-label="{escape(title)}" viewBox="{view}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"\s*\n\s*", "\n", opening + svg[svg.index(">") + 1 :]).strip()
