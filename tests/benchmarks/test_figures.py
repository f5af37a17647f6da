"""What benchmarks print and write: medians with their spread, ratios of medians, and what machine it was."""

import json
from pathlib import Path

import pytest

from benchmarks.figures import Figures, shown


def test_a_figure_is_a_line_with_median_and_spread(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures("trial")
    assert figures.figure("embedding", [41_000.4, 39_733, 46_022.2], "tokens/s") == 41_000.4
    figures.figure("peak", [2.5], "GiB")
    figures.figure("reading", [0.0312, 0.0298], "s")
    assert capsys.readouterr().out.splitlines() == [
        "embedding: 41,000 tokens/s (39,733 to 46,022)",
        "peak: 2.50 GiB",
        "reading: 0.0305 s (0.0298 to 0.0312)",
    ]


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures("trial")
    assert figures.ratio("ours / limit", [9.0, 12.0, 30.0], [10.0, 10.0, 20.0], "higher") == 1.2
    assert figures.ratio("one / many", [3.0], [1.0, 2.0, 3.0], "lower") == 1.5
    assert capsys.readouterr().out.splitlines() == ["ours / limit: 1.20 (0.900 to 1.50)", "one / many: 1.50"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (0.000123456, "0.000123"), (0.999, "0.999"), (1.0, "1.00"), (1000, "1,000"), (-2.5, "-2.50"), (5.8e6, "5,800,000")],
)  # fmt: skip
def test_numbers_have_three_digits_that_count_or_are_whole(number: float, words: str) -> None:
    assert shown(number) == words


def test_what_is_written_is_what_was_measured_and_where(tmp_path: Path) -> None:
    figures = Figures("trial")
    figures.figure("speed", [1.0, 3.0, 2.0], "MB/s")
    figures.ratio("ours / limit", [1.0, 2.0], [4.0, 4.0], "higher")
    figures.write(tmp_path / "new" / "trial.json")
    said = json.loads((tmp_path / "new" / "trial.json").read_text())
    assert said["benchmark"] == "trial"
    assert said["figures"] == {"speed": {"median": 2.0, "min": 1.0, "max": 3.0, "repeats": 3, "unit": "MB/s"}}
    assert said["ratios"] == {"ours / limit": {"value": 0.375, "better": "higher", "min": 0.25, "max": 0.5}}
    assert said["machine"]["cores"] >= 1 and said["machine"]["memory_gib"] > 0 and said["machine"]["cpu"]
    assert {"python", "numpy", "pyarrow", "duckdb"} <= said["versions"].keys()
    figures.write(None)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_name_stands_for_one_measurement() -> None:
    figures = Figures("trial")
    figures.figure("speed", [1.0], "s")
    figures.ratio("speed", [1.0], [1.0], "lower")  # a ratio may be called as a figure is
    with pytest.raises(ValueError, match="'speed' was measured before; give each figure and each ratio a name of its own"):
        figures.figure("speed", [2.0], "s")
    with pytest.raises(ValueError, match="'speed' was measured before"):
        figures.ratio("speed", [2.0], [1.0], "lower")


def test_what_is_no_measurement_is_refused() -> None:
    figures = Figures("trial")
    with pytest.raises(ValueError, match=r"'speed' has the values \[\]; expected at least one number, all finite"):
        figures.figure("speed", [], "s")
    with pytest.raises(ValueError, match=r"'speed' has the values \[1.0, nan\]"):
        figures.figure("speed", [1.0, float("nan")], "s")
    with pytest.raises(ValueError, match="ratio 'speed': the limit is 0.0; expected numbers above zero"):
        figures.ratio("speed", [1.0], [0.0], "lower")
    with pytest.raises(ValueError, match="ratio 'speed': better is 'more'; expected 'higher' or 'lower'"):
        figures.ratio("speed", [1.0], [1.0], "more")  # type: ignore[arg-type]
    assert not figures.figures and not figures.ratios
