"""`rds prune`: drop what neither the current state nor a kept version of a mixture needs, and say how much that was.

What is current is what manifests name. A version's folder is self-contained and stays for good, so explain, diff and export of older
versions need nothing that goes here; what a kept version saves is the way back to it: the vectors of its encoder.

Each thing goes by itself, whole tables of vectors by a rename first, and nothing that a manifest names is touched: after a kill the state
is good and another prune goes on.

Rows of vectors cost more than their space. They lie in blocks of fixed length in written order (scores/blocks.py): where rows leave, every
block behind the first of them is another one, and the next run that scores takes it anew (no model, one product over the stored vectors:
126k of 384 dims against 100 queries took 0.7 s of one core, and writing the table anew without 14k rows as much).
So rows leave a table of several blocks only once DEAD_SHARE of it is dead; in a table of one block they always do, since a block is
named by its live ids alone.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from rds_dagster.cleaning.unique import owned_ids
from rds_dagster.errors import BusyError
from rds_dagster.mixtures.versions import Version, find_version, mixture_versions
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.orphans import UNFINISHED, free_orphans
from rds_dagster.runs.staleness import Staleness, find_stale
from rds_dagster.runs.walk import LEFTOVER_S, LOCK_TIMEOUT_S, forget_removed
from rds_dagster.scores.blocks import block_rows
from rds_dagster.storage.atomic import remove_old_partials, writable
from rds_dagster.storage.ids import positions_in
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Manifest, load_manifests
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore, remove_dropped, stored_tables

DEAD_SHARE = 0.05  # of a table's rows: less is not worth scoring the rest anew
VERSION_NAME = re.compile("[0-9a-f]{32}")  # the folder of one export
TOP_SUFFIX = ".top.parquet"  # beside the scores of a block, and needed as long as they are
SHARD_SUFFIXES = (".json", ".parquet", ".quarantine.parquet")  # the first makes it finished, so it goes first
TABLES, ROWS = "vector tables of other encoders", "vectors of examples that left, and old versions of tables"
BLOCKS, SHARDS, FILES, EXPORTS, REPORTS = "files of score blocks", "files of shards", "files of tables", "exports", "reports"
KINDS = (TABLES, ROWS, BLOCKS, SHARDS, FILES, EXPORTS, REPORTS)


@dataclass(frozen=True)
class Freed:
    """What went of one kind: ``count`` of tables, rows, files or folders, and ``bytes``."""

    kind: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Pruned:
    """What `rds prune` dropped, or would drop; ``left``: what it left although nothing current needs it, with the reason, a line each."""

    freed: tuple[Freed, ...]
    left: tuple[str, ...]
    is_dry_run: bool

    @property
    def bytes(self) -> int:
        """Bytes freed in all."""
        return sum(freed.bytes for freed in self.freed)


@dataclass(frozen=True)
class _Unneeded:
    """A file or a folder that nothing kept needs."""

    kind: str
    path: Path


def prune_project(folder: Path, *, keep: int = 1, dry_run: bool = False) -> Pruned:
    """Drop what nothing needs but versions before the last ``keep`` of each mixture, the pinned ones apart; ``dry_run`` only counts.

    Raises BusyError while `rds run` or a Dagster run is in progress, SettingsError for a pinned version that is not there, StateError where the
    state cannot be written.
    """
    project = load_project(folder)
    with project_lock(project.layout, LOCK_TIMEOUT_S), open_instance(project.layout) as instance:
        free_orphans(instance)
        refuse_running(instance)
        kept = kept_versions(project, keep)
        staleness = find_stale(project, instance, changed_outside(project))
        if not dry_run:
            remove_old_partials(project.layout.home, LEFTOVER_S)
            forget_removed(project)
        freed = [_remove(project.layout, unneeded, dry_run=dry_run) for unneeded in unneeded_files(project, kept)]
        of_vectors, left = _prune_vectors(project, kept, staleness, dry_run=dry_run)
    return Pruned(_summed([*freed, *of_vectors]), tuple(left), dry_run)


def pruned_text(pruned: Pruned) -> str:
    """The result for people: bytes by kind, and in all."""
    word = "would be freed" if pruned.is_dry_run else "freed"
    if not pruned.freed:
        return "nothing to prune"
    lines = [f"{_size(freed.bytes):>10}  {freed.count:>9,} {freed.kind}" for freed in pruned.freed]
    return "\n".join([*lines, f"{_size(pruned.bytes):>10}  {word}"])


def refuse_running(instance: dg.DagsterInstance) -> None:
    """Raise BusyError while a Dagster run is queued, starting or in progress; one that starts later waits for the project's lock."""
    running = instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED, dg.DagsterRunStatus.QUEUED]))
    if running:
        named = ", ".join(f"{run.run_id[:8]} ({run.status.value.lower()})" for run in running[:5])
        raise BusyError(f"{len(running)} Dagster runs are not finished: {named}; let them end, or cancel them in the UI, then prune")


def kept_versions(project: LoadedProject, keep: int) -> list[Version]:
    """The last ``keep`` versions of each mixture of the project, the current one among them, and the pinned ones.

    Raises SettingsError, or StateError where a mixture has no version at all, for a pinned version that is not there.
    """
    store, found = TableStore(project.layout), []
    for mixture in project.mixtures:
        pinned = {find_version(store, mixture.name, named).fingerprint for named in mixture.pinned}
        if any((project.layout.mixtures / mixture.name).glob("*/manifest.json")):
            versions = mixture_versions(store, mixture.name)
            last = {version.fingerprint for version in versions[-keep:]}
            found += [version for version in versions if version.is_current or version.fingerprint in pinned | last]
    return found


def unneeded_files(project: LoadedProject, kept: Sequence[Version]) -> list[_Unneeded]:
    """Files and folders of the state, vectors apart, that nothing needs: no manifest of an asset of the project names them, and no kept version."""
    layout = project.layout
    named = {layout.home / file.path for manifest in _current(project) for file in manifest.files}
    return [*_blocks(layout, named), *_shards(layout, named), *_files(layout, named), *_exports(layout, named, kept), *_reports(layout, named)]


def _current(project: LoadedProject) -> list[Manifest]:
    """The manifests of the assets that the project has now."""
    known = {key.to_user_string() for key in project.graph.materializable_asset_keys}
    return [manifest for manifest in TableStore(project.layout).all_manifests() if manifest.key in known]


def _blocks(layout: Layout, named: AbstractSet[Path]) -> Iterator[_Unneeded]:
    needed = named | {path.with_suffix(TOP_SUFFIX) for path in named if path.is_relative_to(layout.score_blocks)}
    for path in sorted(layout.score_blocks.glob("*/*.parquet")):
        if path not in needed:
            yield _Unneeded(BLOCKS, path)


def _shards(layout: Layout, named: AbstractSet[Path]) -> Iterator[_Unneeded]:
    needed = {path.stem for path in named if path.parent == layout.shards}
    for name in sorted({path.name.split(".")[0] for path in layout.shards.glob("[!.]*")} - needed):
        yield from (_Unneeded(SHARDS, path) for path in (layout.shards / f"{name}{suffix}" for suffix in SHARD_SUFFIXES) if path.exists())


def _files(layout: Layout, named: AbstractSet[Path]) -> Iterator[_Unneeded]:
    for path in sorted(layout.tables.rglob("[!.]*")):
        if path.is_file() and path not in named:
            yield _Unneeded(FILES, path)


def _exports(layout: Layout, named: AbstractSet[Path], kept: Sequence[Version]) -> Iterator[_Unneeded]:
    """Folders of older exports; those of a kept version stay."""
    needed = {path.parent for path in named if path.is_relative_to(layout.exports)}
    versions = {(version.manifest.key.split("/", 1)[1], version.fingerprint) for version in kept}
    for folder in sorted(layout.exports.glob("*/*")):
        if VERSION_NAME.fullmatch(folder.name) and folder not in needed and (folder.parent.name, _exported(folder)) not in versions:
            yield _Unneeded(EXPORTS, folder)


def _exported(folder: Path) -> str | None:
    """The version of the mixture that was exported into a folder; None for a folder that a killed run left without a manifest."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    (manifest,) = load_manifests(path.read_bytes(), where=str(path))
    return manifest.text("mixture")


def _reports(layout: Layout, named: AbstractSet[Path]) -> Iterator[_Unneeded]:
    for path in sorted(layout.reports.glob("[!.]*.html")):
        if path not in named:
            yield _Unneeded(REPORTS, path)


def _remove(layout: Layout, unneeded: _Unneeded, *, dry_run: bool) -> Freed:
    """Remove one file or folder, and the folders that it leaves empty."""
    path, is_folder = unneeded.path, unneeded.path.is_dir()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if is_folder else path.stat().st_size
    if not dry_run:
        with writable(path):
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
            while (path := path.parent).parent != layout.home and not any(path.iterdir()):
                path.rmdir()
    return Freed(unneeded.kind, 1, size)


def _prune_vectors(project: LoadedProject, kept: Sequence[Version], staleness: Staleness, *, dry_run: bool) -> tuple[list[Freed], list[str]]:
    """Tables of encoders that nothing names, and in the current one the rows of examples that are no longer in unique/*; with what was left and why."""
    store, encoder = TableStore(project.layout), f"encoders/{project.corpus.encoder_settings.name}"
    unsettled = {key.to_user_string() for key in staleness.stale.keys() | staleness.following}
    if encoder in unsettled:
        return [], [
            f"all vectors: {encoder} is not current, so it is not known which of them the next run needs; run `rds run '{encoder}'` (it embeds nothing)"
        ]
    current = {manifest.fingerprint if manifest.key == encoder else manifest.details.get("encoder") for manifest in _current(project)}
    older = _encoders_of([version for version in kept if not version.is_current])
    freed: list[Freed] = []
    left: list[str] = []
    if not dry_run and (leftover := remove_dropped(project.layout)):
        freed.append(Freed(TABLES, 1, leftover))
    above = _not_current_above(project, staleness)
    for vectors in stored_tables(project.layout):
        if vectors.encoder not in current | older.keys():
            freed.append(_drop_table(vectors, dry_run=dry_run))
        elif vectors.encoder in older:
            left.append(f"rows of {vectors.table_name}: {older[vectors.encoder]}, which is kept, was made with it, and which of its rows it used is not known")
        elif above:
            left.append(f"rows of {vectors.table_name}: {above[0]} is not current; run `rds run '+embeddings/*'` first")
        elif vectors.dims:
            done, reason = _prune_rows(store, vectors, [pool.name for pool in project.pools], dry_run=dry_run)
            freed.append(done)
            left += [reason] if reason else []
    return freed, left


def _encoders_of(versions: Iterable[Version]) -> Mapping[str, str]:
    """Fingerprint of every encoder that the versions name -> one of them, in words."""
    found = {}
    for version in versions:
        above = version.manifest.details["upstream"]
        assert isinstance(above, dict), "make_mixture wrote it"
        for key, said in above.items():
            if key.startswith("encoders/"):
                found[said["fingerprint"]] = f"version {version.fingerprint[:12]} of {version.manifest.key}"
    return found


def _not_current_above(project: LoadedProject, staleness: Staleness) -> list[str]:
    """What is stale among embeddings/* and all above them, and then what may become so: unique/* may still change."""
    keys = {dg.AssetKey(["embeddings", pool.name]) for pool in project.pools}
    every = keys | {above for key in keys for above in project.graph.get_ancestor_asset_keys(key)}
    return [key.to_user_string() for group in (staleness.stale.keys(), staleness.following) for key in sorted(every & group)]


def _drop_table(vectors: VectorStore, *, dry_run: bool) -> Freed:
    with vectors.writing(LOCK_TIMEOUT_S):
        freed = Freed(TABLES, 1, vectors.num_bytes())
        if not dry_run:
            vectors.drop()
    return freed


def _prune_rows(store: TableStore, vectors: VectorStore, pools: list[str], *, dry_run: bool) -> tuple[Freed, str | None]:
    """Rows of examples that no pool keeps, and old versions; in a dry run the bytes are an estimate. unique/* is read once nobody else can append."""
    with vectors.writing(LOCK_TIMEOUT_S):
        live, stored, size = owned_ids(store, pools), vectors.ids(), vectors.num_bytes()
        dead = len(stored) - int(positions_in(live, stored)[1].sum())
        reason = None
        if len(stored) > block_rows(vectors.dims) and dead < DEAD_SHARE * len(stored):
            reason = f"{dead:,} rows of {vectors.table_name}: {dead / len(stored):.1%} of it, and without them nearly all would be scored anew; they go at 5%"
            reason, dead = reason if dead else None, 0
        if dry_run:
            return Freed(ROWS, dead, size * dead // max(len(stored), 1)), reason
        if dead:
            vectors.retain(live)
        if vectors.has_old_versions():
            vectors.tidy()
        return Freed(ROWS, dead, max(size - vectors.num_bytes(), 0)), reason


def _summed(parts: Iterable[Freed]) -> tuple[Freed, ...]:
    counts, sizes = Counter[str](), Counter[str]()
    for part in parts:
        counts[part.kind] += part.count
        sizes[part.kind] += part.bytes
    return tuple(Freed(kind, counts[kind], sizes[kind]) for kind in KINDS if counts[kind] or sizes[kind])


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
