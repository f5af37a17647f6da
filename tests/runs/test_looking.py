import json
import shutil
from pathlib import Path

import pytest
import yaml

from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.storage.tables import TableStore


@pytest.fixture
def settled(own_project: Path) -> LoadedProject:
    """The copied project with its pools recorded where they lie now: nothing has changed outside."""
    from rds_dagster.pools.look import record_pool

    project = load_project(own_project)
    for pool in project.pools:
        record_pool(TableStore(project.layout), pool.settings, root=project.folder)
    assert changed_outside(project) == {}
    return project


def test_nothing_is_said_of_what_was_never_made(new_project):
    assert changed_outside(load_project(new_project)) == {}


def test_each_kind_of_file_makes_its_own_asset_stale(settled):
    data = settled.folder / "data"
    query = {"id": "a99", "messages": [{"role": "user", "content": "What is 99 plus 1?"}, {"role": "assistant", "content": "100."}]}
    for name in ("sums", "adding", "adding.test"):
        with (data / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(query) + "\n")
    assert changed_outside(settled) == {
        "raw/sums": "the pool's files changed",
        "queries/adding": "the task's queries changed",
        "test_items/adding": "the task's test items changed",
    }


def test_a_rewritten_query_file_with_equal_queries_changes_nothing(settled):
    file = settled.folder / "data" / "places.jsonl"
    file.write_text("\n" + file.read_text().replace('": "', '":   "'))
    assert changed_outside(settled) == {}


def test_files_that_cannot_be_read_any_more_say_why_and_stop_no_other(settled):
    data = settled.folder / "data"
    (data / "sums.jsonl").unlink()
    (data / "towns.jsonl").write_text("")
    (data / "places.jsonl").write_text("no JSON\n")
    found = changed_outside(settled)
    assert set(found) == {"raw/sums", "raw/towns", "queries/places"}
    assert "sums.jsonl" in found["raw/sums"]
    assert "pool towns: all files of data/towns.jsonl are empty" in found["raw/towns"]
    assert "task places: places.jsonl, line 1" in found["queries/places"]


def test_the_encoders_folder_is_looked_at(settled, copy_of_tiny):
    model = copy_of_tiny
    defs = settled.folder / "assets" / "corpus" / "defs.yaml"
    said = yaml.safe_load(defs.read_text())
    said["attributes"]["encoder"]["model"] = str(model)
    defs.write_text(yaml.safe_dump(said))
    assert changed_outside(load_project(settled.folder)) == {}, "equal files elsewhere"
    (model / "tokenizer_config.json").write_text("{}")
    assert changed_outside(load_project(settled.folder)) == {"encoders/tiny": "the encoder's files changed"}
    shutil.rmtree(model)
    (said,) = changed_outside(load_project(settled.folder)).values()
    assert f"model is '{model}': there is no such folder" in said


def test_looking_loads_no_model_and_opens_no_pool_file_that_did_not_change(settled, monkeypatch):
    def refuse(address: str) -> str:
        raise AssertionError(f"opened {address}")

    monkeypatch.setattr("rds_dagster.pools.look.digest_file", refuse)
    assert changed_outside(settled) == {}
    with pytest.raises(AssertionError, match="opened"):
        changed_outside(settled, verify=True)
