"""Has anything become slower, or hungrier, beside its limit? Holds the ratios that benchmarks wrote with `--json` to those that are expected.

    python -m benchmarks.check_ratios RESULT.json .. [--expected benchmarks/ratios.json] [--renew]

Ratios, not times: both sides of one were measured in the same run, so that the machine's speed, which varies by a half from hour to hour, is in both. Printed:
each ratio that is worse than its tolerance allows, what it was and what it is; each that one side has and the other has not; and, which is no failure, those
that are better than their tolerance, and the benchmarks that were not run. Exit 1 if a ratio is worse or missing. `--renew` makes what was measured the
expectation of its benchmark, with date, machine and versions; tolerances stay, and new ratios get 25%. Where a ratio is small beside its noise, give it a
"slack" there by hand: an amount by which it may be worse as well.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from benchmarks.figures import Better, shown
from rds_dagster.errors import InputError, RdsError

EXPECTED = Path(__file__).with_name("ratios.json")
TOLERANCE = 0.25  # of the expected value; between two runs on a busy machine most ratios move by less than half of it
Verdict = Literal["worse", "missing", "unknown", "better", "as expected"]


@dataclass(frozen=True)
class Ratio:
    """What a ratio is, or is expected to be; it may be worse by ``tolerance``, a share of its value, and by ``slack``, for what is small beside its noise."""

    value: float
    better: Better
    tolerance: float = TOLERANCE
    slack: float = 0.0

    def verdict(self, measured: float) -> Verdict:
        """How a measured value compares with this expected one."""
        excess = measured - self.value if self.better == "lower" else self.value - measured
        allowed = self.tolerance * abs(self.value) + self.slack
        return "worse" if excess > allowed else "better" if -excess > allowed else "as expected"

    @property
    def allowance(self) -> str:
        """What it may be worse by, in words."""
        return f"{self.tolerance:.0%}" + (f" and {shown(self.slack)}" if self.slack else "")


@dataclass(frozen=True)
class Measured:
    """The ratios of one benchmark, with when and on what they were measured."""

    benchmark: str
    measured: str
    machine: Mapping[str, object]
    versions: Mapping[str, object]
    ratios: Mapping[str, Ratio]


@dataclass(frozen=True)
class Finding:
    """What is to be said of one ratio."""

    verdict: Verdict
    sentence: str


def compare(expected: Mapping[str, Measured], results: Sequence[Measured]) -> list[Finding]:
    """A finding for each ratio that is expected of the benchmarks that were run, or that they measured."""
    found = []
    for result in results:
        known = expected[result.benchmark].ratios if result.benchmark in expected else {}
        for name, ratio in known.items():
            found.append(_finding(f"{result.benchmark}: {name}", ratio, result.ratios.get(name)))
        for name, measured in result.ratios.items():
            if name not in known:
                found.append(Finding("unknown", f"{result.benchmark}: {name} is {shown(measured.value)}, and nothing is expected of it; add it with --renew"))
    return found


def _finding(name: str, expected: Ratio, measured: Ratio | None) -> Finding:
    if measured is None:
        return Finding("missing", f"{name} was {shown(expected.value)} and was not measured; if the benchmark no longer has it, take it out with --renew")
    verdict = expected.verdict(measured.value)
    said = f"{name} was {shown(expected.value)} and is {shown(measured.value)} ({expected.better} is better, tolerance {expected.allowance})"
    return Finding(verdict, said)


def renewed(expected: Mapping[str, Measured], results: Sequence[Measured]) -> dict[str, Measured]:
    """The expectations with those of the results' benchmarks replaced by what was measured; tolerances of ratios that were known stay."""
    new = dict(expected)
    for result in results:
        known = expected[result.benchmark].ratios if result.benchmark in expected else {}
        ratios = {
            name: replace(ratio, tolerance=known[name].tolerance, slack=known[name].slack) if name in known else ratio for name, ratio in result.ratios.items()
        }
        new[result.benchmark] = replace(result, ratios=ratios)
    return dict(sorted(new.items()))


def read_results(paths: Sequence[Path]) -> list[Measured]:
    """What benchmarks wrote, those of one benchmark as one; raises InputError for a file that is not such, or for a ratio in two files."""
    results: dict[str, Measured] = {}
    for path in paths:
        result = _measured(path, _read(path))
        before = results.get(result.benchmark)
        if before and (twice := sorted(before.ratios.keys() & result.ratios.keys())):
            raise InputError(f"{path}: {result.benchmark}: {twice[0]} stands in another of the files, too; give one of them")
        results[result.benchmark] = replace(result, ratios={**before.ratios, **result.ratios}) if before else result
    return list(results.values())


def read_expected(path: Path) -> dict[str, Measured]:
    """The expectations by benchmark; none where the file does not exist. Raises InputError if it is not what `write_expected` writes."""
    if not path.exists():
        return {}
    said = _read(path)
    return {name: _measured(path, {"benchmark": name, **_mapping(path, name, entry)}) for name, entry in said.items()}


def write_expected(path: Path, expected: Mapping[str, Measured]) -> None:
    """Write the expectations, by benchmark and ratio, so that a change of one is a line of a diff; values with four digits that count."""
    said = {
        name: {
            "measured": entry.measured,
            "machine": dict(entry.machine),
            "versions": dict(entry.versions),
            "ratios": {ratio: _said(one) for ratio, one in sorted(entry.ratios.items())},
        }
        for name, entry in sorted(expected.items())
    }
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def _said(ratio: Ratio) -> dict[str, object]:
    said: dict[str, object] = {"value": float(f"{ratio.value:.4g}"), "better": ratio.better, "tolerance": ratio.tolerance}
    return {**said, "slack": ratio.slack} if ratio.slack else said


def _read(path: Path) -> Mapping[str, object]:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); expected what a benchmark writes with --json") from error
    return _mapping(path, "the file", said)


def _measured(path: Path, said: Mapping[str, object]) -> Measured:
    benchmark = said.get("benchmark")
    if not isinstance(benchmark, str) or "ratios" not in said:
        raise InputError(f"{path} has no benchmark and ratios; expected what a benchmark writes with --json")
    ratios = {name: _ratio(path, name, _mapping(path, name, one)) for name, one in _mapping(path, "ratios", said["ratios"]).items()}
    machine, versions = (_mapping(path, part, said.get(part, {})) for part in ("machine", "versions"))
    return Measured(benchmark, str(said.get("measured", "")), machine, versions, ratios)


def _ratio(path: Path, name: str, said: Mapping[str, object]) -> Ratio:
    value, better, tolerance, slack = said.get("value"), said.get("better"), said.get("tolerance", TOLERANCE), said.get("slack", 0.0)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{path}: ratio {name!r} has the value {value!r}; expected a number")
    if better != "higher" and better != "lower":
        raise InputError(f"{path}: ratio {name!r} has better {better!r}; expected one of {', '.join(get_args(Better))}")
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise InputError(f"{path}: ratio {name!r} has the tolerance {tolerance!r}; expected a share such as {TOLERANCE}")
    if not isinstance(slack, (int, float)) or not 0 <= slack < math.inf:
        raise InputError(f"{path}: ratio {name!r} has the slack {slack!r}; expected a number such as 0.1")
    return Ratio(float(value), better, float(tolerance), float(slack))


def _mapping(path: Path, name: str, said: object) -> Mapping[str, object]:
    if not isinstance(said, dict):
        raise InputError(f"{path}: {name} is {type(said).__name__}; expected a mapping, as a benchmark writes it with --json")
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if all is as expected or better, 1 if a ratio is worse or missing, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="what benchmarks wrote with --json")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="the expectations; default: benchmarks/ratios.json")
    parser.add_argument("--renew", action="store_true", help="make what was measured the expectation; tolerances stay")
    said = parser.parse_args(arguments)
    try:
        expected, results = read_expected(said.expected), read_results(said.results)
    except RdsError as error:
        print(error, file=sys.stderr)
        return 2
    findings = compare(expected, results)
    for verdict in ("worse", "missing", "unknown", "better"):
        for finding in findings:
            if finding.verdict == verdict:
                print(f"{verdict.upper()}: {finding.sentence}")
    if unmeasured := sorted(expected.keys() - {result.benchmark for result in results}):
        print(f"not run: {', '.join(unmeasured)}")
    if said.renew:
        write_expected(said.expected, renewed(expected, results))
        print(f"{said.expected} expects what was measured")
        return 0
    bad = [finding for finding in findings if finding.verdict in ("worse", "missing", "unknown")]
    print(f"{len(findings) - len(bad)} of {len(findings)} ratios are as expected or better")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
