"""Who may be picked: all that unique/* of the chosen pools keep, in id order, with pool and source."""

import pytest

from rds_dagster.errors import BudgetError, StateError
from rds_dagster.mixtures.candidates import Candidates, read_candidates


def slow_rows(flow, pools: tuple[str, ...]) -> list[tuple[bytes, str, str]]:
    """(id, pool, source) by plain rows."""
    found = []
    for pool in pools:
        found += [(row["id"], pool, row["source"]) for row in flow.store.read(flow.store.need(f"unique/{pool}"), "kept").to_pylist()]
    return sorted(found)


def rows_of(found: Candidates) -> list[tuple[bytes, str, str]]:
    names = zip(found.ids.tolist(), found.pool, found.source, strict=True)
    return [(example.ljust(16, b"\0"), found.pools[pool], found.sources[source]) for example, pool, source in names]


@pytest.mark.parametrize("pools", [("sums", "towns", "chat"), ("chat", "sums", "towns"), ("towns",), ("chat", "towns")])
def test_candidates_are_what_the_pools_keep_in_id_order(flow, pools: tuple[str, ...]) -> None:
    found = read_candidates(flow.store, pools)
    assert rows_of(found) == slow_rows(flow, pools)
    assert found.pools == pools and list(found.sources) == sorted(found.sources)
    assert (found.ids.dtype, found.pool.dtype, found.source.dtype) == ("S16", "int32", "int32")


def test_sources_are_named_by_the_records_or_by_the_pool(flow) -> None:
    assert read_candidates(flow.store, flow.pools).sources == ("atlas", "chat", "map", "sums")


def test_reading_in_small_batches_gives_the_same(flow, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(read_candidates(flow.store, flow.pools))
    monkeypatch.setattr("rds_dagster.storage.tables.STREAM_ROWS", 3)
    assert rows_of(read_candidates(flow.store, flow.pools)) == whole


def test_a_budget_above_supply_is_refused_with_the_numbers_by_pool(flow) -> None:
    found = read_candidates(flow.store, flow.pools)
    found.refuse_budget("big", 34)
    words = (
        r"mixture 'big' asks for 35 examples; its 3 pools hold 34 unique ones \(sums 16, towns 10, chat 8\)\. "
        r"Set budget <= 34, add a folder under assets/pools, or set allow_short: true"
    )
    with pytest.raises(BudgetError, match=words):
        found.refuse_budget("big", 35)
    with pytest.raises(BudgetError, match=r"asks for 1,000,000 examples; its 1 pools hold 10 unique ones \(towns 10\)"):
        read_candidates(flow.store, ("towns",)).refuse_budget("big", 1_000_000)


def test_a_pool_that_was_never_unified_is_refused(flow) -> None:
    with pytest.raises(StateError, match="unique/unheard is not materialized yet"):
        read_candidates(flow.store, ("sums", "unheard"))
