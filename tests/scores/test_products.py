"""Products stay within the error that their maker states, and torch is left as it was found."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from rds_dagster.embeddings.unit_grid import grid_rows
from rds_dagster.scores import products as module
from rds_dagster.scores.products import Bfloat16Products, GpuProducts, NumpyProducts, Products, TorchProducts, product_error, products_for


@pytest.fixture(params=[NumpyProducts, TorchProducts, Bfloat16Products, partial(GpuProducts, "cpu")], ids=["numpy", "torch", "bfloat16", "gpu"])
def products(request: pytest.FixtureRequest) -> Products:
    if request.param is Bfloat16Products and not Bfloat16Products.is_there():
        pytest.skip("oneDNN does not multiply in bfloat16 on this processor")
    return request.param()


def exact(units: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(M, N) float64, of grid units."""
    return queries @ units.T


@pytest.mark.parametrize("dims", [1, 2, 17, 384, 4096])
@pytest.mark.parametrize("kind", ["random", "alike", "one sign", "opposite"])
def test_products_lie_within_their_error_of_the_rounded_exact_ones(products: Products, dims: int, kind: str) -> None:
    rng = np.random.default_rng(dims)
    vectors, queries = rng.standard_normal((300, dims)), rng.standard_normal((40, dims))
    if kind == "alike":
        vectors, queries = np.abs(vectors[:1]) + 1e-4 * vectors, np.abs(vectors[:1]) + 1e-4 * queries
    elif kind == "one sign":
        vectors, queries = np.abs(vectors), np.abs(queries)
    elif kind == "opposite":
        queries = -vectors[:40]
    units, asked = grid_rows(vectors), grid_rows(queries)
    found, errors = products.by(asked.astype(np.float32))(units.astype(np.float32))
    if found.dtype == np.int16:
        found = torch.from_numpy(found).view(torch.bfloat16).float().numpy()
    assert found.dtype == np.float32 and found.shape == (40, 300) and found.flags.c_contiguous
    off = np.abs(found.astype(np.float64) - exact(units, asked).astype(np.float32))
    assert (off <= errors + products.rounding * np.abs(found)).all()
    assert np.max(errors) <= (0.01 if products.rounding else product_error(dims)) + 4 * product_error(dims)


def test_a_row_that_bfloat16_holds_adds_no_error_of_its_own() -> None:
    if not Bfloat16Products.is_there():
        pytest.skip("oneDNN does not multiply in bfloat16 on this processor")
    queries = np.eye(2, 3, dtype=np.float32)
    _, errors = Bfloat16Products().by(queries)(np.array([[0.5, 0.25, 1], [1 / 3, 0, 1]], np.float32))
    assert errors[0] == np.float32(4 * product_error(3)) < errors[1]


def test_the_error_covers_sums_in_the_worst_order_too() -> None:
    """One after the other, each sum rounded: the order that the bound is about."""
    rng = np.random.default_rng(0)
    units, asked = grid_rows(np.abs(rng.standard_normal((200, 2000)))), grid_rows(np.abs(rng.standard_normal((1, 2000))))
    sums = np.zeros(200, np.float32)
    for column, weight in zip(units.T.astype(np.float32), asked[0].astype(np.float32), strict=True):
        sums += column * weight
    off = np.abs(sums.astype(np.float64) - exact(units, asked)[0].astype(np.float32))
    assert 0 < off.max() <= product_error(2000)


def test_threads_leave_the_number_of_threads_of_torch_as_it_was(products: Products) -> None:
    before = torch.get_num_threads()
    with products.threads(2) as threads:
        assert sorted(threads.map(lambda number: number * 2, range(4))) == [0, 2, 4, 6]
    assert torch.get_num_threads() == before


def test_small_work_goes_without_torch_and_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would fail
    monkeypatch.setitem(sys.modules, "numba", None)
    assert products_for(module.QUICK_PRODUCTS - 1) is None


def test_large_work_goes_to_torch_where_it_has_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuProducts, "is_there", staticmethod(lambda: False))
    monkeypatch.setattr(Bfloat16Products, "is_there", staticmethod(lambda: False))
    for is_there, expected in ((True, TorchProducts), (False, NumpyProducts)):
        monkeypatch.setattr(TorchProducts, "is_there", staticmethod(lambda is_there=is_there: is_there))
        assert type(products_for(module.QUICK_PRODUCTS)) is expected


@pytest.mark.parametrize("quicker", [TorchProducts, Bfloat16Products])
def test_bfloat16_is_taken_where_it_is_quicker(monkeypatch: pytest.MonkeyPatch, quicker: type) -> None:
    monkeypatch.setattr(GpuProducts, "is_there", staticmethod(lambda: False))
    monkeypatch.setattr(Bfloat16Products, "is_there", staticmethod(lambda: True))
    monkeypatch.setattr(module, "_seconds", lambda products: 1 if type(products) is quicker else 2)
    assert type(products_for(module.QUICK_PRODUCTS)) is quicker


class Sloppy(TorchProducts):
    """A product in a thousand off, as where float32 is taken for less than it is."""

    def by(self, queries: np.ndarray) -> module.Multiply:
        multiply = super().by(queries)

        def spoilt(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | np.float32]:
            found, errors = multiply(rows)
            found.ravel()[::1000] += 1e-4
            return found, errors

        return spoilt


def test_products_that_are_farther_off_than_they_say_are_not_used(monkeypatch: pytest.MonkeyPatch, products: Products) -> None:
    assert module.keeps_to_its_error(products) and not module.keeps_to_its_error(Sloppy())
    monkeypatch.setattr(GpuProducts, "is_there", staticmethod(lambda: False))
    monkeypatch.setattr(module, "TorchProducts", Sloppy)
    assert type(products_for(module.QUICK_PRODUCTS)) is NumpyProducts


@pytest.mark.parametrize("said", ["torch.set_float32_matmul_precision('medium')", "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'"])
def test_where_torch_may_take_float32_for_less_the_chosen_products_keep_to_their_error(said: str) -> None:
    """In a process of its own, with oneDNN's own switch as well."""
    code = f"import torch; {said}\nfrom rds_dagster.scores import products as p\nassert p.keeps_to_its_error(p.products_for(p.QUICK_PRODUCTS))"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"})
