"""Random selection: seeded by id, equal shares, and growth that reshuffles nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.cleaning.unique import sample_mask
from rds_dagster.errors import BudgetError
from rds_dagster.fingerprint import seeded_fractions
from rds_dagster.mixtures import random_choice
from rds_dagster.mixtures.random_choice import balanced, equal_shares, unbalanced


def make_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8).view("S16").ravel())


def slow_balanced(ids: np.ndarray, groups: np.ndarray, num_groups: int, budget: int, seed: int) -> list[int]:
    fractions = seeded_fractions(ids, seed, "mixture")
    queues = [sorted(np.flatnonzero(groups == g).tolist(), key=lambda row: (fractions[row], row)) for g in range(num_groups)]
    picks = []
    while len(picks) < budget:
        picks += [queue.pop(0) for queue in queues if queue]
    return picks[:budget]


def slow_shares(sizes: list[int], budget: int) -> list[int]:
    shares = [0] * len(sizes)
    while True:
        for group, size in enumerate(sizes):
            if sum(shares) == budget:
                return shares
            shares[group] += shares[group] < size


@st.composite
def grouped_pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    """ids (N,), groups (N,), their number (some may be empty), a budget within N."""
    num_groups = draw(st.integers(1, 6))
    groups = np.array(draw(st.lists(st.integers(0, num_groups - 1), min_size=1, max_size=60)), dtype=np.int32)
    return make_ids(len(groups)), groups, num_groups, draw(st.integers(1, len(groups)))


@given(count=st.integers(1, 60), seed=st.integers(0, 5), data=st.data())
def test_unbalanced_takes_the_smallest_fractions_in_order(count: int, seed: int, data: st.DataObject) -> None:
    ids, budget = make_ids(count), data.draw(st.integers(1, count))
    fractions = seeded_fractions(ids, seed, "mixture")
    assert unbalanced(ids, budget, seed).tolist() == sorted(range(count), key=lambda row: (fractions[row], row))[:budget]


def test_equal_fractions_go_to_the_smaller_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_choice, "seeded_fractions", lambda ids, seed, purpose: np.array([0.5, 0.25, 0.5, 0.5, 0.25, 0.75]))
    assert unbalanced(make_ids(6), 4, 0).tolist() == [1, 4, 0, 2]
    assert balanced(make_ids(6), np.array([0, 1, 0, 0, 1, 1], dtype=np.int32), 2, 4, 0).tolist() == [0, 1, 2, 4]


@given(pool=grouped_pools(), seed=st.integers(0, 5))
def test_balanced_equals_dealing_round_by_round(pool: tuple[np.ndarray, np.ndarray, int, int], seed: int) -> None:
    ids, groups, num_groups, budget = pool
    rows = balanced(ids, groups, num_groups, budget, seed)
    assert rows.dtype == np.int64
    assert rows.tolist() == slow_balanced(ids, groups, num_groups, budget, seed)
    assert np.bincount(groups[rows], minlength=num_groups).tolist() == equal_shares(np.bincount(groups, minlength=num_groups), budget).tolist()


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6), data=st.data())
def test_equal_shares_equal_dealing_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes)))
    assert equal_shares(np.array(sizes), budget).tolist() == slow_shares(sizes, budget)


def test_an_exhausted_source_leaves_its_share_to_the_rest() -> None:
    # 30 over 4 would be 7 each and 2 over; source 1 has 2 and source 3 none, so 28 are left for two: 14 each
    assert equal_shares(np.array([100, 2, 50, 0]), 30).tolist() == [14, 2, 14, 0]
    # 31: the odd one goes to the source of smallest number that has more
    assert equal_shares(np.array([14, 2, 50, 40]), 45).tolist() == [14, 2, 15, 14]
    assert equal_shares(np.array([3, 2]), 5).tolist() == [3, 2]


def test_every_prefix_is_balanced() -> None:
    groups = np.repeat(np.arange(3, dtype=np.int32), [100, 10, 50])
    rows = balanced(make_ids(160), groups, 3, 160, seed=1)
    for budget in range(1, 160):
        assert np.bincount(groups[rows[:budget]], minlength=3).tolist() == equal_shares(np.array([100, 10, 50]), budget).tolist()
        assert (balanced(make_ids(160), groups, 3, budget, seed=1) == rows[:budget]).all()


def test_a_pool_that_grows_keeps_the_order_of_what_was_there() -> None:
    ids = make_ids(300)
    before = np.random.default_rng(2).choice(300, 200, replace=False)
    before.sort()
    old = ids[before][unbalanced(ids[before], 200, 4)].tolist()
    grown = ids[unbalanced(ids, 300, 4)].tolist()
    assert [i for i in grown if i in set(old)] == old


def test_the_choice_depends_on_the_ids_and_not_on_their_order() -> None:
    ids, groups = make_ids(100), np.random.default_rng(0).integers(0, 4, 100).astype(np.int32)
    shuffle = np.random.default_rng(1).permutation(100)
    assert ids[unbalanced(ids, 40, 0)].tolist() == ids[shuffle][unbalanced(ids[shuffle], 40, 0)].tolist()
    assert ids[balanced(ids, groups, 4, 40, 0)].tolist() == ids[shuffle][balanced(ids[shuffle], groups[shuffle], 4, 40, 0)].tolist()


def test_seeds_choose_differently_and_about_uniformly() -> None:
    ids = make_ids(2_000)
    times_picked = np.zeros(2_000)
    for seed in range(200):
        rows = unbalanced(ids, 500, seed)
        assert len(set(rows.tolist())) == 500
        times_picked[rows] += 1
    # binomial(200, 1/4): mean 50, variance 37.5; within 5 standard errors over 2,000 examples
    assert abs(times_picked.var() - 37.5) < 5 * 37.5 * np.sqrt(2 / 2_000)
    assert times_picked.min() > 15 and times_picked.max() < 85


def test_a_budget_above_supply_names_the_numbers_and_the_mends() -> None:
    ids, groups = make_ids(5), np.zeros(5, dtype=np.int32)
    words = r"budget is 6 examples, but 5 are available\. Set budget <= 5, add pools, or set allow_short: true"
    with pytest.raises(BudgetError, match=words):
        unbalanced(ids, 6, 0)
    with pytest.raises(BudgetError, match=words):
        balanced(ids, groups, 1, 6, 0)


def test_allow_short_takes_all_there_is() -> None:
    ids, groups = make_ids(5), np.array([0, 1, 1, 1, 0], dtype=np.int32)
    assert sorted(unbalanced(ids, 6, 0, allow_short=True).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(balanced(ids, groups, 3, 6, 0, allow_short=True).tolist()) == [0, 1, 2, 3, 4]
    assert unbalanced(ids[:0], 6, 0, allow_short=True).tolist() == balanced(ids[:0], groups[:0], 2, 6, 0, allow_short=True).tolist() == []


def test_a_group_out_of_range_is_our_own_slip() -> None:
    with pytest.raises(AssertionError, match="a group is out of range"):
        balanced(make_ids(2), np.array([0, 2], dtype=np.int32), 2, 1, 0)


def test_a_random_mixture_does_not_prefer_what_a_sample_kept():
    ids = np.sort(np.frombuffer(np.random.default_rng(5).bytes(16 * 20_000), "S16"))
    sampled = ids[:10_000][sample_mask(ids[:10_000], 0.1, 0)]  # one pool sampled, one whole, both with the default seed
    candidates = np.sort(np.concatenate([sampled, ids[10_000:]]))
    rows = unbalanced(candidates, 1000, 0)
    share = np.isin(candidates[rows], sampled).mean()
    assert abs(share - len(sampled) / len(candidates)) < 0.04  # about four standard deviations; one hash for both gave 0.48
