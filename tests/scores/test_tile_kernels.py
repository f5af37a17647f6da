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
@pytest.mark.parametrize("are_given", [False, True])
def test_rows_come_to_the_grid_as_they_do_by_numpy(dtype: type, are_given: bool) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    wide = vectors.astype(np.float64)
    squares = np.einsum("nd,nd->n", wide, wide)
    scales = GRID / np.sqrt(squares) if are_given else np.zeros(50)
    steps, narrow = np.empty(vectors.shape, np.int32), np.empty(vectors.shape, np.float32)
    assert kernels.put_on_grid(kernels.bits_of(vectors), scales, are_given, steps, narrow) == pytest.approx(squares.max())
    if dtype == np.float16 or are_given:
        assert np.array_equal(scales, GRID / np.sqrt(squares))
        assert np.array_equal(steps, steps_of(vectors)) and np.array_equal(narrow, grid_rows(vectors).astype(np.float32))


def test_every_float16_is_the_number_that_it_is() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    steps, narrow = np.empty((len(halves), 1), np.int32), np.empty((len(halves), 1), np.float32)
    kernels.put_on_grid(kernels.bits_of(halves[:, None]), np.full(len(halves), 2.0**10), True, steps, narrow)
    assert np.array_equal(steps[:, 0], np.rint(halves.astype(np.float64) * 2**10))
    kernels.put_on_grid(kernels.bits_of(halves[:, None]), np.full(len(halves), 2.0**25), True, steps, narrow)
    small = np.abs(halves) < 1
    assert np.array_equal(steps[small, 0], halves[small].astype(np.float64) * 2**25)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 7])
def test_a_row_that_is_not_finite_shows(dtype: type, spoilt: float, row: int) -> None:
    vectors = np.ones((8, 5), dtype)
    vectors[row, 2] = spoilt
    steps, narrow = np.empty((8, 5), np.int32), np.empty((8, 5), np.float32)
    assert not np.isfinite(kernels.put_on_grid(kernels.bits_of(vectors), np.ones(8), True, steps, narrow))


def test_bfloat16_is_what_torch_rounds_to() -> None:
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(0).standard_normal((30, 100)).astype(np.float32)
    rows[:, :2] = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8])  # half way between two
    rounded = torch.from_numpy(rows).bfloat16()
    halves, squares = np.empty(rows.shape, np.int16), np.empty(30, np.float32)
    kernels.round_to_bfloat16(rows, halves, squares)
    assert np.array_equal(halves, rounded.view(torch.int16).numpy())
    assert squares == pytest.approx(np.square(rounded.double().numpy() - rows).sum(axis=1), rel=1e-5)


def bfloat16_bits(numbers: np.ndarray) -> np.ndarray:
    return (numbers.astype(np.float32).view(np.int32) >> 16).astype(np.int16)


@pytest.mark.parametrize("sign", ["both", "negative", "positive"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_largest_of_a_set_are_found_whatever_their_sign(kind: str, sign: str) -> None:
    products = np.random.default_rng(0).standard_normal((6, 37)).astype(np.float32)
    products = {"both": products, "negative": -np.abs(products), "positive": np.abs(products)}[sign]
    bits = products if kind == "float32" else bfloat16_bits(products)
    exact = products if kind == "float32" else (bits.astype(np.int32) << 16).view(np.float32)
    near = np.empty((2, 37), np.float32)
    kernels.find_near(bits, np.array([0, 4, 6]), np.zeros(37, np.float32), 0.0, near)
    assert np.array_equal(near, [exact[:4].max(axis=0), exact[4:].max(axis=0)])


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_all_that_reach_a_limit_are_found_in_order(kind: str) -> None:
    """Of bfloat16 others too, where a limit is not above 0."""
    rng = np.random.default_rng(0)
    for size in (1, 7, 8, 9, 16, 100):
        values, limits = (rng.integers(-3, 4, size).astype(np.float32) for _ in range(2))
        bits = values if kind == "float32" else bfloat16_bits(values)
        for limit in np.float32([-1, 0, 2, 9]):
            keys = np.array([kernels_key(number, bits) for number in limits], bits.dtype)
            found, flags = np.empty(size + 9, np.int64), np.zeros(-(-size // 8) * 8, np.int8)
            count = kernels._reaching(bits, keys, kernels_key(limit, bits), flags, found)
            expected = np.flatnonzero((values >= limits) | (values >= limit)).tolist()
            mine = found[:count].tolist()
            assert mine == sorted(mine) and set(expected) <= set(mine)
            if kind == "float32":
                assert mine == expected


def kernels_key(number: np.float32, like: np.ndarray) -> np.number:
    """As ``_floor_key`` has it."""
    if like.dtype == np.float32:
        return number
    return bfloat16_bits(np.array([number]))[0] if number > 0 else np.int16(-0x8000)


@pytest.mark.parametrize("width", [1, 5, 40])
def test_keys_sort_lists_by_cosine_and_then_by_place(width: int) -> None:
    rng = np.random.default_rng(0)
    cosines = rng.integers(-3, 4, (4, width)).astype(np.float32) / 3
    held = np.array([width, 0, width // 2, 1])
    keys = np.empty((4, width), np.int64)
    kernels.sort_keys(held, cosines, keys)
    for query, size in enumerate(held):
        order = (np.sort(keys[query])[:size] & 0xFFFFFFFF).tolist()
        assert order == np.argsort(-cosines[query, :size], kind="stable").tolist()


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
