import gc
import json

import numpy as np
import pytest
import yaml

from rds_dagster.errors import SettingsError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.runs.summary import ProjectStatus, Stage, demo_summary, project_status, status_json, status_text
from rds_dagster.runs.walk import run_stale
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

IMPOSSIBLE = {"name": "ten_turns", "type": "expect_column_values_to_be_between", "kwargs": {"column": "num_messages", "min_value": 10}, "severity": "critical"}


def test_the_status_counts_rows_and_drops_by_stage(own_project):
    said = project_status(own_project)
    stages = {stage.stage: stage for stage in said.stages}
    assert stages["clean"] == Stage("clean", 3, 31, {"bad_structure": 1})
    assert stages["unique"] == Stage("unique", 3, 30, {"exact_duplicate": 1})
    assert stages["embeddings"] == Stage("embeddings", 3, 30, {})
    assert stages["scores"] == Stage("scores", 2, 60, {})
    assert stages["mixtures"] == Stage("mixtures", 3, 23, {})
    assert said.failing_checks == []


def test_the_status_says_what_is_stale_and_what_may_follow_and_makes_nothing(own_project):
    with (own_project / "data" / "places.jsonl").open("a") as file:
        file.write('{"prompt": "Which town is last?", "response": "Upper J."}\n')
    before = TableStore(Layout.of_project(own_project)).all_manifests()
    said = project_status(own_project)
    assert said.stale["queries/places"] == ["the task's queries changed"]
    assert {"scores/rds/places", "mixtures/best", "reports/best"} <= set(said.following)
    assert "queries/places" not in said.following
    assert TableStore(Layout.of_project(own_project)).all_manifests() == before
    text = status_text(said)
    assert "  queries/places: the task's queries changed\n" in text
    assert f"{len(said.stale)} stale\n" in text
    assert f"{len(said.following)} may follow\n" in text


def test_the_status_of_a_new_project_lists_everything(new_project):
    said = project_status(new_project)
    assert len(said.stale) == 34
    assert said.following == []
    assert {stage.rows for stage in said.stages} == {0}
    assert said.made_on == []


@pytest.mark.parametrize("is_on", [True, False])
def test_the_status_leaves_the_search_for_garbage_as_it_was(is_on, new_project):
    before = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        project_status(new_project)
        assert gc.isenabled() == is_on
        (new_project / "assets" / "corpus" / "defs.yaml").unlink()
        with pytest.raises(SettingsError, match="the project has 0 components of type rds_dagster.components.Corpus"):
            project_status(new_project)
        assert gc.isenabled() == is_on, "also where the project is refused"
    finally:
        (gc.enable if before else gc.disable)()


def test_a_failing_blocking_check_is_in_the_status(own_project):
    defs = own_project / "assets" / "pools" / "sums" / "defs.yaml"
    said = yaml.safe_load(defs.read_text())
    defs.write_text(yaml.safe_dump({**said, "attributes": {**said["attributes"], "checks": [IMPOSSIBLE]}}))
    with (own_project / "data" / "sums.jsonl").open("a") as file:
        file.write('{"prompt": "What is 90 plus 9?", "response": "99."}\n')
    run_stale(own_project, "raw/sums or clean/sums", [].append)
    status = project_status(own_project)
    assert status.failing_checks == ["clean/sums:ten_turns"]
    assert status_text(status).endswith("blocking checks that fail\n  clean/sums:ten_turns")


def test_the_status_says_when_the_vectors_come_from_two_kinds_of_device(own_project):
    said = project_status(own_project)
    assert len(said.made_on) == 1 and "vectors were made on" not in status_text(said)
    store = TableStore(Layout.of_project(own_project))
    made = store.need("embeddings/sums")
    vectors = VectorStore(store.layout, made.text("encoder"), made.number("dims"))
    with vectors.writing():
        vectors.append(np.array([b"x" * 16], ID_DTYPE), np.full((1, vectors.dims), vectors.dims**-0.5, np.float16), np.ones(1, np.int32), "another device")
    said = project_status(own_project)
    assert len(said.made_on) == 2
    assert status_text(said).endswith(f"\nvectors were made on 2 kinds of device or versions: {said.made_on[0]}; {said.made_on[1]}")


def test_the_json_status_holds_all_that_the_text_says():
    said = ProjectStatus("/p", {"raw/a": ["the pool's files changed"]}, ["clean/a"], ["clean/a:x"], [Stage("raw", 1, 2, {"odd": 1})], ["cpu torch 2.13.0"])
    assert json.loads(status_json(said)) == {
        "project": "/p",
        "stale": {"raw/a": ["the pool's files changed"]},
        "following": ["clean/a"],
        "failing_checks": ["clean/a:x"],
        "stages": [{"stage": "raw", "assets": 1, "rows": 2, "dropped": {"odd": 1}}],
        "made_on": ["cpu torch 2.13.0"],
    }


def test_the_text_of_a_status_reads_like_this():
    fresh = ProjectStatus("/p", {}, [], [], [Stage("raw", 2, 12345, {}), Stage("clean", 2, 12000, {"empty": 300, "odd": 45})], ["cpu torch 2.13.0"])
    assert status_text(fresh).splitlines() == [
        "project /p",
        "",
        "stage        assets         rows  dropped",
        "raw               2       12,345",
        "clean             2       12,000  empty 300, odd 45",
        "",
        "nothing is stale",
    ]


def test_the_summary_names_mixtures_files_reports_and_an_example_to_explain(built_project):
    text = demo_summary(built_project.folder)
    assert "best                   9 examples: " in text
    assert "left the flow: clean: bad_structure 1; unique: exact_duplicate 1" in text
    home = built_project.folder / ".rds"
    store = TableStore(Layout.of_project(built_project.folder))
    for key in ("exports/best", "reports/best", "exports/by_chance"):
        assert f"  {home / store.need(key).files[0].path}\n" in text
    first = store.read(store.need("mixtures/adding_only"), "examples", ["id"]).column("id")[0].as_py().hex()
    assert f"  rds explain adding_only {first[:12]}" in text
