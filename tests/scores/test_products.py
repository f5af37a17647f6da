"""The float32 products stay within their stated error, the chosen pairs are exact, and torch is left as it was found."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.scores import products as module
from rds_dagster.scores.products import GpuProducts, NumpyProducts, Products, TorchProducts, product_error, products_for


@pytest.fixture(params=[NumpyProducts, TorchProducts, partial(GpuProducts, "cpu")], ids=["numpy", "torch", "gpu"])
def products(request: pytest.FixtureRequest) -> Products:
    return request.param()


def exact(units: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(M, N) float64, of grid units."""
    return queries @ units.T


@pytest.mark.parametrize("dims", [1, 2, 17, 384, 4096])
@pytest.mark.parametrize("kind", ["random", "alike", "one sign", "opposite"])
def test_float32_products_lie_within_their_error_of_the_rounded_exact_ones(products: Products, dims: int, kind: str) -> None:
    rng = np.random.default_rng(dims)
    vectors, queries = rng.standard_normal((300, dims)), rng.standard_normal((40, dims))
    if kind == "alike":
        vectors, queries = np.abs(vectors[:1]) + 1e-4 * vectors, np.abs(vectors[:1]) + 1e-4 * queries
    elif kind == "one sign":
        vectors, queries = np.abs(vectors), np.abs(queries)
    elif kind == "opposite":
        queries = -vectors[:40]
    units, asked = grid_rows(vectors), grid_rows(queries)
    found = products.all_pairs(asked.astype(np.float32), units.astype(np.float32))
    assert found.dtype == np.float32
    off = np.abs(found.astype(np.float64) - exact(units, asked).astype(np.float32))
    assert off.max() <= product_error(dims)


def test_the_error_covers_sums_in_the_worst_order_too() -> None:
    """One after the other, each sum rounded: the order that the bound is about."""
    rng = np.random.default_rng(0)
    units, asked = grid_rows(np.abs(rng.standard_normal((200, 2000)))), grid_rows(np.abs(rng.standard_normal((1, 2000))))
    sums = np.zeros(200, np.float32)
    for column, weight in zip(units.T.astype(np.float32), asked[0].astype(np.float32), strict=True):
        sums += column * weight
    off = np.abs(sums.astype(np.float64) - exact(units, asked)[0].astype(np.float32))
    assert 0 < off.max() <= product_error(2000)


def test_chosen_pairs_are_exact(products: Products) -> None:
    rng = np.random.default_rng(0)
    units, queries = grid_rows(rng.standard_normal((30, 384))), grid_rows(rng.standard_normal((7, 384)))
    rows, numbers = np.divmod(np.sort(rng.permutation(30 * 7)[:150]), 7)
    left, right = ([[int(number * GRID) for number in row] for row in side] for side in (units, queries))
    whole = [sum(a * b for a, b in zip(left[row], right[number], strict=True)) / 2**52 for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)]
    assert products.some_pairs(units, queries, rows, numbers).tolist() == whole


def test_no_pairs_have_no_products(products: Products) -> None:
    none = np.empty(0, np.int64)
    assert products.some_pairs(np.ones((2, 3)), np.ones((2, 3)), none, none).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors_are_widened_without_a_change(products: Products, dtype: type) -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 5)).astype(dtype)
    wide = products.widen(vectors)
    assert wide.dtype == np.float32 and np.array_equal(wide, vectors)


def test_threads_leave_the_number_of_threads_of_torch_as_it_was(products: Products) -> None:
    before = torch.get_num_threads()
    with products.threads(2) as threads:
        assert sorted(threads.map(lambda number: number * 2, range(4))) == [0, 2, 4, 6]
    assert torch.get_num_threads() == before


def test_small_work_goes_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would fail
    assert isinstance(products_for(module.TORCH_PRODUCTS - 1), NumpyProducts)


def test_large_work_goes_to_torch_where_it_has_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuProducts, "is_there", staticmethod(lambda: False))
    for is_there, expected in ((True, TorchProducts), (False, NumpyProducts)):
        monkeypatch.setattr(TorchProducts, "is_there", staticmethod(lambda is_there=is_there: is_there))
        assert isinstance(products_for(module.TORCH_PRODUCTS), expected)


def test_a_torch_that_may_take_float32_for_less_is_not_used() -> None:
    try:
        torch.set_float32_matmul_precision("medium")
        assert type(products_for(module.TORCH_PRODUCTS)) is NumpyProducts
    finally:
        torch.set_float32_matmul_precision("highest")
