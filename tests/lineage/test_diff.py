"""What entered and left between two versions, and why: each reason against the candidates of both times, with the state behind and without it."""

import json
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.unique import owned_ids, unify_pools
from rds_dagster.embeddings.embed_pools import embed_pools
from rds_dagster.embeddings.embed_queries import embed_queries
from rds_dagster.embeddings.register import register_encoder
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.lineage.diff import Changed, Diff, Share, diff_to_previous, diff_versions
from rds_dagster.lineage.diff_text import diff_rows, diff_text
from rds_dagster.lineage.reasons import REASON_WORDS
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.scores.score_tasks import score_tasks
from rds_dagster.scores.settings import ScoreSettings

KINDS = {
    "tasks": {}, "best_free": {"on_taken": "next_best"}, "queries": {"tasks": ("adding",)}, "means": {"selector": "mean_max"},
    "tops": {"selector": "global_top"}, "dealt": {"method": "random"}, "drawn": {"method": "random", "balanced": False, "seed": 3},
}  # fmt: skip
"""A mixture of each kind of list."""


def remake(flow, *, pools: tuple[str, ...] = ("sums", "towns", "chat"), cleaning: CleaningSettings | None = None, samples: dict[str, int] | None = None):
    """Bring everything above the mixtures up to date with the files; the flow with its pools."""
    settings = [PoolSettings(name, f"pools/{name}", sample=(samples or {}).get(name), license=f"licence of {name}") for name in pools]
    for pool in settings:
        record_pool(flow.store, pool, root=flow.root)
        clean_pool(flow.store, pool, cleaning or CleaningSettings(), root=flow.root)
    unify_pools(flow.store, settings)
    _, identity = register_encoder(flow.store, flow.encoder)
    embed_pools(flow.store, identity, flow.encoder.name, pools)
    for task in flow.tasks:
        embed_queries(flow.store, TaskSettings(task, f"tasks/{task}.jsonl"), identity, flow.encoder.name, root=flow.root)
    score_tasks(flow.store, flow.tasks, pools, owned_ids(flow.store, pools), ScoreSettings())
    return replace(flow, pools=pools)


def asked(question: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def edit(file: Path, *, without: tuple[int, ...] = (), more: tuple[str, ...] = ()) -> None:
    """Take lines (from 1) out of a file, and add others at its end."""
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line}\n" for line in [*(line for number, line in enumerate(lines, 1) if number not in without), *more]))


def candidates(flow) -> dict[str, str]:
    """Example -> source."""
    kept = [row for pool in flow.pools for row in flow.store.read(flow.store.need(f"unique/{pool}"), "kept").to_pylist()]
    return {row["id"].hex(): row["source"] for row in kept}


def reasons(diff: Diff) -> tuple[dict[str, int], dict[str, int]]:
    return dict(diff.entered_by_reason), dict(diff.left_by_reason)


def assert_true(diff: Diff, before: dict[str, str], after: dict[str, str]) -> None:
    """Each reason of a diff under equal settings, against the candidates of both times."""
    for moved in diff.entered:
        assert moved.reason in ("new", "room", "stands_in"), moved
        then = before.get(moved.id)
        assert moved.reason != "new" or then is None or (diff.mixture == "dealt" and then != moved.source), moved  # dealt by source
        assert moved.id in before or not moved.why.endswith("it was a candidate already"), moved
    for moved in diff.left:
        assert moved.reason in ("beaten", "source_left", "duplicate"), moved
        assert (moved.reason == "beaten") == (moved.id in after), moved


def drop_state(flow) -> None:
    """Leave the version folders alone, and who is current."""
    layout = flow.store.layout
    for path in [*layout.home.iterdir(), *layout.manifests.iterdir()]:
        if path not in (layout.mixtures, layout.manifests, layout.manifests / "mixtures"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def grown(own_flow):
    """A mixture of each kind before and after growth and loss in all pools; with the candidates of both times."""
    for name, asked_for in KINDS.items():
        own_flow.make(name, 9, **asked_for)
    before = candidates(own_flow)
    pools = own_flow.root / "pools"
    edit(pools / "sums/a.jsonl", without=(1, 3, 4, 5, 9), more=tuple(asked(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.") for n in (31, 44, 45)))
    edit(pools / "towns/all.jsonl", without=(2, 5, 6), more=tuple(asked(f"Which town lies {n} miles from here?", f"Upper {n} does.") for n in (5, 7)))
    edit(pools / "chat/new/c.jsonl", without=(1, 2, 3))
    flow = remake(own_flow)
    for name, asked_for in KINDS.items():
        flow.make(name, 9, **asked_for)
    return flow, before, candidates(flow)


# ---- reasons, by the truth ---------------------------------------------------------------------------------------------------------------------------


def test_with_the_state_at_hand_every_reason_is_true_for_every_kind_of_mixture(grown) -> None:
    flow, before, after = grown
    seen = set()
    for name in KINDS:
        diff = diff_versions(flow.store, name, "previous", "current")
        rows = [{row["id"].hex(): row for row in flow.store.read(manifest, "examples").to_pylist()} for manifest in two_manifests(flow, name)]
        assert [moved.id for moved in diff.entered] == [example for example in rows[1] if example not in rows[0]]
        assert [moved.id for moved in diff.left] == [example for example in rows[0] if example not in rows[1]]
        for moved, row in [*((moved, rows[1][moved.id]) for moved in diff.entered), *((moved, rows[0][moved.id]) for moved in diff.left)]:
            assert [getattr(moved, key) for key in ("position", "pool", "source", "task", "query", "rank", "score")] == [
                row[key] for key in ("position", "pool", "source", "task", "query", "rank", "score")
            ]
            assert moved.text == row["messages"][0]["content"]
        assert_true(diff, before, after)
        seen |= {moved.reason for moved in [*diff.entered, *diff.left]}
    assert {"new", "room", "beaten", "source_left"} <= seen


@pytest.mark.parametrize("seed", range(3))
def test_reasons_are_true_after_any_growth_and_loss(own_flow, seed: int) -> None:
    draw = random.Random(seed)
    for name, asked_for in KINDS.items():
        own_flow.make(name, 11, **asked_for)
    before = candidates(own_flow)
    files = [own_flow.root / "pools" / file for file in ("sums/a.jsonl", "sums/b.jsonl", "towns/all.jsonl", "chat/new/c.jsonl")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    for file in files:
        fresh = [asked(f"What is {n} plus {draw.randrange(9)}?", f"It is {n}.") for n in draw.sample(range(20, 60), 2)]
        spaced = draw.choice(lines).replace(" is ", "  is ")
        edit(file, without=tuple(draw.sample(range(1, 9), 3)), more=(*fresh, *draw.sample(lines, 2), spaced))
    flow = remake(own_flow)
    for name, asked_for in KINDS.items():
        flow.make(name, 11, **asked_for)
        assert_true(diff_versions(flow.store, name, "previous", "current"), before, candidates(flow))


def test_without_the_state_no_reason_is_wrong_and_what_is_not_known_is_said(grown) -> None:
    flow, _, after = grown
    told = {name: diff_versions(flow.store, name, "previous", "current") for name in KINDS}
    drop_state(flow)
    unknown = 0
    for name, known in told.items():
        diff = diff_versions(flow.store, name, "previous", "current")
        assert diff.entered == known.entered
        assert replace(diff, left=known.left) == known
        for moved in diff.left:
            unknown += moved.reason == "not_known"
            assert moved.reason in ("not_known", "beaten", "replaced")
            assert moved.reason != "not_known" or moved.id not in after, (name, moved)
            assert moved.reason != "beaten" or moved.why.endswith("whether it was still a candidate is not known any more")
    assert unknown


def test_what_a_later_state_says_is_told_as_of_today(grown) -> None:
    flow, _, after = grown
    flow.make("tasks", 10)
    remake(flow, samples={"chat": 1})
    versions = [path.parent.name for path in (flow.store.layout.mixtures / "tasks").glob("*/manifest.json")]
    pairs = [(a, b) for a in versions for b in versions if a != b]
    left = [moved for a, b in pairs for moved in diff_versions(flow.store, "tasks", a, b).left]
    assert all(moved.reason != "source_left" for moved in left)
    gone = [moved for moved in left if moved.reason == "not_known"]
    assert gone and all(moved.why.endswith("so it was not in that list any more; today it stands in no pool") for moved in gone if moved.id not in after)


def two_manifests(flow, name: str):
    from rds_dagster.mixtures.versions import find_version

    return [find_version(flow.store, name, standing).manifest for standing in ("previous", "current")]


def test_a_larger_budget_adds_and_a_smaller_one_takes_away(own_flow) -> None:
    own_flow.make("best", 12)
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    assert (diff.stayed, diff.jaccard, reasons(diff)) == (9, 0.75, ({"budget": 3}, {}))
    assert all("9 -> 12; it has " in moved.why and moved.why.endswith("; it was a candidate already") for moved in diff.entered)
    assert diff.settings == (Changed("budget", "9", "12"),) and diff.upstream == ()
    back = diff_versions(own_flow.store, "best", "current", "previous")
    assert reasons(back) == ({}, {"budget": 3}) and all(moved.why.startswith("12 -> 9; it has ") for moved in back.left)
    assert (diff.before.examples, diff.after.examples, diff.before.budget, diff.after.budget) == (9, 12, 9, 12)
    assert (diff.before.is_current, diff.after.is_current) == (False, True)


def test_shares_by_task_and_by_source_are_counted_before_and_after(own_flow) -> None:
    own_flow.make("best", 12)
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    rows = [own_flow.store.read(manifest, "examples").to_pylist() for manifest in two_manifests(own_flow, "best")]
    for shares, names in (
        (diff.tasks, [[row["task"] for row in each] for each in rows]),
        (diff.sources, [[f"{row['pool']}/{row['source']}" for row in each] for each in rows]),
    ):
        assert {share.name for share in shares} == {name for each in names for name in each}
        for share in shares:
            counts = [each.count(share.name) for each in names]
            assert share == Share(share.name, counts[0], counts[1], counts[0] / 9, counts[1] / 12)
    assert [share.after for share in diff.sources] == sorted((share.after for share in diff.sources), reverse=True)


def test_a_random_mixture_has_no_tasks(own_flow) -> None:
    own_flow.make("by_chance", 10, method="random")
    diff = diff_versions(own_flow.store, "by_chance", "previous", "current")
    assert diff.tasks == () and reasons(diff) == ({"budget": 1}, {})
    (moved,) = diff.entered
    assert (moved.task, moved.score) == (None, None)
    assert "9 -> 10; it comes after the last that version " in moved.why and " took from the list of source " in moved.why


def test_changed_settings_are_named_as_the_reason(own_flow) -> None:
    own_flow.make("best", 9, selector="mean_max")
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    assert diff.settings == (Changed("selector", "round_robin", "mean_max"),)
    assert diff.entered and set(diff.entered_by_reason) == set(diff.left_by_reason) == {"settings"}
    assert {moved.why for moved in diff.entered} == {"changed: selector; it was a candidate already"}
    assert {moved.why for moved in diff.left} == {"changed: selector"}
    own_flow.make("best", 9, tasks=("places",))
    diff = diff_versions(own_flow.store, "best", diff.before.fingerprint, "current")
    assert [change.name for change in diff.settings] == ["tasks", "queries/adding"]
    assert diff.settings[0] == Changed("tasks", "adding, places", "places")


def test_changed_queries_are_named_as_the_reason(own_flow) -> None:
    edit(own_flow.root / "tasks/places.jsonl", without=(1, 2), more=(asked("What do gulls do?", "Gulls fly over the sea."),))
    flow = remake(own_flow)
    flow.make("best", 9)
    diff = diff_versions(flow.store, "best", "previous", "current")
    assert [change.name for change in diff.settings] == ["queries/places"]
    assert diff.left and set(diff.left_by_reason) == {"settings"} and diff.left[0].why == "changed: queries/places"
    assert {change.name for change in diff.upstream} == {"queries/places", "scores/rds/places"}


def test_pools_that_come_and_go_are_named(own_flow) -> None:
    own_flow.make("best", 9, pools=("sums", "chat"))
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    assert [change.name for change in diff.settings] == ["pools"]
    left = [moved for moved in diff.left if moved.pool == "towns"]
    assert left and {(moved.reason, moved.why.split(", ")[0]) for moved in left} == {("pool_left", "pool towns keeps it")}
    back = diff_versions(own_flow.store, "best", "current", "previous")
    assert {moved.reason for moved in back.entered if moved.pool == "towns"} == {"new_pool"}
    drop_state(own_flow)
    gone = [moved for moved in diff_versions(own_flow.store, "best", "previous", "current").left if moved.pool == "towns"]
    assert {(moved.reason, moved.why) for moved in gone} == {("pool_left", f"pool towns is not among those of version {diff.after.fingerprint[:8]}")}


def test_a_pool_that_leaves_the_project_is_named(own_flow) -> None:
    own_flow.make("best", 20)
    flow = remake(own_flow, pools=("sums", "chat"))
    flow.make("best", 20)
    left = [moved for moved in diff_versions(flow.store, "best", "previous", "current").left if moved.pool == "towns"]
    assert left and {moved.reason for moved in left} == {"pool_left"}


def test_all_of_a_version_that_took_every_candidate_tells_what_is_new(own_flow) -> None:
    own_flow.make("best", 34, selector="global_top")
    edit(own_flow.root / "pools/towns/all.jsonl", more=(asked("zzzz qqqq xxxx", "vvvv jjjj"),))
    flow = remake(own_flow)
    flow.make("best", 35)
    diff = diff_versions(flow.store, "best", "previous", "current")
    assert reasons(diff) == ({"new": 1}, {}) and "took all of its candidates" in diff.entered[0].why


# ---- duplicates, samples, cleaning -------------------------------------------------------------------------------------------------------------------


def everything_after(flow, **changes) -> Diff:
    """The diff of a mixture of all, made anew after the changes."""
    flow.make("everything", 34)
    after = remake(flow, **changes)
    after.make("everything", len(after.live))
    return diff_versions(after.store, "everything", "previous", "current")


def test_one_alike_that_stands_in_when_the_first_has_left(own_flow) -> None:
    """The chat pool also holds the second sum, with other white space."""
    edit(own_flow.root / "pools/sums/a.jsonl", without=(2,))
    diff = everything_after(own_flow)
    assert reasons(diff) == ({"stands_in": 1}, {"source_left": 1})
    (entered,), (left,) = diff.entered, diff.left
    assert entered.why == f"alike but for white space to {left.id[:12]}, which left"
    assert (entered.pool, left.pool, left.text, entered.text) == ("chat", "sums", "What is 1 plus 10?", "What is 1 plus 10?")
    drop_state(own_flow)
    (left,) = diff_versions(own_flow.store, "everything", "previous", "current").left
    assert (left.reason, left.why) == ("replaced", f"{entered.id[:12]} of pool chat entered, which is alike but for white space")


def test_a_loser_is_named_with_its_keeper(own_flow) -> None:
    edit(own_flow.root / "pools/sums/b.jsonl", more=(asked("Tell me  2 things about the sea.", "the sea is wide and many gulls fly over it."),))
    diff = everything_after(own_flow)
    (entered,), (left,) = diff.entered, diff.left
    assert (entered.reason, left.reason, left.pool) == ("stands_in", "duplicate", "chat")
    assert left.why == f"it loses to {entered.id[:12]} of pool sums"


def test_the_same_text_in_another_pool_is_no_change(own_flow) -> None:
    """The first sum also stands in chat."""
    edit(own_flow.root / "pools/sums/a.jsonl", without=(1,))
    diff = everything_after(own_flow)
    assert (diff.entered, diff.left, diff.jaccard) == ((), (), 1.0)
    assert [(share.name, share.before, share.after) for share in diff.sources if share.before != share.after] == [("sums/sums", 16, 15), ("chat/chat", 8, 9)]


def test_what_a_sample_leaves_out_is_named(own_flow) -> None:
    diff = everything_after(own_flow, samples={"towns": 6})
    assert reasons(diff) == ({}, {"not_sampled": 4})
    assert {moved.why for moved in diff.left} == {"the sample of pool towns leaves it out"}
    assert Changed("unique/towns sample", "none", "6") in diff.settings


def test_what_cleaning_drops_is_named_with_the_rule(own_flow) -> None:
    diff = everything_after(own_flow, cleaning=CleaningSettings(max_chars=60))
    rows = own_flow.store.read(two_manifests(own_flow, "everything")[0], "examples").to_pylist()
    long = {row["id"].hex() for row in rows if sum(len(message["content"]) for message in row["messages"]) > 60}
    assert {moved.id for moved in diff.left} == long and not diff.entered
    assert {(moved.reason, moved.why) for moved in diff.left} == {("cleaning", f"cleaning of pool {moved.pool} drops its row: too_long") for moved in diff.left}
    assert Changed("clean/chat max_chars", "1000000", "60") in diff.settings


def test_another_row_at_its_place_is_not_taken_for_it(own_flow) -> None:
    """A broken row follows the last conversation of chat and moves up."""
    edit(own_flow.root / "pools/chat/new/c.jsonl", without=(10,))
    diff = everything_after(own_flow)
    assert reasons(diff) == ({}, {"source_left": 1})


# ---- which versions, and the words -------------------------------------------------------------------------------------------------------------------


def test_the_diff_to_the_version_before_is_the_same_and_there_is_none_at_first(own_flow) -> None:
    assert diff_to_previous(own_flow.store, "best") is None
    own_flow.make("best", 12)
    assert diff_to_previous(own_flow.store, "best") == diff_versions(own_flow.store, "best", "previous", "current")


def test_one_version_twice_is_refused(own_flow) -> None:
    fingerprint = own_flow.mixtures["best"].manifest.fingerprint
    with pytest.raises(SettingsError, match=rf"both '{fingerprint[:8]}' and 'current' are version {fingerprint[:12]} of mixture 'best'; name two versions"):
        diff_versions(own_flow.store, "best", fingerprint[:8], "current")


def test_an_unknown_mixture_or_version_is_refused(own_flow) -> None:
    with pytest.raises(StateError, match="mixture 'bets' is not there; made so far: best, by_chance"):
        diff_versions(own_flow.store, "bets", "previous", "current")
    with pytest.raises(SettingsError, match=r"mixture 'best' has no version 'beef0'; expected current, previous, or .* \(made .*, 9 examples, current\)"):
        diff_versions(own_flow.store, "best", "beef0", "current")


def test_the_text_says_it_all_and_the_table_in_numbers(own_flow) -> None:
    own_flow.make("best", 12, selector="mean_max")
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    text = diff_text(diff)
    for words in (
        "mixture best\n", f"  from {diff.before.fingerprint[:12]}  made ", f"  to   {diff.after.fingerprint[:12]}  made ", "12 examples (current)",
        f"{diff.stayed} stayed, {len(diff.entered)} entered, {len(diff.left)} left; Jaccard {diff.jaccard:.4f}", "budget  9 -> 12",
        "selector  round_robin -> mean_max", f"\nentered  {len(diff.entered)}\n", f"  {len(diff.entered)}  settings or queries changed\n",
        f"    {diff.entered[0].id[:12]}  ", "      changed: selector; it was a candidate already\n", "shares by task\n", "shares by source\n", "sums/sums ",
    ):  # fmt: skip
        assert words in text, words
    rows = {row[0]: row[1:] for row in diff_rows(diff)}
    assert rows["version"] == [diff.before.fingerprint[:12], diff.after.fingerprint[:12]]
    assert rows["examples"] == ["9", "12"] and rows["Jaccard"] == ["", f"{diff.jaccard:.4f}"]
    assert rows["entered: settings or queries changed"] == ["", str(len(diff.entered))]
    source = diff.sources[0]
    assert rows[f"source {source.name}"] == [f"{source.before} ({source.share_before:.1%})", f"{source.after} ({source.share_after:.1%})"]


def test_a_long_list_is_cut_in_the_text_and_whole_in_json(own_flow) -> None:
    own_flow.make("best", 30)
    diff = diff_versions(own_flow.store, "best", "previous", "current")
    text = diff_text(diff)
    assert "    … and 11 more; --json lists all" in text and text.count("9 -> 30; ") == 10
    again = json.loads(json.dumps(asdict(diff), allow_nan=False))
    assert len(again["entered"]) == 21 and again["entered"][0]["id"] == diff.entered[0].id and again["jaccard"] == 0.3


def test_every_reason_has_its_words() -> None:
    from typing import get_args

    from rds_dagster.lineage.reasons import Reason

    assert set(REASON_WORDS) == set(get_args(Reason)) and len(set(REASON_WORDS.values())) == len(REASON_WORDS)
