"""The benchmark of selection: its plain-Python side is the reference's semantics, and a whole run measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.selection import KINDS, budgets, make_scores, plain_python
from rds_dagster.mixtures.selectors import round_robin_tasks

ROOT = Path(__file__).parents[2]


def test_the_reference_loses_a_turn_where_the_best_is_taken_and_keeps_the_smallest_score_of_a_pick() -> None:
    one = {0: 0.9, 1: 0.8, 2: 0.1}
    two = {0: 0.7, 1: 0.2, 2: 0.6}
    assert list(plain_python([one, two], 3).items()) == [(0, 0.7), (1, 0.8), (2, 0.6)]  # two's first turn finds 0 taken


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_pick_the_same(kind: str) -> None:
    scores = make_scores(kind, 400)
    for budget in (1, 23, 172, 400):
        assert round_robin_tasks(scores, budget).rows.tolist() == list(plain_python([dict(enumerate(column.tolist())) for column in scores.T], budget))


def test_kinds_of_scores_are_what_they_say() -> None:
    correlation = {kind: np.corrcoef(make_scores(kind, 20_000).T) for kind in KINDS}
    assert correlation["correlated"][0, 3] > 0.75 and abs(correlation["correlated"][0, 5]) < 0.05 and abs(correlation["independent"][0, 3]) < 0.05
    assert len(np.unique(make_scores("ties", 20_000))) <= 64


def test_budgets_are_those_of_the_paper() -> None:
    assert budgets(5_800_000) == [326_000, 2_500_000]


@pytest.mark.slow
def test_a_whole_run_writes_its_ratios(tmp_path: Path) -> None:
    said = [sys.executable, "-m", "benchmarks.selection", "--examples", "30000", "--repeats", "1", "--only", "mixtures", "--work", str(tmp_path)]
    done = subprocess.run(
        [*said, "--json", str(tmp_path / "selection.json")], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    ratios = json.loads((tmp_path / "selection.json").read_text())["ratios"]
    assert list(ratios) == [
        f"make_mixture, {on_taken}, {budget:,} of 30,000 / bare reading and writing of the same columns"
        for budget in budgets(30_000)
        for on_taken in ("skip_turn", "next_best")
    ]
    assert all(ratio["better"] == "lower" and ratio["value"] > 0 for ratio in ratios.values())
