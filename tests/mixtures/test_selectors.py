"""The selectors against five-line reference loops, on random and heavily tied scores, and against numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.errors import BudgetError
from rds_dagster.mixtures import selectors
from rds_dagster.mixtures.selectors import DepthExhausted, OnTaken, Picks, global_top, mean_max, round_robin_queries, round_robin_tasks, supplied_budget

BOTH: tuple[OnTaken, ...] = ("skip_turn", "next_best")


# ---- the honest slow twins -------------------------------------------------------------------------------------------------------------------------


def ranked(values: np.ndarray) -> list[int]:
    return sorted(range(len(values)), key=lambda row: (-values[row], row))


def slow_round_robin(scores: np.ndarray, budget: int, on_taken: OnTaken) -> list[tuple[int, int, int, float]]:
    queues, picks, taken = [list(enumerate(ranked(column), 1)) for column in scores.T], [], set()
    while True:
        for number, queue in enumerate(queues):
            while queue:
                rank, row = queue.pop(0)
                if row not in taken:
                    taken.add(row)
                    picks.append((row, number, rank, float(scores[row, number])))
                    if len(picks) == budget:
                        return picks
                    break
                if on_taken == "skip_turn":
                    break


def slow_top(scores: np.ndarray, values: np.ndarray, budget: int) -> list[tuple[int, int, int, float]]:
    return [
        (row, max(range(scores.shape[1]), key=lambda t: (scores[row, t], -t)), rank, float(values[row])) for rank, row in enumerate(ranked(values)[:budget], 1)
    ]


def as_tuples(picks: Picks) -> list[tuple[int, int, int, float]]:
    assert [a.dtype for a in (picks.rows, picks.lists, picks.ranks, picks.scores)] == [np.int64, np.int32, np.int64, np.float32]
    return list(zip(picks.rows.tolist(), picks.lists.tolist(), picks.ranks.tolist(), picks.scores.tolist(), strict=True))


def full_lists(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) scores as complete top lists: rows (M, N) int64, scores (M, N) float32."""
    rows = np.array([ranked(column) for column in scores.T], dtype=np.int64)
    return rows, np.take_along_axis(scores.T, rows, axis=1)


# ---- worlds ----------------------------------------------------------------------------------------------------------------------------------------


@st.composite
def score_tables(draw: st.DrawFn) -> np.ndarray:
    """(N, T) float32, N up to 60, T up to 6: small whole numbers so that ties abound (both zeros among them), or distinct random ones."""
    num_examples, num_tasks = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0, 1, 2, 5, None]))
    if spread is None:
        return rng.standard_normal((num_examples, num_tasks), dtype=np.float32)
    return rng.integers(-spread, spread, (num_examples, num_tasks), endpoint=True).astype(np.float32) * rng.choice([np.float32(1), np.float32(-1)])


@st.composite
def tables_and_budgets(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    scores = draw(score_tables())
    return scores, draw(st.integers(1, len(scores)))


HAND = np.array([[9, 9], [8, 7], [7, 8], [1, 6], [2, 5]], dtype=np.float32)
# task 0 ranks its examples 0 1 2 4 3, task 1 ranks them 0 2 1 3 4


# ---- worked by hand --------------------------------------------------------------------------------------------------------------------------------


def test_skip_turn_loses_the_turn_of_a_taken_example() -> None:
    # round 1: task 0 takes 0, task 1 finds 0 taken; round 2: 1, 2; round 3: both find theirs taken; round 4: 4, 3
    assert as_tuples(round_robin_tasks(HAND, 5, "skip_turn")) == [(0, 0, 1, 9.0), (1, 0, 2, 8.0), (2, 1, 2, 8.0), (4, 0, 4, 2.0), (3, 1, 4, 6.0)]


def test_next_best_goes_on_to_the_next_free_example() -> None:
    # round 1: task 0 takes 0, task 1 takes 2 (0 is taken); round 2: 1, then 3 (1 is taken); round 3: 4 (2 is taken)
    assert as_tuples(round_robin_tasks(HAND, 5, "next_best")) == [(0, 0, 1, 9.0), (2, 1, 2, 8.0), (1, 0, 2, 8.0), (3, 1, 4, 6.0), (4, 0, 4, 2.0)]


def test_mean_max_ranks_by_the_mean_and_names_the_highest_task() -> None:
    # means 9, 7.5, 7.5, 3.5, 3.5: ties to the smaller row
    assert as_tuples(mean_max(HAND, 4)) == [(0, 0, 1, 9.0), (1, 0, 2, 7.5), (2, 1, 3, 7.5), (3, 1, 4, 3.5)]


def test_global_top_ranks_by_the_largest_score() -> None:
    # largest 9, 8, 8, 6, 5
    assert as_tuples(global_top(HAND, 5)) == [(0, 0, 1, 9.0), (1, 0, 2, 8.0), (2, 1, 3, 8.0), (3, 1, 4, 6.0), (4, 1, 5, 5.0)]


def test_a_pick_keeps_the_score_in_the_list_that_chose_it() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.3]], dtype=np.float32)
    assert round_robin_tasks(scores, 2).scores.tolist() == [np.float32(0.9), np.float32(0.3)]


def test_both_zeros_tie() -> None:
    scores = np.array([[-0.0], [0.0], [-0.0]], dtype=np.float32)
    for picks in (round_robin_tasks(scores, 3), mean_max(scores, 3), global_top(scores, 3)):
        assert picks.rows.tolist() == [0, 1, 2]


def test_infinities_stand_at_the_ends() -> None:
    scores = np.array([[-np.inf], [1e-45], [np.inf], [-1e-45], [0.0]], dtype=np.float32)
    assert round_robin_tasks(scores, 5).rows.tolist() == [2, 1, 4, 3, 0]


# ---- equal to the slow twins -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_taken", BOTH)
@given(case=tables_and_budgets())
def test_round_robin_tasks_equals_the_loop(on_taken: OnTaken, case: tuple[np.ndarray, int]) -> None:
    scores, budget = case
    assert as_tuples(round_robin_tasks(scores, budget, on_taken)) == slow_round_robin(scores, budget, on_taken)


@pytest.mark.parametrize("on_taken", BOTH)
@given(case=tables_and_budgets())
def test_round_robin_queries_on_full_lists_equals_the_loop(on_taken: OnTaken, case: tuple[np.ndarray, int]) -> None:
    scores, budget = case
    assert as_tuples(round_robin_queries(*full_lists(scores), budget, on_taken, complete=True)) == slow_round_robin(scores, budget, on_taken)


@given(case=tables_and_budgets())
def test_mean_max_equals_the_loop(case: tuple[np.ndarray, int]) -> None:
    scores, budget = case
    means = np.array([np.float32(sum(map(float, row)) / len(row)) for row in scores])
    assert as_tuples(mean_max(scores, budget)) == slow_top(scores, means, budget)


@given(case=tables_and_budgets())
def test_global_top_equals_the_loop(case: tuple[np.ndarray, int]) -> None:
    scores, budget = case
    assert as_tuples(global_top(scores, budget)) == slow_top(scores, np.array([max(row) for row in scores]), budget)


@pytest.mark.parametrize("block", [1, 5, 64])
def test_skip_turn_does_not_depend_on_its_block_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).integers(0, 20, (200, 3)).astype(np.float32)
    expected = slow_round_robin(scores, 150, "skip_turn")
    monkeypatch.setattr(selectors, "BLOCK_TURNS", block)
    assert as_tuples(round_robin_tasks(scores, 150, "skip_turn")) == expected


@pytest.mark.parametrize("on_taken", BOTH)
def test_tasks_that_rank_alike_are_deepened_until_the_budget_is_met(on_taken: OnTaken) -> None:
    one = np.random.default_rng(5).integers(0, 50, 500).astype(np.float32)
    scores = np.repeat(one[:, None], 6, axis=1)  # every list must be 300 deep for 300 picks; the first try is 100 deep
    picks = round_robin_tasks(scores, 300, on_taken)
    assert as_tuples(picks) == slow_round_robin(scores, 300, on_taken)
    assert picks.ranks.max() == 300


# ---- properties ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_taken", BOTH)
@given(scores=score_tables())
def test_a_smaller_budget_is_a_prefix(on_taken: OnTaken, scores: np.ndarray) -> None:
    whole = as_tuples(round_robin_tasks(scores, len(scores), on_taken))
    for budget in range(1, len(scores)):
        assert as_tuples(round_robin_tasks(scores, budget, on_taken)) == whole[:budget]


@given(case=tables_and_budgets())
def test_every_selector_gives_the_exact_size_without_duplicates(case: tuple[np.ndarray, int]) -> None:
    scores, budget = case
    for picks in (*(round_robin_tasks(scores, budget, on_taken) for on_taken in BOTH), mean_max(scores, budget), global_top(scores, budget)):
        assert len(picks.rows) == len(set(picks.rows.tolist())) == budget
        assert len(picks.lists) == len(picks.ranks) == len(picks.scores) == budget


@given(case=tables_and_budgets(), seed=st.integers(0, 2**32))
def test_a_shuffled_pool_brought_into_id_order_gives_the_same_picks(case: tuple[np.ndarray, int], seed: int) -> None:
    scores, budget = case
    ids = np.sort(np.random.default_rng(7).integers(0, 256, (len(scores), 16), dtype=np.uint8).view("S16").ravel())
    shuffle = np.random.default_rng(seed).permutation(len(scores))
    arrived_ids, arrived_scores = ids[shuffle], scores[shuffle]
    order = np.argsort(arrived_ids, kind="stable")
    for on_taken in BOTH:
        expected, got = round_robin_tasks(scores, budget, on_taken), round_robin_tasks(arrived_scores[order], budget, on_taken)
        assert ids[expected.rows].tolist() == arrived_ids[order][got.rows].tolist()
        assert expected.scores.tolist() == got.scores.tolist()


def test_column_order_and_memory_layout_of_the_scores_do_not_matter() -> None:
    scores = np.random.default_rng(1).integers(0, 9, (80, 4)).astype(np.float32)
    for on_taken in BOTH:
        assert as_tuples(round_robin_tasks(np.asfortranarray(scores), 50, on_taken)) == as_tuples(round_robin_tasks(scores, 50, on_taken))


def test_the_scores_are_left_as_they_were() -> None:
    scores = np.random.default_rng(1).integers(-9, 9, (80, 1)).astype(np.float32)
    before = scores.copy()
    for on_taken in BOTH:
        round_robin_tasks(scores, 50, on_taken)
    mean_max(scores, 50), global_top(scores, 50)
    assert (scores == before).all()


# ---- top lists shorter than the pool ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_taken", BOTH)
@given(case=tables_and_budgets(), depth=st.integers(1, 60))
def test_short_lists_give_the_full_result_or_ask_for_depth_exactly(on_taken: OnTaken, case: tuple[np.ndarray, int], depth: int) -> None:
    scores, budget = case
    rows, values = full_lists(scores)
    expected = slow_round_robin(scores, budget, on_taken)
    num_examples = len(scores)
    depth = min(depth, num_examples)
    deepest_used = max(rank for _, _, rank, _ in expected)
    for _ in range(10):  # doubling from 1 reaches 60 in 6
        try:
            picks = round_robin_queries(rows[:, :depth], values[:, :depth], budget, on_taken, complete=depth == num_examples)
        except DepthExhausted as short:
            assert depth < deepest_used  # asked only because the full lists really go deeper
            assert depth < short.needed_depth <= budget
            depth = min(short.needed_depth, num_examples)
        else:
            assert depth >= deepest_used
            assert as_tuples(picks) == expected
            return
    pytest.fail("asking for deeper lists did not end")


def test_queries_that_rank_alike_ask_for_more_depth() -> None:
    rows = np.array([[3, 1], [3, 1]])  # only two examples in 2 x 2 places
    values = np.array([[0.9, 0.8], [0.7, 0.6]], dtype=np.float32)
    for on_taken in BOTH:
        with pytest.raises(DepthExhausted, match="too short; 3 entries a list may do") as caught:
            round_robin_queries(rows, values, 3, on_taken, complete=False)
        assert caught.value.needed_depth == 3


def test_lists_as_deep_as_the_budget_are_always_enough() -> None:
    scores = np.repeat(np.arange(40, dtype=np.float32)[:, None], 5, axis=1)
    rows, values = full_lists(scores)
    for on_taken in BOTH:
        assert as_tuples(round_robin_queries(rows[:, :17], values[:, :17], 17, on_taken, complete=False)) == slow_round_robin(scores, 17, on_taken)


def test_more_queries_than_the_budget_stop_within_the_first_round() -> None:
    rows = np.array([[4], [4], [2], [0]])
    values = np.array([[0.5], [0.6], [0.7], [0.8]], dtype=np.float32)
    assert round_robin_queries(rows, values, 2, "skip_turn", complete=False).rows.tolist() == [4, 2]  # query 1 lost its turn to query 0
    with pytest.raises(DepthExhausted):  # query 1 must take its second best, which is not here
        round_robin_queries(rows, values, 2, "next_best", complete=False)
    assert round_robin_queries(rows[1:], values[1:], 2, "next_best", complete=False).rows.tolist() == [4, 2]


# ---- budgets and broken input ----------------------------------------------------------------------------------------------------------------------


def test_a_budget_above_supply_names_the_numbers_and_the_mends() -> None:
    words = r"budget is 6 examples, but 5 are available\. Set budget <= 5, add pools, or set allow_short: true"
    for select in (round_robin_tasks, mean_max, global_top):
        with pytest.raises(BudgetError, match=words):
            select(HAND, 6)
    with pytest.raises(BudgetError, match=words):
        round_robin_queries(*full_lists(HAND), 6, complete=True)
    with pytest.raises(BudgetError, match="budget is 2,500,000 examples, but 8,214 are available"):
        supplied_budget(2_500_000, 8_214)


def test_allow_short_takes_all_there_is() -> None:
    for on_taken in BOTH:
        assert as_tuples(round_robin_tasks(HAND, 99, on_taken, allow_short=True)) == slow_round_robin(HAND, 5, on_taken)
        assert as_tuples(round_robin_queries(*full_lists(HAND), 99, on_taken, complete=True, allow_short=True)) == slow_round_robin(HAND, 5, on_taken)
    assert sorted(mean_max(HAND, 99, allow_short=True).rows.tolist()) == sorted(global_top(HAND, 99, allow_short=True).rows.tolist()) == [0, 1, 2, 3, 4]


def test_an_empty_pool_gives_nothing_with_allow_short() -> None:
    empty = np.empty((0, 3), dtype=np.float32)
    for on_taken in BOTH:
        assert as_tuples(round_robin_tasks(empty, 5, on_taken, allow_short=True)) == []
    assert as_tuples(mean_max(empty, 5, allow_short=True)) == as_tuples(global_top(empty, 5, allow_short=True)) == []


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_is_refused(budget: int) -> None:
    with pytest.raises(BudgetError, match=f"budget is {budget}; expected at least 1 example"):
        round_robin_tasks(HAND, budget)


def test_nan_is_our_own_slip() -> None:
    broken = HAND.copy()
    broken[3, 1] = np.nan
    for select in (round_robin_tasks, mean_max, global_top):
        with pytest.raises(AssertionError, match="a score is NaN"):
            select(broken, 2)
    with pytest.raises(AssertionError, match="a score is NaN"):
        round_robin_queries(np.array([[0, 1]]), np.array([[1, np.nan]], dtype=np.float32), 1, complete=True)


def test_padded_lists_are_our_own_slip() -> None:
    with pytest.raises(AssertionError, match="lists are not padded"):
        round_robin_queries(np.array([[0, -1]]), np.array([[1, 0]], dtype=np.float32), 2, complete=False)
