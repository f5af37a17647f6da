"""Rows by position: the same whether they stay in memory or go by way of the disk, in groups, and no file left behind."""

import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.storage import reorder
from rds_dagster.storage.reorder import Part, by_position

texts = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=40)


def parts(values: list[str | None], positions: list[int], size: int) -> Iterator[Part]:
    """Rows in the order of ``positions``, ``size`` at a time."""
    for start in range(0, len(values), size):
        here = positions[start : start + size]
        yield np.array(here, np.uint32), pa.array([values[number] for number in here], pa.string())


@settings(deadline=None, max_examples=60)
@given(texts, st.integers(1, 9), st.integers(1, 7), st.integers(1, 4), st.sampled_from([0, 30, 10_000]), st.randoms())
def test_rows_come_by_position_in_groups(tmp_path_factory, values, size, group, files, held_bytes, randoms):
    positions = randoms.sample(range(len(values)), len(values))
    folder = tmp_path_factory.getbasetemp()
    before = set(folder.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reorder, "GROUP_ROWS", group)
        patch.setattr(reorder, "MAX_FILES", files)
        found = list(by_position(parts(values, positions, size), len(values), folder, held_bytes=held_bytes))
    assert [text for part in found for text in part.to_pylist()] == values
    assert [len(part) for part in found] == [min(group, len(values) - start) for start in range(0, len(values), group)]
    assert set(folder.iterdir()) == before


def test_nothing_stays_on_the_disk_where_the_reader_stops_early_or_is_killed(tmp_path):
    values, positions = [str(number) for number in range(1000)], random.Random(0).sample(range(1000), 1000)
    rows = by_position(parts(values, positions, 64), 1000, tmp_path, held_bytes=0)
    next(rows)
    assert list(tmp_path.iterdir()) == []  # not while it runs either
    rows.close()


def test_a_fault_of_what_brings_the_rows_is_not_hidden(tmp_path):
    def broken() -> Iterator[Part]:
        yield np.array([1]), pa.array(["b"])
        raise ValueError("the second is not there")

    with pytest.raises(ValueError, match="the second is not there"):
        list(by_position(broken(), 2, tmp_path, held_bytes=0))
