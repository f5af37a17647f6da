"""Scores of whitened vectors through real stages: the cosines of the plain formula, for pools and queries alike, and growth moves none of them."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rds_dagster.embeddings.embed_queries import read_vectors
from rds_dagster.embeddings.register import register_encoder
from rds_dagster.embeddings.settings import WhitenSettings
from rds_dagster.embeddings.whitening_file import fit_on_stored, freeze_whitening, register_whitening, whitening_path
from rds_dagster.errors import StateError
from rds_dagster.mixtures.candidates import read_candidates
from rds_dagster.mixtures.choose import choose
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.scores import blocks
from rds_dagster.scores.deepen import deeper_lists
from rds_dagster.scores.score_tasks import ScoredTasks, score_key, score_tasks
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.scores.space import open_space

DIMS = 5


def fit(flow, dims: int = DIMS) -> None:
    freeze_whitening(fit_on_stored(flow.vectors(), flow.live, dims=dims, most=500, seed=0), whitening_path(flow.root, "tiny"))
    register_whitening(flow.store, replace(flow.encoder, whiten=WhitenSettings(dims)), root=flow.root)


def score(flow, *, depth: int = 256, whitened: str | None = "tiny") -> ScoredTasks:
    return score_tasks(flow.store, flow.tasks, flow.pools, flow.live, ScoreSettings(depth), whitened=whitened)


@pytest.fixture
def white(own_flow):
    """The small pools with a whitening, and scores of the whitened vectors."""
    fit(own_flow)
    return replace(own_flow, scored=score(own_flow))


def plain_cosines(flow, fitted_on: list[bytes], task: str, dims: int = DIMS) -> np.ndarray:
    """(N, M) float64 over the kept examples in id order: units less the mean of those fitted on, along their eigenvectors over standard deviations."""
    by_id: dict[bytes, np.ndarray] = {}
    for batch in flow.vectors().stream(["id", "vector"]):
        by_id.update(zip(batch.column("id").to_pylist(), batch.column("vector").to_pylist(), strict=True))

    def units(rows: object) -> np.ndarray:
        wide = np.array(rows, np.float64)
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)

    sample = units([by_id[example] for example in fitted_on])
    variances, axes = np.linalg.eigh(np.cov(sample.T, bias=True))
    matrix = axes[:, -dims:] / np.sqrt(variances[-dims:])
    pool = (units([by_id[example] for example in flow.live_bytes]) - sample.mean(axis=0)) @ matrix
    queries = (units(read_vectors(flow.store, flow.store.need(f"queries/{task}"))) - sample.mean(axis=0)) @ matrix
    return (pool @ queries.T) / np.linalg.norm(pool, axis=1)[:, None] / np.linalg.norm(queries, axis=1)


def stored(flow, task: str) -> dict[bytes, tuple[float, int]]:
    rows = flow.store.read(flow.store.need(score_key(task)), "scores").to_pylist()
    return {row["id"]: (row["score"], row["best_query"]) for row in rows}


def test_scores_are_the_cosines_of_vectors_whitened_by_the_plain_formula(white) -> None:
    for task in white.tasks:
        cosines, found = plain_cosines(white, white.live_bytes, task), stored(white, task)
        assert sorted(found) == white.live_bytes
        for example, row in zip(white.live_bytes, cosines, strict=True):
            assert found[example] == (pytest.approx(row.max(), abs=2e-5), row.argmax())  # the fit's sums stand on a grid of 2**-21
        assert cosines.max(axis=1).min() < 0.5 < cosines.max(), "spread, where the raw ones are alike"


def test_growth_moves_no_score_of_what_was_there(white, run_flow: Callable) -> None:
    before, file = {task: stored(white, task) for task in white.tasks}, whitening_path(white.root, "tiny").read_bytes()
    fitted_on = white.live_bytes
    lines = [
        {"messages": [{"role": "user", "content": f"How old is house {n}?"}, {"role": "assistant", "content": f"As old as {n * n} trees."}]} for n in range(9)
    ]
    (white.root / "pools/towns/more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grown = replace(run_flow(white.root, white.root / "home", white.encoder), root=white.root)
    score(grown)
    for task in white.tasks:
        after = stored(grown, task)
        assert len(after) == len(before[task]) + 9
        assert {example: after[example] for example in before[task]} == before[task], "to the last bit"
        assert [after[example][0] for example in grown.live_bytes] == pytest.approx(plain_cosines(grown, fitted_on, task).max(axis=1), abs=2e-5)
    assert whitening_path(white.root, "tiny").read_bytes() == file


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_blocks_do_not_matter(white, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    before = {task: stored(white, task) for task in white.tasks}
    tops = {task: white.store.read(white.store.need(score_key(task)), "top") for task in white.tasks}
    monkeypatch.setattr(blocks, "block_rows", lambda dims: rows)
    score(white)
    assert {task: stored(white, task) for task in white.tasks} == before
    assert {task: white.store.read(white.store.need(score_key(task)), "top") for task in white.tasks} == tops


def test_the_whitening_is_a_parent_of_the_scores_and_part_of_their_fingerprint(white) -> None:
    for task in white.tasks:
        manifest, raw = white.scored.manifests[task], white.store.need(f"queries/{task}")
        assert manifest.parents["whitening/tiny"] == white.store.need("whitening/tiny").fingerprint
        assert manifest.settings == {"method": "rds", "depth": 256, "whitened_to": DIMS}
        assert raw.parents.keys() == {"encoders/tiny"}, "queries are stored as the model makes them"
    first = {task: white.store.need(score_key(task)).fingerprint for task in white.tasks}
    fit(white, 3)
    again = score(white)
    assert again.rows_computed == {"adding": 34, "places": 34}
    assert not first.keys() - again.manifests.keys() and all(again.manifests[task].fingerprint != first[task] for task in first)


def test_without_whitening_every_fingerprint_is_what_it_was(white, flow) -> None:
    again = score(white, whitened=None)
    assert again.rows_computed == {"adding": 0, "places": 0}, "the blocks of the raw vectors are found again"
    for task in white.tasks:
        one, two = again.manifests[task], flow.scored.manifests[task]
        assert (one.fingerprint, one.recipe, one.settings, one.parents, one.files) == (two.fingerprint, two.recipe, two.settings, two.parents, two.files)


def test_a_second_run_computes_nothing(white) -> None:
    again = score(white)
    assert again.rows_computed == {"adding": 0, "places": 0}
    assert again.manifests == white.scored.manifests


def test_deeper_lists_are_whitened_too(white) -> None:
    full = white.store.read(white.store.need("scores/rds/adding"), "top")
    scores = score(white, depth=2).manifests["adding"]
    deeper = deeper_lists(white.store, scores, white.live, 20)
    for query in range(3):
        rows = [row for row in full.to_pylist() if row["query"] == query][:20]
        assert [row["id"] for row in rows] == [white.live_bytes[place] for place in deeper.rows[query]]
        assert [row["score"] for row in rows] == deeper.scores[query].tolist()


def test_a_mixture_that_runs_out_of_lists_picks_as_from_full_ones(white) -> None:
    settings = MixtureSettings("alike", 26, tasks=("adding",))
    candidates = read_candidates(white.store, white.pools)
    full = choose(white.store, settings, candidates, ("adding",))
    score(white, depth=2)
    short = choose(white.store, settings, candidates, ("adding",))
    assert (full.deepened, short.deepened > 0) == (0, True)
    assert np.array_equal(full.rows, short.rows) and np.array_equal(full.scores, short.scores)


def test_deeper_lists_are_refused_once_the_whitening_is_another(white) -> None:
    scores = white.scored.manifests["adding"]
    fit(white, 3)
    with pytest.raises(
        StateError, match="whitening/tiny changed since scores/rds/adding was made, and deeper lists are needed; run `rds run 'scores/rds/adding'`"
    ):
        deeper_lists(white.store, scores, white.live, 20)


def test_a_whitening_of_another_encoder_is_refused_in_words(white) -> None:
    _, encoder = register_encoder(white.store, replace(white.encoder, pooling="mean"))
    recorded = replace(white.store.need("whitening/tiny"), details={"encoder": encoder.fingerprint, "dims": DIMS})
    embeddings = [white.store.need(f"embeddings/{pool}") for pool in white.pools]
    words = rf"whitening/tiny was fitted on vectors of encoder {encoder.fingerprint[:8]}, the pools were embedded by {white.vectors().encoder[:8]}; run "
    with pytest.raises(StateError, match=words):
        open_space(white.store, embeddings, recorded)


def test_a_whitening_that_was_never_recorded_is_refused(own_flow) -> None:
    with pytest.raises(StateError, match="whitening/tiny is not materialized yet; run `rds run 'whitening/tiny'`"):
        score(own_flow)
