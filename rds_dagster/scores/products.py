"""What scoring multiplies: float32 products of all pairs to find out which matter, and exact float64 sums of those that do.

Nothing that is stored depends on the bits of the float32 products, only on their distance from the exact cosines staying under ``product_error``; so
whichever class is at hand may make them, and small work goes without loading torch.

Letters: N rows, M queries, D hidden size, P pairs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np

TORCH_PRODUCTS = 2**37  # multiply-adds from which loading torch (1.6 s) pays: 377,000 examples of 384 dims for 949 queries
PAIRS_AT_ONCE = 128  # gathered by numpy: 2 x 384 KiB at D = 384; 32 took 25% longer, unbounded five times as long


class Products(Protocol):
    """A maker of products, in the thread that it was made in or in ``threads``; ``most_threads`` is how many of them pay."""

    most_threads: int

    def threads(self, count: int) -> AbstractContextManager[Executor]:
        """So many threads, each of which makes its products on one core."""
        ...

    def widen(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) float16 or float32 as float32."""
        ...

    def all_pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Products (M, N) float32 of (M, D) and (N, D) float32, within ``product_error`` where both are grid units rounded to float32."""
        ...

    def some_pairs(self, units: np.ndarray, queries: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Exact products (P,) float64 of units[rows[p]] and queries[numbers[p]], grid units (N, D) and (M, D) float64.

        rows and numbers (P,) int64; distinct pairs, by row and then by number.
        """
        ...


def product_error(dims: int) -> float:
    """How far a float32 product of two grid units may lie from their exact cosine rounded to float32, in whatever order it is added.

    With u = 2**-24: rounding the two units to float32 costs 2u, adding D products D u / (1 - D u), rounding the exact one u; norms exceed 1 by less than
    D**0.5 * 2**-27. Five u and one per cent more than D u cover this, and that a floor is rounded too, up to D = 100,000.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
    """
    return 1.01 * (dims + 5) * 2.0**-24


class NumpyProducts:
    """By numpy and the BLAS that it was built with, which takes all cores for each product."""

    most_threads = 1

    def threads(self, count: int) -> AbstractContextManager[Executor]:
        """See ``Products``; but BLAS takes turns with all cores."""
        return ThreadPoolExecutor(count, thread_name_prefix="score")

    def widen(self, vectors: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        return vectors.astype(np.float32, copy=False)

    def all_pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        product: np.ndarray = queries @ rows.T
        return product

    def some_pairs(self, units: np.ndarray, queries: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        dims = units.shape[1]
        left, right, sums = np.empty((PAIRS_AT_ONCE, dims)), np.empty((PAIRS_AT_ONCE, dims)), np.empty(len(rows))
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            size = len(rows[part])
            np.take(units, rows[part], axis=0, out=left[:size], mode="clip")  # "raise" would copy what it took once more
            np.take(queries, numbers[part], axis=0, out=right[:size], mode="clip")
            np.vecdot(left[:size], right[:size], out=sums[part])
        return sums


class TorchProducts:
    """By torch: oneDNN goes by what the processor can do, and sums of chosen pairs need no gathered copies.

    On one core of an AMD EPYC with AVX-512, D = 384: 949 float32 products in 3.6 us a row where numpy's OpenBLAS took 6.9, seven chosen pairs in 0.6 us
    where numpy took 1.4, float16 made float32 in 0.03 us where numpy took 0.5.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.most_threads = _num_cores()
        with warnings.catch_warnings():  # torch says once a process that CSR is in beta
            warnings.simplefilter("ignore")
            self.some_pairs(np.ones((1, 1)), np.ones((1, 1)), np.zeros(1, np.int64), np.zeros(1, np.int64))

    @staticmethod
    def is_there() -> bool:
        """Whether this build of torch has oneDNN, and nobody let it take float32 for less than it is (``product_error`` would not hold)."""
        import torch

        has_onednn = bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return has_onednn and torch.get_float32_matmul_precision() == "highest"

    @contextmanager
    def threads(self, count: int) -> Iterator[Executor]:
        """See ``Products``."""
        before = self._torch.get_num_threads()
        try:
            with ThreadPoolExecutor(count, thread_name_prefix="score", initializer=self._torch.set_num_threads, initargs=(1,)) as executor:
                yield executor
        finally:
            self._torch.set_num_threads(before)

    def widen(self, vectors: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        wide: np.ndarray = self._torch.from_numpy(vectors).float().numpy()
        return wide

    def all_pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        torch = self._torch
        product: np.ndarray = torch.ops.mkldnn._linear_pointwise(torch.from_numpy(queries), torch.from_numpy(rows), None, "none", [], "").numpy()
        return product

    def some_pairs(self, units: np.ndarray, queries: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        torch = self._torch
        ends = torch.from_numpy(np.searchsorted(rows, np.arange(len(units) + 1)))
        pairs = torch.sparse_csr_tensor(ends, torch.from_numpy(numbers), torch.zeros(len(rows), dtype=torch.float64), (len(units), len(queries)))
        sums: np.ndarray = torch.sparse.sampled_addmm(pairs, torch.from_numpy(units), torch.from_numpy(queries).T, beta=0.0).values().numpy()
        return sums


class GpuProducts(TorchProducts):
    """All pairs on ``device`` (torch's name), the rest as before. Not measured: no GPU was at hand."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    @staticmethod
    def is_there() -> bool:
        """Whether torch sees a GPU that keeps to float32."""
        import torch

        return torch.cuda.is_available() and torch.get_float32_matmul_precision() == "highest"

    def all_pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See ``Products``."""
        left, right = (self._torch.from_numpy(side).to(self._device) for side in (queries, rows))
        product: np.ndarray = (left @ right.T).cpu().numpy()
        return product


def products_for(multiply_adds: int) -> Products:
    """What is quickest for so many products in one process."""
    if multiply_adds < TORCH_PRODUCTS:
        return NumpyProducts()
    if GpuProducts.is_there():
        return GpuProducts("cuda")
    return TorchProducts() if TorchProducts.is_there() else NumpyProducts()


def _num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
