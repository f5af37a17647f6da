"""One row that says whether a pool's vectors can be trusted: all there, finite, of norm 1, and not collapsed onto one direction.

Pure numpy; the vectors are streamed once and only a sample of them is kept. Letters: B batch, D hidden size, N pool examples, S sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rds_dagster.fingerprint import ID_DTYPE, seeded_fractions
from rds_dagster.storage.ids import positions_in

SAMPLE = 2000  # examples whose pairwise cosines and singular values are looked at; their vectors take S x D float32 (33 MB for D 4096)
FEWEST_SAMPLED = 50  # below this the spread of the vectors says nothing, so it is not stated
OFFENDERS = 5  # ids named per finding, the smallest first


@dataclass(frozen=True)
class VectorProfile:
    """What ``profile_vectors`` found about one pool.

    ``rows`` N wanted ids; ``missing`` have no vector, ``duplicates`` counts vectors beyond an id's first, ``nonfinite`` vectors with NaN or infinity,
    ``wrong_dims`` vectors that are not D long. ``max_norm_error`` is the largest distance of a finite vector's length from 1 (NaN where there is none).
    ``mean_pairwise_cosine`` over all pairs of the ``sampled`` vectors and their ``effective_rank`` are NaN where fewer than FEWEST_SAMPLED were sampled.
    ``offenders`` names up to OFFENDERS ids (hex) per finding.
    """

    rows: int
    missing: int
    duplicates: int
    nonfinite: int
    wrong_dims: int
    max_norm_error: float
    mean_pairwise_cosine: float
    effective_rank: float
    sampled: int
    offenders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def profile_vectors(wanted: np.ndarray, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, dims: int, sample: int = SAMPLE, seed: int = 0) -> VectorProfile:
    """Look once at the stored vectors of the ``wanted`` ids (N,) S16, in any order.

    batches: ids (B,) S16 and vectors (B, D) float16 as stored; rows of other ids are passed over. The sample is those wanted ids whose seeded
    hash is smallest, so growth of the pool and the order of the stream do not reshuffle it. Peaks at 40 bytes an id beside the sample (measured at 1M ids).
    """
    wanted = np.unique(wanted.astype(ID_DTYPE, copy=False))
    tally = _Tally(wanted, dims, sampled_positions(wanted, sample, seed))
    for ids, vectors in batches:
        tally.add(ids, vectors)
    return tally.profile()


def mean_pairwise_cosine(units: np.ndarray) -> float:
    """The mean cosine over all pairs of distinct rows; units (S, D) of norm 1, S at least 2. O(S D): the pairs sum to |sum of rows|^2 - S."""
    num = len(units)
    total = units.sum(axis=0, dtype=np.float64)  # (D,)
    return float((total @ total - num) / (num * (num - 1)))


def effective_rank(units: np.ndarray) -> float:
    """How many directions the rows really use: exp of the entropy of the normalised singular values; from 1 to min(S, D).

    units (S, D), S at least 1, not all zero, not centred: vectors that all point one way give 1. Source: Roy and Vetterli, "The effective rank: a
    measure of effective dimensionality" (EUSIPCO 2007); on embeddings as in RankMe (arXiv 2210.02885). The singular values are the roots of the
    eigenvalues of the smaller Gram matrix in float64; what lies below its rounding error counts as zero.
    """
    matrix = units.astype(np.float64)
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    eigenvalues = np.linalg.eigvalsh(gram)
    floor = eigenvalues.max() * len(gram) * np.finfo(np.float64).eps
    singular = np.sqrt(eigenvalues[eigenvalues > floor])
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def sampled_positions(ids: np.ndarray, sample: int, seed: int) -> np.ndarray:
    """Positions of the ``sample`` ids with the smallest seeded fractions, ascending; ids (N,) S16 sorted, ties go to the smaller id."""
    if len(ids) <= sample:
        return np.arange(len(ids))
    fractions = seeded_fractions(ids, seed, "profile")
    near = np.flatnonzero(fractions <= np.partition(fractions, sample - 1)[sample - 1])
    return np.sort(near[np.argsort(fractions[near], kind="stable")][:sample])


class _Tally:
    """The running counts of one pass."""

    def __init__(self, wanted: np.ndarray, dims: int, chosen: np.ndarray) -> None:
        self.wanted, self.dims, self.chosen = wanted, dims, chosen
        self.times = np.zeros(len(wanted), np.uint16)  # vectors seen per id
        self.bad = {name: np.zeros(len(wanted), bool) for name in ("nonfinite", "wrong_dims")}
        self.counts = {"nonfinite": 0, "wrong_dims": 0}
        self.worst_error, self.worst_id = np.nan, b""
        self.units = np.zeros((len(chosen), dims), np.float32)  # (S, D)
        self.is_filled = np.zeros(len(chosen), bool)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        places, is_wanted = positions_in(self.wanted, ids)
        if not is_wanted.all():
            places, vectors = places[is_wanted], vectors[is_wanted]
        np.add.at(self.times, places, 1)
        if vectors.shape[1] != self.dims:
            self._mark("wrong_dims", places)
            return
        norms = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float32))  # (B,); the sum of float16 squares cannot overflow float32
        is_finite = np.isfinite(norms)
        self._mark("nonfinite", places[~is_finite])
        if is_finite.any():
            self._note_norms(places[is_finite], norms[is_finite])
            is_usable = is_finite & (norms > 0)
            self._take_sample(places[is_usable], vectors[is_usable], norms[is_usable])

    def profile(self) -> VectorProfile:
        units = self.units[self.is_filled]
        is_enough = len(units) >= FEWEST_SAMPLED
        found = {"missing": self.times == 0, "duplicates": self.times > 1, **self.bad}
        offenders = {name: self._hex(mask) for name, mask in found.items() if mask.any()}
        if self.worst_id:
            offenders["max_norm_error"] = (self.worst_id.hex(),)
        return VectorProfile(
            rows=len(self.wanted),
            missing=int(found["missing"].sum()),
            duplicates=int(self.times.sum(dtype=np.int64) - (self.times > 0).sum()),
            nonfinite=self.counts["nonfinite"],
            wrong_dims=self.counts["wrong_dims"],
            max_norm_error=float(self.worst_error),
            mean_pairwise_cosine=mean_pairwise_cosine(units) if is_enough else np.nan,
            effective_rank=effective_rank(units) if is_enough else np.nan,
            sampled=len(units),
            offenders=offenders,
        )

    def _mark(self, name: str, places: np.ndarray) -> None:
        self.bad[name][places] = True
        self.counts[name] += len(places)

    def _note_norms(self, places: np.ndarray, norms: np.ndarray) -> None:
        errors = np.abs(norms.astype(np.float64) - 1)
        worst = errors.max()
        example = self.wanted[places[errors == worst].min()]  # ties to the smaller id
        if np.isnan(self.worst_error) or (worst, self.worst_id) > (self.worst_error, example):
            self.worst_error, self.worst_id = worst, bytes(example).ljust(ID_DTYPE.itemsize, b"\0")

    def _take_sample(self, places: np.ndarray, vectors: np.ndarray, norms: np.ndarray) -> None:
        slots, is_chosen = positions_in(self.chosen, places)
        self.units[slots[is_chosen]] = vectors[is_chosen] / norms[is_chosen, None]
        self.is_filled[slots[is_chosen]] = True

    def _hex(self, mask: np.ndarray) -> tuple[str, ...]:
        return tuple(bytes(i).ljust(ID_DTYPE.itemsize, b"\0").hex() for i in self.wanted[np.flatnonzero(mask)[:OFFENDERS]])
