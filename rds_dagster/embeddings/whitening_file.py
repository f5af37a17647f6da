"""The frozen whitening of a project: fitted once, by command, into a file that is committed with the project; and the asset that follows it.

<project>/whitening/<encoder>.safetensors   what `rds fit-whitening` wrote; nothing else ever writes it, so that growth moves no score
whitening/<encoder>                         the asset: data version = hash of the file. Scores read the copy that it took into the state
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.embeddings.whitening import MOST_VECTORS, Whitening, fit_whitening
from rds_dagster.errors import InputError, SettingsError, StateError
from rds_dagster.fingerprint import content_digest, ids_fingerprint, seeded_fractions
from rds_dagster.storage.atomic import write_bytes
from rds_dagster.storage.ids import id_array, positions_in
from rds_dagster.storage.manifest import Counts, Manifest, TableFile
from rds_dagster.storage.tables import TableStore, make_recipe
from rds_dagster.storage.vectors import VectorStore, vector_array

CODE = 1  # raise when scores would change for an equal file
GROUP = "whitening"
COMMAND = "rds fit-whitening"


def whitening_key(encoder: str) -> str:
    """The asset key of an encoder's whitening."""
    return f"{GROUP}/{encoder}"


def whitening_path(root: Path, encoder: str) -> Path:
    """Where a project keeps the whitening of one encoder."""
    return root / GROUP / f"{encoder}.safetensors"


def whitening_content(path: Path) -> str:
    """Hash of the file as it is now, the data version of the asset; raises InputError if it is not there."""
    return content_digest(_bytes(path)).hex()


def read_whitening(path: Path) -> Whitening:
    """A project's whitening; raises InputError if the file is not there or is none."""
    return Whitening.from_bytes(_bytes(path), where=str(path))


def fit_on_stored(vectors: VectorStore, live: np.ndarray, *, dims: int, most: int, seed: int) -> Whitening:
    """Fit a whitening on the stored vectors of the kept examples ``live`` (N,) S16, sorted: of all, or of the ``most`` that the seed draws by their ids.

    Raises SettingsError for dims that the vectors do not allow, StateError where an example has no vector.
    """
    if not 2 <= most <= MOST_VECTORS:
        raise SettingsError(f"a whitening is to be fitted on {most:,} vectors; expected from 2 to {MOST_VECTORS:,}")
    drawn = live
    if len(live) > most:
        fractions = seeded_fractions(live, seed, GROUP)
        drawn = live[np.sort(np.argsort(fractions, kind="stable")[:most])]  # ties to the smaller id
    whitening = fit_whitening(_stored(vectors, drawn), dims)
    return replace(whitening, encoder=vectors.encoder, seed=seed, examples=ids_fingerprint(drawn))


def freeze_whitening(whitening: Whitening, path: Path) -> str:
    """Write the file, whole or not at all; returns its hash."""
    data = whitening.to_bytes()
    write_bytes(path, data)
    return content_digest(data).hex()


def register_whitening(store: TableStore, settings: EncoderSettings, *, root: Path) -> Manifest:
    """Make whitening/<name> current: the project's file, copied into the state.

    Raises InputError if it is not there or is none, SettingsError if its dims are not those of the settings, StateError if it was fitted on the vectors
    of another encoder than encoders/<name> records.
    """
    assert settings.whiten is not None, "there is no such asset without it"
    key, path, encoder = whitening_key(settings.name), whitening_path(root, settings.name), store.need(f"encoders/{settings.name}")
    data = _bytes(path)
    whitening, digest = Whitening.from_bytes(data, where=str(path)), content_digest(data).hex()
    if whitening.dims != settings.whiten.dims:
        raise SettingsError(
            f"encoder {settings.name!r}: whiten.dims is {settings.whiten.dims}, but {path} whitens to {whitening.dims}; "
            f"set whiten.dims to {whitening.dims}, or fit another with `{COMMAND} --force`"
        )
    if whitening.encoder != encoder.fingerprint:
        raise StateError(
            f"{path} was fitted on the vectors of another encoder ({(whitening.encoder or 'none')[:8]}; {settings.name} is {encoder.fingerprint[:8]} now); "
            f"restore that encoder, or run `rds run 'embeddings/*'` and fit another with `{COMMAND} --force`"
        )
    copy = store.layout.tables / key / f"{GROUP}-{digest}.safetensors"
    write_bytes(copy, data)
    manifest = Manifest(
        key=key,
        fingerprint=digest,
        recipe=make_recipe(GROUP, CODE, {"dims": whitening.dims, "file": digest}, {encoder.key: encoder.fingerprint}),
        settings={"dims": whitening.dims, "vectors": whitening.vectors, "seed": whitening.seed, "variance_kept": whitening.variance_kept},
        parents={encoder.key: encoder.fingerprint},
        counts=Counts(1, 1),
        files=(TableFile(GROUP, str(copy.relative_to(store.layout.home)), 1, len(data)),),
        details={"encoder": encoder.fingerprint, "dims": whitening.dims, "examples": whitening.examples},
    )
    store.commit([manifest])
    for old in copy.parent.glob("*.safetensors"):
        if old != copy:
            old.unlink()
    return manifest


def recorded_whitening(store: TableStore, manifest: Manifest) -> Whitening:
    """The whitening that whitening/<name> recorded; raises StateError if its copy in the state is gone or is not what it was."""
    (path,) = store.paths(manifest, GROUP)
    data = path.read_bytes()
    if content_digest(data).hex() != manifest.fingerprint:
        raise StateError(f"{path} is not what {manifest.key} recorded; remove it and run `rds run '{manifest.key}'`")
    return Whitening.from_bytes(data, where=str(path))


def _stored(vectors: VectorStore, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """The stored vectors of ``wanted`` (n,) S16, sorted, in blocks; raises StateError at the end if not all came."""
    found = 0
    for batch in vectors.stream(["id", "vector"]):
        is_wanted = positions_in(wanted, id_array(batch.column("id")))[1]
        found += int(is_wanted.sum())
        yield vector_array(batch.column("vector"), vectors.dims)[is_wanted]
    if found != len(wanted):
        raise StateError(f"{len(wanted):,} kept examples were drawn and {found:,} of them have a vector; run `rds run '+embeddings/*'` first")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there; run `{COMMAND}` once the vectors are made (or restore the file from version control), then `rds run`"
        ) from error
