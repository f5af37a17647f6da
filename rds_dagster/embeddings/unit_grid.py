"""Unit vectors on a grid so coarse that float64 adds their products without rounding.

Unit vectors are put on a grid of 2**-26. A product of two such numbers is a whole multiple of 2**-52, and by Cauchy-Schwarz any part of a sum of
them stays below 2, so float64 (53 bits) holds every step of it exactly: whatever the shape of the matrices, the place of a row, the threads or the
BLAS, the same bits come out. In float32 they do not: after a shuffle half of the rows of a 4096-row product had other bits (OpenBLAS, AVX-512, M >= 16).
The grid moved no cosine of 200 x 949 at D = 4096 by more than 3e-8; float32 near 1 is coarser (6e-8).

Letters: N rows, D hidden size.
"""

from __future__ import annotations

import numpy as np

GRID = 2.0**26  # steps of a coordinate from 0 to 1


def grid_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1, (N, D) float64, every number a multiple of 1 / GRID; vectors (N, D) of any float type. A zero row stays zero: its cosines are 0."""
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    norms[norms == 0] = 1
    wide *= (GRID / norms)[:, None]
    np.rint(wide, out=wide)
    wide *= 1 / GRID  # a power of two: the same bits as a division, which takes longer
    return wide
