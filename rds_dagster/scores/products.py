"""The quick products of all pairs by which scoring finds out which pairs matter.

Nothing that is stored depends on the bits of these products, only on their distance from the exact cosines staying under what their maker says; so
whichever class is at hand may make them. Small work needs none, and goes without loading torch.

Letters: N rows, M queries, D hidden size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rds_dagster.embeddings.unit_grid import grid_rows

if TYPE_CHECKING:  # imported late elsewhere: 1.1 s
    import torch

QUICK_PRODUCTS = 2**37  # multiply-adds from which loading torch and numba (2.2 s) pays: 377,000 examples of 384 dims for 949 queries
TRIED = (512, 384, 949)  # rows, dims, queries of the products by which makers are compared, in some 20 ms
BFLOAT16 = 1.01 * 2.0**-8  # the most that rounding to 8 binary digits changes a number, as a part of it

Multiply = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | np.float32]]
"""Rows (N, D) float32 -> the products (M, N) of queries that it holds with them, and the error of each row's, (N,) or one for all.

Products are C-contiguous float32, or the bits of bfloat16 as int16 (tile_kernels). Where rows and queries are grid units rounded to float32, a product p
lies within the error + ``rounding`` * abs(p) of the exact cosine rounded to float32.
"""


class Products(Protocol):
    """A maker of products, in the thread that it was made in or in ``threads``; ``most_threads`` is how many of them pay."""

    most_threads: int
    rounding: float
    finer: Products | None
    """What to take instead where its errors leave too many pairs open."""

    def threads(self, count: int) -> AbstractContextManager[Executor]:
        """So many threads, each of which makes its products on one core."""
        ...

    def by(self, queries: np.ndarray) -> Multiply:
        """What multiplies with these queries, (M, D) float32."""
        ...


def product_error(dims: int) -> np.float32:
    """How far a float32 product of two grid units may lie from their exact cosine rounded to float32, in whatever order it is added.

    With u = 2**-24: rounding the two units to float32 costs 2u, adding D products D u / (1 - D u), rounding the exact one u; norms exceed 1 by less than
    D**0.5 * 2**-27. Five u and one per cent more than D u cover this, and that a floor is rounded too, up to D = 100,000.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
    """
    return np.float32(1.01 * (dims + 5) * 2.0**-24)


class NumpyProducts:
    """By numpy and the BLAS that it was built with, which takes all cores for each product."""

    most_threads = 1
    rounding = 0.0
    finer: Products | None = None

    def threads(self, count: int) -> AbstractContextManager[Executor]:
        """See ``Products``; but BLAS takes turns with all cores."""
        return ThreadPoolExecutor(count, thread_name_prefix="score")

    def by(self, queries: np.ndarray) -> Multiply:
        """See ``Products``."""
        error = product_error(queries.shape[1])

        def multiply(rows: np.ndarray) -> tuple[np.ndarray, np.float32]:
            return queries @ rows.T, error

        return multiply


class TorchProducts:
    """By torch: oneDNN goes by what the processor can do."""

    rounding = 0.0
    finer: Products | None = None

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.most_threads = _num_cores()

    @staticmethod
    def is_there() -> bool:
        """Whether this build of torch has oneDNN; whether nobody let it take float32 for less than it is, ``keeps_to_its_error`` finds out."""
        import torch

        return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")

    @contextmanager
    def threads(self, count: int) -> Iterator[Executor]:
        """See ``Products``."""
        before = self._torch.get_num_threads()
        try:
            with ThreadPoolExecutor(count, thread_name_prefix="score", initializer=self._torch.set_num_threads, initargs=(1,)) as executor:
                yield executor
        finally:
            self._torch.set_num_threads(before)

    def by(self, queries: np.ndarray) -> Multiply:
        """See ``Products``."""
        torch, left, error = self._torch, self._torch.from_numpy(queries), product_error(queries.shape[1])

        def multiply(rows: np.ndarray) -> tuple[np.ndarray, np.float32]:
            return torch.ops.mkldnn._linear_pointwise(left, torch.from_numpy(rows), None, "none", [], "").numpy(), error

        return multiply


class Bfloat16Products(TorchProducts):
    """By oneDNN in bfloat16, where processors have instructions for it: 0.6 us a row for 949 queries of 384 dims with AMX, where float32 took 4.4."""

    rounding = BFLOAT16  # products are rounded to bfloat16 too

    def __init__(self) -> None:
        super().__init__()
        self.finer = TorchProducts()

    @staticmethod
    def is_there() -> bool:
        """Whether oneDNN multiplies in bfloat16 here at all; it may do so slowly."""
        import torch

        return TorchProducts.is_there() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def by(self, queries: np.ndarray) -> Multiply:
        """See ``Products``.

        By Cauchy and Schwarz, rounding both sides moves a product by no more than the norms of what it changes in a row and in a query, and their product;
        norms are 1, and the one per cent covers that they are found in float32. They are added in float32, where some processors round to odd or flush
        to zero: 4 times the bound.
        """
        from rds_dagster.scores.tile_kernels import round_to_bfloat16

        bfloat16, from_numpy = self._torch.bfloat16, self._torch.from_numpy
        linear, int16 = self._torch.ops.mkldnn._linear_pointwise, self._torch.int16

        def rounded(narrow: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
            halves, squares = np.empty(narrow.shape, np.int16), np.empty(len(narrow), np.float32)
            round_to_bfloat16(narrow, halves, squares)
            return from_numpy(halves).view(bfloat16), np.sqrt(squares)

        left, of_queries = rounded(queries)
        of_query, of_sum = of_queries.max(), 4 * product_error(queries.shape[1])

        def multiply(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            right, of_row = rounded(rows)
            product = linear(left, right, None, "none", [], "").view(int16).numpy()
            return product, np.float32(1.01) * (of_row + of_query + of_row * of_query) + of_sum

        return multiply


class GpuProducts(TorchProducts):
    """All pairs on ``device`` (torch's name), the rest as before: 934,000 examples of 384 dims a second for 949 queries on an H200 and 16 cores."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    @staticmethod
    def is_there() -> bool:
        """Whether torch sees a GPU."""
        import torch

        return torch.cuda.is_available()

    def by(self, queries: np.ndarray) -> Multiply:
        """See ``Products``."""
        left, error = self._torch.from_numpy(queries).to(self._device), product_error(queries.shape[1])

        def multiply(rows: np.ndarray) -> tuple[np.ndarray, np.float32]:
            return (left @ self._torch.from_numpy(rows).to(self._device).T).cpu().numpy(), error

        return multiply


def products_for(multiply_adds: int) -> Products | None:
    """What is quickest for so many products in one process; None where exact sums of all pairs are."""
    if multiply_adds < QUICK_PRODUCTS:
        return None
    if GpuProducts.is_there() and keeps_to_its_error(on_gpu := GpuProducts("cuda")):
        return on_gpu
    if not (TorchProducts.is_there() and keeps_to_its_error(in_float32 := TorchProducts())):
        return NumpyProducts()
    if not (Bfloat16Products.is_there() and keeps_to_its_error(in_bfloat16 := Bfloat16Products())):
        return in_float32
    return min(in_float32, in_bfloat16, key=_seconds)


def keeps_to_its_error(products: Products) -> bool:
    """Whether its products are as near to exact ones as it says: switches of torch, oneDNN and CUDA let float32 be taken for less, and not all can be asked."""
    rng = np.random.default_rng(0)
    rows, queries = (grid_rows(rng.standard_normal((count, dims))) for count, dims in ((TRIED[0], TRIED[1]), (64, TRIED[1])))
    found, errors = products.by(queries.astype(np.float32))(rows.astype(np.float32))
    wide = found if found.dtype == np.float32 else (found.astype(np.int32) << 16).view(np.float32)
    off = np.abs(wide.astype(np.float64) - (queries @ rows.T).astype(np.float32))
    return bool((off <= errors + products.rounding * np.abs(wide)).all())


def _seconds(products: Products) -> float:
    """How long a product takes: which instructions a processor has for it is known to oneDNN alone, and not in words."""
    rows, dims, queries = TRIED
    multiply, left = products.by(np.ones((queries, dims), np.float32)), np.ones((rows, dims), np.float32)

    def once() -> float:
        began = time.perf_counter()
        multiply(left)
        return time.perf_counter() - began

    return min(once() for _ in range(3))


def _num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
