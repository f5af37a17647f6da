"""Whitening against a hand-worked case, the plain formula, and the promise that neither fit nor use depends on order, blocks or company."""

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings import whitening as module
from rds_dagster.embeddings.unit_grid import GRID, grid_rows
from rds_dagster.embeddings.whitening import FROZEN_GRID, MOST_VECTORS, ROWS, Whitening, fit_whitening
from rds_dagster.errors import InputError, SettingsError


def make_vectors(num: int, dims: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (num, dims) float16 as an encoder makes them: far from the origin, spread unevenly."""
    rng = np.random.default_rng(seed)
    vectors = 1.5 + rng.standard_normal((num, dims)) * np.geomspace(2, 0.1, dims)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def plain_whitening(fitted_on: np.ndarray, vectors: np.ndarray, dims: int) -> np.ndarray:
    """The textbook, in float64: units less their mean, along the eigenvectors of the covariance, each divided by its standard deviation."""
    units, asked = ([row / np.linalg.norm(row) for row in rows.astype(np.float64)] for rows in (fitted_on, vectors))
    mean = sum(units) / len(units)
    covariance = sum(np.outer(row - mean, row - mean) for row in units) / len(units)
    variances, axes = np.linalg.eigh(covariance)
    columns = []
    for number in range(len(variances) - 1, len(variances) - 1 - dims, -1):
        axis = axes[:, number] * (1 if axes[np.abs(axes[:, number]).argmax(), number] > 0 else -1)
        columns.append([(row - mean) @ axis / np.sqrt(variances[number]) for row in asked])
    return np.array(columns).T


def same(one: Whitening, other: Whitening) -> bool:
    return one.to_bytes() == other.to_bytes()


# ---- right -------------------------------------------------------------------------------------------------------------------------------------------


def test_four_vectors_by_hand() -> None:
    """Unit vectors (0.6, +-0.8) and (0.8, +-0.6): mean (0.7, 0), variance 0.5 along the second axis and 0.01 along the first."""
    whitening = fit_whitening(np.array([[0.6, 0.8], [0.6, -0.8], [0.8, 0.6], [0.8, -0.6]]), dims=2)
    assert whitening.mean == pytest.approx([0.7, 0], abs=1e-6)
    assert whitening.directions == pytest.approx(np.array([[0, 1], [1, 0]]), abs=1e-5)
    assert whitening.deviations == pytest.approx([np.sqrt(0.5), 0.1], rel=1e-5)
    assert (whitening.dims, whitening.vectors, whitening.variance_kept) == (2, 4, 1.0)
    root = np.sqrt(2)
    assert whitening.apply(np.array([[6, 8], [1, 0], [0, -1]], np.float32)) == pytest.approx(np.array([[0.8 * root, -1], [0, 3], [-root, -7]]), abs=1e-4)
    assert fit_whitening(np.array([[0.6, 0.8], [0.6, -0.8], [0.8, 0.6], [0.8, -0.6]]), dims=1).variance_kept == pytest.approx(50 / 51)


@pytest.mark.parametrize(("num", "dims", "to"), [(400, 16, 16), (3000, 24, 7), (40, 64, 30)])
def test_it_is_the_plain_formula(num: int, dims: int, to: int) -> None:
    vectors, others = make_vectors(num, dims), make_vectors(50, dims, seed=1)
    expected, found = plain_whitening(vectors, others, to), fit_whitening(vectors, to).apply(others)
    assert (found.shape, found.dtype) == ((50, to), np.float32)
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max(), "the fit's sums stand on a grid of 2**-21"
    cosines = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in rows for b in rows] for rows in (expected, found.astype(np.float64))]
    assert cosines[1] == pytest.approx(cosines[0], abs=3e-5)


def test_applying_is_the_plain_formula_of_what_is_frozen() -> None:
    whitening, vectors = fit_whitening(make_vectors(2000, 48), 20), make_vectors(300, 48, seed=1)
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    expected = (units - whitening.mean.astype(np.float64)) @ whitening.directions.astype(np.float64) / whitening.deviations
    assert whitening.apply(vectors) == pytest.approx(expected, abs=1e-6 * np.abs(expected).max())


def test_what_was_fitted_on_comes_out_centred_uncorrelated_and_of_variance_one() -> None:
    vectors = make_vectors(3000, 32)
    whitened = fit_whitening(vectors, 12).apply(vectors).astype(np.float64)
    assert np.abs(whitened.mean(axis=0)).max() < 1e-4
    assert np.abs(whitened.T @ whitened / len(whitened) - np.eye(12)).max() < 1e-4


def test_vectors_that_all_point_one_way_do_so_no_more() -> None:
    vectors = make_vectors(2000, 32)
    units, whitened = grid_rows(vectors), grid_rows(fit_whitening(vectors, 12).apply(vectors))
    assert np.abs(units.mean(axis=0) @ units.mean(axis=0)) > 0.5 > 0.01 > whitened.mean(axis=0) @ whitened.mean(axis=0)


def test_the_share_of_variance_grows_to_one_with_dims() -> None:
    vectors = make_vectors(500, 10)
    shares = [fit_whitening(vectors, dims).variance_kept for dims in range(1, 11)]
    assert shares == sorted(shares) and 0.2 < shares[0] < 0.9 and shares[-1] == pytest.approx(1)
    assert np.array_equal(fit_whitening(vectors, 3).directions, fit_whitening(vectors, 10).directions[:, :3])


def test_of_both_signs_of_a_direction_the_one_with_a_positive_largest_coordinate_is_taken() -> None:
    directions = fit_whitening(make_vectors(300, 12), 12).directions
    assert (directions[np.abs(directions).argmax(axis=0), np.arange(12)] > 0).all()


def test_the_length_of_a_vector_does_not_matter() -> None:
    vectors = make_vectors(200, 8).astype(np.float32)
    whitening = fit_whitening(vectors, 4)
    assert same(fit_whitening(vectors * 4, 4), whitening) and np.array_equal(whitening.apply(vectors * 4), whitening.apply(vectors))


def test_a_vector_at_the_mean_becomes_zero() -> None:
    whitening = fit_whitening(np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1.0]]), dims=2)
    (zero,) = replace(whitening, mean=np.array([0, 0, 1], np.float32)).apply(np.array([[0, 0, 5]], np.float16))
    assert zero.tolist() == [0, 0]
    assert grid_rows(zero[None]).tolist() == [[0, 0]], "so that its cosines are 0"


# ---- no bit depends on order, blocks or company ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 2500), max_size=6))
@settings(max_examples=12, deadline=None)
def test_the_same_vectors_in_any_order_and_blocks_give_the_same_bytes(seed: int, cuts: list[int]) -> None:
    vectors = make_vectors(2500, 12)
    shuffled = vectors[np.random.default_rng(seed).permutation(len(vectors))]
    assert same(fit_whitening(iter(np.split(shuffled, sorted(cuts))), 5), fit_whitening(vectors, 5))


def test_the_sums_of_the_fit_are_those_of_whole_numbers() -> None:
    vectors = make_vectors(ROWS + 200, 6)
    sums = module._Sums(6)
    sums.add(vectors)
    mean, squares, covariance = sums.moments()
    rows = [[round(number * module.FIT_GRID) for number in row] for row in grid_rows(vectors).tolist()]
    products = [[sum(row[i] * row[j] for row in rows) for j in range(6)] for i in range(6)]
    assert sums._products.tolist() == products
    assert mean == pytest.approx([sum(column) / len(rows) / module.FIT_GRID for column in zip(*rows, strict=True)], rel=1e-15)
    assert squares == pytest.approx([products[i][i] / len(rows) / module.FIT_GRID**2 for i in range(6)], rel=1e-15)
    assert covariance == pytest.approx(np.cov(grid_rows(vectors).T, bias=True), abs=1e-6)


@pytest.mark.parametrize(("dims", "to"), [(64, 16), (100, 64), (384, 200)])
def test_the_bits_of_a_whitened_vector_do_not_depend_on_place_or_neighbours(dims: int, to: int) -> None:
    vectors = make_vectors(2 * ROWS + 37, dims)
    whitening = fit_whitening(vectors, to)
    whole = whitening.apply(vectors)
    rng = np.random.default_rng(2)
    for _ in range(3):
        order = rng.permutation(len(vectors))[: rng.integers(1, len(vectors))]
        assert np.array_equal(whitening.apply(vectors[order]), whole[order])
    for row in (0, 7, ROWS, len(vectors) - 1):
        assert np.array_equal(whitening.apply(vectors[row : row + 1])[0], whole[row])


def test_float64_holds_every_sum_exactly() -> None:
    vectors = make_vectors(400, 96)
    whitening = fit_whitening(vectors, 9)
    rows = [[int(number * GRID) for number in row] for row in grid_rows(vectors[:30]).tolist()]
    columns = [[int(number * FROZEN_GRID) for number in column] for column in whitening.directions.T.astype(np.float64).tolist()]
    mean = [int(number * FROZEN_GRID) for number in whitening.mean.astype(np.float64).tolist()]
    for row, found in zip(rows, whitening.apply(vectors[:30]), strict=True):
        along = [sum(a * b for a, b in zip(row, column, strict=True)) / 2**50 for column in columns]
        at_mean = [sum(a * b for a, b in zip(mean, column, strict=True)) / 2**48 for column in columns]
        assert found.tolist() == [np.float32((a - b) / float(c)) for a, b, c in zip(along, at_mean, whitening.deviations, strict=True)]


def test_the_same_bits_come_out_with_another_number_of_threads(tmp_path: Path) -> None:
    whitening = fit_whitening(make_vectors(2000, 96), 40)
    (tmp_path / "frozen").write_bytes(whitening.to_bytes())
    code = """
import sys, numpy as np
from pathlib import Path
from rds_dagster.embeddings.whitening import Whitening
vectors = 1 + np.random.default_rng(0).standard_normal((3000, 96)).astype(np.float16)
np.save(sys.argv[2], Whitening.from_bytes(Path(sys.argv[1]).read_bytes(), where="").apply(vectors))
"""
    for threads in ("1", "3"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "frozen"), str(tmp_path / f"{threads}.npy")], check=True, env={"OPENBLAS_NUM_THREADS": threads}
        )
    assert np.array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "3.npy"))


# ---- refused -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "dims", "words"),
    [
        (make_vectors(50, 8), 0, "whitening to 0 dims; expected a whole number, at least 1"),
        (make_vectors(50, 8), True, "whitening to True dims"),
        (make_vectors(50, 8), 9, r"whitening to 9 dims; the vectors have 8\. Set dims to 8 or fewer"),
        (make_vectors(8, 16), 8, r"whitening to 8 dims takes 9 vectors at least; there are 8\. Set fewer dims"),
        ([], 2, "takes 3 vectors at least; there are 0"),
        (
            np.repeat(make_vectors(3, 8), 5, axis=0),
            3,
            r"whitening to 3 dims: the 15 vectors vary in 2 directions by more than float16 rounds them\. Set dims to 2 ",
        ),
        (np.repeat(make_vectors(1, 8), 5, axis=0), 1, r"vary in 0 directions .*They are all alike and cannot be whitened"),
        (np.zeros((5, 3), np.float16), 1, "cannot be fitted on vectors that are zero or not finite"),
        (np.full((5, 3), np.nan, np.float16), 1, "cannot be fitted on vectors that are zero or not finite"),
        (np.full((5, 3), np.inf, np.float16), 1, "cannot be fitted on vectors that are zero or not finite"),
        ([make_vectors(5, 3), make_vectors(5, 4)], 1, r"vectors of shape \(5, 4\) among others with 3 numbers; give vectors of one encoder"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(vectors: np.ndarray, dims: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fit_whitening(vectors, dims)


def test_what_float16_alone_spreads_does_not_count_as_a_direction() -> None:
    """Vectors of a plane, rounded: in float32 two directions of rank 8, in float16 all eight vary, by rounding."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((2000, 2)) @ rng.standard_normal((2, 8)) + np.array([3, 1, 2, 1, 1, 2, 1, 1])
    rounded = (plane / np.linalg.norm(plane, axis=1, keepdims=True)).astype(np.float16)
    assert np.linalg.matrix_rank(rounded.astype(np.float64) - rounded.mean(axis=0, dtype=np.float64)) == 8
    with pytest.raises(SettingsError, match=r"vary in 3 directions by more than float16 rounds them\. Set dims to 3 or fewer"):
        fit_whitening(rounded, 4)  # three: the plane lies off the origin, and norm 1 bends it
    assert fit_whitening(rounded, 3).dims == 3


def test_more_vectors_than_the_sums_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROWS * module.FIT_GRID**2 * 1.001 < 2**53 and MOST_VECTORS * module.FIT_GRID**2 * 1.001 < 2**63
    monkeypatch.setattr(module, "MOST_VECTORS", 100)
    with pytest.raises(SettingsError, match="fitted on 100 vectors at most; give a sample"):
        fit_whitening(make_vectors(101, 4), 2)


@pytest.mark.parametrize("shape", [(3, 7), (8,), (2, 2, 8)])
def test_vectors_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"vectors of shape \(.*\) cannot be whitened; expected \(N, 8\)"):
        fit_whitening(make_vectors(50, 8), 3).apply(np.ones(shape, np.float16))


# ---- the file ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted() -> Whitening:
    return replace(fit_whitening(make_vectors(300, 8), 3), encoder="e" * 32, seed=7, examples="a" * 32)


def test_what_is_written_is_read_again(fitted: Whitening) -> None:
    data = fitted.to_bytes()
    again = Whitening.from_bytes(data, where="file")
    assert again.to_bytes() == data == fitted.to_bytes()
    assert (again.vectors, again.variance_kept, again.encoder, again.seed, again.examples) == (300, fitted.variance_kept, "e" * 32, 7, "a" * 32)
    assert np.array_equal(again.apply(make_vectors(20, 8)), fitted.apply(make_vectors(20, 8)))


def test_any_reader_of_safetensors_can_read_it(fitted: Whitening, tmp_path: Path) -> None:
    from safetensors import safe_open

    (tmp_path / "w.safetensors").write_bytes(fitted.to_bytes())
    with safe_open(tmp_path / "w.safetensors", framework="np") as file:
        assert sorted(file.keys()) == ["deviations", "directions", "mean"]
        assert np.array_equal(file.get_tensor("directions"), fitted.directions)
        assert json.loads(file.metadata()["rds_whitening"])["vectors"] == 300


def test_what_is_no_whitening_is_refused_in_words(fitted: Whitening) -> None:
    from safetensors.numpy import save

    def changed(**parts: np.ndarray) -> bytes:
        return replace(fitted, **parts).to_bytes()  # type: ignore[arg-type]

    broken = {
        "not a whitening": [b"", b"no safetensors", fitted.to_bytes()[:-4], save({"mean": fitted.mean}), save({"a": fitted.mean}, {"rds_whitening": "[]"})],
        r"shapes mean \(7,\), directions \(8, 3\), deviations \(3,\) do not fit": [changed(mean=fitted.mean[:7])],
        "do not fit one another": [
            changed(directions=fitted.directions[:, :2]),
            changed(directions=fitted.directions[:, :0], deviations=fitted.deviations[:0]),
        ],
        "its tensors are not finite float32": [changed(mean=fitted.mean.astype(np.float64)), changed(deviations=fitted.deviations * np.float32("nan"))],
        r"mean or directions are not multiples of 2\*\*-24": [changed(mean=fitted.mean / 3), changed(directions=fitted.directions / np.float32(3))],
        "its directions are not of norm 1": [changed(directions=fitted.directions * 2), changed(mean=fitted.mean * 4)],
        "a deviation is not above 0": [changed(deviations=-fitted.deviations)],
        "was written by another version of rds_dagster": [fitted.to_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9')],
    }
    for words, files in broken.items():
        for data in files:
            with pytest.raises(InputError, match=rf"whitening/tiny\.safetensors .*{words}.*`rds fit-whitening --force`" if "version" not in words else words):
                Whitening.from_bytes(data, where="whitening/tiny.safetensors")


def test_equal_whitenings_have_equal_bytes_in_another_process(fitted: Whitening) -> None:
    """safetensors writes several entries of metadata in an order that changes from process to process."""
    code = f"""
import sys
from pathlib import Path
from rds_dagster.embeddings.whitening import Whitening
data = bytes.fromhex({fitted.to_bytes().hex()!r})
sys.exit(Whitening.from_bytes(data, where="").to_bytes() != data)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True)
    assert struct.unpack("<Q", fitted.to_bytes()[:8])[0] < 2000
