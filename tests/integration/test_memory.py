"""Peak memory grows by at most 100 bytes an example, measured as benchmarks/memory.py does it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 100  # bytes an example
ROOT = Path(__file__).parents[2]
SIZES = ["300000", "1000000"]  # from where blocks and row groups are full, so that what is constant cancels out
STAGES = ["texts", "vectors"]  # embedding 500,000 texts takes minutes; benchmarks/RESULTS.md has its figure


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units elsewhere")
def test_cleaning_scoring_and_selection_grow_by_at_most_100_bytes_an_example() -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--sizes", *SIZES, "--stages", *STAGES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    growth = {line.split(": ")[0]: float(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines() if line.endswith(" bytes an example")}
    assert "scoring" in growth and len(growth) == 12, done.stdout
    assert max(growth.values()) <= LIMIT, done.stdout
