"""The frozen file and its asset: fitted on what the seed draws, refused where it does not fit, and copied into the state that scores read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.embeddings.register import identify
from rds_dagster.embeddings.settings import EncoderSettings, WhitenSettings
from rds_dagster.embeddings.whitening import Whitening, fit_whitening
from rds_dagster.embeddings.whitening_file import (
    fit_on_stored,
    freeze_whitening,
    read_whitening,
    recorded_whitening,
    register_whitening,
    whitening_content,
    whitening_path,
)
from rds_dagster.errors import InputError, SettingsError, StateError
from rds_dagster.fingerprint import ID_DTYPE, file_digest, ids_fingerprint
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.vectors import VectorStore

DIMS = 6


@pytest.fixture
def stored(tmp_path: Path) -> tuple[VectorStore, dict[bytes, np.ndarray]]:
    """90 vectors in three appends, not in the order of their ids; and by id."""
    store = VectorStore(Layout(tmp_path / "home"), "e" * 32, DIMS)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 256, (90, 16), np.uint8).view(ID_DTYPE).ravel()
    vectors = 1 + rng.standard_normal((90, DIMS))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    with store.writing():
        for start in range(0, 90, 30):
            store.append(ids[start : start + 30], vectors[start : start + 30], np.ones(30, np.int32), "here")
    return store, dict(zip(ids.tolist(), vectors, strict=True))


def fitted_on_flow(flow, dims: int) -> Whitening:
    return fit_on_stored(flow.vectors(), flow.live, dims=dims, most=500, seed=0)


def whitened(flow, dims: int = 4) -> EncoderSettings:
    return replace(flow.encoder, whiten=WhitenSettings(dims))


# ---- the fit -----------------------------------------------------------------------------------------------------------------------------------------


def test_it_is_fitted_on_the_vectors_of_kept_examples_alone(stored: tuple[VectorStore, dict[bytes, np.ndarray]]) -> None:
    vectors, by_id = stored
    live = np.sort(np.array(list(by_id), ID_DTYPE))[10:60]
    found = fit_on_stored(vectors, live, dims=4, most=500, seed=0)
    expected = fit_whitening(np.array([by_id[example] for example in live.tolist()]), 4)
    assert replace(found, encoder=None, seed=None, examples=None).to_bytes() == expected.to_bytes()
    assert (found.vectors, found.encoder, found.seed, found.examples) == (50, "e" * 32, 0, ids_fingerprint(live))


def test_the_order_of_writing_does_not_matter(stored: tuple[VectorStore, dict[bytes, np.ndarray]], tmp_path: Path) -> None:
    vectors, by_id = stored
    live = np.sort(np.array(list(by_id), ID_DTYPE))
    other = VectorStore(Layout(tmp_path / "other"), "e" * 32, DIMS)
    with other.writing():
        other.append(live, np.array([by_id[example] for example in live.tolist()]), np.ones(90, np.int32), "here")
    one, two = (fit_on_stored(store, live, dims=4, most=40, seed=3) for store in (vectors, other))
    assert one.to_bytes() == two.to_bytes()


def test_the_seed_draws_by_id_so_that_another_example_displaces_one_at_most(stored: tuple[VectorStore, dict[bytes, np.ndarray]]) -> None:
    vectors, by_id = stored
    live = np.sort(np.array(list(by_id), ID_DTYPE))
    without = np.delete(live, 5)
    drawn = {seed: fit_on_stored(vectors, live, dims=2, most=30, seed=seed) for seed in (0, 1)}
    assert drawn[0].vectors == drawn[1].vectors == 30 and drawn[0].examples != drawn[1].examples
    same = [fit_on_stored(vectors, np.delete(live, row), dims=2, most=30, seed=0).examples == drawn[0].examples for row in range(90)]
    assert sum(same) == 60, "those that were not drawn do not matter"
    assert fit_on_stored(vectors, without, dims=2, most=30, seed=0).examples == fit_on_stored(vectors, without, dims=2, most=30, seed=0).examples


@pytest.mark.parametrize("most", [1, 2**20 + 1])
def test_a_number_of_vectors_that_cannot_be_is_refused(stored: tuple[VectorStore, dict[bytes, np.ndarray]], most: int) -> None:
    with pytest.raises(SettingsError, match=rf"fitted on {most:,} vectors; expected from 2 to 1,048,576"):
        fit_on_stored(stored[0], np.array(list(stored[1]), ID_DTYPE), dims=2, most=most, seed=0)


def test_a_kept_example_without_a_vector_is_refused(stored: tuple[VectorStore, dict[bytes, np.ndarray]]) -> None:
    live = np.sort(np.array([*stored[1], b"nobody's id 1234"], ID_DTYPE))
    with pytest.raises(StateError, match=r"91 kept examples were drawn and 90 of them have a vector; run `rds run '\+embeddings/\*'` first"):
        fit_on_stored(stored[0], live, dims=2, most=500, seed=0)


# ---- the asset ---------------------------------------------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_the_file_is(own_flow) -> None:
    path = whitening_path(own_flow.root, "tiny")
    assert path == own_flow.root / "whitening" / "tiny.safetensors"
    whitening = fitted_on_flow(own_flow, 4)
    digest = freeze_whitening(whitening, path)
    manifest = register_whitening(own_flow.store, whitened(own_flow), root=own_flow.root)
    assert own_flow.store.need("whitening/tiny") == manifest
    assert manifest.fingerprint == digest == file_digest(path) == whitening_content(path)
    assert manifest.settings == {"dims": 4, "vectors": 34, "seed": 0, "variance_kept": whitening.variance_kept}
    assert manifest.parents == {"encoders/tiny": own_flow.store.need("encoders/tiny").fingerprint}
    for again in (recorded_whitening(own_flow.store, manifest), read_whitening(path)):
        assert again.to_bytes() == whitening.to_bytes()


def test_scores_read_the_recorded_copy_whatever_becomes_of_the_file(own_flow) -> None:
    path = whitening_path(own_flow.root, "tiny")
    freeze_whitening(fitted_on_flow(own_flow, 4), path)
    manifest = register_whitening(own_flow.store, whitened(own_flow), root=own_flow.root)
    before = path.read_bytes()
    path.unlink()
    assert recorded_whitening(own_flow.store, manifest).to_bytes() == before
    freeze_whitening(fitted_on_flow(own_flow, 3), path)
    later = register_whitening(own_flow.store, whitened(own_flow, 3), root=own_flow.root)
    assert recorded_whitening(own_flow.store, later).dims == 3
    assert len(list(own_flow.store.paths(later, "whitening")[0].parent.iterdir())) == 1, "the copy of the file that was replaced is gone"


def test_a_copy_that_was_changed_is_refused(own_flow) -> None:
    freeze_whitening(fitted_on_flow(own_flow, 4), whitening_path(own_flow.root, "tiny"))
    manifest = register_whitening(own_flow.store, whitened(own_flow), root=own_flow.root)
    own_flow.store.paths(manifest, "whitening")[0].write_bytes(fitted_on_flow(own_flow, 3).to_bytes())
    with pytest.raises(StateError, match=r"is not what whitening/tiny recorded; remove it and run `rds run 'whitening/tiny'`"):
        recorded_whitening(own_flow.store, manifest)


def test_a_file_that_is_not_there_names_the_command(own_flow) -> None:
    words = r"whitening/tiny\.safetensors is not there; run `rds fit-whitening` once the vectors are made \(or restore .*\), then `rds run`"
    with pytest.raises(InputError, match=words):
        register_whitening(own_flow.store, whitened(own_flow), root=own_flow.root)
    for read in (whitening_content, read_whitening):
        with pytest.raises(InputError, match=words):
            read(whitening_path(own_flow.root, "tiny"))


def test_other_dims_than_the_settings_say_are_refused(own_flow) -> None:
    freeze_whitening(fitted_on_flow(own_flow, 4), whitening_path(own_flow.root, "tiny"))
    words = r"encoder 'tiny': whiten\.dims is 5, but .*tiny\.safetensors whitens to 4; set whiten\.dims to 4, or fit another with `rds fit-whitening --force`"
    with pytest.raises(SettingsError, match=words):
        register_whitening(own_flow.store, whitened(own_flow, 5), root=own_flow.root)


def test_a_file_fitted_on_the_vectors_of_another_encoder_is_refused(own_flow) -> None:
    other = replace(fitted_on_flow(own_flow, 4), encoder="beef" * 8)
    freeze_whitening(other, whitening_path(own_flow.root, "tiny"))
    now = own_flow.store.need("encoders/tiny").fingerprint[:8]
    words = rf"tiny\.safetensors was fitted on the vectors of another encoder \(beefbeef; tiny is {now} now\); restore that encoder, or run .* --force`"
    with pytest.raises(StateError, match=words):
        register_whitening(own_flow.store, whitened(own_flow), root=own_flow.root)


# ---- the encoder -------------------------------------------------------------------------------------------------------------------------------------


def test_whitening_is_no_part_of_the_encoder_that_names_the_vectors(own_flow) -> None:
    plain, settings = describe_encoder(own_flow.encoder), whitened(own_flow)
    assert describe_encoder(settings).fingerprint == plain.fingerprint == own_flow.vectors().encoder
    assert identify(own_flow.store.layout, settings).fingerprint == plain.fingerprint
