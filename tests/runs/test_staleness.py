import dagster as dg
import pytest

from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.staleness import MISSING, descendants, find_stale
from rds_dagster.storage import tables
from rds_dagster.storage.manifest import load_manifests
from rds_dagster.storage.tables import TableStore


def stale(project: LoadedProject, changed: dict[str, str] | None = None) -> dict[str, tuple[str, ...]]:
    with open_instance(project.layout) as instance:
        return {key.to_user_string(): reasons for key, reasons in find_stale(project, instance, changed or {}).stale.items()}


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey(name.split("/"))


def test_before_the_first_run_everything_is_stale_because_it_was_never_materialized(new_project):
    found = stale(load_project(new_project))
    assert len(found) == 34
    assert set(found.values()) == {(MISSING,)}


def test_after_a_run_nothing_is_stale(own_project):
    assert stale(load_project(own_project)) == {}


def test_each_manifest_is_read_once(own_project, monkeypatch):
    """All of unique/* stand in one file: read for each pool, its parsing grows with the square of the pools."""
    read, project = [], load_project(own_project)
    monkeypatch.setattr(tables, "load_manifests", lambda text, *, where: read.append(where) or load_manifests(text, where=where))
    assert stale(project) == {}
    assert str(project.layout.manifests / "unique.json") in read
    assert sorted(read) == sorted(str(path) for path in project.layout.manifests.rglob("*.json"))


def test_what_changed_outside_is_stale_and_what_stands_below_follows(own_project):
    project = load_project(own_project)
    with open_instance(project.layout) as instance:
        found = find_stale(project, instance, {"queries/places": "the task's queries changed"})
    assert found.stale == {key("queries/places"): ("the task's queries changed",)}
    assert {asset.to_user_string() for asset in found.following} == {
        "scores/rds/places",
        "reports/score_distribution",
        "mixtures/best",
        "exports/best",
        "reports/best",
        "reports/composition",
        "reports/overlap",
    }


def test_edited_settings_show_as_a_changed_code_version(own_project):
    defs = own_project / "assets" / "mixtures" / "by_chance" / "defs.yaml"
    defs.write_text(defs.read_text().replace("budget: 9", "budget: 8"))
    assert stale(load_project(own_project)) == {"mixtures/by_chance": ("has a new code version",)}


def test_a_new_pool_shows_in_what_unites_the_pools(own_project):
    folder = own_project / "assets" / "pools" / "more"
    folder.mkdir()
    (folder / "defs.yaml").write_text("type: rds_dagster.components.Pool\nattributes: {name: more, source: data/sums.jsonl}\n")
    found = stale(load_project(own_project))
    assert found["raw/more"] == found["clean/more"] == found["unique/more"] == found["embeddings/more"] == (MISSING,)
    for united in ("unique/sums", "scores/rds/adding"):
        assert found[united], united


def test_a_removed_pool_shows_in_what_unites_the_pools(own_project):
    (own_project / "assets" / "pools" / "chat" / "defs.yaml").unlink()
    found = stale(load_project(own_project))
    assert {"unique/sums", "unique/towns", "scores/rds/adding", "mixtures/by_chance"} <= set(found)
    assert "clean/sums" not in found


@pytest.mark.parametrize("name", ["raw/sums", "unique/chat", "mixtures/best"])
def test_a_manifest_that_is_gone_is_named(name, own_project):
    project = load_project(own_project)
    TableStore(project.layout).forget(name)
    assert stale(project) == {name: ("what it made is gone",)}


def test_a_file_that_is_gone_is_named(own_project):
    project = load_project(own_project)
    store = TableStore(project.layout)
    store.paths(store.need("clean/sums"), "index")[0].unlink()
    assert stale(project) == {"clean/sums": ("a file that it made is gone",)}


def test_data_that_dagster_was_not_told_of_are_named(own_project):
    from dataclasses import replace

    project = load_project(own_project)
    store = TableStore(project.layout)
    store.commit([replace(store.need("raw/sums"), fingerprint="of a run that was killed")])
    assert stale(project) == {"raw/sums": ("what is stored is newer than Dagster's record",)}


def test_descendants_are_all_that_stands_below(own_project):
    project = load_project(own_project)
    below = {asset.to_user_string() for asset in descendants(project, [key("mixtures/by_chance")])}
    assert below == {"exports/by_chance", "reports/by_chance", "reports/best", "reports/composition", "reports/overlap"}
    assert descendants(project, [key("reports/best")]) == set()
    assert key("mixtures/best") in descendants(project, [key("raw/sums"), key("mixtures/best"), key("unique/sums")])
