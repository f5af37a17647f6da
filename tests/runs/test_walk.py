import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rds_dagster.errors import BusyError, SettingsError
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.walk import WalkResult, run_stale, select
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

RDS = str(Path(sys.executable).with_name("rds"))
IMPOSSIBLE = {"name": "ten_turns", "type": "expect_column_values_to_be_between", "kwargs": {"column": "num_messages", "min_value": 10}, "severity": "critical"}
RAW = {"raw/sums", "raw/towns", "raw/chat"}  # also made when the folder has moved, as a copied project's has
BELOW_SUMS = {"unique/sums", "unique/towns", "unique/chat", "embeddings/sums", "scores/rds/adding", "mixtures/best", "exports/best", "reports/best"}


def edit(defs: Path, **attributes: object) -> None:
    """Change attributes of an instance's YAML; None takes one away."""
    said = yaml.safe_load(defs.read_text())
    said["attributes"] = {name: value for name, value in {**said["attributes"], **attributes}.items() if value is not None}
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def ask(question: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}) + "\n"


def walked(folder: Path, selection: str | None = None, *, verify: bool = False) -> tuple[WalkResult, list[str]]:
    said: list[str] = []
    return run_stale(folder, selection, said.append, verify=verify), said


def statuses(folder: Path) -> set[dg.DagsterRunStatus]:
    with open_instance(Layout.of_project(folder)) as instance:
        return {run.status for run in instance.get_runs()}


def contents(folder: Path) -> dict[str, str]:
    """Asset -> fingerprint of its content."""
    return {manifest.key: manifest.fingerprint for manifest in TableStore(Layout.of_project(folder)).all_manifests()}


def test_the_first_run_makes_every_asset_once(built_project, at_hand):
    with at_hand(built_project.folder):
        keys = {key.to_user_string() for key in load_project(built_project.folder).graph.materializable_asset_keys}
    assert sorted(built_project.made) == sorted(keys)
    assert len(keys) == 34


def test_a_project_that_was_moved_looks_at_its_files_again_and_makes_nothing_else(own_project):
    """Then a second run finds nothing stale at all."""
    before = contents(own_project)
    assert set(walked(own_project)[0].made) == RAW
    assert walked(own_project) == (WalkResult(), [])
    assert contents(own_project) == before


def test_a_file_added_to_one_pool_remakes_what_follows_and_nothing_else(own_project):
    (own_project / "data" / "towns").mkdir()
    (own_project / "data" / "towns.jsonl").rename(own_project / "data" / "towns" / "towns.jsonl")
    edit(own_project / "assets" / "pools" / "towns" / "defs.yaml", source="data/towns")
    assert set(walked(own_project)[0].made) == RAW, "the same file under another address: equal content, so nothing follows"

    (own_project / "data" / "towns" / "more.jsonl").write_text(ask("Name the capital of the sea.", "It is called Deep Town."))
    grown, said = walked(own_project)
    assert grown.is_success
    assert {key for key in grown.made if key.split("/")[0] in ("raw", "clean", "provenance")} == {"raw/towns", "clean/towns", "provenance/towns"}
    assert {"unique/sums", "unique/towns", "unique/chat"} <= set(grown.made), "unique/* are made together"
    assert [key for key in grown.made if key.startswith("embeddings/")] == ["embeddings/towns"], "the other pools keep the same conversations"
    assert not [key for key in grown.made if key.startswith(("queries/", "test_items/", "encoders/"))]
    assert {"scores/rds/adding", "scores/rds/places", "reports/score_distribution"} <= set(grown.made)
    assert any("embeddings/towns" in line and "1 computed, 10 reused" in line for line in said)
    assert any("raw/towns: the pool's files changed" in line for line in said)
    assert len(grown.made) == len(set(grown.made)), "each stage once"


def test_a_file_that_was_only_touched_is_recorded_anew_and_can_be_read_again(own_project):
    walked(own_project, "raw/*")
    os.utime(own_project / "data" / "sums.jsonl")
    assert walked(own_project)[0].made == ["raw/sums"]
    edit(own_project / "assets" / "corpus" / "defs.yaml", cleaning={"max_chars": 9000})
    assert walked(own_project, "clean/sums")[0].made == ["clean/sums", "provenance/sums"]


def test_another_encoder_in_the_same_folder_makes_all_vectors_again(own_project, copy_of_tiny):
    model = copy_of_tiny
    defs = own_project / "assets" / "corpus" / "defs.yaml"
    edit(defs, encoder={"name": "tiny", "model": str(model), "dtype": "float32", "max_tokens": 64})
    assert set(walked(own_project)[0].made) == RAW | {"encoders/tiny"}, "the same files elsewhere are the same encoder"
    config = model / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'))
    result, said = walked(own_project, "encoders/tiny+1")
    assert any("encoders/tiny: the encoder's files changed" in line for line in said)
    assert any("embeddings/sums: 12 rows, 12 computed, 0 reused" in line for line in said)
    assert set(result.made) == {"encoders/tiny", "queries/adding", "queries/places", "embeddings/sums", "embeddings/towns", "embeddings/chat"}


def test_the_walk_stops_where_the_content_is_equal(own_project):
    towns = own_project / "data" / "towns.jsonl"
    towns.write_text("".join(reversed(towns.read_text().splitlines(keepends=True))))  # the same conversations at other lines
    result, _ = walked(own_project)
    assert {"raw/towns", "clean/towns", "provenance/towns"} <= set(result.made)
    assert not {key for key in result.made if key.split("/")[0] in ("unique", "embeddings", "scores", "mixtures")}


def test_verify_finds_a_change_that_size_and_time_hide(own_project):
    sums = own_project / "data" / "sums.jsonl"
    walked(own_project)  # the copied files are hashed
    before = sums.stat()
    with sums.open("r+") as file:  # the same file in place, the same length, the old time
        file.write(sums.read_text().replace("What is 0 plus", "What is 9 plus"))
    os.utime(sums, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert walked(own_project)[0].made == []
    assert walked(own_project, "raw/sums", verify=True)[0].made == ["raw/sums"]


def test_a_selection_that_matches_nothing_is_refused_with_the_groups(own_project):
    project = load_project(own_project)
    for selection in ("group:typo", "mixtures/typo", "typo"):
        with pytest.raises(SettingsError, match=rf"selection '{selection}' matches no asset.*; groups are clean, embeddings, "):
            select(project, selection)
    with pytest.raises(SettingsError, match=r"selection 'group:' cannot be read: .*Try a key such as mixtures/NAME"):
        select(project, "group:")


def test_bare_keys_stand_for_dagsters_words(own_project):
    project = load_project(own_project)

    def selected(selection: str) -> set[str]:
        return {key.to_user_string() for key in select(project, selection)}

    assert selected("mixtures/best") == selected('key:"mixtures/best"') == {"mixtures/best"}
    assert selected("raw/*") == selected("group:raw") == {"raw/sums", "raw/towns", "raw/chat"}
    assert selected("mixtures/best or raw/sums") == {"mixtures/best", "raw/sums"}
    assert selected("scores/rds/adding+1") >= {"scores/rds/adding", "mixtures/adding_only"}
    assert selected("+mixtures/best") >= {"raw/sums", "encoders/tiny", "unique/chat", "scores/rds/places", "mixtures/best"}
    assert "exports/best" not in selected("+mixtures/best")
    assert "exports/best" in selected("mixtures/best+")


def test_a_part_of_what_is_made_together_is_widened_to_all_of_it(own_project):
    project = load_project(own_project)
    assert {key.to_user_string() for key in select(project, "unique/sums")} == {"unique/sums", "unique/towns", "unique/chat"}
    assert {key.to_user_string() for key in select(project, "clean/sums")} == {"clean/sums", "provenance/sums"}
    assert {key.to_user_string() for key in select(project, "embeddings/sums")} == {"embeddings/sums"}, "embeddings can be made pool by pool"


def test_only_the_selection_is_made(own_project):
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    assert set(walked(own_project, "raw/sums or clean/sums")[0].made) == {"raw/sums", "clean/sums", "provenance/sums"}
    assert "unique/sums" in walked(own_project, "+unique/sums")[0].made


def test_what_is_stale_above_the_selection_is_named_once(own_project):
    result, said = walked(own_project, "unique/*")  # the project was moved, so raw/* are stale
    assert said == ["not selected, but stale upstream: raw/chat, raw/sums, raw/towns (add + before a key to include what is above it)"]
    assert result == WalkResult()
    assert not [line for line in walked(own_project, "+unique/*")[1] if line.startswith("not selected")]
    assert walked(own_project, "unique/*")[1] == []


def test_a_run_sweeps_up_what_killed_ones_left(own_project):
    home = own_project / ".rds"
    left = [home / "tables" / ".a.parquet.0123abcd.partial", home / "mixtures" / "best" / ".00ff.0123abcd"]
    left[0].write_bytes(b"half")
    left[1].mkdir()
    for path in left:
        os.utime(path, (0, 0))
    walked(own_project, "raw/*")
    assert not any(path.exists() for path in left)
    assert TableStore(Layout.of_project(own_project)).need("mixtures/best").counts.kept == 9


def test_a_failing_blocking_check_holds_back_what_is_downstream_until_it_is_mended(own_project):
    defs = own_project / "assets" / "pools" / "sums" / "defs.yaml"
    edit(defs, checks=[IMPOSSIBLE])
    for pool in ("sums", "towns"):
        with (own_project / "data" / f"{pool}.jsonl").open("a") as file:
            file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    result, said = walked(own_project)
    assert not result.is_success
    assert {"clean/sums", "clean/towns", "provenance/towns"} <= set(result.made), "the other branch goes on"
    assert set(result.blocked) >= BELOW_SUMS
    assert set(result.blocked.values()) == {"blocked by the failing check clean/sums:ten_turns"}
    assert any(line.startswith("! check clean/sums:ten_turns failed: Broken (13 unexpected)") for line in said)

    again, said = walked(own_project)  # nothing mended: a new Dagster run does not slip past the check
    assert again.made == []
    assert set(again.blocked) >= BELOW_SUMS
    assert said == ["check clean/sums:ten_turns still fails"]

    edit(defs, checks=[{**IMPOSSIBLE, "kwargs": {"column": "num_messages", "min_value": 2}}])
    healed, said = walked(own_project, "unique/* or embeddings/*")
    assert "check clean/sums:ten_turns passes now" in said
    assert healed.is_success
    assert {"unique/sums", "embeddings/sums"} <= set(healed.made)


def test_a_blocking_check_that_cannot_run_holds_back_what_is_downstream_in_every_run_until_it_is_mended(own_project):
    defs = own_project / "assets" / "pools" / "sums" / "defs.yaml"
    edit(defs, checks=[{**IMPOSSIBLE, "type": "expect_column_values_to_be_betwen"}])
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    for made in ({*RAW, "clean/sums", "provenance/sums"}, set()):
        result, said = walked(own_project)
        assert set(result.made) == made
        assert set(result.failed) == {"clean/sums"}
        assert "its checks could not run: " in result.failed["clean/sums"] and "betwen" in result.failed["clean/sums"]
        assert f"✗ clean/sums: {result.failed['clean/sums']}" in said
        assert set(result.blocked) >= BELOW_SUMS
    edit(defs, checks=None)
    healed, _ = walked(own_project, "unique/*")
    assert healed.is_success
    assert "unique/sums" in healed.made


def test_an_asset_whose_check_could_not_run_is_made_and_checked_anew_when_its_file_changes(own_project):
    defs = own_project / "assets" / "pools" / "sums" / "defs.yaml"
    edit(defs, checks=[{**IMPOSSIBLE, "type": "expect_column_values_to_be_betwen"}])
    for question in ("What is 90 plus 9?", "What is 80 plus 8?"):
        with (own_project / "data" / "sums.jsonl").open("a") as file:
            file.write(ask(question, "It is a sum."))
        result, _ = walked(own_project, "+unique/sums")
        assert {"clean/sums", "provenance/sums"} <= set(result.made)
        assert set(result.failed) == {"clean/sums"}
        assert not [key for key in result.made if key.startswith("unique/")]


def test_a_check_that_a_killed_run_left_out_is_made_up_for(own_project):
    edit(own_project / "assets" / "pools" / "sums" / "defs.yaml", checks=[IMPOSSIBLE])
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    project = load_project(own_project)
    with open_instance(project.layout) as instance:  # as if the process had died between the assets and their checks
        job = project.repository.get_implicit_global_asset_job_def()
        keys = [dg.AssetKey(["raw", "sums"]), dg.AssetKey(["clean", "sums"]), dg.AssetKey(["provenance", "sums"])]
        without_checks = job.get_subset(asset_selection=set(keys), asset_check_selection=set())
        assert without_checks.execute_in_process(instance=instance).success
    result, said = walked(own_project)
    assert "check clean/sums:ten_turns still fails" in said
    assert set(result.made) <= RAW
    assert set(result.blocked) >= BELOW_SUMS


def test_a_manifest_that_was_written_but_not_recorded_is_stale_and_its_data_are_reused(own_project):
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    project = load_project(own_project)
    store = TableStore(project.layout)
    from rds_dagster.cleaning.clean import clean_pool
    from rds_dagster.pools.look import record_pool

    record_pool(store, project.pools[0].settings, root=own_project)  # a run that dies before it tells Dagster
    clean_pool(store, project.pools[0].settings, project.corpus.cleaning_settings, root=own_project)
    result, said = walked(own_project, "raw/sums or clean/sums")
    assert set(result.made) == {"raw/sums", "clean/sums", "provenance/sums"}
    assert any("raw/sums: what is stored is newer than Dagster's record" in line for line in said)
    assert any("clean/sums: 13 rows, 0 computed, 13 reused" in line for line in said)
    assert walked(own_project, "raw/sums or clean/sums")[0].made == []


@pytest.mark.parametrize(
    "deleted", [["clean/sums", "unique/sums", "queries/adding", "scores/rds/adding", "reports/overlap"], ["mixtures/best", "exports/best", "reports/best"]]
)
def test_files_that_someone_deleted_are_made_again_with_the_same_content(deleted, own_project):
    store = TableStore(Layout.of_project(own_project))
    before = contents(own_project)
    for key in deleted:
        for file in store.need(key).files:
            (own_project / ".rds" / file.path).unlink()
    result, said = walked(own_project)
    assert result.is_success, result.failed
    assert set(deleted) <= set(result.made)
    for key in deleted:
        assert f"  {key}: a file that it made is gone" in said
    if "clean/sums" in deleted:
        assert "  provenance/sums: made together with what is stale" in said
    assert contents(own_project) == before


def test_a_budget_above_supply_fails_its_mixture_with_the_numbers_and_no_other(own_project):
    edit(own_project / "assets" / "mixtures" / "adding_only" / "defs.yaml", budget=31)
    edit(own_project / "assets" / "mixtures" / "best" / "defs.yaml", budget=10)
    result, _ = walked(own_project)
    assert set(result.failed) == {"mixtures/adding_only"}
    assert re.match(r"BudgetError: .*'adding_only' asks for 31 .*30", result.failed["mixtures/adding_only"])
    assert result.blocked["exports/adding_only"] == "mixtures/adding_only failed"
    assert {"mixtures/best", "exports/best", "reports/best"} <= set(result.made)
    assert TableStore(Layout.of_project(own_project)).need("mixtures/adding_only").counts.kept == 5, "the last good version stays"


def test_a_budget_above_supply_fails_before_anything_is_embedded(new_project):
    """As soon as unique/* are there; the other branches are finished."""
    edit(new_project / "assets" / "mixtures" / "adding_only" / "defs.yaml", budget=31)
    edit(new_project / "assets" / "mixtures" / "by_chance" / "defs.yaml", budget=11, pools=["towns"])
    result, said = walked(new_project)
    places = {key: next(n for n, line in enumerate(said) if line.startswith(f"✓ {key}: ")) for key in ("unique/sums", "embeddings/sums", "scores/rds/adding")}
    refusals = [said.index(f"✗ {key}: {message}") for key, message in result.failed.items()]
    assert places["unique/sums"] < min(refusals) and max(refusals) < places["embeddings/sums"] < places["scores/rds/adding"]
    assert set(result.failed) == {"mixtures/adding_only", "mixtures/by_chance"}
    assert re.match(r"BudgetError: mixture 'adding_only' asks for 31 examples; its 3 pools hold 30 unique ones", result.failed["mixtures/adding_only"])
    assert re.match(r"BudgetError: mixture 'by_chance' asks for 11 examples; its 1 pools hold 10 unique ones", result.failed["mixtures/by_chance"])
    assert not result.is_success
    assert {"mixtures/best", "exports/best", "scores/rds/places"} <= set(result.made)
    assert "exports/adding_only" in result.blocked


def test_a_budget_is_judged_by_the_supply_after_the_change(own_project):
    """30 are there when the run begins, 31 once the new file is read."""
    edit(own_project / "assets" / "mixtures" / "by_chance" / "defs.yaml", budget=31)
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    result, _ = walked(own_project, "+mixtures/by_chance")
    assert result.is_success
    assert TableStore(Layout.of_project(own_project)).need("mixtures/by_chance").counts.kept == 31


def test_a_mixture_that_may_be_short_is_not_refused(own_project):
    edit(own_project / "assets" / "mixtures" / "by_chance" / "defs.yaml", budget=31, allow_short=True)
    result, _ = walked(own_project, "mixtures/by_chance")
    assert result.is_success
    assert TableStore(Layout.of_project(own_project)).need("mixtures/by_chance").counts.kept == 30


def test_each_failed_asset_says_its_own_reason(own_project):
    edit(own_project / "assets" / "mixtures" / "adding_only" / "defs.yaml", budget=31)
    edit(own_project / "assets" / "mixtures" / "by_chance" / "defs.yaml", budget=32)
    result, _ = walked(own_project)
    assert "asks for 31" in result.failed["mixtures/adding_only"]
    assert "asks for 32" in result.failed["mixtures/by_chance"]


def test_a_truncated_gzip_fails_its_pool_alone_and_keeps_the_last_good_state(own_project):
    near = "group:raw or group:clean or group:unique"
    edit(own_project / "assets" / "pools" / "towns" / "defs.yaml", source="data/towns.jsonl*")
    before = contents(own_project)
    packed = gzip.compress("".join(ask(f"Name place {n}.", f"It is {n * n}.") for n in range(500)).encode())
    (own_project / "data" / "towns.jsonl.more.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    result, _ = walked(own_project, near)
    assert set(result.failed) == {"clean/towns", "provenance/towns"}
    assert all(re.match(r"InputError: .*towns\.jsonl\.more\.jsonl\.gz", message) for message in result.failed.values())
    assert {"raw/sums", "clean/sums", "provenance/sums"} <= set(result.made)
    assert result.blocked["unique/sums"] == "clean/towns failed"
    after = contents(own_project)
    for key in ("clean/towns", "unique/towns", "mixtures/best", "exports/best"):
        assert after[key] == before[key]
    (own_project / "data" / "towns.jsonl.more.jsonl.gz").write_bytes(packed)
    assert walked(own_project, near)[0].is_success
    assert TableStore(Layout.of_project(own_project)).need("clean/towns").counts.kept == 510


def test_a_pool_whose_file_is_gone_fails_alone(own_project):
    (own_project / "data" / "chat.jsonl").unlink()
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write(ask("What is 90 plus 9?", "90 plus 9 is 99."))
    result, _ = walked(own_project)
    assert set(result.failed) == {"raw/chat"}
    assert re.match(r"InputError: .*chat\.jsonl", result.failed["raw/chat"])
    assert "clean/sums" in result.made
    assert TableStore(Layout.of_project(own_project)).need("clean/chat").counts.kept == 9


def test_an_unknown_model_fails_the_encoder_in_words(new_project):
    edit(new_project / "assets" / "corpus" / "defs.yaml", encoder={"name": "tiny", "model": "/nowhere/at/all", "dtype": "float32"})
    result, _ = walked(new_project, "encoders/tiny or raw/sums or queries/adding")
    assert result.made == ["raw/sums"]
    assert result.failed["encoders/tiny"].startswith("SettingsError: encoder 'tiny': model is '/nowhere/at/all': there is no such folder.")
    assert result.blocked == {"queries/adding": "encoders/tiny failed"}


def test_two_runs_at_once_the_second_says_who_holds_the_project(own_project, monkeypatch):
    with project_lock(Layout.of_project(own_project), 0.0):
        monkeypatch.setattr("rds_dagster.runs.walk.LOCK_TIMEOUT_S", 0.2)
        with pytest.raises(BusyError, match=rf"{own_project}/\.rds is held by process {os.getpid()} \(.*\); wait for it to end or stop it, then try again"):
            walked(own_project)


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_begins_nothing_more(asked, new_project):
    with subprocess.Popen([RDS, "run"], cwd=new_project, stderr=subprocess.PIPE, text=True) as stopped:
        assert stopped.stderr is not None
        said = [next(stopped.stderr)]
        wait_for_started_run(new_project)
        stopped.send_signal(asked)
        said += list(stopped.stderr)
    assert stopped.returncode == 1
    assert said[-1] == "Aborted!\n"
    assert not any("mixtures/best" in line for line in said)
    assert dg.DagsterRunStatus.STARTED not in statuses(new_project)


@pytest.mark.slow
def test_a_killed_run_is_finished_by_the_next_one(new_project, built_project):
    """Killed with -9 in the middle of its steps: nothing half-made is taken for whole, and no run stays started."""
    selection = "+unique/sums or +queries/*"
    killed = subprocess.Popen([RDS, "run", selection], cwd=new_project, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert killed.stderr is not None
        for line in killed.stderr:
            if line.startswith("making") and "clean/" in line:  # the second Dagster run begins
                break
        wait_for_started_run(new_project)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()  # not communicate(): a log tail of dagster's may outlive the killed process for a while and keep the pipes open
        killed.stderr.close()
        killed.stdout.close()
    assert killed.returncode == -signal.SIGKILL
    assert dg.DagsterRunStatus.STARTED in statuses(new_project)
    result, said = walked(new_project, selection)
    assert result.is_success
    assert re.fullmatch(r"run [0-9a-f]{8} was killed; marked as failed", said[0])
    assert "unique/sums" in result.made
    assert not set(result.made) & RAW, "what was finished is kept"
    assert statuses(new_project) == {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
    undisturbed = contents(built_project.folder)
    assert contents(new_project).items() <= undisturbed.items(), "the same content as from a run that nobody killed"


def wait_for_started_run(folder: Path, timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while dg.DagsterRunStatus.STARTED not in statuses(folder):
        assert time.monotonic() < until, f"no run started within {timeout_s} s"
        time.sleep(0.05)
