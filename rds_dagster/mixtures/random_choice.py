"""Random selection, the yardstick of every mixture: uniform over the pool, or an equal share per source.

Each example has a fraction in [0, 1) from the seed and its id alone (fingerprint.seeded_fractions); smaller fractions are taken first.
So a choice depends on the set of examples, not on their order, and a larger budget only adds examples. The paper's reference code takes the
head of each unshuffled source instead (arXiv 2503.01807); we do not.

Letters: N pool examples, G sources, K budget.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from rds_dagster.fingerprint import seeded_fractions
from rds_dagster.mixtures.selectors import supplied_budget


def unbalanced(ids: np.ndarray, budget: int, seed: int, *, allow_short: bool = False) -> np.ndarray:
    """Rows of the examples with the smallest fractions, smallest first, ties to the smaller row: uniform over the pool.

    ids (N,) S16; returns (K,) int64. Budget k gives the first k of budget k + 1. Raises BudgetError if budget > N, unless ``allow_short``.
    """
    return _smallest(seeded_fractions(ids, seed, "mixture"), supplied_budget(budget, len(ids), allow_short=allow_short))


def balanced(ids: np.ndarray, groups: np.ndarray, num_groups: int, budget: int, seed: int, *, allow_short: bool = False) -> np.ndarray:
    """Rows chosen with an equal share per source (see ``equal_shares``), at random within each.

    ids (N,) S16; groups (N,) int32, each example's source, 0 <= group < num_groups; returns (K,) int64. The order is round robin over
    the sources by number, each giving its smallest fraction left, so every prefix is balanced, and budget k gives the first k of
    budget k + 1. Raises BudgetError if budget > N, unless ``allow_short``.
    """
    assert num_groups >= 1 and groups.shape == ids.shape and (not len(groups) or (groups.min() >= 0 and groups.max() < num_groups)), "a group is out of range"
    budget = supplied_budget(budget, len(ids), allow_short=allow_short)
    fractions = seeded_fractions(ids, seed, "mixture")
    sizes = np.bincount(groups, minlength=num_groups)
    shares = equal_shares(sizes, budget)
    grouped = np.argsort(groups.astype(np.min_scalar_type(num_groups)), kind="stable")  # a radix sort, O(N), up to 65,535 groups
    members = np.split(grouped, np.cumsum(sizes)[:-1])  # G arrays of ascending rows
    chosen = [rows[_smallest(fractions[rows], int(share))] for rows, share in zip(members, shares, strict=True)]
    rounds = np.concatenate([np.arange(share) for share in shares])  # (K,)
    return np.concatenate(chosen)[np.argsort(rounds, kind="stable")]  # within a round by group, as concatenated


def equal_shares(sizes: np.ndarray, budget: int) -> np.ndarray:
    """How many of the budget each source gives: equally many, where an exhausted source's share is split equally over the rest.

    sizes (G,) int64, budget <= their sum; returns (G,) int64 that sum to the budget. What does not divide goes, one each, to the
    sources of smallest number that are not exhausted.
    """
    assert 0 <= budget <= sizes.sum(), (budget, sizes)
    level = bisect_right(range(int(sizes.max(initial=0)) + 1), budget, key=lambda each: int(np.minimum(sizes, each).sum())) - 1
    shares: np.ndarray = np.minimum(sizes, level)
    shares[np.flatnonzero(sizes > level)[: budget - int(shares.sum())]] += 1
    return shares


def _smallest(fractions: np.ndarray, count: int) -> np.ndarray:
    """Rows of the ``count`` smallest, ascending, ties to the smaller row; fractions (N,) float64, returns (count,) int64."""
    if not count:
        return np.empty(0, np.int64)
    limit = np.partition(fractions, count - 1)[count - 1]
    rows = np.flatnonzero(fractions <= limit)
    return rows[np.argsort(fractions[rows], kind="stable")[:count]]
