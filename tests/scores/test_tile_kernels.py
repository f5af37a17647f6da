"""Compiled loops against slow twins in plain Python."""

import numpy as np
import pytest

from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.scores import tile_kernels as kernels


def steps_of(vectors: np.ndarray) -> np.ndarray:
    return (grid_rows(vectors) * GRID).astype(np.int32)


@pytest.mark.parametrize("dims", [1, 3, 17, 384, 4096])
def test_cosines_are_exact_sums_rounded_once(dims: int) -> None:
    rng = np.random.default_rng(dims)
    left, right = steps_of(rng.standard_normal((20, dims))), steps_of(rng.standard_normal((20, dims)))
    for one, other in zip(left, right, strict=True):
        whole = sum(int(a) * int(b) for a, b in zip(one, other, strict=True))
        assert kernels._cosine(one, other) == np.float32(whole / 2**52)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_to_the_grid_as_they_do_by_numpy(dtype: type) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 384)).astype(dtype)
    wide = vectors.astype(np.float32)
    double = wide.astype(np.float64)
    scales = GRID / np.sqrt(np.einsum("nd,nd->n", double, double))
    steps, narrow = np.empty(wide.shape, np.int32), np.empty(wide.shape, np.float32)
    kernels.put_on_grid(wide, scales, steps, narrow)
    assert np.array_equal(steps, steps_of(vectors)) and np.array_equal(narrow, grid_rows(vectors).astype(np.float32))


def test_bfloat16_is_what_torch_rounds_to() -> None:
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(0).standard_normal((30, 100)).astype(np.float32)
    rows[:, :2] = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8])  # half way between two
    rounded = torch.from_numpy(rows).bfloat16().float().numpy()
    halves, squares = np.empty(rows.shape, np.int16), np.empty(30, np.float32)
    kernels.round_to_bfloat16(rows, halves, squares)
    wide = np.empty(rows.shape, np.float32)
    kernels.widen_bfloat16(halves, wide.view(np.int32))
    assert np.array_equal(wide, rounded)
    assert squares == pytest.approx(np.square(rounded.astype(np.float64) - rows).sum(axis=1), rel=1e-5)


def test_all_that_reach_their_limit_are_found_in_order() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 15, 16, 17, 100):
        values, limits = (rng.integers(0, 3, size).astype(np.float32) for _ in range(2))
        found = np.empty(size + 1, np.int64)
        count = kernels._reaching(values, limits, found)
        assert found[:count].tolist() == np.flatnonzero(values >= limits).tolist()


def test_pairs_by_row_are_those_of_the_lists() -> None:
    rng = np.random.default_rng(0)
    held, rows = np.array([3, 0, 5, 1]), np.sort(rng.integers(0, 6, (4, 5)).astype(np.int32), axis=1)
    ends, queries, places = np.empty(7, np.int64), np.empty(9, np.int32), np.empty(9, np.int32)
    kernels.by_row(held, rows, ends, queries, places)
    for row in range(6):
        mine = {(int(q), int(k)) for q, k in zip(queries[ends[row] : ends[row + 1]], places[ends[row] : ends[row + 1]], strict=True)}
        assert mine == {(q, k) for q in range(4) for k in range(held[q]) if rows[q, k] == row}


def test_functions_are_compiled_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.njit

    def njit(**options: object):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels._compiled(lambda number: number + 1)(2) == 3
