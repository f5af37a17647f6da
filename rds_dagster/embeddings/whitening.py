"""PCA whitening: vectors that all point one way, made to vary alike in the directions in which they vary most.

Vectors of norm 1 lose their mean and are measured along the ``dims`` directions of largest variance, each in units of its standard deviation; the
cosine is then taken of what comes out. Source: CRDS (arXiv 2602.13773), fitted on 500k random vectors to 512 dims at no loss that its authors could see.

Neither the fit nor its use depends on company. Rows lie on the grid of ``unit_grid`` (2**-26), directions and mean on one of 2**-24, which float32
holds; so every sum of products is exact in float64, by the argument given there, and what follows is done number by number. The fit's sums are
whole numbers too: the same vectors in any order and in any blocks give the same sums, and so the same bytes (on one kind of machine: the
eigen-decomposition is LAPACK's). A fitted whitening is frozen for that reason and for another: a refit would move every score.

Pure numpy. Letters: N vectors, D hidden size, d dims of the whitened vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rds_dagster.embeddings.unit_grid import grid_rows
from rds_dagster.errors import InputError, SettingsError

FORMAT = 1  # of the file
ROWS = 1024  # vectors whitened or added up at once; 1024 x 2**42 is what float64 adds exactly, so no more than that
FROZEN_GRID = 2.0**24  # steps from 0 to 1 of directions and mean: the finest grid that float32 holds
FIT_GRID = 2.0**21  # steps from 0 to 1 of a coordinate in the fit's sums: 2**-21 is what float16 resolves at 1/1000
MOST_VECTORS = 2**20  # whose sums of products int64 surely holds
FLOAT16_NOISE = 2.0**-22  # of a squared coordinate: rounding to float16 adds a variance of 2**-24.5 of it (measured at D = 64, 384 and 2048), and some room
TENSORS = ("mean", "directions", "deviations")


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted whitening; make one with ``fit_whitening``.

    ``mean`` (D,), ``directions`` (D, d) of norm 1 in falling order of variance, ``deviations`` (d,): all float32. ``variance_kept``: the share of the
    vectors' variance that lies in the directions. ``encoder``: fingerprint of what made the ``vectors`` many vectors; ``seed`` and ``examples``: by which
    they were drawn, and the fingerprint of their ids; None where the whitening was fitted on arrays.
    """

    mean: np.ndarray
    directions: np.ndarray
    deviations: np.ndarray
    vectors: int
    variance_kept: float
    encoder: str | None = None
    seed: int | None = None
    examples: str | None = None

    @property
    def dims(self) -> int:
        """Numbers of a whitened vector, d."""
        return len(self.deviations)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Whitened vectors (N, d) float32, not of norm 1; vectors (N, D) of any float type, of which the direction alone counts.

        A row's bits depend on that row alone. One that lies exactly at the mean becomes zero, and its cosines 0. Raises SettingsError for another D.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise SettingsError(
                f"vectors of shape {vectors.shape} cannot be whitened; expected (N, {len(self.mean)}), as those that the whitening was fitted on"
            )
        directions, deviations = self.directions.astype(np.float64), self.deviations.astype(np.float64)
        at_mean = self.mean.astype(np.float64) @ directions  # (d,)
        whitened = np.empty((len(vectors), self.dims), np.float32)
        for start in range(0, len(vectors), ROWS):
            along = grid_rows(vectors[start : start + ROWS]) @ directions  # (n, d), exact
            whitened[start : start + ROWS] = (along - at_mean) / deviations
        return whitened

    def to_bytes(self) -> bytes:
        """The safetensors file that holds it; equal whitenings give equal bytes."""
        said = {"format": FORMAT, **{name: getattr(self, name) for name in ("vectors", "variance_kept", "encoder", "seed", "examples")}}
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in TENSORS}
        return save(tensors, {"rds_whitening": json.dumps(said, sort_keys=True)})  # one entry: safetensors writes several in an order that changes

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Whitening:
        """The whitening of a file's bytes; raises InputError naming ``where`` if it is none, or was changed by hand."""
        mend = "restore the file from version control, or fit it anew with `rds fit-whitening --force`"
        try:
            tensors = load(data)
            said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["rds_whitening"])
            if said["format"] != FORMAT:
                raise InputError(f"{where} was written by another version of rds_dagster; {mend}")
            tensors_in_order = tensors["mean"], tensors["directions"], tensors["deviations"]
            whitening = cls(*tensors_in_order, said["vectors"], said["variance_kept"], said["encoder"], said["seed"], said["examples"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where} is not a whitening ({error}); {mend}") from error
        if slip := _slip(whitening):
            raise InputError(f"{where} is not a whitening ({slip}); {mend}")
        return whitening


def fit_whitening(vectors: np.ndarray | Iterable[np.ndarray], dims: int) -> Whitening:
    """Fit a whitening to ``dims`` numbers on vectors (N, D) of any float type, or on blocks of them; their order and blocks do not matter.

    Memory: 16 bytes x D x D. Raises SettingsError if dims is more than the vectors allow, saying how many they do.
    """
    if type(dims) is not int or dims < 1:
        raise SettingsError(f"whitening to {dims!r} dims; expected a whole number, at least 1")
    sums: _Sums | None = None
    for block in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        sums = sums or _Sums(block.shape[1])
        sums.add(block)
    if sums is None or sums.count < dims + 1:
        raise SettingsError(f"whitening to {dims:,} dims takes {dims + 1:,} vectors at least; there are {sums.count if sums else 0:,}. Set fewer dims")
    if dims > sums.dims:
        raise SettingsError(f"whitening to {dims:,} dims; the vectors have {sums.dims:,}. Set dims to {sums.dims:,} or fewer")
    mean, squares, covariance = sums.moments()
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1], axes[:, ::-1]  # (D,), (D, D): the largest first
    usable = int((variances > FLOAT16_NOISE * (squares @ axes**2)).cumprod().sum())
    if dims > usable:
        raise SettingsError(
            f"whitening to {dims:,} dims: the {sums.count:,} vectors vary in {usable:,} directions by more than float16 rounds them. "
            + (f"Set dims to {usable:,} or fewer" if usable else "They are all alike and cannot be whitened")
        )
    axes = axes[:, :dims]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])  # of v and -v the one whose largest coordinate is positive
    kept = float(variances[:dims].sum() / variances.sum())
    return Whitening(_frozen(mean), _frozen(axes), np.sqrt(variances[:dims]).astype(np.float32), sums.count, kept)


class _Sums:
    """Sums of unit vectors and of their products, in whole numbers: what any order of adding cannot change."""

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.count = 0
        self._sum = np.zeros(dims, np.int64)
        self._products = np.zeros((dims, dims), np.int64)  # below 2**62: MOST_VECTORS x FIT_GRID squared
        self._waiting = np.empty((ROWS, dims))
        self._num_waiting = 0

    def add(self, vectors: np.ndarray) -> None:
        """Count in vectors (n, D); gathered to ROWS, since adding up a D x D matrix for each few rows would be most of the work."""
        if vectors.shape[1:] != (self.dims,):
            raise SettingsError(f"vectors of shape {vectors.shape} among others with {self.dims} numbers; give vectors of one encoder")
        self.count += len(vectors)
        if self.count > MOST_VECTORS:
            raise SettingsError(f"a whitening is fitted on {MOST_VECTORS:,} vectors at most; give a sample")
        start = 0
        while start < len(vectors):
            some = vectors[start : start + ROWS - self._num_waiting]
            self._waiting[self._num_waiting : self._num_waiting + len(some)] = some
            self._num_waiting += len(some)
            start += len(some)
            if self._num_waiting == ROWS:
                self._add_waiting()

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean (D,), mean squares (D,) and covariance (D, D), float64."""
        self._add_waiting()
        mean = self._sum / (self.count * FIT_GRID)
        second = self._products / (self.count * FIT_GRID**2)
        return mean, second.diagonal().copy(), second - np.outer(mean, mean)

    def _add_waiting(self) -> None:
        rows = self._waiting[: self._num_waiting]
        if not np.isfinite(rows).all() or not rows.any(axis=1).all():
            raise SettingsError("a whitening cannot be fitted on vectors that are zero or not finite; leave them out")
        units = np.rint(grid_rows(rows) * FIT_GRID)  # whole numbers; a row's squares add up to 2**42
        self._sum += units.sum(axis=0).astype(np.int64)
        self._products += (units.T @ units).astype(np.int64)
        self._num_waiting = 0


def _frozen(numbers: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1 on FROZEN_GRID, float32."""
    return np.asarray(np.rint(numbers * FROZEN_GRID) / FROZEN_GRID, np.float32, order="C")


def _slip(whitening: Whitening) -> str | None:
    """What is wrong with a whitening that was read; None if its sums of products are exact and its divisions defined."""
    tensors: Mapping[str, np.ndarray] = {name: getattr(whitening, name) for name in TENSORS}
    if any(tensor.dtype != np.float32 or not np.isfinite(tensor).all() for tensor in tensors.values()):
        return "its tensors are not finite float32"
    hidden, dims = len(whitening.mean), len(whitening.deviations)
    if [tensor.shape for tensor in tensors.values()] != [(hidden,), (hidden, dims), (dims,)] or not dims:
        return f"its shapes {', '.join(f'{name} {tensor.shape}' for name, tensor in tensors.items())} do not fit one another"
    if any((np.rint(tensors[name] * FROZEN_GRID) != tensors[name] * FROZEN_GRID).any() for name in ("mean", "directions")):
        return "mean or directions are not multiples of 2**-24"
    if np.abs(np.linalg.norm(whitening.directions, axis=0) - 1).max() > 1e-3 or np.linalg.norm(whitening.mean) > 1.001:
        return "its directions are not of norm 1, or its mean is longer"
    return None if (whitening.deviations > 0).all() else "a deviation is not above 0"
