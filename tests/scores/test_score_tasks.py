"""Scores of a small corpus through real stages: right for every example, computed once, and only the last block when pools grow."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster import schema
from rds_dagster.cleaning.unique import owned_ids
from rds_dagster.embeddings.embed_pools import embed_pools
from rds_dagster.embeddings.embed_queries import embed_queries, read_vectors
from rds_dagster.embeddings.register import current_encoder, register_encoder
from rds_dagster.errors import StateError
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.scores import blocks, products, similarity
from rds_dagster.scores import score_tasks as score_stage
from rds_dagster.scores.score_tasks import ScoredTasks, merge_tops, score_key, score_tasks
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.scores.similarity import FILTER_DEPTHS

BLOCK_ROWS = 16  # of the tests that need several blocks


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "block_rows", lambda dims: BLOCK_ROWS)


def score_again(flow, depth: int = 256, tasks: tuple[str, ...] | None = None) -> ScoredTasks:
    return score_tasks(flow.store, tasks or flow.tasks, flow.pools, flow.live, ScoreSettings(depth))


def plain_cosines(flow, task: str) -> np.ndarray:
    """(N, M) float64 over the kept examples in id order, by the plain formula."""
    vectors = {}
    for batch in flow.vectors().stream(["id", "vector"]):
        vectors.update(zip(batch.column("id").to_pylist(), batch.column("vector").to_pylist(), strict=True))
    wide = np.array([vectors[example] for example in flow.live_bytes], np.float64)
    queries = read_vectors(flow.store, flow.store.need(f"queries/{task}")).astype(np.float64)
    return (wide @ queries.T) / np.linalg.norm(wide, axis=1)[:, None] / np.linalg.norm(queries, axis=1)


def stored_scores(flow, task: str) -> dict[bytes, tuple[float, int]]:
    rows = flow.store.read(flow.store.need(score_key(task)), "scores").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["score"], row["best_query"]) for row in rows}


def add_towns(flow, start: int, count: int) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"Where is town {n}?"}, {"role": "assistant", "content": f"North of {n * n}."}]}
        for n in range(start, start + count)
    ]
    (flow.root / f"pools/towns/more{start}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# ---- right -------------------------------------------------------------------------------------------------------------------------------------------


def test_every_kept_example_has_its_largest_cosine_and_the_query_that_gave_it(flow) -> None:
    for task in flow.tasks:
        cosines, stored = plain_cosines(flow, task), stored_scores(flow, task)
        assert sorted(stored) == flow.live_bytes
        for example, row in zip(flow.live_bytes, cosines, strict=True):
            assert stored[example] == (pytest.approx(row.max(), abs=1e-6), row.argmax())


def test_each_query_has_its_whole_list_where_the_depth_is_larger_than_the_pool(flow) -> None:
    for task in flow.tasks:
        cosines, top = plain_cosines(flow, task), flow.store.read(flow.store.need(score_key(task)), "top")
        assert top.schema == schema.TOP
        for query in range(cosines.shape[1]):
            mine = [row for row in top.to_pylist() if row["query"] == query]
            assert [row["rank"] for row in mine] == list(range(1, 35))
            assert [row["id"] for row in mine] == [flow.live_bytes[place] for place in np.argsort(-cosines[:, query], kind="stable")]


def test_lists_are_cut_to_the_depth_over_all_blocks(own_flow, small_blocks: None) -> None:
    score_again(own_flow, depth=4)
    for task in own_flow.tasks:
        cosines, top = plain_cosines(own_flow, task), own_flow.store.read(own_flow.store.need(score_key(task)), "top").to_pylist()
        found = [[row["id"] for row in top if row["query"] == query] for query in range(cosines.shape[1])]
        assert found == [[own_flow.live_bytes[place] for place in places] for places in np.argsort(-cosines, axis=0, kind="stable")[:4].T]


def test_the_manifest_says_what_made_the_scores(flow) -> None:
    manifest = flow.store.need("scores/rds/adding")
    assert set(manifest.parents) == {*(f"embeddings/{pool}" for pool in flow.pools), "queries/adding"}
    embedded = sorted(flow.store.need(f"unique/{pool}").fingerprint for pool in flow.pools)
    assert (manifest.settings, manifest.counts.kept) == ({"method": "rds", "depth": 256}, 34)
    assert manifest.details == {"queries": 3, "blocks": 1, "embedded": embedded}
    assert flow.store.read(manifest, "queries").column_names == schema.QUERY.names  # with the texts, so that a mixture can show them


def test_merged_lists_break_ties_by_the_smaller_id() -> None:
    def top(*places: tuple[int, bytes, float]) -> pa.Table:
        return pa.table([[q for q, _, _ in places], [1] * len(places), [i.ljust(16, b"-") for _, i, _ in places], [s for _, _, s in places]], schema=schema.TOP)

    tops = [top((0, b"c", 0.5), (0, b"d", 0.25), (1, b"c", 0.75)), top((0, b"a", 0.5), (1, b"b", 0.5), (1, b"e", 1.0))]
    merged = merge_tops(tops, num_queries=2, depth=2)
    assert [(row["query"], row["rank"], row["id"][:1], row["score"]) for row in merged.to_pylist()] == [
        (0, 1, b"a", 0.5), (0, 2, b"c", 0.5), (1, 1, b"e", 1.0), (1, 2, b"c", 0.75),
    ]  # fmt: skip


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_merged_lists_are_those_of_all_examples_at_once(blocks: int, queries: int, size: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [bytes(name) for name in rng.permutation(np.array([f"{number:016}".encode() for number in range(blocks * size)], "S16"))]
    scores = (rng.integers(0, 5, (queries, len(ids))) / 4).tolist()

    def best(places: range) -> list[dict[str, object]]:
        found = []
        for query in range(queries):
            order = sorted(places, key=lambda place: (-scores[query][place], ids[place]))[:depth]
            found += [{"query": query, "rank": rank, "id": ids[place], "score": scores[query][place]} for rank, place in enumerate(order, 1)]
        return found

    tops = [pa.Table.from_pylist(best(range(start, start + size)), schema=schema.TOP) for start in range(0, len(ids), size)]
    assert merge_tops(iter(tops), queries, depth).to_pylist() == best(range(len(ids)))


@pytest.mark.parametrize("with_torch", [True, False], ids=["torch", "numpy"])
def test_files_are_the_same_by_whatever_products_and_in_however_many_threads(
    own_flow, small_blocks: None, monkeypatch: pytest.MonkeyPatch, with_torch: bool
) -> None:
    """Lists of depth 1 over blocks of 32: float32 products say which pairs matter."""
    monkeypatch.setattr(blocks, "block_rows", lambda dims: FILTER_DEPTHS)

    def files(depth: int) -> list[bytes]:
        made = score_again(own_flow, depth=depth).manifests
        return [path.read_bytes() for task in own_flow.tasks for table in ("scores", "top") for path in own_flow.store.paths(made[task], table)]

    monkeypatch.setattr(similarity, "FILTER_DEPTHS", 10**9)  # float64 sums of all pairs
    before = files(depth=1)
    shutil.rmtree(own_flow.store.layout.score_blocks)
    monkeypatch.setattr(similarity, "FILTER_DEPTHS", FILTER_DEPTHS)
    monkeypatch.setattr(products, "_num_cores", lambda: 3)
    monkeypatch.setattr(products, "QUICK_PRODUCTS", 1)
    if not with_torch:
        monkeypatch.setattr(score_stage, "products_for", lambda _: products.NumpyProducts())
    assert files(depth=1) == before


def test_a_block_that_fails_in_its_thread_fails_the_run_with_its_words(own_flow, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, plain: tuple[str, ...]) -> int:
        raise OSError(28, "No space left on device", str(path))

    before = own_flow.store.need("scores/rds/adding")
    monkeypatch.setattr(products, "_num_cores", lambda: 2)
    monkeypatch.setattr(products, "QUICK_PRODUCTS", 1)
    monkeypatch.setattr(score_stage, "write_parquet", full)
    with pytest.raises(OSError, match="No space left on device"):
        score_again(own_flow, depth=5)
    assert own_flow.store.need("scores/rds/adding") == before


# ---- only what is new --------------------------------------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_changes_nothing(own_flow) -> None:
    before = {task: own_flow.store.need(score_key(task)) for task in own_flow.tasks}
    again = score_again(own_flow)
    assert own_flow.scored.rows_computed == {"adding": 34, "places": 34}
    assert (again.rows_computed, again.rows_reused) == ({"adding": 0, "places": 0}, {"adding": 34, "places": 34})
    assert {task: own_flow.store.need(score_key(task)) for task in own_flow.tasks} == before == again.manifests


def test_growth_computes_only_the_last_block(own_flow, run_flow: Callable, small_blocks: None) -> None:
    first = score_again(own_flow)  # 34 rows: blocks of 16, 16 and 2
    assert first.rows_computed == {"adding": 34, "places": 34} and first.manifests["adding"].number("blocks") == 3
    add_towns(own_flow, 0, 5)
    grown = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert grown.embedded.rows_computed == {"sums": 0, "towns": 5, "chat": 0}
    assert grown.scored.rows_computed == {"adding": 7, "places": 7}
    assert grown.scored.rows_reused == {"adding": 32, "places": 32}
    for task in grown.tasks:
        cosines, stored = plain_cosines(grown, task), stored_scores(grown, task)
        assert [stored[i] for i in grown.live_bytes] == [(pytest.approx(row.max(), abs=1e-6), row.argmax()) for row in cosines]


def test_changed_queries_are_scored_anew_and_other_tasks_are_not(own_flow) -> None:
    path = own_flow.root / "tasks/adding.jsonl"
    path.write_text(path.read_text().replace("21 plus 1", "99 plus 1"))
    encoder = current_encoder(own_flow.store, own_flow.encoder)
    embed_queries(own_flow.store, TaskSettings("adding", "tasks/adding.jsonl"), encoder, "tiny", root=own_flow.root)
    places = own_flow.store.need("scores/rds/places")
    again = score_again(own_flow)
    assert again.rows_computed == {"adding": 34, "places": 0}
    assert again.manifests["places"].fingerprint == places.fingerprint
    assert again.manifests["adding"].fingerprint != own_flow.scored.manifests["adding"].fingerprint


def test_one_stale_task_alone_can_be_made(own_flow) -> None:
    assert score_again(own_flow, depth=3, tasks=("places",)).rows_computed == {"places": 34}
    assert own_flow.store.need("scores/rds/adding").settings["depth"] == 256


def test_the_blocks_of_an_earlier_depth_are_found_again(own_flow) -> None:
    score_again(own_flow, depth=3)
    assert score_again(own_flow, depth=256).rows_computed == {"adding": 0, "places": 0}


def test_an_example_that_is_no_longer_kept_has_no_score(own_flow, run_flow: Callable) -> None:
    (own_flow.root / "pools/sums/b.jsonl").unlink()
    shrunk = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert len(shrunk.live) == 28 and shrunk.vectors().num_rows() == 34
    assert sorted(stored_scores(shrunk, "adding")) == shrunk.live_bytes


def test_half_written_blocks_of_a_killed_run_are_made_anew(own_flow) -> None:
    (scores,) = own_flow.store.paths(own_flow.store.need("scores/rds/adding"), "scores")
    bytes_before = scores.read_bytes()
    scores.unlink()  # killed between the two files of a block
    assert score_again(own_flow).rows_computed == {"adding": 34, "places": 0}
    assert scores.read_bytes() == bytes_before


# ---- refused -----------------------------------------------------------------------------------------------------------------------------------------


def test_queries_of_another_encoder_are_refused_in_words(own_flow) -> None:
    other = replace(own_flow.encoder, name="mean", pooling="mean")
    _, encoder = register_encoder(own_flow.store, other)
    embed_queries(own_flow.store, TaskSettings("adding", "tasks/adding.jsonl"), encoder, "mean", root=own_flow.root)
    before = own_flow.store.need("scores/rds/adding")
    message = f"queries/adding was embedded by encoder {encoder.fingerprint[:8]}, the pools by [0-9a-f]{{8}}; run `rds run 'queries/adding'`"
    with pytest.raises(StateError, match=message):
        score_again(own_flow)
    assert own_flow.store.need("scores/rds/adding") == before


def test_pools_of_different_encoders_are_refused_in_words(own_flow) -> None:
    _, encoder = register_encoder(own_flow.store, replace(own_flow.encoder, name="mean", pooling="mean"))
    embed_pools(own_flow.store, encoder, "mean", ["towns"])
    with pytest.raises(StateError, match=r"embeddings/\* stem from 2 encoders; run `rds run 'embeddings/\*'` to bring all pools to one"):
        score_again(own_flow)


def test_an_example_without_a_vector_is_refused(own_flow) -> None:
    with pytest.raises(StateError, match="35 examples are kept and 34 of them have a vector"):
        live = np.sort(np.concatenate([owned_ids(own_flow.store, own_flow.pools), np.array([b"nobody's id 1234"])]))
        score_tasks(own_flow.store, own_flow.tasks, own_flow.pools, live, ScoreSettings())


def test_a_task_whose_queries_are_not_there_is_refused(own_flow) -> None:
    with pytest.raises(StateError, match="queries/unheard is not materialized yet; run `rds run 'queries/unheard'`"):
        score_again(own_flow, tasks=("unheard",))


def test_equal_vectors_in_another_home_give_the_same_files(flow, run_flow: Callable, tmp_path: Path) -> None:
    other = run_flow(flow.root, tmp_path / "home", flow.encoder)
    for task in flow.tasks:
        here, there = flow.store.need(score_key(task)), other.store.need(score_key(task))
        assert here.fingerprint == there.fingerprint
        for table in ("scores", "top", "queries"):
            assert [p.read_bytes() for p in flow.store.paths(here, table)] == [p.read_bytes() for p in other.store.paths(there, table)]
