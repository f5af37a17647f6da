from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.profile import FEWEST_SAMPLED, OFFENDERS, effective_rank, mean_pairwise_cosine, profile_vectors, sampled_positions
from rds_dagster.fingerprint import ID_DTYPE, content_digest


def make_ids(num: int) -> np.ndarray:
    return np.sort(np.array([content_digest(f"example {i}".encode()) for i in range(num)], ID_DTYPE))


def make_units(num: int, dims: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def hexed(*ids: bytes) -> tuple[str, ...]:
    return tuple(bytes(i).ljust(16, b"\0").hex() for i in ids)


def test_good_vectors_show_no_fault() -> None:
    ids, vectors = make_ids(200), make_units(200, 16)
    found = profile_vectors(ids, [(ids[:70], vectors[:70]), (ids[70:], vectors[70:])], dims=16)
    assert (found.rows, found.missing, found.duplicates, found.nonfinite, found.wrong_dims, found.sampled) == (200, 0, 0, 0, 0, 200)
    assert found.max_norm_error < 0.0005
    assert abs(found.mean_pairwise_cosine) < 0.02
    assert 14 < found.effective_rank <= 16
    assert set(found.offenders) == {"max_norm_error"}


def test_each_fault_is_counted_and_names_its_ids() -> None:
    ids, vectors = make_ids(60), make_units(60, 8)
    vectors[3, 0], vectors[4, 1] = np.nan, np.inf
    vectors[7] *= np.float16(1.5)
    is_stored = np.arange(60) != 9
    batches = [(ids[is_stored], vectors[is_stored]), (ids[5:7], vectors[5:7]), (ids[5:6], vectors[5:6]), (ids[11:12], make_units(1, 4))]
    found = profile_vectors(ids, batches, dims=8)
    assert (found.missing, found.nonfinite, found.wrong_dims) == (1, 2, 1)
    assert found.duplicates == 4  # id 5 twice more, ids 6 and 11 once more
    assert found.max_norm_error == pytest.approx(0.5, abs=0.001)
    assert found.offenders == {
        "missing": hexed(ids[9]),
        "duplicates": hexed(ids[5], ids[6], ids[11]),
        "nonfinite": hexed(ids[3], ids[4]),
        "wrong_dims": hexed(ids[11]),
        "max_norm_error": hexed(ids[7]),
    }


def test_at_most_five_offenders_are_named_the_smallest_first() -> None:
    ids = make_ids(30)
    found = profile_vectors(ids[::-1], [], dims=4)
    assert found.missing == 30
    assert found.offenders["missing"] == hexed(*ids[:OFFENDERS])
    assert math.isnan(found.max_norm_error)


def test_vectors_of_other_ids_are_passed_over() -> None:
    ids, vectors = make_ids(100), make_units(100, 8)
    vectors[1::2] = np.nan
    found = profile_vectors(ids[::2], [(ids, vectors)], dims=8)
    assert (found.rows, found.missing, found.nonfinite) == (50, 0, 0)


def test_an_empty_pool_has_no_fault() -> None:
    found = profile_vectors(make_ids(0), [], dims=4)
    assert (found.rows, found.missing, found.sampled) == (0, 0, 0)
    assert found.offenders == {}


def test_an_id_that_ends_in_zero_bytes_is_named_in_full() -> None:
    ids = np.array([b"\x01" + b"\0" * 15], ID_DTYPE)
    assert profile_vectors(ids, [], dims=4).offenders["missing"] == ("01" + "00" * 15,)


def test_spread_is_not_stated_for_too_few() -> None:
    ids, vectors = make_ids(FEWEST_SAMPLED), make_units(FEWEST_SAMPLED, 4)
    few = profile_vectors(ids[1:], [(ids, vectors)], dims=4)
    assert math.isnan(few.effective_rank)
    assert math.isnan(few.mean_pairwise_cosine)
    assert profile_vectors(ids, [(ids, vectors)], dims=4).effective_rank > 2


def test_equal_vectors_use_one_direction() -> None:
    ids = make_ids(80)
    found = profile_vectors(ids, [(ids, np.repeat(make_units(1, 32), 80, axis=0))], dims=32)
    assert found.effective_rank == pytest.approx(1)
    assert found.mean_pairwise_cosine == pytest.approx(1)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(np.eye(4)) == pytest.approx(4)
    assert effective_rank(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])) == pytest.approx(  # singular values sqrt(3), 1
        math.exp(-sum(p * math.log(p) for p in (math.sqrt(3) / (math.sqrt(3) + 1), 1 / (math.sqrt(3) + 1))))
    )


@pytest.mark.parametrize(("num", "dims"), [(40, 12), (12, 40), (30, 30)])
def test_effective_rank_equals_the_singular_value_decomposition(num: int, dims: int) -> None:
    units = make_units(num, dims).astype(np.float64)
    singular = np.linalg.svd(units, compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(units) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(num=st.integers(2, 30), dims=st.integers(1, 8), seed=st.integers(0, 1000))
def test_mean_cosine_equals_the_loop_over_pairs(num: int, dims: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(num, dims))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [float(units[i] @ units[j]) for i in range(num) for j in range(i)]
    assert mean_pairwise_cosine(units) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(90)), cut=st.integers(0, 90))
def test_neither_order_nor_batches_of_the_stream_matter(order: list[int], cut: int) -> None:
    ids, vectors = make_ids(90), make_units(90, 6)
    vectors[13, 2], vectors[40] = np.nan, vectors[40] * np.float16(1.25)
    straight = profile_vectors(ids, [(ids, vectors)], dims=6, sample=60)
    mixed = profile_vectors(ids[order], [(ids[order[:cut]], vectors[order[:cut]]), (ids[order[cut:]], vectors[order[cut:]])], dims=6, sample=60)
    assert mixed == straight


def test_growth_lets_only_new_ids_into_the_sample() -> None:
    ids = make_ids(400)
    before = ids[np.arange(0, 400, 2)]
    old = set(before[sampled_positions(before, 100, 0)])
    new = set(ids[sampled_positions(ids, 100, 0)])
    assert len(old) == len(new) == 100
    assert new & set(before) <= old
    assert new != set(ids[sampled_positions(ids, 100, 1)])


def test_spread_is_that_of_the_sample() -> None:
    ids, vectors = make_ids(400), make_units(400, 6)
    found = profile_vectors(ids, [(ids, vectors)], dims=6, sample=100)
    chosen = vectors[sampled_positions(ids, 100, 0)].astype(np.float64)
    units = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    assert found.sampled == 100
    assert found.mean_pairwise_cosine == pytest.approx(mean_pairwise_cosine(units), abs=1e-6)
    assert found.effective_rank == pytest.approx(effective_rank(units), rel=1e-5)
