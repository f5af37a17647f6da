"""`rds fit-whitening` in a real small project: embed, fail in words, fit, go on; and what a changed file, size or encoder does.

A walk takes seconds, so few tests tell longer stories, and walks end at the scores.
"""

import shutil
from pathlib import Path

import pytest
import yaml

from rds_dagster.embeddings.whitening_file import fit_on_stored, freeze_whitening, read_whitening, whitening_path
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.runs.fitting import FittedWhitening, fit_project_whitening
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.summary import project_status
from rds_dagster.runs.walk import WalkResult, run_stale
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

SCORES = {"scores/rds/adding", "scores/rds/places"}
VECTORS = ("encoders/", "embeddings/", "queries/")


def whiten(folder: Path, dims: int | None, **changes: object) -> None:
    """Set ``whiten`` of the encoder in the corpus's YAML, or take it out."""
    defs = folder / "assets" / "corpus" / "defs.yaml"
    said = yaml.safe_load(defs.read_text())
    encoder = {**said["attributes"]["encoder"], **changes}
    encoder.pop("whiten", None)
    said["attributes"]["encoder"] = {**encoder, "whiten": {"dims": dims}} if dims else encoder
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def walked(folder: Path, selection: str = "+scores/rds/*") -> WalkResult:
    return run_stale(folder, selection, lambda line: None)


def fit(folder: Path, *, dims: int | None = None, vectors: int = 500, force: bool = False) -> FittedWhitening:
    return fit_project_whitening(folder, dims=dims, vectors=vectors, seed=0, force=force)


def contents(folder: Path) -> dict[str, str]:
    return {manifest.key: manifest.fingerprint for manifest in TableStore(Layout.of_project(folder)).all_manifests()}


def test_a_new_project_embeds_fails_in_words_is_fitted_and_goes_on(new_project):
    whiten(new_project, 4)
    with pytest.raises(StateError, match=r"embeddings/sums is not current \(never materialized\); run `rds run '\+embeddings/\*'` first"):
        fit(new_project)
    first = walked(new_project)
    vectors = {f"embeddings/{pool}" for pool in ("sums", "towns", "chat")} | {"queries/adding", "queries/places"}
    assert vectors <= set(first.made), "a file that is not there yet blocks none of them"
    words = f"InputError: {whitening_path(new_project, 'tiny')} is not there; run `rds fit-whitening` once the vectors are made "
    assert first.failed == {"whitening/tiny": words + "(or restore the file from version control), then `rds run`"}
    assert first.blocked == dict.fromkeys(SCORES, "whitening/tiny failed")

    with pytest.raises(SettingsError, match=r"whitening to 4 dims takes 5 vectors at least; there are 3\. Set fewer dims"):
        fit(new_project, vectors=3)
    assert not whitening_path(new_project, "tiny").exists()
    done = fit(new_project)
    assert (done.path, done.whitening.dims, done.whitening.vectors) == (new_project / "whitening" / "tiny.safetensors", 4, 30)
    assert done.next_steps == ("commit whitening/tiny.safetensors with the project, then `rds run`",)
    second = walked(new_project)
    assert second.is_success and set(second.made) == {"whitening/tiny"} | SCORES
    assert walked(new_project) == WalkResult()
    assert TableStore(Layout.of_project(new_project)).need("scores/rds/adding").settings["whitened_to"] == 4


def test_asking_for_whitening_and_taking_it_back_embeds_nothing(own_project):
    walked(own_project, "raw/*")  # a copy lies elsewhere
    before = contents(own_project)
    done = fit(own_project, dims=4)
    assert done.next_steps[0] == "add to the encoder in the YAML of the corpus: whiten: {dims: 4}"
    assert project_status(own_project).stale == {}, "a file that nothing names changes nothing"
    whiten(own_project, 4)
    assert set(project_status(own_project).stale) == {"whitening/tiny"} | SCORES
    assert set(walked(own_project).made) == {"whitening/tiny"} | SCORES
    after = contents(own_project)
    assert all(after[key] == before[key] for key in before if key.startswith(VECTORS)) and all(after[key] != before[key] for key in SCORES)
    whiten(own_project, None)
    assert set(walked(own_project).made) == SCORES
    assert contents(own_project) == before, "without whitening everything is what it was"


@pytest.mark.slow
def test_growth_moves_nothing_and_a_replaced_file_shows_as_stale(own_project):
    walked(own_project, "raw/*")
    whiten(own_project, 4)
    fit(own_project)
    assert walked(own_project).is_success
    path = whitening_path(own_project, "tiny")
    frozen = path.read_bytes()
    words = r"tiny\.safetensors is there already, and a refit moves every score; `rds fit-whitening --force` replaces it, .* stale: whitening/tiny, "
    with pytest.raises(SettingsError, match=words):
        fit(own_project)
    fit(own_project, force=True)
    assert path.read_bytes() == frozen, "equal vectors give equal bytes"

    with (own_project / "data" / "towns.jsonl").open("a") as towns:
        towns.write('{"messages": [{"role": "user", "content": "Which town is new?"}, {"role": "assistant", "content": "New Town."}]}\n')
    with pytest.raises(StateError, match=r"embeddings/sums is not current \(raw/towns above it is stale\); run `rds run '\+embeddings/\*'` first"):
        fit(own_project, force=True)
    grown = walked(own_project)
    assert grown.is_success and set(grown.made) >= SCORES and "whitening/tiny" not in grown.made and path.read_bytes() == frozen

    before = contents(own_project)
    (step,) = fit(own_project, vectors=20, force=True).next_steps
    assert step.startswith("commit whitening/tiny.safetensors with the project, then `rds run`; stale now: whitening/tiny, exports/adding_only, ")
    assert "scores/rds/adding, scores/rds/places" in step
    stale = project_status(own_project).stale
    assert stale["whitening/tiny"] == ["the whitening's file changed"] and not SCORES & stale.keys()
    assert set(walked(own_project).made) == {"whitening/tiny"} | SCORES
    after = contents(own_project)
    assert {key for key in before if after[key] != before[key]} == {"whitening/tiny"} | SCORES

    whiten(own_project, 3)
    failed = walked(own_project)
    assert "whiten.dims is 3, but " in failed.failed["whitening/tiny"] and "set whiten.dims to 4" in failed.failed["whitening/tiny"]
    assert failed.blocked == dict.fromkeys(SCORES, "whitening/tiny failed") and contents(own_project) == after
    fit(own_project, force=True)
    assert read_whitening(path).dims == 3
    path.unlink()
    (reason,) = changed_outside(load_project(own_project)).values()
    assert "tiny.safetensors is not there; run `rds fit-whitening`" in reason


def test_another_encoder_is_embedded_with_and_then_asks_for_another_fit(own_project):
    store = TableStore(Layout.of_project(own_project))
    made = store.need("embeddings/sums")
    vectors = VectorStore(store.layout, made.text("encoder"), made.number("dims"))
    live = vectors.ids()
    live.sort()
    freeze_whitening(fit_on_stored(vectors, live, dims=4, most=500, seed=0), whitening_path(own_project, "tiny"))
    whiten(own_project, 4, pooling="mean")
    result = walked(own_project)
    assert {"encoders/tiny", "embeddings/sums", "queries/adding"} <= set(result.made)
    assert "was fitted on the vectors of another encoder" in result.failed["whitening/tiny"]
    assert result.blocked == dict.fromkeys(SCORES, "whitening/tiny failed")


def test_dims_come_from_the_yaml_or_the_command_and_not_from_both(new_project):
    words = r"encoder 'tiny' of the corpus has no whiten\.dims; set it in the YAML, as in whiten: \{dims: 64\}, or give --dims 64"
    with pytest.raises(SettingsError, match=words):
        fit(new_project)
    whiten(new_project, 5)
    with pytest.raises(SettingsError, match=r"--dims is 6, but whiten\.dims of encoder 'tiny' in the corpus is 5; leave --dims out, or mend the YAML first"):
        fit(new_project, dims=6)


def test_a_wrong_number_of_dims_in_the_yaml_is_refused_before_any_work(new_project):
    whiten(new_project, -2)
    with pytest.raises(SettingsError, match=r"encoder: whiten\.dims is -2; expected a whole number, at least 1"):
        load_project(new_project)


def test_a_project_without_pools_is_refused(new_project):
    for group in ("pools", "mixtures"):
        shutil.rmtree(new_project / "assets" / group)
    defs = new_project / "assets" / "corpus" / "defs.yaml"
    said = yaml.safe_load(defs.read_text())
    said["attributes"]["pools"] = []
    defs.write_text(yaml.safe_dump(said))
    with pytest.raises(StateError, match="there are no vectors to fit on: the project has no pool"):
        fit(new_project, dims=4)
