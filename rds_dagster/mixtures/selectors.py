"""Which examples a mixture takes, from scores alone: round robin over tasks or over queries, mean-max, global top.

Pure functions on arrays; rows are examples in example-id order, and wherever scores are equal the smaller row comes first.
Semantics: "Large-Scale Data Selection for Instruction Tuning" (arXiv 2503.01807) and its reference code. One deviation: the
reference keeps, as the score of a multi-task pick, the smallest with which the example was popped from any list; here a pick
has the score, and the rank, that it holds in the list that chose it.

Letters: N pool examples, T tasks, M queries or lists, K budget.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import cycle, filterfalse, islice
from typing import Literal

import numpy as np

from rds_dagster.errors import BudgetError

OnTaken = Literal["skip_turn", "next_best"]

BLOCK_TURNS = 2**18  # turns that skip_turn looks at together: 11 MiB of temporaries; a quarter or four times as many take as long


@dataclass(frozen=True, eq=False)
class Picks:
    """K selected examples in the order of picking, each row once.

    rows (K,) int64, the example's row; lists (K,) int32, number of the query (single task) or task (multi-task) that chose it;
    ranks (K,) int64, from 1, its place in that list; scores (K,) float32, its score in that list.
    """

    rows: np.ndarray
    lists: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray


class DepthExhausted(Exception):
    """A query's top list ended before the budget was met, so that full lists would have gone on: ask again with ``needed_depth``.

    ``needed_depth`` is above the depth given and at most the budget, and a list as deep as the budget never ends too early;
    so doubling ends. It may exceed N: take min(needed_depth, N). Control flow between a selector and its caller, never shown to a user.
    """

    def __init__(self, needed_depth: int) -> None:
        super().__init__(f"the top lists are too short; {needed_depth} entries a list may do")
        self.needed_depth = needed_depth


def supplied_budget(budget: int, available: int, *, allow_short: bool = False) -> int:
    """How many examples a selector will take: ``budget``, or all that are available if fewer and ``allow_short``.

    Raises BudgetError if the budget is below 1, or above what is available without ``allow_short``.
    """
    if budget < 1:
        raise BudgetError(f"budget is {budget}; expected at least 1 example")
    if budget > available and not allow_short:
        raise BudgetError(f"budget is {budget:,} examples, but {available:,} are available. Set budget <= {available}, add pools, or set allow_short: true")
    return min(budget, available)


def round_robin_tasks(scores: np.ndarray, budget: int, on_taken: OnTaken = "skip_turn", *, allow_short: bool = False) -> Picks:
    """Multi-task: the tasks take turns, in the order of their columns, each taking its best example; stops exactly at the budget.

    scores (N, T) float32. Where the best left in a task's list is taken, ``skip_turn`` loses the turn and ``next_best`` goes on to
    the task's best free one. Lists are ranked only as deep as needed. Raises BudgetError if budget > N, unless ``allow_short``.
    """
    num_examples, num_tasks = _checked_shape(scores)
    budget = supplied_budget(budget, num_examples, allow_short=allow_short)
    depth = min(2 * -(-budget // num_tasks), budget)  # every task gives about budget / T; half its list may be taken by others
    while True:
        try:
            rows, lists, ranks = _round_robin(_top_rows(scores, depth), budget, on_taken)
        except DepthExhausted as short:
            depth = short.needed_depth
        else:
            return Picks(rows, lists, ranks, scores[rows, lists])


def round_robin_queries(
    top_rows: np.ndarray, top_scores: np.ndarray, budget: int, on_taken: OnTaken = "skip_turn", *, complete: bool, allow_short: bool = False
) -> Picks:
    """Single task: the queries take turns, in their order, each taking its best example; stops exactly at the budget.

    top_rows (M, depth) int64 and top_scores (M, depth) float32: each query's first ``depth`` examples, best first, ties to the smaller
    row. ``complete``: the lists hold all N examples. The reference finishes the round and cuts it to the budget, which comes to the same.
    Raises DepthExhausted where deeper lists would give another result; BudgetError if complete and budget > N, unless ``allow_short``.
    """
    assert top_rows.ndim == 2 and len(top_rows) and top_rows.shape == top_scores.shape, (top_rows.shape, top_scores.shape)
    assert not np.isnan(top_scores).any(), "a score is NaN"
    available = top_rows.shape[1] if complete else budget
    budget = supplied_budget(budget, available, allow_short=allow_short)
    rows, lists, ranks = _round_robin(top_rows, budget, on_taken)
    return Picks(rows, lists, ranks, top_scores[lists, ranks - 1])


def mean_max(scores: np.ndarray, budget: int, *, allow_short: bool = False) -> Picks:
    """The examples with the largest mean over tasks, best first.

    scores (N, T) float32. The mean is taken in float64 and rounded to float32; that is what is ranked and kept as the score, so the
    order can be checked from what is stored. ``lists``: the task that scores the example highest, the first if several do;
    ``ranks``: the place in the order of means. Raises BudgetError if budget > N, unless ``allow_short``.
    """
    budget = supplied_budget(budget, _checked_shape(scores)[0], allow_short=allow_short)
    return _top(scores, scores.mean(axis=1, dtype=np.float64).astype(np.float32), budget)


def global_top(scores: np.ndarray, budget: int, *, allow_short: bool = False) -> Picks:
    """The examples with the largest score for any task, and so for any query ("doubly greedy"), best first.

    scores (N, T) float32. ``lists``: the task that scores the example highest, the first if several do; ``ranks``: the place in the
    order of these largest scores. Raises BudgetError if budget > N, unless ``allow_short``.
    """
    budget = supplied_budget(budget, _checked_shape(scores)[0], allow_short=allow_short)
    return _top(scores, scores.max(axis=1), budget)


def _checked_shape(scores: np.ndarray) -> tuple[int, int]:
    assert scores.ndim == 2 and scores.shape[1] and scores.dtype == np.float32, (scores.shape, scores.dtype)
    assert not len(scores) or not np.isnan(scores.min()), "a score is NaN"  # min() carries a NaN through, with no temporary
    return scores.shape[0], scores.shape[1]


def _top(scores: np.ndarray, values: np.ndarray, budget: int) -> Picks:
    rows = _best_rows(values, budget).astype(np.int64)
    return Picks(rows, scores[rows].argmax(axis=1).astype(np.int32), np.arange(1, budget + 1, dtype=np.int64), values[rows])


def _top_rows(scores: np.ndarray, depth: int) -> np.ndarray:
    """Each task's best examples, (T, depth) int32, one task at a time: a second (N, T) array of indices would cost 56 bytes an example."""
    tops = np.empty((scores.shape[1], depth), np.int32)
    for task, top in enumerate(tops):
        top[:] = _best_rows(scores[:, task], depth)
    return tops


def _best_rows(values: np.ndarray, depth: int) -> np.ndarray:
    """Rows of the ``depth`` largest values, best first, ties to the smaller row; values (N,) float32, returns (depth,) int32.

    Value and row share one 64-bit key, ascending from the best; no two keys are equal, so a partition is exact on ties too.
    """
    assert len(values) < 2**31, f"{len(values)} rows do not fit int32"
    bits = (values + np.float32(0)).view(np.uint32)  # (N,); adding zero makes -0.0 the same as 0.0
    bits ^= np.where(bits >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))  # IEEE 754: larger floats now have smaller bits
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(values), dtype=np.uint32)
    if depth < len(keys):
        keys.partition(depth)
        keys = keys[:depth]
    keys.sort()
    return keys.astype(np.uint32).view(np.int32)  # the low half of each key: its row


def _round_robin(tops: np.ndarray, budget: int, on_taken: OnTaken) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, lists and ranks of the picks, as in Picks; tops (M, depth) of distinct rows. Raises DepthExhausted."""
    assert tops.min(initial=0) >= 0, "a row is negative; lists are not padded"
    num_rows = int(tops.max(initial=-1)) + 1
    return _skip_turn(tops, num_rows, budget) if on_taken == "skip_turn" else _next_best(tops, num_rows, budget)


def _skip_turn(tops: np.ndarray, num_rows: int, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A taken example costs its turn, so turns are fixed beforehand: the picks are the first K distinct rows, read round by round."""
    num_lists, depth = tops.shape
    taken = np.zeros(num_rows, np.bool_)
    rows, turns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    missing, start = budget, 0
    while missing:
        if start == depth:
            raise _exhausted(tops, budget, missing)
        stop = min(depth, start + max(1, BLOCK_TURNS // num_lists))
        block = tops[:, start:stop].T.ravel()  # (rounds * M,), as the turns come
        free = np.flatnonzero(~taken[block])
        firsts = np.sort(np.unique(block[free], return_index=True)[1])[:missing]
        free = free[firsts]
        rows.append(block[free].astype(np.int64))
        turns.append(free + start * num_lists)
        taken[rows[-1]] = True
        missing, start = missing - len(free), stop
    turn = np.concatenate(turns)  # (K,), from 0
    return np.concatenate(rows), (turn % num_lists).astype(np.int32), turn // num_lists + 1


def _next_best(tops: np.ndarray, num_rows: int, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """No turn is lost, so pick i belongs to list i mod M; every list is walked once, past what others took."""
    num_lists, depth = tops.shape
    taken = bytearray(num_rows)
    picked = array("i")
    walks = [filterfalse(taken.__getitem__, np.ascontiguousarray(top).data) for top in tops]  # lazily: asks ``taken`` at each step
    for walk in islice(cycle(walks), budget):
        row = next(walk, -1)
        if row < 0:
            raise _exhausted(tops, budget, budget - len(picked))
        taken[row] = 1
        picked.append(row)
    rows = np.array(picked, dtype=np.int64)
    ranks = np.empty(budget, np.int64)
    place = np.empty(num_rows, np.int32)  # reused: of each list, only its own rows are written and read
    for number, top in enumerate(tops):
        place[top] = np.arange(1, depth + 1, dtype=np.int32)
        ranks[number::num_lists] = place[rows[number::num_lists]]
    return rows, (np.arange(budget) % num_lists).astype(np.int32), ranks


def _exhausted(tops: np.ndarray, budget: int, missing: int) -> DepthExhausted:
    num_lists, depth = tops.shape
    assert depth < budget, "a list as deep as the budget ends too early only if it repeats a row"
    return DepthExhausted(min(max(2 * depth, depth + -(-missing // num_lists)), budget))
