"""All clean pools -> who keeps which example: exact duplicates go to the first pool in the corpus's order, then
each pool's sample is drawn.

Assets unique/*, switched over by one manifest. What is written is made a row group at a time: about 40 bytes an example while it runs (from 50k to
5.8 million, `benchmarks/memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rds_dagster import schema
from rds_dagster.cleaning.clean import clean_fingerprint
from rds_dagster.cleaning.places import coded, first_of_each, sorted_order
from rds_dagster.fingerprint import ID_DTYPE, seeded_fractions
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.ids import id_array, id_column
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import GROUP_ROWS, Draft, TableStore, make_recipe

CODE = 1  # raise when the bytes of the tables would change
STAGE = "unique"
DUPLICATE = "exact_duplicate"
NOT_SAMPLED = "not_sampled"


def find_keepers(keys: np.ndarray) -> np.ndarray:
    """For each row the row that keeps its example: the first one with the same key (itself, if it is kept).

    keys (N,) S16 in order of precedence (pool by pool, within a pool by id); returns (N,) uint32.
    """
    order = sorted_order(keys)
    is_first = first_of_each(keys, order)
    first, group = order[is_first], np.cumsum(is_first, dtype=np.uint32)
    keepers = np.empty(len(keys), np.uint32)
    for start in range(0, len(keys), GROUP_ROWS):
        rows = slice(start, start + GROUP_ROWS)
        keepers[order[rows]] = first[group[rows] - 1]
    return keepers


def sample_mask(ids: np.ndarray, sample: int | float | None, seed: int) -> np.ndarray:
    """Which of the ids (N,) S16 a sample keeps: a share (below or equal 1.0, float) by threshold, a number by the smallest seeded fractions; (N,) bool.

    Decided by each id alone (a share) or by rank among the pool (a number, ties to the smaller id), never by order of arrival.
    """
    if sample is None:
        return np.ones(len(ids), bool)
    fractions = seeded_fractions(ids, seed, "sample")
    if isinstance(sample, float):
        return np.asarray(fractions < sample)
    if sample >= len(ids):
        return np.ones(len(ids), bool)
    last = np.partition(fractions, sample - 1)[sample - 1]
    mask = np.asarray(fractions < last)
    ties = np.flatnonzero(fractions == last)
    mask[ties[np.argsort(ids[ties], kind="stable")][: sample - int(mask.sum())]] = True
    return mask


def unify_pools(store: TableStore, pools: Sequence[PoolSettings]) -> dict[str, Manifest]:
    """Make unique/* current for all pools, in the corpus's order; maps pool -> manifest. A pool's sample is drawn from what it keeps."""
    names = [pool.name for pool in pools]
    samples = [(pool.sample, pool.sample_seed) for pool in pools]
    clean = [store.need(f"clean/{name}") for name in names]
    parents = {m.key: m.fingerprint for m in clean}
    recipe = make_recipe(STAGE, CODE, [names, samples], parents)
    reusable = {name: store.reusable(f"unique/{name}", recipe) for name in names}
    if all(reusable.values()):
        return {name: m for name, m in reusable.items() if m}
    starts = np.cumsum([0, *(m.rows("index") for m in clean)])
    keepers = find_keepers(_ids_of(store, clean, "duplicate_key"))
    united = _United(names, starts, keepers, _ids_of(store, clean, "id"))
    manifests = {}
    for number, pool in enumerate(pools):
        draft = store.draft(f"unique/{pool.name}", recipe)
        sources = coded((batch.column("source") for batch in store.stream(clean[number], "index", ["source"])), clean[number].rows("index"))
        content, counts = _write_pool(draft, pool, united, number, *sources)
        manifests[pool.name] = draft.manifest(
            fingerprint=content, settings={"pools": names, "sample": pool.sample, "sample_seed": pool.sample_seed}, parents=parents, counts=counts
        )
    store.commit(list(manifests.values()))
    return manifests


@dataclass(frozen=True)
class _United:
    """All pools' rows one after another, N in all: where each pool starts (and the last ends), each row's keeper (N,) uint32, and its id (N,) S16."""

    names: list[str]
    starts: np.ndarray
    keepers: np.ndarray
    ids: np.ndarray

    def owners(self, rows: np.ndarray) -> pa.Array:
        """The name of the pool that each of (n,) rows stands in."""
        return pa.array(self.names).take(pa.array(np.searchsorted(self.starts, rows, side="right") - 1))


def _ids_of(store: TableStore, clean: Sequence[Manifest], column: str) -> np.ndarray:
    """A column of ids of all pools' indexes, pool by pool; (N,) S16."""
    ids, at = np.empty(sum(manifest.rows("index") for manifest in clean), ID_DTYPE), 0
    for manifest in clean:
        for batch in store.stream(manifest, "index", [column]):
            ids[at : at + batch.num_rows] = id_array(batch.column(0))
            at += batch.num_rows
    return ids


def _write_pool(draft: Draft, pool: PoolSettings, united: _United, number: int, names: list[str], sources: np.ndarray) -> tuple[str, Counts]:
    """One pool's kept rows, its losers with their keepers, and its quarantine; returns its data version and counts.

    Each of its rows' source is a number in sources (n,) int32 among ``names``.
    """
    start, stop = united.starts[number : number + 2]
    is_owned = united.keepers[start:stop] == np.arange(start, stop, dtype=np.uint32)
    is_kept = is_owned.copy()
    if pool.sample is not None:
        owned = united.ids[start:stop] if is_owned.all() else united.ids[start:stop][is_owned]
        is_kept[is_owned] = sample_mask(owned, pool.sample, pool.sample_seed)
    kept, lost, left_out = (np.flatnonzero(mask).astype(np.uint32) for mask in (is_kept, ~is_owned, is_owned & ~is_kept))
    ids, known = united.ids[start:stop], pa.array(names, pa.string())
    draft.write(
        "kept",
        (pa.record_batch([id_column(ids[rows]), known.take(pa.array(sources[rows]))], schema=schema.UNIQUE) for rows in _groups(kept)),
        schema.UNIQUE,
    )
    draft.write("losers", (_losers(united, rows + np.uint32(start)) for rows in _groups(lost)), schema.LOSER)
    draft.write("quarantine", _quarantine(pool, united, lost + np.uint32(start), left_out + np.uint32(start)), schema.QUARANTINE)
    content = clean_fingerprint((ids[rows] for rows in _groups(kept)), sources[is_kept], names)
    dropped = {DUPLICATE: len(lost), NOT_SAMPLED: len(left_out)}
    return content, Counts(len(ids), len(kept), {reason: count for reason, count in dropped.items() if count})


def _groups(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), GROUP_ROWS):
        yield rows[start : start + GROUP_ROWS]


def _losers(united: _United, rows: np.ndarray) -> pa.RecordBatch:
    keepers = united.keepers[rows]
    columns = [id_column(united.ids[rows]), pa.repeat(DUPLICATE, len(rows)), id_column(united.ids[keepers]), united.owners(keepers)]
    return pa.record_batch(columns, schema=schema.LOSER)


def _quarantine(pool: PoolSettings, united: _United, lost: np.ndarray, left_out: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The pool's losers, then what its sample leaves out, in row groups that do not heed the border."""
    for start in range(0, len(lost) + len(left_out), GROUP_ROWS):
        others = slice(max(start - len(lost), 0), max(start + GROUP_ROWS - len(lost), 0))
        yield _quarantine_group(pool, united, lost[start : start + GROUP_ROWS], left_out[others])


def _quarantine_group(pool: PoolSettings, united: _United, lost: np.ndarray, left_out: np.ndarray) -> pa.RecordBatch:
    why_lost = pc.binary_join_element_wise("alike but for white space; kept by pool", united.owners(united.keepers[lost]), " ")
    parts = [
        _quarantine_rows(pool.name, united.ids[lost], DUPLICATE, why_lost),
        _quarantine_rows(pool.name, united.ids[left_out], NOT_SAMPLED, pa.repeat(f"left out by sample: {pool.sample}", len(left_out))),
    ]
    (batch,) = pa.concat_tables([part for part in parts if part.num_rows]).combine_chunks().to_batches()
    return batch


def _quarantine_rows(pool: str, ids: np.ndarray, reason: str, detail: pa.Array) -> pa.Table:
    """QUARANTINE rows without file and line, which stand in provenance."""
    num_rows, nothing = len(ids), pa.nulls(len(ids), pa.string())
    columns = [
        pa.repeat(STAGE, num_rows),
        pa.repeat(reason, num_rows),
        pa.repeat(pool, num_rows),
        nothing,
        pa.nulls(num_rows, pa.int64()),
        id_column(ids),
        detail,
        nothing,
    ]
    return pa.table(columns, schema=schema.QUARANTINE)


def owned_ids(store: TableStore, pools: Sequence[str]) -> np.ndarray:
    """The ids that unique/* of the given pools keep, (N,) S16, sorted: the order in which all later stages count rows."""
    manifests = [store.need(f"unique/{pool}") for pool in pools]
    ids, at = np.empty(sum(manifest.rows("kept") for manifest in manifests), ID_DTYPE), 0
    for manifest in manifests:
        for batch in store.stream(manifest, "kept", ["id"]):
            ids[at : at + batch.num_rows] = id_array(batch.column("id"))
            at += batch.num_rows
    ids.sort()  # in place, so 16 bytes an example are all
    return ids
