"""`rds fit-whitening`: fit a whitening on the project's stored vectors and freeze it in a file of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from rds_dagster.cleaning.unique import owned_ids
from rds_dagster.embeddings.register import current_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.embeddings.whitening import Whitening
from rds_dagster.embeddings.whitening_file import COMMAND, GROUP, fit_on_stored, freeze_whitening, whitening_path
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.staleness import descendants, find_stale
from rds_dagster.runs.walk import LOCK_TIMEOUT_S
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore


@dataclass(frozen=True, eq=False)
class FittedWhitening:
    """What `rds fit-whitening` did: ``path`` of the file, what it holds, ``hidden`` size of the encoder; ``next_steps``: what to do now, a line each."""

    path: Path
    whitening: Whitening
    hidden: int
    next_steps: tuple[str, ...]


def fit_project_whitening(folder: Path, *, dims: int | None, vectors: int, seed: int, force: bool) -> FittedWhitening:
    """Fit on the vectors of all kept examples of the current encoder, or of as many as ``vectors`` says, drawn by the seed; writes the project's file.

    ``dims`` None = what the corpus's YAML says. Raises SettingsError if neither says it or both differ, and for a file that is there already unless
    ``force``; StateError unless embeddings/* are all made and current.
    """
    project = load_project(folder)
    encoder = project.corpus.encoder_settings
    chosen, path = _dims(encoder, dims), whitening_path(folder, encoder.name)
    if path.exists() and not force:
        raise SettingsError(
            f"{path} is there already, and a refit moves every score; `{COMMAND} --force` replaces it, and then these are stale: {_below(project, encoder)}"
        )
    with project_lock(project.layout, LOCK_TIMEOUT_S):
        _refuse_stale_vectors(project)
        store = TableStore(project.layout)
        identity = current_encoder(store, encoder)
        live = owned_ids(store, [pool.name for pool in project.pools])
        stored = VectorStore(project.layout, identity.fingerprint, identity.dims)
        whitening = fit_on_stored(stored, live, dims=chosen, most=vectors, seed=seed)
        replaces = path.exists()
        freeze_whitening(whitening, path)
    steps = [] if encoder.whiten else [f"add to the encoder in the YAML of the corpus: whiten: {{dims: {chosen}}}"]
    steps.append(f"commit {path.relative_to(folder)} with the project, then `rds run`" + (f"; stale now: {_below(project, encoder)}" if replaces else ""))
    return FittedWhitening(path, whitening, identity.dims, tuple(steps))


def _dims(encoder: EncoderSettings, dims: int | None) -> int:
    written = encoder.whiten.dims if encoder.whiten else None
    if dims is not None and written is not None and dims != written:
        raise SettingsError(
            f"--dims is {dims}, but whiten.dims of encoder {encoder.name!r} in the corpus is {written}; leave --dims out, or mend the YAML first"
        )
    chosen = written if dims is None else dims
    if chosen is None:
        raise SettingsError(f"encoder {encoder.name!r} of the corpus has no whiten.dims; set it in the YAML, as in whiten: {{dims: 64}}, or give --dims 64")
    return chosen


def _below(project: LoadedProject, encoder: EncoderSettings) -> str:
    """What a new whitening makes stale, by name: what takes it, and what stands below."""
    key = dg.AssetKey([GROUP, encoder.name])
    if key not in project.graph.materializable_asset_keys:
        return f"none now, since the corpus does not name it (set whiten: {{dims: ...}} of encoder {encoder.name!r})"
    return ", ".join(below.to_user_string() for below in [key, *sorted(descendants(project, [key]))])


def _refuse_stale_vectors(project: LoadedProject) -> None:
    """Raise StateError unless embeddings/* are made and nothing above them has changed."""
    mend = "run `rds run '+embeddings/*'` first"
    if not project.pools:
        raise StateError("there are no vectors to fit on: the project has no pool; add one with `dg scaffold defs rds_dagster.components.Pool pools/NAME`")
    with open_instance(project.layout) as instance:
        found = find_stale(project, instance, changed_outside(project))
    for key in (dg.AssetKey(["embeddings", pool.name]) for pool in project.pools):
        if key in found.stale:
            raise StateError(f"{key.to_user_string()} is not current ({'; '.join(found.stale[key])}); {mend}")
        if key in found.following:
            above = sorted(stale.to_user_string() for stale in found.stale if key in descendants(project, [stale]))
            raise StateError(f"{key.to_user_string()} is not current ({above[0]} above it is stale); {mend}")
