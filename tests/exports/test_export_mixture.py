"""Exports of small mixtures: files, provenance as it stands now, and a manifest of everything that led there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.exports.export_mixture import export_mixture, export_to, write_files
from rds_dagster.exports.formats import EXPORTED
from rds_dagster.storage.manifest import load_manifests


def files_of(flow, name: str) -> dict[str, Path]:
    return {file.path.rsplit("/", 1)[1]: flow.store.layout.home / file.path for file in flow.store.need(f"exports/{name}").files}


def licenses(flow) -> dict[str, str]:
    return {pool: f"licence of {pool}" for pool in flow.pools}


def test_both_formats_hold_the_mixture(flow) -> None:
    rows = flow.store.read(flow.mixtures["best"].manifest, "examples").to_pylist()
    files = files_of(flow, "best")
    lines = [json.loads(line) for line in files["messages.jsonl"].read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"].hex() for row in rows]
    assert pq.read_table(files["examples.parquet"]).schema == EXPORTED
    assert [row["id"] for row in pq.read_table(files["examples.parquet"]).to_pylist()] == [line["id"] for line in lines]


def test_each_line_can_be_found_at_its_place(own_flow) -> None:
    own_flow.make("everything", 34)
    export_mixture(own_flow.store, "everything", ["messages"], licenses(own_flow))
    lines = [json.loads(line) for line in files_of(own_flow, "everything")["messages.jsonl"].read_text().splitlines()]
    assert len(lines) == 34
    for line in lines:
        for place in line["provenance"]:
            read = (own_flow.root / "pools" / place["pool"] / place["file"]).read_text().splitlines()[place["line"] - 1]
            assert json.loads(read)["messages"] == line["messages"] and json.loads(read).get("id") == place["original_id"]
    assert sorted(len(line["provenance"]) for line in lines) == [1] * 33 + [2]


def test_the_manifest_says_everything_that_led_there(flow) -> None:
    manifest, mixture = flow.store.need("exports/best"), flow.store.need("mixtures/best")
    assert manifest == flow.exports["best"]
    assert set(manifest.parents) == {"mixtures/best", *(f"provenance/{pool}" for pool in flow.pools)}
    assert manifest.settings == {"formats": ["messages", "parquet"]} and manifest.counts == mixture.counts
    assert manifest.text("mixture") == mixture.fingerprint
    assert manifest.details["mixture_settings"] == mixture.settings
    assert manifest.details["licenses"] == {pool: f"licence of {pool}" for pool in flow.pools}
    assert manifest.details["upstream"] == mixture.details["upstream"]
    assert all(said["fingerprint"] for said in manifest.details["upstream"].values())  # type: ignore[attr-defined]
    assert {"duckdb", "lancedb", "numpy", "pyarrow", "rds-dagster"} <= set(manifest.versions)
    folder = files_of(flow, "best")["messages.jsonl"].parent
    assert load_manifests((folder / "manifest.json").read_text(), where="the folder") == [manifest]


def test_exporting_again_does_nothing(own_flow) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_flow.store.layout.exports.rglob("*")}
    assert export_mixture(own_flow.store, "best", ["messages", "parquet"], licenses(own_flow)) == own_flow.exports["best"]
    assert {path: path.stat().st_mtime_ns for path in own_flow.store.layout.exports.rglob("*")} == before


def test_a_deleted_file_is_written_again(own_flow) -> None:
    path = files_of(own_flow, "best")["messages.jsonl"]
    before = path.read_bytes()
    path.unlink()
    assert export_mixture(own_flow.store, "best", ["messages", "parquet"], licenses(own_flow)).fingerprint == own_flow.exports["best"].fingerprint
    assert path.read_bytes() == before


def test_a_moved_line_changes_the_provenance_and_not_the_mixture(own_flow, run_flow: Callable) -> None:
    towns = own_flow.root / "pools/towns/all.jsonl"
    towns.write_text("\n" + towns.read_text())
    again = run_flow(own_flow.root, own_flow.root / "home", own_flow.encoder)
    assert again.mixtures["best"].manifest.fingerprint == own_flow.mixtures["best"].manifest.fingerprint
    rows = [json.loads(line) for line in files_of(again, "best")["messages.jsonl"].read_text().splitlines()]
    moved = [place for row in rows for place in row["provenance"] if place["pool"] == "towns"]
    assert moved and again.exports["best"].fingerprint != own_flow.exports["best"].fingerprint
    assert all(json.loads(towns.read_text().splitlines()[place["line"] - 1]) for place in moved)


def test_export_to_writes_one_file_and_its_manifest_into_any_folder_under_the_mixtures_name(flow, tmp_path: Path) -> None:
    path = export_to(flow.store, "best", "messages", tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "best.messages.jsonl"
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.manifest.json", "best.messages.jsonl"]
    assert load_manifests(path.with_name("best.manifest.json").read_text(), where="there") == [flow.mixtures["best"].manifest]
    assert path.read_bytes() == files_of(flow, "best")["messages.jsonl"].read_bytes()


def test_an_older_version_is_exported_from_its_own_folder_alone(own_flow, tmp_path: Path) -> None:
    first = own_flow.mixtures["best"].manifest.fingerprint
    before = export_to(own_flow.store, "best", "messages", tmp_path).read_bytes()
    own_flow.make("best", 12)
    layout = own_flow.store.layout
    shutil.rmtree(layout.tables)
    shutil.rmtree(layout.manifests / "provenance")
    path = export_to(own_flow.store, "best", "messages", tmp_path, version=first[:8])
    assert path == tmp_path / f"best.{first[:12]}.messages.jsonl" and path.read_bytes() == before
    (manifest,) = load_manifests((tmp_path / f"best.{first[:12]}.manifest.json").read_text(), where="the folder")
    assert manifest == own_flow.mixtures["best"].manifest
    with pytest.raises(SettingsError, match="mixture 'best' has no version 'beef0'"):
        export_to(own_flow.store, "best", "messages", tmp_path, version="beef0")


def test_an_unknown_format_is_refused(flow, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the export format is 'csv'; expected one of messages, parquet"):
        export_to(flow.store, "best", "csv", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_mixture_is_refused_with_those_that_are_there(flow, own_flow, tmp_path: Path) -> None:
    words = r"mixture 'bets' is not there; made so far: best, by_chance\. Run `rds run '\+mixtures/bets'` or mend the name"
    with pytest.raises(StateError, match=words):
        export_to(flow.store, "bets", "messages", tmp_path)
    for name in ("best", "by_chance"):
        own_flow.store.forget(f"mixtures/{name}")
    with pytest.raises(StateError, match="made so far: none yet"):
        export_to(own_flow.store, "best", "messages", tmp_path)


def test_a_mixture_that_lost_rows_is_refused(own_flow, tmp_path: Path) -> None:
    mixture = own_flow.store.need("mixtures/best")
    (path,) = own_flow.store.paths(mixture, "examples")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(StateError, match="mixtures/best has 8 rows and its manifest says 9; run `rds run 'mixtures/best'`"):
        write_files(own_flow.store, mixture, ["messages"], tmp_path, licenses(own_flow))


def test_a_changed_licence_makes_the_export_anew_with_it(own_flow) -> None:
    again = export_mixture(own_flow.store, "best", ["messages", "parquet"], {**licenses(own_flow), "chat": "CC0"})
    assert again.details["licenses"]["chat"] == "CC0"
    assert again.fingerprint != own_flow.exports["best"].fingerprint
