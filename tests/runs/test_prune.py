"""`rds prune` in a real small project: what goes, what stays, and that nothing is missed afterwards.

A walk takes seconds, so few tests tell longer stories.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from rds_dagster.cleaning.unique import owned_ids
from rds_dagster.cli import main
from rds_dagster.errors import BusyError, SettingsError
from rds_dagster.exports.export_mixture import export_to
from rds_dagster.lineage.diff import diff_versions
from rds_dagster.lineage.explain import explain
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.orphans import process_tags
from rds_dagster.runs.prune import BLOCKS, DEAD_SHARE, EXPORTS, FILES, REPORTS, ROWS, SHARDS, TABLES, Freed, Pruned, prune_project, pruned_text, refuse_running
from rds_dagster.runs.walk import WalkResult, run_stale
from rds_dagster.storage.ids import positions_in
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore, stored_tables

POOLS = ("sums", "towns", "chat")
KILLED = """
import os, signal, sys
from pathlib import Path
import rds_dagster.runs.prune as prune
left = [int(sys.argv[2])]
def count(event, arguments):
    is_removal = event in ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree")
    if is_removal and left[0] >= 0 and "/.rds/" in str(arguments[0]) and "/locks/" not in str(arguments[0]):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
really = prune.unneeded_files
def unneeded(*arguments):
    found = really(*arguments)
    sys.addaudithook(count)  # from the first removal on
    return found
prune.unneeded_files = unneeded
prune.prune_project(Path(sys.argv[1]))
"""


def edit(defs: Path, **attributes: object) -> None:
    """Change attributes of an instance's YAML."""
    said = yaml.safe_load(defs.read_text())
    said["attributes"].update(attributes)
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def pool_by(folder: Path, pooling: str) -> None:
    """Another encoder: the same model, pooled otherwise."""
    encoder = {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": 64, "pooling": pooling}
    edit(folder / "assets" / "corpus" / "defs.yaml", encoder=encoder)


def walked(folder: Path, selection: str | None = None) -> WalkResult:
    result = run_stale(folder, selection, lambda line: None)
    assert result.is_success, result
    return result


def made(folder: Path, group: str) -> set[str]:
    return {key for key in walked(folder).made if key.startswith(group)}


def store_of(folder: Path) -> TableStore:
    return TableStore(Layout.of_project(folder))


def vectors_of(folder: Path) -> VectorStore:
    manifest = store_of(folder).need("embeddings/sums")
    return VectorStore(Layout.of_project(folder), manifest.text("encoder"), manifest.number("dims"))


def state(folder: Path, *, vectors: bool = True) -> set[str]:
    """What lies in the state, Dagster's own, locks and caches apart."""
    home = Layout.of_project(folder).home
    apart = {"dagster", "locks", "warehouse.duckdb", "digests.json", *([] if vectors else ["vectors.lance"])}
    paths = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return {str(path) for path in paths if path.parts[0] not in apart and not path.name.startswith(".")}


def kinds(pruned: Pruned) -> dict[str, int]:
    return {freed.kind: freed.count for freed in pruned.freed}


def contents(folder: Path) -> dict[str, str]:
    return {manifest.key: manifest.fingerprint for manifest in store_of(folder).all_manifests()}


def refuse_harm(folder: Path) -> None:
    """Every file of the current state is there, and every kept example has its vector."""
    store = store_of(folder)
    assert not [file.path for m in store.all_manifests() for file in m.files if not (store.layout.home / file.path).exists()]
    live = owned_ids(store, POOLS)
    assert positions_in(np.sort(vectors_of(folder).ids()), live)[1].all()


def first_example(folder: Path, version: str) -> str:
    path = Layout.of_project(folder).mixtures / "best" / version / "examples.parquet"
    return pq.read_table(path, columns=["id"]).column("id")[0].as_py().hex()


@pytest.mark.slow
def test_vectors_of_an_encoder_go_when_no_kept_version_names_it(own_project, tmp_path):
    """The encoder is changed: pinned, kept by number, then dropped; and back again."""
    walked(own_project, "raw/*")
    before, old = contents(own_project), vectors_of(own_project)
    pool_by(own_project, "mean")
    stale = prune_project(own_project)
    assert kinds(stale).keys() <= {FILES}, "raw/* was recorded anew"
    assert stale.left[0].startswith("all vectors: encoders/tiny is not current, so it is not known which of them the next run needs; run `rds run 'encoders/")
    walked(own_project)
    new = vectors_of(own_project)
    assert {table.encoder for table in stored_tables(old.layout)} == {old.encoder, new.encoder}

    lay = state(own_project)
    for kept in (prune_project(own_project, keep=2, dry_run=True), prune_project(own_project, dry_run=True)):
        assert kept.is_dry_run and state(own_project) == lay, "a dry run changes nothing"
    mixture = own_project / "assets" / "mixtures" / "best" / "defs.yaml"
    edit(mixture, pinned=["abcdef"])
    with pytest.raises(SettingsError, match=r"mixture 'best' has no version 'abcdef'; expected current, previous, or 4 or more first digits of "):
        prune_project(own_project)
    assert state(own_project) == lay
    edit(mixture, pinned=[before["mixtures/best"][:12]])
    assert project_is_fresh(own_project), "a pin is no setting of the mixture"
    pinned = prune_project(own_project)
    assert TABLES not in kinds(pinned)
    assert f"rows of embeddings_{old.encoder}: version {before['mixtures/best'][:12]} of mixtures/best, which is kept, was made with it" in "".join(pinned.left)
    assert kinds(pinned)[EXPORTS] == 1, "the export of the pinned version stays, that of adding_only goes, and by_chance is what it was"
    edit(mixture, pinned=[])
    assert TABLES not in kinds(prune_project(own_project, keep=2))

    size = old.num_bytes()
    dropped = prune_project(own_project)
    assert {freed.kind: freed for freed in dropped.freed}[TABLES] == Freed(TABLES, 1, size)
    assert stored_tables(old.layout) == [new]
    refuse_harm(own_project)
    assert prune_project(own_project) == Pruned((), (), is_dry_run=False)
    assert walked(own_project) == WalkResult()
    store, version = store_of(own_project), before["mixtures/best"]
    assert explain(store, "best", first_example(own_project, version), version=version[:12]).version == version
    assert export_to(store, "best", "messages", tmp_path / "out", version="previous").read_text().count("\n") == 9
    assert diff_versions(store, "best", "previous", "current").before.fingerprint == version

    pool_by(own_project, "weighted_mean")
    assert made(own_project, "embeddings/") == {f"embeddings/{pool}" for pool in POOLS}
    assert old.num_rows() == 30, "embedded again"
    assert {key: value for key, value in contents(own_project).items() if not key.startswith("reports/")} == {
        key: value for key, value in before.items() if not key.startswith("reports/")
    }


def project_is_fresh(folder: Path) -> bool:
    from rds_dagster.runs.summary import project_status

    return not project_status(folder).stale


@pytest.mark.slow
def test_what_left_the_project_goes_and_comes_back_when_it_does(own_project):
    """A pool shrinks, a mixture is removed; then both are put back, and everything is what it was."""
    walked(own_project, "raw/*")
    before, towns = contents(own_project), own_project / "data" / "towns.jsonl"
    whole, mixture = towns.read_text(), own_project / "assets" / "mixtures" / "adding_only"
    aside = shutil.move(mixture, own_project / "aside")
    towns.write_text("".join(whole.splitlines(keepends=True)[3:]))
    stale = prune_project(own_project)
    assert (kinds(stale)[EXPORTS], kinds(stale)[REPORTS]) == (1, 1), "the removed mixture's"
    assert stale.left == (f"rows of {vectors_of(own_project).table_name}: raw/towns is not current; run `rds run '+embeddings/*'` first",)
    walked(own_project)

    guess, pruned = prune_project(own_project, dry_run=True), prune_project(own_project)
    assert kinds(guess) == kinds(pruned)
    assert kinds(pruned)[ROWS] == 3 and kinds(pruned)[SHARDS] == 3 and kinds(pruned)[BLOCKS] == 4, "two tasks, scores and top lists"
    assert pruned.left == ()
    vectors = vectors_of(own_project)
    live = owned_ids(store_of(own_project), POOLS)
    assert vectors.num_rows() == len(live) == 27 and (np.sort(vectors.ids()) == live).all()
    refuse_harm(own_project)
    assert prune_project(own_project).freed == ()
    assert walked(own_project) == WalkResult()
    assert explain(store_of(own_project), "best", first_example(own_project, contents(own_project)["mixtures/best"])).mixture == "best"

    towns.write_text(whole)
    shutil.move(aside, mixture)
    assert made(own_project, "embeddings/") == {"embeddings/towns"}
    assert contents(own_project) == before
    assert vectors.num_rows() == 30
    grown = kinds(prune_project(own_project))
    assert grown.get(ROWS, 0) == 0 and {TABLES, REPORTS}.isdisjoint(grown), "only what came before is left to go"
    refuse_harm(own_project)
    assert contents(own_project) == before


def test_few_dead_rows_stay_where_the_rest_would_be_scored_anew(own_project, monkeypatch):
    walked(own_project, "raw/*")
    vectors, towns = vectors_of(own_project), own_project / "data" / "towns.jsonl"
    monkeypatch.setattr("rds_dagster.runs.prune.block_rows", lambda dims: 16)
    lines = towns.read_text().splitlines(keepends=True)
    towns.write_text("".join(lines[1:]))
    walked(own_project, "+embeddings/*")
    few = prune_project(own_project, dry_run=True)
    assert few.left == (f"1 rows of {vectors.table_name}: 3.3% of it, and without them nearly all would be scored anew; they go at 5%",)
    assert kinds(few).get(ROWS, 0) == 0
    towns.write_text("".join(lines[2:]))
    walked(own_project, "+embeddings/*")
    assert DEAD_SHARE < 2 / 30
    assert kinds(prune_project(own_project))[ROWS] == 2 and vectors.num_rows() == 28


def test_a_run_in_progress_is_not_disturbed(own_project):
    layout = Layout.of_project(own_project)
    lay = state(own_project)
    with open_instance(layout) as instance:
        run = instance.create_run_for_job(load_project(own_project).repository.get_implicit_global_asset_job_def(), tags=process_tags())
        with pytest.raises(BusyError, match=rf"1 Dagster runs are not finished: {run.run_id[:8]} \(not_started\); let them end, or cancel them in the UI"):
            prune_project(own_project)
        instance.report_run_failed(run, "gone")
        refuse_running(instance)
    with project_lock(layout, 1.0), pytest.raises(BusyError, match="the project state .* is held by process "):
        prune_project(own_project)
    assert state(own_project) == lay


@pytest.mark.slow
def test_a_prune_that_is_killed_harms_nothing_and_is_ended_by_the_next(own_project, tmp_path):
    walked(own_project, "raw/*")
    pool_by(own_project, "mean")
    walked(own_project)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(Layout.of_project(own_project).home, undisturbed)
    for number in (0, 4, 9):
        killed = subprocess.run([sys.executable, "-c", KILLED, own_project, str(number)], capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        refuse_harm(own_project)
    assert TABLES in kinds(prune_project(own_project))
    ended = state(own_project)
    refuse_harm(own_project)
    assert walked(own_project) == WalkResult()
    shutil.rmtree(Layout.of_project(own_project).home)
    shutil.copytree(undisturbed, Layout.of_project(own_project).home)
    prune_project(own_project)
    assert {path for path in state(own_project) if not path.startswith("vectors.lance")} == {path for path in ended if not path.startswith("vectors.lance")}


def test_the_command_says_what_is_freed_on_stdout_and_what_is_left_on_stderr(own_project):
    pool_by(own_project, "mean")
    (store_of(own_project).layout.score_blocks / "0f").mkdir()
    (store_of(own_project).layout.score_blocks / "0f" / "1.parquet").write_bytes(b"x" * 2048)
    for words, last in ((["--dry-run"], "would be freed"), ([], "freed")):
        said = CliRunner().invoke(main, ["prune", *words])
        assert said.exit_code == 0
        assert said.stdout == f"   2.0 KiB          1 {BLOCKS}\n   2.0 KiB  {last}\n"
        assert said.stderr.startswith("left: all vectors: encoders/tiny is not current")
    assert not (store_of(own_project).layout.score_blocks / "0f").exists()
    assert CliRunner().invoke(main, ["prune"]).stdout == "nothing to prune\n"


def test_sizes_are_said_in_the_unit_that_fits():
    freed = (Freed(TABLES, 1, 3 * 2**30), Freed(ROWS, 1234, 5 * 2**20 + 2**19), Freed(BLOCKS, 2, 12), Freed(SHARDS, 3, 2**50))
    assert pruned_text(Pruned(freed, (), is_dry_run=True)).splitlines() == [
        f"   3.0 GiB          1 {TABLES}",
        f"   5.5 MiB      1,234 {ROWS}",
        f"      12 B          2 {BLOCKS}",
        f"1024.0 TiB          3 {SHARDS}",
        "1024.0 TiB  would be freed",
    ]
