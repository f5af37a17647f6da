"""Texts of picks in their order: the same whether they stay in memory or go by way of the disk, and none left behind."""

from pathlib import Path

import numpy as np
import pytest

from rds_dagster import schema
from rds_dagster.errors import StateError
from rds_dagster.mixtures import picked_texts
from rds_dagster.mixtures.candidates import Candidates, read_candidates
from rds_dagster.mixtures.picked_texts import picked_messages
from rds_dagster.storage import reorder


def spelled(flow, candidates: Candidates, rows: np.ndarray, folder: Path) -> list[list[object]]:
    clean = [flow.store.need(f"clean/{pool}") for pool in candidates.pools]
    return [piece.to_pylist() for piece in picked_messages(flow.store, clean, candidates.ids[rows], candidates.pool[rows], folder)]


@pytest.fixture
def rows(flow) -> np.ndarray:
    """All candidates in an order that has nothing to do with how they are stored."""
    return np.random.default_rng(7).permutation(len(flow.live))


@pytest.mark.parametrize("held_bytes", [0, 300, 2000])
def test_texts_that_went_by_way_of_the_disk_are_those_that_stayed_in_memory(
    flow, rows: np.ndarray, held_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = read_candidates(flow.store, flow.pools)
    monkeypatch.setattr(reorder, "GROUP_ROWS", 7)
    in_memory = spelled(flow, candidates, rows, tmp_path)
    monkeypatch.setattr(picked_texts, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(picked_texts, "BATCH_ROWS", 3)
    assert spelled(flow, candidates, rows, tmp_path) == in_memory
    assert [len(piece) for piece in in_memory] == [7, 7, 7, 7, 6]
    messages = [[{name: value for name, value in turn.items() if value is not None} for turn in talk] for piece in in_memory for talk in piece]
    assert b"".join(schema.example_id(talk) for talk in messages) == candidates.ids[rows].tobytes()
    assert list(tmp_path.iterdir()) == []


def test_a_pick_without_a_text_is_named(flow, tmp_path: Path) -> None:
    candidates = read_candidates(flow.store, flow.pools)
    clean = [flow.store.need(f"clean/{pool}") for pool in candidates.pools]
    stranger = np.array([b"nobody's id 1234", bytes(candidates.ids[0]).ljust(16, b"\0")], "S16")
    with pytest.raises(StateError, match=r"1 picked examples have no text in clean/\*, such as 6e6f626f64792773206964203132333"):
        list(picked_messages(flow.store, clean, stranger, np.array([0, candidates.pool[0]]), tmp_path))
