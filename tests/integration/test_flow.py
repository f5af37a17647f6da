"""All stages without Dagster: counts add up, a second drive does nothing, and growth gives the bytes of a rebuild from nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_dagster.storage.warehouse import Warehouse

MIXTURES = (
    ("best", {"budget": 9}),
    ("one_task", {"budget": 20, "tasks": ("adding",), "on_taken": "next_best"}),
    ("means", {"budget": 9, "selector": "mean_max"}),
    ("top", {"budget": 9, "selector": "global_top"}),
    ("by_chance", {"budget": 12, "method": "random"}),
)


def mixture_bytes(flow) -> dict[str, bytes]:
    """Every file that a mixture leads to, but for manifests (they say what lies upstream) and a version's places, which are those at its making."""
    files = [file for name in flow.mixtures for key in (f"mixtures/{name}", f"exports/{name}") for file in flow.store.need(key).files]
    return {file.path: (flow.store.layout.home / file.path).read_bytes() for file in files if file.table != "provenance"}


def places(flow, name: str) -> set[tuple[bytes, str, str, int]]:
    """Where the examples of a mixture's version stood when it was made."""
    rows = flow.store.read(flow.store.need(f"mixtures/{name}"), "provenance").to_pylist()
    return {(row["id"], row["pool"], row["file"], row["line"]) for row in rows}


def manifests(flow) -> dict[str, str]:
    return {manifest.key: manifest.fingerprint for manifest in flow.store.all_manifests()}


def asked(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def grow(root: Path) -> None:
    """A file more in one pool: sums that fit the tasks, one that repeats a sum, and one that a pool of lower precedence had to itself."""
    lines = [asked(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.") for n in (11, 12, 13)]
    lines += [asked("What is 2 plus 17?", "2 plus 17 is 19."), asked("Tell me 3 things about a fox.", "a fox runs home at night.")]
    (root / "pools/sums/grown.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_goes_in_is_kept_or_counted_as_dropped_at_each_stage(flow) -> None:
    counts = {key: flow.store.need(key).counts for key in manifests(flow)}
    assert {pool: (counts[f"clean/{pool}"].rows_in, counts[f"unique/{pool}"].kept) for pool in flow.pools} == {
        "sums": (16, 16),
        "towns": (10, 10),
        "chat": (11, 8),
    }
    for pool in flow.pools:
        assert counts[f"clean/{pool}"].kept == counts[f"unique/{pool}"].rows_in
        assert counts[f"unique/{pool}"].kept == counts[f"embeddings/{pool}"].kept
        lost = sum(flow.store.read(flow.store.need(f"{group}/{pool}"), "quarantine").num_rows for group in ("clean", "unique"))
        assert counts[f"clean/{pool}"].rows_in == counts[f"unique/{pool}"].kept + lost
    assert counts["scores/rds/adding"].kept == sum(counts[f"unique/{pool}"].kept for pool in flow.pools) == 34


def test_every_parent_that_a_manifest_names_is_there_with_that_fingerprint(flow) -> None:
    now = manifests(flow)
    for manifest in flow.store.all_manifests():
        assert {key: now[key] for key in manifest.parents} == dict(manifest.parents), manifest.key


def test_a_second_drive_computes_nothing_and_leaves_every_manifest_as_it_is(own_flow, run_flow: Callable) -> None:
    before = manifests(own_flow)
    again = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert manifests(again) == before
    assert set(again.embedded.rows_computed.values()) == set(again.scored.rows_computed.values()) == set(again.encoded_queries.values()) == {0}
    assert all(made.reused for made in again.mixtures.values())


def test_growth_gives_the_bytes_of_a_rebuild_from_nothing(own_flow, run_flow: Callable, tmp_path: Path) -> None:
    home = own_flow.root / "home"
    small = run_flow(own_flow.root, home, own_flow.encoder, mixtures=MIXTURES)
    grow(own_flow.root)
    grown = run_flow(own_flow.root, home, own_flow.encoder, mixtures=MIXTURES)
    rebuilt = run_flow(own_flow.root, tmp_path / "fresh", own_flow.encoder, mixtures=MIXTURES)
    assert grown.embedded.rows_computed == {"sums": 3, "towns": 0, "chat": 0}  # the fox has its vector; only its owner is new
    assert sum(rebuilt.embedded.rows_computed.values()) == 37
    assert grown.live_bytes == rebuilt.live_bytes and len(grown.live) == 37
    assert mixture_bytes(grown) == mixture_bytes(rebuilt)
    assert manifests(grown) == manifests(rebuilt)
    is_new = {name: grown.mixtures[name].manifest.fingerprint != small.mixtures[name].manifest.fingerprint for name in grown.mixtures}
    assert is_new["best"] and not all(is_new.values())
    for name in is_new:
        assert places(grown, name) == places(rebuilt, name) if is_new[name] else places(grown, name) <= places(rebuilt, name)


def test_growth_step_by_step_and_back_gives_the_first_bytes_again(own_flow, run_flow: Callable) -> None:
    home = own_flow.root / "home"
    first = mixture_bytes(run_flow(own_flow.root, home, own_flow.encoder, mixtures=MIXTURES))
    grow(own_flow.root)
    run_flow(own_flow.root, home, own_flow.encoder, mixtures=MIXTURES)
    (own_flow.root / "pools/sums/grown.jsonl").unlink()
    back = run_flow(own_flow.root, home, own_flow.encoder, mixtures=MIXTURES)
    assert set(back.embedded.rows_computed.values()) == {0}
    assert mixture_bytes(back) == first


def test_a_growth_that_is_not_picked_leaves_the_mixtures_version_as_it_is(own_flow, run_flow: Callable) -> None:
    far = own_flow.root / "pools/chat/far.jsonl"
    far.write_text(json.dumps(asked("zzzz qqqq xxxx", "vvvv jjjj")) + "\n")
    grown = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert len(grown.live) == 35
    assert grown.mixtures["best"].manifest.fingerprint == own_flow.mixtures["best"].manifest.fingerprint
    assert not grown.mixtures["best"].reused and len(list((grown.store.layout.mixtures / "best").glob("*/"))) == 1


def test_a_renamed_file_moves_provenance_alone(own_flow, run_flow: Callable) -> None:
    before = manifests(own_flow)
    (own_flow.root / "pools/towns/all.jsonl").rename(own_flow.root / "pools/towns/renamed.jsonl")
    after = manifests(run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder))
    assert {key for key in after if after[key] != before[key]} == {"raw/towns", "provenance/towns", "exports/best", "exports/by_chance"}


def test_the_warehouse_shows_what_was_made(own_flow) -> None:
    with Warehouse(own_flow.store.layout).in_memory() as connection:
        scored = connection.execute("select task, count(*) from scores.all group by task order by task").fetchall()
        picked = connection.execute("select mixture, count(*) from mixtures.all group by mixture order by mixture").fetchall()
    assert scored == [("adding", 34), ("places", 34)] and picked == [("best", 9), ("by_chance", 9)]


@pytest.mark.parametrize("lost", ["shards", "scores", "vectors.lance", "digests.json"])
def test_what_is_only_a_cache_can_be_deleted(own_flow, run_flow: Callable, lost: str) -> None:
    before, bytes_before = manifests(own_flow), mixture_bytes(own_flow)
    path = own_flow.store.layout.home / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert manifests(again) == before and mixture_bytes(again) == bytes_before
