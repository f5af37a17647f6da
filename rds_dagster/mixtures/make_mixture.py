"""Asset mixtures/<name>: one selected example a row, in a version folder that explains itself without any other state.

mixtures/<name>/<fingerprint>/  examples.parquet    picks with messages, task, query, rank, score
                                provenance.parquet  every place where a picked example stood when it was picked
                                queries.parquet     the queries that chose, with their texts
                                manifest.json       settings, counts, licences, fingerprints of everything upstream; written last
mixtures/<name>/history.json    which versions were current, in order (versions.py)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rds_dagster import schema
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import CodedTexts, content_digest, fingerprint
from rds_dagster.mixtures.candidates import Candidates, read_candidates
from rds_dagster.mixtures.choose import Choice, choose
from rds_dagster.mixtures.picked_texts import picked_messages
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.mixtures.versions import record_current
from rds_dagster.scores.score_tasks import score_key
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.ids import SortedIds, id_array, id_column, id_order, take_ids
from rds_dagster.storage.manifest import Counts, Manifest, TableFile, dump_manifests
from rds_dagster.storage.memory import release_unused
from rds_dagster.storage.tables import TableStore, make_recipe, write_parquet

CODE = 2  # raise when the bytes of a version would change
TABLES = {"examples": "examples.parquet", "provenance": "provenance.parquet", "queries": "queries.parquet"}  # table -> file of a version's folder


@dataclass(frozen=True)
class MadeMixture:
    """What came of it; ``deepened`` counts extra passes over the vectors, ``reused`` says that nothing was done."""

    manifest: Manifest
    deepened: int
    reused: bool


def make_mixture(store: TableStore, settings: MixtureSettings, all_pools: Sequence[str], all_tasks: Sequence[str]) -> MadeMixture:
    """Make mixtures/<name> current; pools and tasks in the order in which they count, for settings that name none."""
    pools, tasks = settings.pools or tuple(all_pools), settings.tasks or tuple(all_tasks)
    scores = [] if settings.method == "random" else [store.need(score_key(task)) for task in tasks]
    unique = [store.need(f"unique/{pool}") for pool in pools]
    refuse_outdated(unique, scores, settings.name)
    parents = {m.key: m.fingerprint for m in [*unique, *scores]}
    recipe = make_recipe("mixture", CODE, [settings, tasks if scores else ()], parents)
    if before := store.manifest(f"mixtures/{settings.name}"):
        record_current(store, before)  # a run was killed before it could
    if current := store.reusable(f"mixtures/{settings.name}", recipe):
        return MadeMixture(current, 0, reused=True)
    candidates = read_candidates(store, pools)
    release_unused()
    choice = choose(store, settings, candidates, tasks)
    release_unused()
    queries = _used_queries(store, choice)
    version = version_fingerprint(settings, candidates, choice, queries)
    folder = store.layout.mixtures / settings.name / version
    if not all((folder / file).exists() for file in [*TABLES.values(), "manifest.json"]):
        partial = folder.with_name(f".{version}.{uuid4().hex[:8]}")
        try:
            _write_version(store, partial, folder, settings, candidates, choice, queries, all_pools, recipe, parents, version)
            shutil.rmtree(folder, ignore_errors=True)  # not whole: a run was killed, or someone deleted a file
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    manifest = _manifest(store, folder, folder, settings, choice, recipe, parents, version)
    store.commit([manifest])
    record_current(store, manifest)
    return MadeMixture(manifest, choice.deepened, reused=False)


def refuse_outdated(unique: Sequence[Manifest], scores: Sequence[Manifest], mixture: str) -> None:
    """Raise StateError if scores were made for another state of a pool: examples without a score must not be passed over."""
    for manifest in scores:
        scored = manifest.details["embedded"]
        assert isinstance(scored, list), "score_tasks wrote it"
        for pool in unique:
            if pool.fingerprint not in scored:
                raise StateError(f"{manifest.key} was made for another state of {pool.key}; run `rds run '+mixtures/{mixture}'`, which brings both to one")


def version_fingerprint(settings: MixtureSettings, candidates: Candidates, choice: Choice, queries: pa.Table) -> str:
    """The data version of a mixture: its settings and its picks, with what chose them and whose they are; queries is CHOSEN_QUERY.

    The queries count by their words: white space is stripped before they are embedded, so another query may have the same vector, scores and picks.
    """
    ids = take_ids(candidates.ids, choice.rows)
    picks = [content_digest(data.tobytes()) for data in (ids, choice.ranks, choice.scores)]
    owners = CodedTexts(candidates.pools, candidates.pool[choice.rows])
    sources = CodedTexts(candidates.sources, candidates.source[choice.rows])
    asked = queries.select(["task", "query", "id", "text", "num_tokens"]).to_pylist()
    return fingerprint("mixture", settings, picks, _coded(choice.tasks), _coded(choice.queries), owners, sources, asked)


def _coded(texts: pa.Array) -> CodedTexts:
    found = texts.dictionary_encode()
    return CodedTexts(found.dictionary.to_pylist(), found.indices.fill_null(-1).to_numpy())


def upstream(store: TableStore, keys: Iterable[str]) -> dict[str, Manifest]:
    """The manifests of everything that the given assets were made from, themselves included, by key."""
    found: dict[str, Manifest] = {}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found and (manifest := store.manifest(key)):
            found[key] = manifest
            waiting.extend(manifest.parents)
    return dict(sorted(found.items()))


def _write_version(
    store: TableStore, partial: Path, folder: Path, settings: MixtureSettings, candidates: Candidates, choice: Choice, queries: pa.Table,
    all_pools: Sequence[str], recipe: str, parents: dict[str, str], version: str,
) -> None:  # fmt: skip
    ids = take_ids(candidates.ids, choice.rows)
    partial.mkdir(parents=True)
    write_parquet(partial / "examples.parquet", _examples(store, settings, candidates, choice, partial), schema.SELECTED)
    write_parquet(partial / "provenance.parquet", places_of(store, ids, all_pools), schema.PROVENANCE)
    write_parquet(partial / "queries.parquet", queries, CHOSEN_QUERY)
    write_text(partial / "manifest.json", dump_manifests([_manifest(store, partial, folder, settings, choice, recipe, parents, version)]))


def _examples(store: TableStore, settings: MixtureSettings, candidates: Candidates, choice: Choice, folder: Path) -> Iterator[pa.RecordBatch]:
    """SELECTED in order of picking, a row group at a time; texts that are on their way lie in ``folder``."""
    ids, owners = take_ids(candidates.ids, choice.rows), candidates.pool[choice.rows]
    clean = [store.need(f"clean/{pool}") for pool in candidates.pools]
    pools, sources, at = pa.array(list(candidates.pools)), pa.array(list(candidates.sources)), 0
    for messages in picked_messages(store, clean, ids, owners, folder):
        rows = slice(at, at + len(messages))
        at += len(messages)
        yield pa.record_batch(
            [
                pa.array(np.arange(rows.start + 1, rows.stop + 1, dtype=np.int32)),
                id_column(ids[rows]),
                pools.take(pa.array(owners[rows])),
                sources.take(pa.array(candidates.source[choice.rows[rows]])),
                choice.tasks[rows],
                choice.queries[rows],
                pa.array(choice.ranks[rows], pa.int64()),
                pa.nulls(len(messages), pa.float32()) if settings.method == "random" else pa.array(choice.scores[rows]),
                pa.repeat(settings.method, len(messages)),
                messages,
            ],
            schema=schema.SELECTED,
        )


def places_of(store: TableStore, ids: np.ndarray, pools: Sequence[str]) -> pa.Table:
    """Every place, over the given pools, where the given examples (K,) S16 stand; PROVENANCE in order of id, pool, file, line."""
    wanted = SortedIds(take_ids(ids, id_order(ids)))
    parts = [schema.PROVENANCE.empty_table()]
    for manifest in (store.need(f"provenance/{pool}") for pool in pools):
        for batch in store.stream(manifest, "places"):
            parts.append(pa.Table.from_batches([batch.filter(pa.array(wanted.places(id_array(batch.column("id")))[1]))]))
    places = pa.concat_tables(parts)
    return places.take(pa.array(_order_of_places(places)))


def _order_of_places(places: pa.Table) -> np.ndarray:
    """The rows of PROVENANCE by id, pool, file, line; text is compared only where an example stands in several places."""
    ids = id_array(places.column("id"))
    order = id_order(ids)
    is_like_next = ids[order[1:]] == ids[order[:-1]]
    is_several = np.zeros(len(order), bool)
    is_several[1:] = is_like_next
    is_several[:-1] |= is_like_next
    several = order[is_several]  # in id order, so that sorting them leaves each example's places where they are
    keys = [(name, "ascending") for name in ("id", "pool", "file", "line")]
    order[is_several] = several[pc.sort_indices(places.take(pa.array(several)), sort_keys=keys).to_numpy()]
    return order


CHOSEN_QUERY = pa.schema([pa.field("task", pa.string()), *schema.QUERY])


def _used_queries(store: TableStore, choice: Choice) -> pa.Table:
    """The queries that chose; CHOSEN_QUERY in order of task and name, so that the order in the task's file, where it chose nothing else, is no news."""
    pairs = pa.table([choice.tasks, choice.queries], names=["task", "query"]).group_by(["task", "query"]).aggregate([]).to_pylist()
    used = {(pair["task"], pair["query"]) for pair in pairs if pair["task"] is not None}
    parts = [CHOSEN_QUERY.empty_table()]
    for task in sorted({task for task, _ in used}):
        table = store.read(store.need(score_key(task)), "queries")
        table = table.filter(pc.is_in(table.column("query"), pa.array(sorted(query for name, query in used if name == task))))
        parts.append(table.add_column(0, "task", pa.array([task] * table.num_rows, pa.string())).cast(CHOSEN_QUERY))
    return pa.concat_tables(parts).sort_by([("task", "ascending"), ("query", "ascending")])


def _manifest(
    store: TableStore, at: Path, folder: Path, settings: MixtureSettings, choice: Choice, recipe: str, parents: dict[str, str], version: str
) -> Manifest:
    """The version's manifest; ``at`` is where its files lie now, ``folder`` where they will."""
    files = tuple(
        TableFile(name, str((folder / file).relative_to(store.layout.home)), pq.read_metadata(at / file).num_rows, (at / file).stat().st_size)
        for name, file in TABLES.items()
    )
    above = upstream(store, parents)
    return Manifest(
        key=f"mixtures/{settings.name}",
        fingerprint=version,
        recipe=recipe,
        settings=_settings_json(settings),
        parents=parents,
        counts=Counts(len(choice.rows), len(choice.rows)),
        files=files,
        details={
            "upstream": {
                key: {"fingerprint": m.fingerprint, "settings": m.settings, "rows": m.counts.kept, "dropped": m.counts.dropped} for key, m in above.items()
            },
            "licenses": {key.split("/", 1)[1]: m.settings.get("license", "unknown") for key, m in above.items() if key.startswith("raw/")},
        },
    )


def _settings_json(settings: MixtureSettings) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()}
