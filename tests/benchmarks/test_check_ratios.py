"""Ratios against what is expected of them: what counts as worse, what is named, and what --renew writes."""

import json
from pathlib import Path

import pytest

from benchmarks.check_ratios import EXPECTED, main, read_expected
from benchmarks.figures import Figures


def result(folder: Path, benchmark: str, **ratios: tuple[float, str]) -> Path:
    """What a benchmark writes that measured these ratios."""
    figures = Figures(benchmark)
    for name, (value, better) in ratios.items():
        figures.ratio(name, [value], [1.0], better)  # type: ignore[arg-type]
    figures.write(folder / f"{benchmark}.json")
    return folder / f"{benchmark}.json"


def expectations(folder: Path, **entries: dict[str, dict[str, object]]) -> Path:
    path = folder / "ratios.json"
    path.write_text(json.dumps({name: {"measured": "2026-11-22", "machine": {}, "versions": {}, "ratios": ratios} for name, ratios in entries.items()}))
    return path


def check(capsys: pytest.CaptureFixture[str], expected: Path, *results: Path, renew: bool = False) -> tuple[int, list[str]]:
    capsys.readouterr()  # what the benchmarks said
    status = main([*map(str, results), "--expected", str(expected), *(["--renew"] if renew else [])])
    return status, capsys.readouterr().out.splitlines()


def ratio(value: float, better: str = "higher", tolerance: float = 0.1) -> dict[str, object]:
    return {"value": value, "better": better, "tolerance": tolerance}


def test_ratios_within_their_tolerance_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"up": ratio(1.0), "down": ratio(2.0, "lower")})
    status, said = check(capsys, expected, result(tmp_path, "trial", up=(0.91, "higher"), down=(2.19, "lower")))
    assert (status, said) == (0, ["2 of 2 ratios are as expected or better"])


def test_each_ratio_that_got_worse_is_named_with_what_it_was_and_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"up": ratio(1.0), "down": ratio(2.0, "lower"), "same": ratio(1.0)})
    status, said = check(capsys, expected, result(tmp_path, "trial", up=(0.89, "higher"), down=(2.21, "lower"), same=(1.0, "higher")))
    assert status == 1
    assert said == [
        "WORSE: trial: up was 1.00 and is 0.890 (higher is better, tolerance 10%)",
        "WORSE: trial: down was 2.00 and is 2.21 (lower is better, tolerance 10%)",
        "1 of 3 ratios are as expected or better",
    ]


def test_what_is_small_beside_its_noise_may_be_worse_by_a_slack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"bytes": {**ratio(-0.02, "lower"), "slack": 0.1}, "up": {**ratio(0.5), "slack": 0.2}})
    assert check(capsys, expected, result(tmp_path, "trial", bytes=(0.08, "lower"), up=(0.26, "higher")))[0] == 0
    status, said = check(capsys, expected, result(tmp_path, "trial", bytes=(0.09, "lower"), up=(0.24, "higher")))
    assert status == 1 and said[:2] == [
        "WORSE: trial: bytes was -0.0200 and is 0.0900 (lower is better, tolerance 10% and 0.100)",
        "WORSE: trial: up was 0.500 and is 0.240 (higher is better, tolerance 10% and 0.200)",
    ]
    assert check(capsys, expected, result(tmp_path, "trial", bytes=(0.5, "lower"), up=(0.5, "higher")), renew=True)[0] == 0
    assert json.loads(expected.read_text())["trial"]["ratios"]["bytes"] == {"value": 0.5, "better": "lower", "tolerance": 0.1, "slack": 0.1}


def test_better_is_named_and_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"up": ratio(1.0), "down": ratio(2.0, "lower")})
    status, said = check(capsys, expected, result(tmp_path, "trial", up=(1.5, "higher"), down=(0.4, "lower")))
    assert status == 0
    assert said[:2] == [
        "BETTER: trial: up was 1.00 and is 1.50 (higher is better, tolerance 10%)",
        "BETTER: trial: down was 2.00 and is 0.400 (lower is better, tolerance 10%)",
    ]


def test_a_ratio_that_one_side_has_not_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"gone": ratio(1.0), "same": ratio(1.0)}, other={"far": ratio(3.0)})
    status, said = check(capsys, expected, result(tmp_path, "trial", new=(4.0, "higher"), same=(1.0, "higher")))
    assert status == 1
    assert said == [
        "MISSING: trial: gone was 1.00 and was not measured; if the benchmark no longer has it, take it out with --renew",
        "UNKNOWN: trial: new is 4.00, and nothing is expected of it; add it with --renew",
        "not run: other",
        "1 of 3 ratios are as expected or better",
    ]


def test_a_benchmark_of_which_nothing_is_expected_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = check(capsys, tmp_path / "ratios.json", result(tmp_path, "trial", up=(1.0, "higher")))
    assert status == 1 and said[0].startswith("UNKNOWN: trial: up is 1.00")


def test_renewing_keeps_tolerances_and_the_benchmarks_that_were_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"gone": ratio(1.0), "up": ratio(1.0, tolerance=0.07)}, other={"far": ratio(3.0)})
    path = result(tmp_path, "trial", up=(0.5, "higher"), new=(4.00049, "lower"))
    status, said = check(capsys, expected, path, renew=True)
    assert status == 0 and said[0].startswith("WORSE: trial: up was 1.00 and is 0.500")
    stored = json.loads(expected.read_text())
    assert stored["trial"]["ratios"] == {
        "new": {"value": 4.0, "better": "lower", "tolerance": 0.25},
        "up": {"value": 0.5, "better": "higher", "tolerance": 0.07},
    }
    assert stored["trial"]["machine"]["cores"] >= 1 and stored["trial"]["versions"]["python"]
    assert stored["other"]["ratios"] == {"far": ratio(3.0)}
    assert check(capsys, expected, path) == (0, ["not run: other", "2 of 2 ratios are as expected or better"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "the file is list; expected a mapping"),
        ('{"ratios": {}}', "has no benchmark and ratios"),
        ('{"benchmark": "trial", "ratios": {"up": 1.0}}', "up is float; expected a mapping"),
        ('{"benchmark": "trial", "ratios": {"up": {"value": "1", "better": "higher"}}}', "ratio 'up' has the value '1'; expected a number"),
        ('{"benchmark": "trial", "ratios": {"up": {"value": 1, "better": "more"}}}', "ratio 'up' has better 'more'; expected one of higher, lower"),
        ('{"benchmark": "trial", "ratios": {"up": {"value": 1, "better": "lower", "tolerance": -1}}}', "ratio 'up' has the tolerance -1"),
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main([str(path), "--expected", str(tmp_path / "ratios.json")]) == 2
    assert words in capsys.readouterr().err


def test_a_benchmark_may_come_in_several_files_but_no_ratio_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = expectations(tmp_path, trial={"up": ratio(1.0), "down": ratio(2.0, "lower")})
    one = result(tmp_path, "trial", up=(1.0, "higher")).rename(tmp_path / "one.json")
    other = result(tmp_path, "trial", down=(2.0, "lower"))
    assert check(capsys, expected, one, other) == (0, ["2 of 2 ratios are as expected or better"])
    again = tmp_path / "again.json"
    again.write_text(one.read_text())
    assert main([str(one), str(again), "--expected", str(expected)]) == 2
    assert "again.json: trial: up stands in another of the files, too; give one of them" in capsys.readouterr().err


def test_the_expectations_that_come_with_the_project_can_be_read() -> None:
    expected = read_expected(EXPECTED)
    assert expected and all(entry.ratios and entry.measured and entry.machine and entry.versions for entry in expected.values())
