"""Settings and stored scores -> picks: deeper lists where the stored ones run out, and nothing read where a budget cannot be met."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rds_dagster.embeddings.embed_queries import read_vectors
from rds_dagster.errors import BudgetError, StateError
from rds_dagster.mixtures.candidates import Candidates, read_candidates
from rds_dagster.mixtures.choose import Choice, choose
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores.deepen import deeper_top
from rds_dagster.scores.space import Space


def write_alike_queries(root: Path, count: int = 12) -> None:
    """Queries that differ by one number, so that they rank the pools nearly alike."""
    turns = [[("user", f"What is {n} plus 1?"), ("assistant", f"{n} plus 1 is {n + 1}.")] for n in range(20, 20 + count)]
    rows = [{"id": f"q{n}", "messages": [{"role": role, "content": content} for role, content in turn]} for n, turn in enumerate(turns)]
    (root / "tasks/adding.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def alike(own_flow, run_flow: Callable) -> Callable:
    """Drives the flow with queries that rank alike, at a depth, in a home of its own."""
    write_alike_queries(own_flow.root)
    return lambda depth: run_flow(own_flow.root, own_flow.root / f"home{depth}", own_flow.encoder, mixtures=(), depth=depth)


def picked(flow, settings: MixtureSettings) -> Choice:
    pools = settings.pools or flow.pools
    return choose(flow.store, settings, read_candidates(flow.store, pools), settings.tasks or flow.tasks)


def as_rows(choice: Choice) -> list[tuple[object, ...]]:
    columns = (choice.rows, choice.ranks, choice.scores)
    return list(zip(*(column.tolist() for column in columns), choice.tasks.to_pylist(), choice.queries.to_pylist(), strict=True))


# ---- deeper lists ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_taken", ["skip_turn", "next_best"])
@pytest.mark.parametrize("pools", [(), ("towns", "sums")])
def test_where_lists_run_out_deeper_ones_give_the_picks_of_full_lists(alike: Callable, on_taken: str, pools: tuple[str, ...]) -> None:
    shallow, full = alike(2), alike(256)
    for budget in (1, 3, 14, 26):
        settings = MixtureSettings("alike", budget, tasks=("adding",), on_taken=on_taken, pools=pools)  # type: ignore[arg-type]
        expected, found = picked(full, settings), picked(shallow, settings)
        assert as_rows(found) == as_rows(expected)
        assert expected.deepened == 0
    assert found.deepened > 0  # 26 picks, and lists of 2 that hold nearly the same rows


def test_deepening_ends_at_the_whole_pool(alike: Callable) -> None:
    choice = picked(alike(1), MixtureSettings("everything", 34, tasks=("adding",)))
    assert sorted(choice.rows.tolist()) == list(range(34)) and 1 <= choice.deepened <= 6  # 1, 2, 4, ... 34 at the worst


def test_deeper_lists_are_the_stored_ones_continued(alike: Callable) -> None:
    flow = alike(3)
    queries = read_vectors(flow.store, flow.store.need("queries/adding"))
    deeper, stored = deeper_top(Space(flow.vectors()), flow.live, queries, 9), flow.store.read(flow.store.need("scores/rds/adding"), "top")
    heads = [flow.live_bytes[row] for row in deeper.rows[:, :3].ravel()]
    assert stored.column("id").to_pylist() == heads and np.array_equal(stored.column("score").to_numpy(), deeper.scores[:, :3].ravel())


def test_lists_that_reach_need_no_deeper_ones(flow) -> None:
    assert picked(flow, MixtureSettings("some", 20, tasks=("adding",))).deepened == 0


def test_other_selectors_need_no_lists(alike: Callable) -> None:
    flow = alike(1)
    for selector in ("mean_max", "global_top"):
        assert picked(flow, MixtureSettings("some", 20, tasks=("adding",), selector=selector)).deepened == 0  # type: ignore[arg-type]
    assert picked(flow, MixtureSettings("some", 20)).deepened == 0


# ---- what a pick says --------------------------------------------------------------------------------------------------------------------------------


def test_queries_take_turns_in_their_order(flow) -> None:
    choice = picked(flow, MixtureSettings("some", 6, tasks=("adding",), on_taken="next_best"))
    assert choice.queries.to_pylist() == ["adding-0", "adding-1", "adding-2"] * 2
    assert choice.tasks.to_pylist() == ["adding"] * 6


def test_a_random_pick_names_no_task_and_no_query(flow) -> None:
    choice = picked(flow, MixtureSettings("some", 6, method="random"))
    assert choice.tasks.null_count == choice.queries.null_count == 6
    assert np.isnan(choice.scores).all() and choice.ranks.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_pick_of_a_task_names_the_query_it_is_most_similar_to(flow) -> None:
    choice = picked(flow, MixtureSettings("some", 12))
    for row, task, query, score in zip(choice.rows, choice.tasks.to_pylist(), choice.queries.to_pylist(), choice.scores, strict=True):
        scores = flow.store.read(flow.store.need(f"scores/rds/{task}"), "scores").to_pylist()
        (mine,) = [line for line in scores if line["id"] == flow.live_bytes[row]]
        names = flow.store.read(flow.store.need(f"scores/rds/{task}"), "queries").column("query").to_pylist()
        assert (names[mine["best_query"]], mine["score"]) == (query, score)


# ---- refused -----------------------------------------------------------------------------------------------------------------------------------------


def test_a_budget_above_supply_is_refused_before_any_score_is_read(own_flow) -> None:
    for task in own_flow.tasks:
        own_flow.store.forget(f"scores/rds/{task}")
    for settings in (MixtureSettings("big", 35), MixtureSettings("big", 35, tasks=("adding",)), MixtureSettings("big", 35, method="random")):
        with pytest.raises(BudgetError, match=r"asks for 35 examples; its 3 pools hold 34 unique ones"):
            picked(own_flow, settings)


@pytest.mark.parametrize(
    "more",
    [
        {}, {"tasks": ("adding",)}, {"tasks": ("adding",), "on_taken": "next_best"}, {"selector": "mean_max"}, {"selector": "global_top"},
        {"method": "random"}, {"method": "random", "balanced": False},
    ],
)  # fmt: skip
def test_allow_short_takes_all_there_are(flow, more: dict[str, object]) -> None:
    choice = picked(flow, MixtureSettings("big", 1000, allow_short=True, **more))  # type: ignore[arg-type]
    assert sorted(choice.rows.tolist()) == list(range(34))


@pytest.mark.parametrize("allow_short", [False, True])
@pytest.mark.parametrize("more", [{}, {"tasks": ("adding",)}, {"selector": "global_top"}, {"method": "random"}, {"method": "random", "balanced": False}])
def test_nothing_to_choose_from_is_refused_whatever_the_method(flow, more: dict[str, object], allow_short: bool) -> None:
    nothing = Candidates(np.empty(0, "S16"), np.empty(0, np.int32), np.empty(0, np.int32), ("towns", "chat"), ())
    settings = MixtureSettings("some", 5, allow_short=allow_short, **more)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match=r"mixture 'some': nothing to choose from, its pools \(towns, chat\) keep 0 examples .*; mend their files"):
        choose(flow.store, settings, nothing, flow.tasks)


def test_scores_that_are_not_there_are_refused_with_the_mend(own_flow) -> None:
    own_flow.store.forget("scores/rds/places")
    with pytest.raises(StateError, match="scores/rds/places is not materialized yet; run `rds run 'scores/rds/places'`"):
        picked(own_flow, MixtureSettings("some", 5))
