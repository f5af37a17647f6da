"""Mixtures of small pools against a plain reference over the stored vectors; their folders, alone, again, and after growth."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rds_dagster import schema
from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.unique import unify_pools
from rds_dagster.embeddings.embed_queries import read_vectors
from rds_dagster.errors import BudgetError, StateError
from rds_dagster.fingerprint import content_digest, fingerprint, seeded_fractions
from rds_dagster.mixtures.candidates import Candidates
from rds_dagster.mixtures.choose import Choice
from rds_dagster.mixtures.make_mixture import CHOSEN_QUERY, places_of, upstream, version_fingerprint
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.manifest import load_manifests

FILES = ("examples.parquet", "provenance.parquet", "queries.parquet", "manifest.json")


# ---- the plain reference -----------------------------------------------------------------------------------------------------------------------------


def kept_rows(flow, pools: tuple[str, ...]) -> list[tuple[bytes, str, str]]:
    """(id, pool, source) of what the pools keep, in id order."""
    found = [(row["id"], pool, row["source"]) for pool in pools for row in flow.store.read(flow.store.need(f"unique/{pool}"), "kept").to_pylist()]
    return sorted(found)


def cosines(flow, rows: list[tuple[bytes, str, str]], task: str) -> np.ndarray:
    """(N, M) float64."""
    vectors = {}
    for batch in flow.vectors().stream(["id", "vector"]):
        vectors.update(zip(batch.column("id").to_pylist(), batch.column("vector").to_pylist(), strict=True))
    wide = np.array([vectors[example] for example, _, _ in rows], np.float64)
    queries = read_vectors(flow.store, flow.store.need(f"queries/{task}")).astype(np.float64)
    return (wide @ queries.T) / np.linalg.norm(wide, axis=1)[:, None] / np.linalg.norm(queries, axis=1)


def slow_round_robin(scores: np.ndarray, budget: int, on_taken: str) -> list[tuple[int, int, int, float]]:
    """(row, list, rank, score); scores (N, lists)."""
    queues = [list(enumerate(sorted(range(len(scores)), key=lambda row: (-column[row], row)), 1)) for column in scores.T]
    picks: list[tuple[int, int, int, float]] = []
    taken: set[int] = set()
    while True:
        for number, queue in enumerate(queues):
            while queue:
                rank, row = queue.pop(0)
                if row not in taken:
                    taken.add(row)
                    picks.append((row, number, rank, scores[row, number]))
                    if len(picks) == budget:
                        return picks
                    break
                if on_taken == "skip_turn":
                    break


def reference(flow, budget: int, *, pools=(), tasks=(), selector="round_robin", on_taken="skip_turn") -> list[tuple[bytes, str, str, int, float]]:
    """(id, task, query, rank, score) of method rds, by loops."""
    rows, tasks = kept_rows(flow, pools or flow.pools), tasks or flow.tasks
    by_task = {task: cosines(flow, rows, task) for task in tasks}
    best = np.stack([by_task[task].max(axis=1) for task in tasks], axis=1)  # (N, T)
    if selector == "round_robin" and len(tasks) == 1:
        picks = slow_round_robin(by_task[tasks[0]], budget, on_taken)
        return [(rows[row][0], tasks[0], f"{tasks[0]}-{query}", rank, score) for row, query, rank, score in picks]
    if selector == "round_robin":
        picks = slow_round_robin(best, budget, on_taken)
    else:
        values = best.mean(axis=1) if selector == "mean_max" else best.max(axis=1)
        order = sorted(range(len(rows)), key=lambda row: (-values[row], row))[:budget]
        picks = [(row, int(best[row].argmax()), rank, values[row]) for rank, row in enumerate(order, 1)]
    return [(rows[row][0], tasks[t], f"{tasks[t]}-{by_task[tasks[t]][row].argmax()}", rank, score) for row, t, rank, score in picks]


def random_reference(flow, budget: int, *, balanced: bool, seed: int = 0, pools=()) -> list[bytes]:
    rows = kept_rows(flow, pools or flow.pools)
    fractions = seeded_fractions(np.array([row[0] for row in rows], "S16"), seed, "mixture")
    order = sorted(range(len(rows)), key=lambda row: (fractions[row], row))
    if not balanced:
        return [rows[row][0] for row in order[:budget]]
    sources = sorted({source for _, _, source in rows})
    queues = [[rows[row][0] for row in order if rows[row][2] == source] for source in sources]
    dealt = [queue[turn] for turn in range(len(rows)) for queue in queues if turn < len(queue)]
    return dealt[:budget]


def examples_of(flow, made) -> list[dict[str, object]]:
    return flow.store.read(made.manifest, "examples").to_pylist()


def folder_of(flow, made) -> Path:
    return flow.store.layout.mixtures / made.manifest.key.split("/")[1] / made.manifest.fingerprint


# ---- every selector and method -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 9, 33])
@pytest.mark.parametrize(
    "asked",
    [
        {}, {"on_taken": "next_best"}, {"tasks": ("places", "adding")}, {"tasks": ("adding",)}, {"tasks": ("adding",), "on_taken": "next_best"},
        {"tasks": ("places",)}, {"selector": "mean_max"}, {"selector": "global_top"}, {"tasks": ("adding",), "selector": "global_top"},
    ],
    ids=str,
)  # fmt: skip
def test_picks_equal_the_plain_reference(own_flow, asked: dict[str, object], budget: int) -> None:
    made = own_flow.make("one", budget, **asked)
    found = [tuple(row[name] for name in ("id", "task", "query", "rank", "score")) for row in examples_of(own_flow, made)]
    expected = reference(own_flow, budget, **asked)
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in expected], abs=1e-6)


@pytest.mark.parametrize("budget", [1, 9, 34])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("seed", [0, 7])
def test_random_picks_equal_the_plain_reference(own_flow, balanced: bool, seed: int, budget: int) -> None:
    made = own_flow.make("one", budget, method="random", balanced=balanced, seed=seed)
    found = examples_of(own_flow, made)
    assert [row["id"] for row in found] == random_reference(own_flow, budget, balanced=balanced, seed=seed)
    assert {(row["task"], row["query"], row["score"], row["method"]) for row in found} == {(None, None, None, "random")}
    assert [row["rank"] for row in found] == list(range(1, budget + 1))


@pytest.mark.parametrize("pools", [("towns",), ("chat", "sums")])
def test_only_the_examples_of_the_named_pools_are_picked(own_flow, pools: tuple[str, ...]) -> None:
    for asked in ({}, {"tasks": ("adding",)}, {"selector": "global_top"}):
        found = examples_of(own_flow, own_flow.make("one", 8, pools=pools, **asked))
        assert [row["id"] for row in found] == [row[0] for row in reference(own_flow, 8, pools=pools, **asked)]
        assert {row["pool"] for row in found} <= set(pools)
    found = examples_of(own_flow, own_flow.make("one", 8, pools=pools, method="random"))
    assert [row["id"] for row in found] == random_reference(own_flow, 8, balanced=True, pools=pools)


def test_allow_short_takes_what_there_is_and_says_so(own_flow) -> None:
    made = own_flow.make("short", 500, allow_short=True)
    assert made.manifest.counts.kept == 34 == len({row["id"] for row in examples_of(own_flow, made)})
    assert made.manifest.settings["budget"] == 500


def test_a_budget_that_cannot_be_met_is_refused_and_nothing_is_written(own_flow) -> None:
    with pytest.raises(BudgetError, match=r"mixture 'big' asks for 35 examples; its 3 pools hold 34 unique ones \(sums 16, towns 10, chat 8\)"):
        own_flow.make("big", 35)
    with pytest.raises(BudgetError, match=r"its 1 pools hold 10 unique ones \(towns 10\)\. Set budget <= 10"):
        own_flow.make("big", 11, pools=("towns",))
    assert own_flow.store.manifest("mixtures/big") is None and not (own_flow.store.layout.mixtures / "big").exists()


def test_deeper_lists_are_counted(own_flow, run_flow: Callable) -> None:
    queries = [
        {"id": f"q{n}", "messages": [{"role": "user", "content": f"What is {n} plus 1?"}, {"role": "assistant", "content": "22"}]} for n in range(20, 32)
    ]
    (own_flow.root / "tasks/adding.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    mixtures = (("one", {"budget": 25, "tasks": ("adding",)}),)
    full, shallow = (run_flow(own_flow.root, own_flow.root / f"home {depth}", own_flow.encoder, mixtures=mixtures, depth=depth) for depth in (256, 2))
    assert (full.mixtures["one"].deepened, shallow.mixtures["one"].deepened > 0) == (0, True)
    for name in ("examples.parquet", "provenance.parquet", "queries.parquet"):
        assert (folder_of(full, full.mixtures["one"]) / name).read_bytes() == (folder_of(shallow, shallow.mixtures["one"]) / name).read_bytes()


# ---- the version folder ------------------------------------------------------------------------------------------------------------------------------


def test_a_version_holds_messages_places_and_queries(flow) -> None:
    made = flow.mixtures["best"]
    table = flow.store.read(made.manifest, "examples")
    assert table.schema == schema.SELECTED and table.column("position").to_pylist() == list(range(1, 10))
    rows = table.to_pylist()
    for row in rows:
        assert schema.example_id([{k: v for k, v in m.items() if v is not None} for m in row["messages"]]) == row["id"]
        assert (row["id"], row["pool"], row["source"]) in kept_rows(flow, flow.pools)
    queries = flow.store.read(made.manifest, "queries")
    assert queries.schema == CHOSEN_QUERY
    assert {(q["task"], q["query"]) for q in queries.to_pylist()} == {(row["task"], row["query"]) for row in rows}
    assert all(q["text"].startswith("<|user|>\n") for q in queries.to_pylist())


def test_every_place_of_a_pick_is_there_also_in_pools_that_lost_it(own_flow) -> None:
    made = own_flow.make("everything", 34)
    places = own_flow.store.read(made.manifest, "provenance").to_pylist()
    (shared,) = [i for i in {p["id"] for p in places} if sum(p["id"] == i for p in places) > 1]
    assert [(p["pool"], p["file"], p["line"], p["original_id"]) for p in places if p["id"] == shared] == [
        ("chat", "new/c.jsonl", 8, "s0"),
        ("sums", "a.jsonl", 1, "s0"),
    ]
    assert len(places) == 35 and places == sorted(places, key=lambda p: (p["id"], p["pool"], p["file"], p["line"]))
    assert places_of(own_flow.store, own_flow.live[:0], own_flow.pools).num_rows == 0


def test_a_version_reads_without_anything_else_of_the_home(own_flow) -> None:
    made = own_flow.mixtures["best"]
    home, folder = own_flow.store.layout.home, folder_of(own_flow, made)
    before = [own_flow.store.read(made.manifest, table).to_pylist() for table in ("examples", "provenance", "queries")]
    for path in home.iterdir():
        if path != own_flow.store.layout.mixtures:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in own_flow.store.layout.mixtures.iterdir():
        if path != folder.parent:
            shutil.rmtree(path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    (manifest,) = load_manifests((folder / "manifest.json").read_text(), where="the folder")
    assert manifest == made.manifest
    assert [own_flow.store.read(manifest, table).to_pylist() for table in ("examples", "provenance", "queries")] == before


def test_the_manifest_names_everything_upstream_with_settings_and_licences(flow) -> None:
    manifest = flow.mixtures["best"].manifest
    assert set(manifest.parents) == {*(f"unique/{pool}" for pool in flow.pools), *(f"scores/rds/{task}" for task in flow.tasks)}
    groups = ("raw", "clean", "unique", "embeddings")
    keys = {
        *(f"{group}/{pool}" for group in groups for pool in flow.pools),
        "encoders/tiny",
        *(f"{g}/{t}" for g in ("queries", "scores/rds") for t in flow.tasks),
    }
    said = manifest.details["upstream"]
    assert set(said) == keys
    assert all(said[key]["fingerprint"] == flow.store.need(key).fingerprint for key in keys)
    assert said["clean/chat"]["dropped"] == {"bad_structure": 1} and said["unique/chat"]["dropped"] == {"exact_duplicate": 2}
    assert said["scores/rds/adding"]["settings"] == {"method": "rds", "depth": 256}
    assert manifest.details["licenses"] == {pool: f"licence of {pool}" for pool in flow.pools}
    assert {"duckdb", "lancedb", "numpy", "pyarrow", "rds-dagster"} <= set(manifest.versions)
    assert upstream(flow.store, ["queries/adding"]).keys() == {"queries/adding", "encoders/tiny"}


def test_a_random_mixture_hangs_on_no_score(flow) -> None:
    assert set(flow.mixtures["by_chance"].manifest.parents) == {f"unique/{pool}" for pool in flow.pools}


# ---- again -------------------------------------------------------------------------------------------------------------------------------------------


def test_making_it_again_does_nothing(own_flow) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_flow.store.layout.mixtures.rglob("*")}
    again = own_flow.make("best", 9)
    assert again.reused and again.deepened == 0 and again.manifest == own_flow.mixtures["best"].manifest
    assert {path: path.stat().st_mtime_ns for path in own_flow.store.layout.mixtures.rglob("*")} == before


def test_another_setting_makes_another_version_and_the_first_stays(own_flow) -> None:
    first = {name: (folder_of(own_flow, own_flow.mixtures["best"]) / name).read_bytes() for name in FILES}
    second = own_flow.make("best", 10)
    assert not second.reused and second.manifest.fingerprint != own_flow.mixtures["best"].manifest.fingerprint
    assert {name: (folder_of(own_flow, own_flow.mixtures["best"]) / name).read_bytes() for name in FILES} == first
    assert own_flow.make("best", 9).manifest.fingerprint == own_flow.mixtures["best"].manifest.fingerprint


@pytest.mark.parametrize("lost", ["examples.parquet", "manifest.json"])
def test_a_version_that_is_not_whole_is_made_again(own_flow, lost: str) -> None:
    folder = folder_of(own_flow, own_flow.mixtures["best"])
    before = {name: (folder / name).read_bytes() for name in FILES if name != "manifest.json"}
    (folder / lost).unlink()
    own_flow.store.forget("mixtures/best")
    own_flow.make("best", 9)
    assert {name: (folder / name).read_bytes() for name in before} == before and (folder / "manifest.json").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "history.json"]


def test_a_fresh_home_gives_the_same_bytes(flow, run_flow: Callable, tmp_path: Path) -> None:
    other = run_flow(flow.root, tmp_path, flow.encoder)
    for name, made in flow.mixtures.items():
        assert other.mixtures[name].manifest == made.manifest
        for file in FILES:
            assert (folder_of(other, made) / file).read_bytes() == (folder_of(flow, made) / file).read_bytes()


def test_files_and_lines_in_another_order_give_the_same_picks_byte_for_byte(flow, run_flow: Callable, tmp_path: Path) -> None:
    shutil.copytree(flow.root / "tasks", tmp_path / "tasks")
    for pool in flow.pools:
        lines = [line for file in sorted((flow.root / "pools" / pool).rglob("*.jsonl")) for line in file.read_text().splitlines(keepends=True)]
        random.Random(3).shuffle(lines)
        (tmp_path / "pools" / pool).mkdir(parents=True)
        for name, part in (("one.jsonl", lines[::2]), ("another.jsonl", lines[1::2])):
            (tmp_path / "pools" / pool / name).write_text("".join(part))
    other = run_flow(tmp_path, tmp_path / "home", flow.encoder)
    for name, made in flow.mixtures.items():
        assert other.mixtures[name].manifest.fingerprint == made.manifest.fingerprint
        for file in ("examples.parquet", "queries.parquet"):
            assert (folder_of(other, made) / file).read_bytes() == (folder_of(flow, made) / file).read_bytes()


def test_another_order_of_pools_names_the_new_owner(own_flow, run_flow: Callable, tmp_path: Path) -> None:
    mixtures = (("everything", {"budget": 34}),)
    first = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder, mixtures=mixtures).mixtures["everything"]
    turned = ("chat", "towns", "sums")
    again, fresh = (run_flow(own_flow.root, home, own_flow.encoder, mixtures=mixtures, pools=turned) for home in (own_flow.root / "home", tmp_path / "fresh"))
    made = again.mixtures["everything"]
    assert made.manifest.fingerprint == fresh.mixtures["everything"].manifest.fingerprint != first.manifest.fingerprint
    assert (folder_of(again, made) / "examples.parquet").read_bytes() == (folder_of(fresh, made) / "examples.parquet").read_bytes()
    owners = [row["pool"] for row in examples_of(again, made)]
    assert {pool: owners.count(pool) for pool in turned} == {"chat": 10, "towns": 10, "sums": 14}


def test_scores_of_another_state_of_a_pool_are_refused(own_flow) -> None:
    more = {"messages": [{"role": "user", "content": "Name a town."}, {"role": "assistant", "content": "Kiel."}]}
    (own_flow.root / "pools" / "towns" / "more.jsonl").write_text(json.dumps(more) + "\n")
    pools = [PoolSettings(name, f"pools/{name}") for name in own_flow.pools]
    record_pool(own_flow.store, pools[1], root=own_flow.root)
    clean_pool(own_flow.store, pools[1], CleaningSettings(), root=own_flow.root)
    unify_pools(own_flow.store, pools)
    for tasks in ((), ("adding",)):
        with pytest.raises(StateError, match=r"scores/rds/adding was made for another state of unique/towns; run `rds run '\+mixtures/late'`"):
            own_flow.make("late", 5, tasks=tasks)
    assert own_flow.make("sums_only", 5, pools=("sums",)).manifest.counts.kept == 5  # its pools are as they were scored


# ---- the name of a version ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_random", [False, True])
def test_a_version_is_named_as_if_every_pick_were_spelled_out(is_random: bool) -> None:
    rng = np.random.default_rng(5)
    ids = np.sort(rng.integers(0, 256, (20, 16), np.uint8).view("S16").ravel())
    pools, sources = ("plain", "with_more"), ('a "quoted" one', "back\\slash", "ünïcödé 中文", "null", "line\nbreak")
    candidates = Candidates(ids, rng.integers(0, 2, 20).astype(np.int32), rng.integers(0, 5, 20).astype(np.int32), pools, sources)
    rows = rng.permutation(20)[:10]
    nothing = pa.nulls(10, pa.string())
    tasks, names = (nothing, nothing) if is_random else (pa.array(["sums", "maps"] * 5), pa.array([f'q"{n % 3}"' for n in range(10)]))
    scores = np.full(10, np.nan, np.float32) if is_random else rng.standard_normal(10, np.float32)
    choice = Choice(rows, np.arange(1, 11), scores, tasks, names)
    asked = [
        {"task": "sums", "query": 'q"0"', "id": b"0" * 16, "messages": [{"role": "user", "content": "1 + 1"}], "text": "<|user|>\n1 + 1 = ∞?", "num_tokens": 7}
    ]
    queries = pa.Table.from_pylist([] if is_random else asked, CHOSEN_QUERY)
    settings = MixtureSettings("named", 10, "random", balanced=False) if is_random else MixtureSettings("named", 10, pools=("plain", "with_more"))
    expected = fingerprint(
        "mixture",
        settings,
        [content_digest(ids[rows].tobytes()), content_digest(choice.ranks.tobytes()), content_digest(scores.tobytes())],
        tasks.to_pylist(),
        names.to_pylist(),
        [pools[number] for number in candidates.pool[rows]],
        [sources[number] for number in candidates.source[rows]],
        queries.select(["task", "query", "id", "text", "num_tokens"]).to_pylist(),
    )
    assert version_fingerprint(settings, candidates, choice, queries) == expected
