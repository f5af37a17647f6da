"""What was freed goes back to the system."""

import sys

import numpy as np
import psutil
import pytest

from rds_dagster.storage.memory import release_unused


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has a heap that can be trimmed")
def test_freed_pieces_below_one_in_use_go_back_to_the_system():
    pieces = [np.ones(12_000) for _ in range(1000)]  # 92 MiB of pieces that glibc takes from its heap
    last = pieces.pop()
    del pieces
    before = psutil.Process().memory_info().rss
    release_unused()
    assert before - psutil.Process().memory_info().rss > 50 * 2**20
    assert last.sum() == 12_000
