from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.schema import SCORE, UNIQUE
from rds_dagster.scores.profile import FEWEST_SPREAD, OFFENDERS, ScoreProfile, profile_scores
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.tables import write_parquet

N = 60


def make_ids(num: int) -> np.ndarray:
    return np.sort(np.array([content_digest(f"example {i}".encode()) for i in range(num)], ID_DTYPE))


def hexed(*ids: bytes) -> tuple[str, ...]:
    return tuple(bytes(i).ljust(16, b"\0").hex() for i in ids)


class World:
    """Score blocks and kept ids on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ids, self.blocks, self.kept = folder, make_ids(N), [], []
        self.scores = np.linspace(-0.5, 0.9, N, dtype=np.float32)

    def block(self, ids: np.ndarray, scores: np.ndarray, queries: np.ndarray | None = None) -> World:
        path = self.folder / f"block's {len(self.blocks)}.parquet"
        best = np.zeros(len(ids), np.int32) if queries is None else queries
        write_parquet(path, pa.table([id_column(ids), pa.array(scores, pa.float32()), pa.array(best, pa.int32())], schema=SCORE), SCORE)
        self.blocks.append(path)
        return self

    def pool(self, ids: np.ndarray) -> World:
        path = self.folder / f"kept {len(self.kept)}.parquet"
        write_parquet(path, pa.table([id_column(ids), pa.array(["web"] * len(ids))], schema=UNIQUE), UNIQUE)
        self.kept.append(path)
        return self

    def profile(self, num_queries: int = 4) -> ScoreProfile:
        return profile_scores(self.blocks, self.kept, num_queries=num_queries, spill=self.folder / "spill")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_good_scores_over_several_blocks_and_pools_show_no_fault(world: World) -> None:
    ids, scores = world.ids, world.scores
    found = world.block(ids[:20], scores[:20]).block(ids[20:], scores[20:]).pool(ids[::2]).pool(ids[1::2]).profile()
    assert (found.rows, found.examples) == (N, N)
    assert (found.unscored, found.duplicates, found.strangers, found.nonfinite, found.unknown_queries) == (0, 0, 0, 0, 0)
    assert (found.lowest, found.highest) == (pytest.approx(-0.5), pytest.approx(0.9))
    assert found.spread == pytest.approx(1.4)
    assert found.stddev == pytest.approx(np.std(scores.astype(np.float64)))
    assert found.offenders == {"lowest": hexed(ids[0]), "highest": hexed(ids[-1])}


def test_each_fault_is_counted_and_names_its_ids(world: World) -> None:
    ids, scores = world.ids, world.scores.copy()
    queries = np.arange(N, dtype=np.int32) % 4
    scores[5], scores[6], scores[50] = np.nan, -np.inf, 1.5
    queries[8], queries[9] = 4, -1
    found = world.block(ids[1:], scores[1:], queries[1:]).block(ids[30:31], scores[30:31]).pool(np.delete(ids, 40)).profile()
    assert (found.rows, found.examples) == (N, N - 1)
    assert (found.unscored, found.duplicates, found.strangers, found.nonfinite, found.unknown_queries) == (1, 1, 1, 2, 2)
    assert found.highest == pytest.approx(1.5)
    assert found.offenders == {
        "unscored": hexed(ids[0]),
        "duplicates": hexed(ids[30]),
        "strangers": hexed(ids[40]),
        "nonfinite": hexed(ids[5], ids[6]),
        "unknown_queries": hexed(ids[8], ids[9]),
        "lowest": hexed(ids[1]),
        "highest": hexed(ids[50]),
    }


def test_at_most_five_offenders_are_named_the_smallest_first(world: World) -> None:
    found = world.pool(world.ids).profile()
    assert (found.rows, found.unscored) == (0, N)
    assert found.offenders == {"unscored": hexed(*world.ids[:OFFENDERS])}
    assert (found.lowest, found.highest, found.spread, found.stddev) == (None, None, None, None)


def test_without_pools_every_score_is_a_stranger(world: World) -> None:
    found = world.block(world.ids, world.scores).profile()
    assert (found.examples, found.strangers) == (0, N)


def test_equal_scores_have_no_spread_and_few_scores_state_none(world: World) -> None:
    alike = world.block(world.ids, np.full(N, 0.25)).pool(world.ids).profile()
    assert (alike.spread, alike.stddev) == (0, 0)
    world.blocks.clear()
    few = world.block(world.ids[: FEWEST_SPREAD - 1], np.full(FEWEST_SPREAD - 1, 0.25)).profile()
    assert few.spread is None


def test_scores_that_are_all_nonfinite_have_no_range(world: World) -> None:
    found = world.block(world.ids, np.full(N, math.nan)).pool(world.ids).profile()
    assert found.nonfinite == N
    assert (found.lowest, found.highest, found.spread, found.stddev) == (None, None, None, None)
