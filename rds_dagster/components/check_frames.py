"""What the data checks look at: for each asset the frame that its suite runs on, made from the stored tables.

A frame is either rows (one per example, only the columns asked for, ids as hex) or a *profile*: one row of figures about a table too large to hand
over, whose ``attrs["offenders"]`` name, per figure, up to five of the ids (or sources) that it is about. pandas comes in late: definitions must load fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow.compute as pc

from rds_dagster.components.resources import Project
from rds_dagster.embeddings.profile import VectorProfile, profile_vectors
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores.blocks import block_rows
from rds_dagster.scores.profile import ScoreProfile, profile_scores
from rds_dagster.storage.ids import id_array, positions_in
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore, vector_array

if TYPE_CHECKING:
    import pandas as pd

Load = Callable[[Project, Sequence[str]], "pd.DataFrame"]
"""A frame of one asset with at least the columns named; rows carry ``id`` beside them where the table has one."""

OFFENDERS = 5  # named per finding, the smallest first
OFFENDERS_ATTR = "offenders"  # {figure: {"id" or "source": [...]}}

UNIQUE_FIGURES = ("rows", "clean_rows", "losers", "duplicates", "shared", "strangers", "unaccounted", "contradictory")
VECTOR_FIGURES = tuple(field.name for field in fields(VectorProfile) if field.name != "offenders")
SCORE_FIGURES = tuple(field.name for field in fields(ScoreProfile) if field.name != "offenders")
MIXTURE_FIGURES = ("rows", "duplicates", "strangers", "outside_pools", "missing_sources", "misplaced")


def rows_frame(key: str, table: str) -> Load:
    """Rows of one Parquet table of an asset: ``clean/<pool>`` has ``index``, a SQL model has ``rows``; byte columns come as hex.

    The loader raises StateError for a column that the table does not have.
    """

    def load(project: Project, columns: Sequence[str]) -> pd.DataFrame:
        paths = [str(path) for path in project.tables.paths(project.tables.need(key), table)]
        with duckdb.connect(":memory:") as connection:
            source = connection.read_parquet(paths)
            kinds = {name: str(kind) for name, kind in zip(source.columns, source.types, strict=True)}
            unknown = sorted(set(columns) - kinds.keys())
            if unknown:
                raise StateError(f"a check of {key} names {', '.join(unknown)}; its columns are {', '.join(kinds)}")
            chosen = [name for name in kinds if name in columns or name == "id"] or list(kinds)[:1]
            shown = ", ".join(f'lower(hex("{name}")) as "{name}"' if kinds[name] == "BLOB" else f'"{name}"' for name in chosen)
            frame: pd.DataFrame = source.project(shown).to_arrow_table().to_pandas()
            return frame

    return load


def unique_frame(pool: str) -> Load:
    """Profile of ``unique/<pool>``: do its ids stand once, in this pool alone, and in ``clean/<pool>``; is each clean id kept or lost.

    ``duplicates`` ids kept twice, ``shared`` kept by another pool too, ``strangers`` not in the clean table, ``unaccounted`` clean ids neither kept nor
    lost nor in quarantine, ``contradictory`` both kept and lost.
    """

    def load(project: Project, columns: Sequence[str]) -> pd.DataFrame:
        store = project.tables
        manifest = store.need(f"unique/{pool}")
        kept, losers = store.ids(manifest, "kept"), store.ids(manifest, "losers")
        clean = np.unique(store.ids(store.need(f"clean/{pool}"), "index"))
        found = {
            "duplicates": _repeated(kept),
            "shared": _kept_elsewhere(store, pool, np.unique(kept)),
            "strangers": np.setdiff1d(kept, clean),
            "unaccounted": np.setdiff1d(clean, np.concatenate([kept, losers, _quarantined(store, manifest)])),
            "contradictory": np.intersect1d(kept, losers),
        }
        figures = {"rows": len(kept), "clean_rows": len(clean), "losers": len(losers), **{name: len(ids) for name, ids in found.items()}}
        return _profile_frame(figures, {name: {"id": _hex(ids)} for name, ids in found.items()})

    return load


def vectors_frame(pool: str) -> Load:
    """Profile of the stored vectors of the ids of ``unique/<pool>``; the figures are those of VectorProfile."""

    def load(project: Project, columns: Sequence[str]) -> pd.DataFrame:
        embedded = project.tables.need(f"embeddings/{pool}")
        vectors = VectorStore(project.layout, embedded.text("encoder"), embedded.number("dims"))
        wanted = np.unique(project.tables.ids(project.tables.need(f"unique/{pool}"), "kept"))
        profile = profile_vectors(wanted, _stored_vectors(vectors, wanted), dims=vectors.dims)
        return _profile_frame({name: getattr(profile, name) for name in VECTOR_FIGURES}, _by_id(profile.offenders))

    return load


def scores_frame(key: str) -> Load:
    """Profile of the scores of an asset such as ``scores/rds/gsm8k`` against the ids of all ``unique/*``; the figures are those of ScoreProfile."""

    def load(project: Project, columns: Sequence[str]) -> pd.DataFrame:
        store = project.tables
        manifest = store.need(key)
        kept = [path for unique in store.manifests("unique") for path in store.paths(unique, "kept")]
        num_queries = sum(file.rows for file in manifest.files if file.table == "queries")
        spill = project.layout.home / "duckdb_spill"
        profile = profile_scores(store.paths(manifest, "scores"), kept, num_queries=num_queries, spill=spill)
        return _profile_frame({name: value for name, value in asdict(profile).items() if name in SCORE_FIGURES}, _by_id(profile.offenders))

    return load


def mixture_frame(settings: MixtureSettings) -> Load:
    """Profile of ``mixtures/<name>`` against what its settings ask for.

    ``duplicates`` ids picked twice, ``strangers`` not kept by the pool they are said to come from, ``outside_pools`` from pools that were not asked for,
    ``missing_sources`` required sources that give no example, ``misplaced`` rows whose position is not their place counted from 1.
    """

    def load(project: Project, columns: Sequence[str]) -> pd.DataFrame:
        store = project.tables
        table = store.read(store.need(f"mixtures/{settings.name}"), "examples", ["position", "id", "pool", "source"])
        ids, pools = id_array(table.column("id")), pc.fill_null(table.column("pool"), "").combine_chunks().dictionary_encode()
        codes, names = pools.indices.to_numpy(), pools.dictionary.to_pylist()
        absent = sorted(set(settings.required_sources) - set(table.column("source").unique().to_pylist()))
        unasked = [code for code, name in enumerate(names) if settings.pools and name not in settings.pools]
        is_misplaced = table.column("position").to_numpy() != np.arange(1, len(ids) + 1)
        found = {
            "duplicates": _repeated(ids),
            "strangers": _not_kept(store, ids, codes, names),
            "outside_pools": np.sort(ids[np.isin(codes, unasked)]),
            "misplaced": ids[is_misplaced],
        }
        figures = {"rows": len(ids), **{name: len(which) for name, which in found.items()}, "missing_sources": len(absent)}
        return _profile_frame(figures, {"missing_sources": {"source": absent[:OFFENDERS]}, **{name: {"id": _hex(which)} for name, which in found.items()}})

    return load


def _profile_frame(figures: Mapping[str, object], offenders: Mapping[str, Mapping[str, Sequence[str]]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([{name: np.nan if value is None else value for name, value in figures.items()}])
    frame.attrs[OFFENDERS_ATTR] = {name: dict(named) for name, named in offenders.items() if any(named.values())}
    return frame


def _by_id(offenders: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Sequence[str]]]:
    return {name: {"id": ids} for name, ids in offenders.items()}


def _hex(ids: np.ndarray) -> list[str]:
    return [bytes(one).ljust(ID_DTYPE.itemsize, b"\0").hex() for one in ids[:OFFENDERS]]  # numpy strips trailing zero bytes


def _repeated(ids: np.ndarray) -> np.ndarray:
    values, times = np.unique(ids, return_counts=True)
    repeated: np.ndarray = values[times > 1]
    return repeated


def _kept_elsewhere(store: TableStore, pool: str, kept: np.ndarray) -> np.ndarray:
    is_shared = np.zeros(len(kept), bool)
    for other in store.manifests("unique"):
        if other.key != f"unique/{pool}":
            places, is_there = positions_in(kept, store.ids(other, "kept"))
            is_shared[places[is_there]] = True
    shared: np.ndarray = kept[is_shared]
    return shared


def _quarantined(store: TableStore, manifest: Manifest) -> np.ndarray:
    rows = store.read(manifest, "quarantine", ["id"]).column("id")
    return id_array(rows.drop_null())


def _not_kept(store: TableStore, ids: np.ndarray, codes: np.ndarray, pools: Sequence[str]) -> np.ndarray:
    is_kept = np.zeros(len(ids), bool)
    for code, pool in enumerate(pools):
        unique = store.manifest(f"unique/{pool}")
        if unique is not None:
            mine = codes == code
            is_kept[mine] = positions_in(store.ids(unique, "kept"), ids[mine])[1]
    strangers: np.ndarray = np.sort(ids[~is_kept])
    return strangers


def _stored_vectors(store: VectorStore, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The stored rows of the wanted ids (N,) S16, sorted; read block by block, of each only the stretch from the first wanted row to the last.

    LanceDB holds a whole query's rows while it streams them, so one query over everything would not be bounded.
    """
    places = np.flatnonzero(positions_in(wanted, store.ids())[1])
    size = block_rows(store.dims)
    for block in np.split(places, np.flatnonzero(np.diff(places // size)) + 1):
        if not len(block):
            continue  # nothing is stored at all
        for batch in store.stream(["id", "vector"], start=int(block[0]), rows=int(block[-1] - block[0]) + 1):
            ids, column = id_array(batch.column("id")), batch.column("vector")
            is_asked = positions_in(wanted, ids)[1]
            yield ids[is_asked], vector_array(column, column.type.list_size)[is_asked]
