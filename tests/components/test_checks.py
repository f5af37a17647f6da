from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import lancedb
import numpy as np
import pyarrow as pa
import pytest

from rds_dagster import schema
from rds_dagster.components.check_frames import rows_frame, vectors_frame
from rds_dagster.components.check_suites import (
    CorpusChecks,
    clean_checks,
    clean_suite,
    embeddings_checks,
    embeddings_suite,
    mixture_suite,
    scores_suite,
    unique_suite,
)
from rds_dagster.components.checks import Expectation, run_suite, suite_checks
from rds_dagster.components.resources import Project
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.fingerprint import ID_DTYPE, content_digest
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.manifest import Counts, Manifest
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # dagster's own: any asset check makes its loader print one
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated:pydantic.PydanticDeprecatedSince20"),  # dagster's reading of YAML
    pytest.mark.filterwarnings("ignore:module 'sre_(constants|parse)' is deprecated:DeprecationWarning"),  # great_expectations, when it is imported
]

DIMS = 8
ENCODER = "e" * 32


def make_ids(prefix: str, num: int) -> np.ndarray:
    return np.sort(np.array([content_digest(f"{prefix} {i}".encode()) for i in range(num)], ID_DTYPE))


def make_units(num: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(num, DIMS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def hexed(*ids: bytes) -> list[str]:
    return [bytes(i).ljust(16, b"\0").hex() for i in ids]


class World:
    """A project's stored tables: pools dolly (100 kept, 10 lost to flan) and flan (60 kept)."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder=str(folder), home=str(folder / ".rds"))
        self.store: TableStore = self.project.tables
        self.dolly, self.lost, self.flan = make_ids("dolly", 100), make_ids("lost", 10), make_ids("flan", 60)
        self.live = np.sort(np.concatenate([self.dolly, self.flan]))

    def put(self, key: str, tables: dict[str, tuple[list[object], pa.Schema]], details: dict[str, object] | None = None) -> Manifest:
        draft = self.store.draft(key, "recipe")
        for name, (columns, kind) in tables.items():
            arrays = [column if isinstance(column, pa.Array) else pa.array(column, field.type) for column, field in zip(columns, kind, strict=True)]
            draft.write(name, pa.table(arrays, schema=kind), kind)
        return draft.manifest(fingerprint=f"content of {key}", settings={}, parents={}, counts=Counts(0, 0), details=details)

    def clean(self, pool: str, ids: pa.Array | np.ndarray, messages: Sequence[int] | None = None, chars: Sequence[int] | None = None) -> None:
        num = len(ids)
        column = ids if isinstance(ids, pa.Array) else id_column(ids)
        columns = [column, column, [pool] * num, messages or [2] * num, chars or [30] * num, [0] * num, list(range(num))]
        self.store.commit([self.put(f"clean/{pool}", {"index": (columns, schema.CLEAN)})])

    def unique(self, kept: dict[str, np.ndarray], losers: dict[str, np.ndarray] | None = None) -> None:
        manifests = []
        for pool, ids in kept.items():
            lost = (losers or {}).get(pool, np.empty(0, ID_DTYPE))
            blank = [None] * len(lost)
            tables = {
                "kept": ([id_column(ids), [pool] * len(ids)], schema.UNIQUE),
                "losers": ([id_column(lost), ["exact_duplicate"] * len(lost), id_column(lost), ["flan"] * len(lost)], schema.LOSER),
                "quarantine": ([["unique"] * len(lost), ["r"] * len(lost), [pool] * len(lost), blank, blank, id_column(lost), blank, blank], schema.QUARANTINE),
            }
            manifests.append(self.put(f"unique/{pool}", tables))
        self.store.commit(manifests)

    def embed(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        store = VectorStore(self.project.layout, ENCODER, DIMS)
        with store.writing():
            store.append(ids, vectors, np.full(len(ids), 7, np.int32), "cpu")
        self.store.commit([self.put("embeddings/dolly", {}, {"encoder": ENCODER, "dims": DIMS})])

    def embed_unchecked(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        columns = [id_column(ids), pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMS), [7] * len(ids), ["cpu"] * len(ids)]
        name = VectorStore(self.project.layout, ENCODER, DIMS).table_name
        lancedb.connect(self.project.layout.vectors).open_table(name).add(pa.table(columns, schema=schema.vectors(DIMS)))

    def score(self, ids: np.ndarray, scores: np.ndarray) -> None:
        queries = (["q0", "q1"], id_column(self.flan[:2]), [[], []], ["a", "b"], [1, 1])
        rows = ([id_column(ids), pa.array(scores, pa.float32()), [0] * len(ids)], schema.SCORE)
        self.store.commit([self.put("scores/rds/gsm8k", {"queries": (list(queries), schema.QUERY), "scores": rows})])

    def mix(self, ids: np.ndarray, pools: Sequence[str], sources: Sequence[str], positions: Sequence[int] | None = None) -> None:
        num = len(ids)
        blank = [None] * num
        columns = [positions or list(range(1, num + 1)), id_column(ids), list(pools), list(sources), blank, blank, blank, blank, ["rds"] * num, [[]] * num]
        self.store.commit([self.put("mixtures/math", {"examples": (columns, schema.SELECTED)})])

    def good(self) -> World:
        """All stages as they should be, but for the mixture."""
        self.clean("dolly", np.sort(np.concatenate([self.dolly, self.lost])))
        self.clean("flan", self.flan)
        self.unique({"dolly": self.dolly, "flan": self.flan}, {"dolly": self.lost})
        self.embed(self.live, make_units(len(self.live)))
        self.score(self.live, np.linspace(-0.2, 0.9, len(self.live), dtype=np.float32))
        return self


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def evaluate(world: World, checks: dg.AssetChecksDefinition) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the checks by Dagster, alone; check name -> evaluation."""
    result = dg.materialize([checks], resources={"project": world.project}, raise_on_error=False, selection=dg.AssetSelection.checks(checks))
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def failed(evaluations: dict[str, dg.AssetCheckEvaluation]) -> list[str]:
    assert evaluations, "no check ran"
    return sorted(name for name, one in evaluations.items() if not one.passed)


def offenders(evaluation: dg.AssetCheckEvaluation) -> list[dict[str, object]]:
    return [dict(record.data) for record in evaluation.metadata["offenders"].records]


def observed(evaluation: dg.AssetCheckEvaluation) -> object:
    return evaluation.metadata["observed_value"].value


# the default suites


def test_clean_suite_passes_on_good_rows(world: World) -> None:
    found = evaluate(world.good(), clean_suite("dolly"))
    assert failed(found) == []
    assert set(found) == {"has_rows", "ids_not_null", "ids_unique", "asks_and_answers", "not_endless", "not_empty"}
    assert observed(found["has_rows"]) == 110
    assert found["ids_unique"].metadata["seconds"].value > 0


def test_clean_suite_fails_with_the_offending_ids(world: World) -> None:
    ids = world.dolly.copy()
    ids[21] = ids[20]
    world.clean("dolly", ids, [1, 2, 1001, *[2] * 97], [9, 0, 9, *[9] * 97])
    found = evaluate(world, clean_suite("dolly"))
    assert failed(found) == ["asks_and_answers", "ids_unique", "not_empty", "not_endless"]
    assert offenders(found["ids_unique"]) == [{"id": text} for text in hexed(ids[20], ids[20])]
    assert offenders(found["asks_and_answers"]) == [{"id": hexed(ids[0])[0], "num_messages": 1}]
    assert offenders(found["not_empty"]) == [{"id": hexed(ids[1])[0], "num_chars": 0}]
    assert found["ids_unique"].metadata["unexpected_count"].value == 2
    assert found["ids_unique"].metadata["unexpected_percent"].value == pytest.approx(2.0)
    assert found["not_endless"].severity == dg.AssetCheckSeverity.WARN
    assert found["not_empty"].severity == dg.AssetCheckSeverity.ERROR


def test_clean_suite_fails_on_null_ids_and_on_no_rows(world: World) -> None:
    ids = pa.array([bytes(world.dolly[0]), None], pa.binary(16))
    world.clean("dolly", ids)
    assert failed(evaluate(world, clean_suite("dolly"))) == ["ids_not_null"]
    world.clean("flan", world.flan[:0])
    assert failed(evaluate(world, clean_suite("flan"))) == ["has_rows"]


def test_at_most_five_offenders_are_shown_of_all_counted(world: World) -> None:
    world.clean("dolly", world.dolly, [1] * 100)
    found = evaluate(world, clean_suite("dolly"))["asks_and_answers"]
    assert len(offenders(found)) == 5
    assert found.metadata["unexpected_count"].value == 100


def test_unique_suite_passes_where_every_clean_id_is_kept_or_lost(world: World) -> None:
    world.good()
    assert failed(evaluate(world, unique_suite("dolly"))) == []
    assert failed(evaluate(world, unique_suite("flan"))) == []


def test_unique_suite_names_ids_that_do_not_add_up(world: World) -> None:
    world.good()
    twice, stranger, forgotten, shared = world.dolly[7], make_ids("stranger", 1)[0], world.dolly[50], world.flan[3]
    kept = np.sort(np.concatenate([np.delete(world.dolly, 50), [twice, stranger, shared, world.lost[0]]]))
    world.unique({"dolly": kept, "flan": world.flan}, {"dolly": world.lost})
    found = evaluate(world, unique_suite("dolly"))
    assert failed(found) == ["all_clean_accounted_for", "ids_are_clean", "ids_in_one_pool", "ids_unique", "kept_or_lost"]
    assert [row["id"] for row in offenders(found["ids_unique"])] == hexed(twice)
    assert [row["id"] for row in offenders(found["ids_are_clean"])] == hexed(*sorted([stranger, shared]))
    assert [row["id"] for row in offenders(found["ids_in_one_pool"])] == hexed(shared)
    assert [row["id"] for row in offenders(found["all_clean_accounted_for"])] == hexed(forgotten)
    assert [row["id"] for row in offenders(found["kept_or_lost"])] == hexed(world.lost[0])
    assert observed(found["ids_are_clean"]) == 2


def test_embeddings_suite_passes_on_unit_vectors(world: World) -> None:
    found = evaluate(world.good(), embeddings_suite("dolly"))
    assert failed(found) == []
    assert observed(found["not_collapsed"]) > 6
    assert observed(found["all_embedded"]) == 0


def test_embeddings_suite_names_bad_vectors(world: World) -> None:
    world.unique({"dolly": world.dolly})
    vectors = make_units(100)
    vectors[11] *= np.float16(1.25)
    world.embed(np.delete(world.dolly, [0, 10]), np.delete(vectors, [0, 10], axis=0))
    vectors[10, 0] = np.inf  # the store refuses it, so it is written past the store
    world.embed_unchecked(world.dolly[10:11], vectors[10:11])
    world.embed(world.dolly[20:21], vectors[20:21])
    found = evaluate(world, embeddings_suite("dolly"))
    assert failed(found) == ["all_embedded", "embedded_once", "norm_is_one", "vectors_finite"]
    assert [row["id"] for row in offenders(found["all_embedded"])] == hexed(world.dolly[0])
    assert [row["id"] for row in offenders(found["vectors_finite"])] == hexed(world.dolly[10])
    assert [row["id"] for row in offenders(found["norm_is_one"])] == hexed(world.dolly[11])
    assert [row["id"] for row in offenders(found["embedded_once"])] == hexed(world.dolly[20])
    assert observed(found["norm_is_one"]) == pytest.approx(0.25, abs=0.001)


def test_embeddings_suite_fails_on_collapsed_vectors_and_on_wrong_dims(world: World) -> None:
    world.unique({"dolly": world.dolly})
    world.embed(world.dolly, np.repeat(make_units(1), 100, axis=0))
    assert failed(evaluate(world, embeddings_suite("dolly"))) == ["not_alike", "not_collapsed"]
    world.store.commit([world.put("embeddings/dolly", {}, {"encoder": ENCODER, "dims": DIMS * 2})])
    found = evaluate(world, embeddings_suite("dolly"))
    assert failed(found) == ["right_dims"]
    assert observed(found["right_dims"]) == 100


def test_a_tiny_or_empty_pool_passes_the_embeddings_suite(world: World) -> None:
    world.unique({"dolly": world.dolly[:2]})
    world.embed(world.dolly[:2], np.repeat(make_units(1), 2, axis=0))
    found = evaluate(world, embeddings_suite("dolly"))
    assert failed(found) == []
    assert "observed_value" not in found["not_collapsed"].metadata
    world.unique({"dolly": world.dolly[:0]})
    assert failed(evaluate(world, embeddings_suite("dolly"))) == []


def test_only_stretches_of_the_vector_table_that_hold_the_pool_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rds_dagster.components.check_frames.block_rows", lambda dims: 100)
    others, vectors = make_ids("others", 200), make_units(300)
    world.unique({"dolly": world.dolly})
    for ids, part in ((others[:64], vectors[:64]), (world.dolly[:50], vectors[64:114]), (others[64:], vectors[114:250]), (world.dolly[50:], vectors[250:])):
        world.embed(ids, part)
    read = 0
    stream = VectorStore.stream

    def counted(self: VectorStore, columns: list[str], *, start: int = 0, rows: int | None = None):  # type: ignore[no-untyped-def]
        nonlocal read
        for batch in stream(self, columns, start=start, rows=rows):
            read += batch.num_rows if "vector" in columns else 0
            yield batch

    monkeypatch.setattr(VectorStore, "stream", counted)
    row = vectors_frame("dolly")(world.project, []).iloc[0]
    assert (row["rows"], row["missing"], row["sampled"]) == (100, 0, 100)
    assert read == 36 + 14 + 50  # of 300: in blocks of 100, rows 64 to 99, 100 to 113, 250 to 299


def test_scores_suite_passes_on_good_scores(world: World) -> None:
    found = evaluate(world.good(), scores_suite("gsm8k"))
    assert failed(found) == []
    assert observed(found["highest_is_a_cosine"]) == pytest.approx(0.9)


def test_scores_suite_names_unscored_and_out_of_range(world: World) -> None:
    world.good()
    scores = np.linspace(-0.2, 0.9, len(world.live), dtype=np.float32)
    scores[5], scores[6] = np.nan, 1.2
    world.score(world.live[1:], scores[1:])
    found = evaluate(world, scores_suite("gsm8k"))
    assert failed(found) == ["all_scored", "highest_is_a_cosine", "scores_finite"]
    assert [row["id"] for row in offenders(found["all_scored"])] == hexed(world.live[0])
    assert [row["id"] for row in offenders(found["scores_finite"])] == hexed(world.live[5])
    assert [row["id"] for row in offenders(found["highest_is_a_cosine"])] == hexed(world.live[6])
    world.score(world.live, np.full(len(world.live), 0.5))
    assert failed(evaluate(world, scores_suite("gsm8k"))) == ["not_constant"]


def test_mixture_suite_passes_on_what_was_asked_for(world: World) -> None:
    world.good().mix(np.concatenate([world.dolly[:3], world.flan[:2]]), ["dolly"] * 3 + ["flan"] * 2, ["dolly"] * 3 + ["cot"] * 2)
    assert failed(evaluate(world, mixture_suite(MixtureSettings("math", 5, required_sources=("cot", "dolly"))))) == []
    assert failed(evaluate(world, mixture_suite(MixtureSettings("math", 6)))) == ["size_is_the_budget"]
    assert failed(evaluate(world, mixture_suite(MixtureSettings("math", 4, allow_short=True)))) == ["size_is_the_budget"]
    assert failed(evaluate(world, mixture_suite(MixtureSettings("math", 6, allow_short=True)))) == []


def test_mixture_suite_names_what_was_not_asked_for(world: World) -> None:
    ids = np.concatenate([world.dolly[:3], world.dolly[:1], world.flan[:1]])
    world.good().mix(ids, ["dolly"] * 3 + ["flan"] * 2, ["dolly"] * 5, [1, 2, 3, 5, 4])
    found = evaluate(world, mixture_suite(MixtureSettings("math", 5, pools=("dolly",), required_sources=("cot", "oasst"))))
    assert failed(found) == ["ids_are_kept", "picked_once", "pools_as_asked", "positions_without_gap", "sources_as_asked"]
    assert [row["id"] for row in offenders(found["picked_once"])] == hexed(world.dolly[0])
    assert [row["id"] for row in offenders(found["ids_are_kept"])] == hexed(world.dolly[0])  # flan does not keep it
    assert {row["id"] for row in offenders(found["pools_as_asked"])} == set(hexed(world.dolly[0], world.flan[0]))
    assert offenders(found["sources_as_asked"]) == [{"source": "cot"}, {"source": "oasst"}]


# blocking


@pytest.mark.parametrize(("severity", "runs"), [("critical", False), ("warning", True), ("info", True)])
def test_only_a_critical_failure_stops_what_is_downstream(world: World, severity: str, runs: bool) -> None:
    ran = []

    @dg.asset(key=["clean", "dolly"])
    def clean() -> None:
        world.clean("dolly", world.dolly, [2] * 99 + [1])

    @dg.asset(key=["unique", "dolly"], deps=[clean])
    def unique() -> None:
        ran.append("unique")

    kwargs = {"column": "num_messages", "min_value": 2}
    expectation = Expectation(name="asks_and_answers", type="expect_column_values_to_be_between", kwargs=kwargs, severity=severity)
    result = dg.materialize([clean, unique, clean_suite("dolly", [expectation])], resources={"project": world.project}, raise_on_error=False)
    (evaluation,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "asks_and_answers"]
    assert not evaluation.passed
    assert evaluation.blocking == (severity == "critical")
    assert [row["id"] for row in offenders(evaluation)] == hexed(world.dolly[99])
    assert ran == (["unique"] if runs else [])
    assert result.success == runs


def test_a_subset_of_the_checks_can_run_alone(world: World) -> None:
    suite = clean_suite("dolly")
    wanted = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["clean", "dolly"]), "not_empty"))
    result = dg.materialize([suite], resources={"project": world.good().project}, selection=wanted)
    assert [one.check_name for one in result.get_asset_check_evaluations()] == ["not_empty"]


# what users add


def test_users_add_checks_by_yaml_and_replace_defaults_of_equal_name(world: World) -> None:
    yaml = """
    unique:
      - name: big_enough
        type: expect_column_values_to_be_between
        kwargs: {column: rows, min_value: 500}
        severity: warning
        description: Enough to pick from.
    embeddings:
      - {name: not_alike, type: expect_column_values_to_be_between, kwargs: {column: mean_pairwise_cosine, max_value: -0.5}, severity: info}
    """
    checks = CorpusChecks.resolve_from_yaml(yaml)
    found = evaluate(world.good(), unique_suite("dolly", checks.unique))
    assert failed(found) == ["big_enough"]
    assert found["big_enough"].description == "Broken (it is 100): Enough to pick from."
    assert [e.name for e in embeddings_checks("dolly", checks.embeddings)] == [e.name for e in embeddings_checks("dolly")]
    assert failed(evaluate(world, embeddings_suite("dolly", checks.embeddings))) == ["not_alike"]
    assert checks.scores == []


def test_a_condition_and_a_share_narrow_a_check(world: World) -> None:
    world.clean("dolly", world.dolly, chars=[5] * 10 + [50] * 90)
    between = "expect_column_values_to_be_between"
    later = {"type": "comparison", "column": {"name": "row"}, "operator": ">=", "parameter": 10}
    both = {"type": "and", "conditions": [later, {"type": "nullity", "column": {"name": "source"}, "is_null": False}]}
    long_ones = {"column": "num_chars", "min_value": 20, "row_condition": both}
    median = {"quantiles": [0.5], "value_ranges": [[1, 40]]}
    extra = [
        Expectation(name="later_ones_long", type=between, kwargs=long_ones),
        Expectation(name="nearly_all_long", type=between, kwargs={"column": "num_chars", "min_value": 20, "mostly": 0.9}),
        Expectation(name="mean_chars", type="expect_column_mean_to_be_between", kwargs={"column": "num_chars", "max_value": 40}),
        Expectation(name="median_chars", type="expect_column_quantile_values_to_be_between", kwargs={"column": "num_chars", "quantile_ranges": median}),
        Expectation(name="one_source", type="expect_column_distinct_values_to_be_in_set", kwargs={"column": "source", "value_set": ["web"]}),
        Expectation(name="rows_unique", type="expect_compound_columns_to_be_unique", kwargs={"column_list": ["shard", "row"]}),
    ]
    assert extra[0].columns() == ["num_chars", "row", "source"]
    found = evaluate(world, clean_suite("dolly", extra))
    assert failed(found) == ["mean_chars", "median_chars", "one_source"]
    assert observed(found["mean_chars"]) == pytest.approx(45.5)
    assert observed(found["median_chars"]) == {"quantiles": [0.5], "values": [50]}
    assert offenders(found["one_source"]) == [{"value": "dolly"}]
    assert found["one_source"].description.startswith("Broken (1 unexpected): ")
    assert found["nearly_all_long"].metadata["unexpected_count"].value == 10


def test_only_named_columns_are_loaded(world: World) -> None:
    frame = rows_frame("clean/dolly", "index")(world.good().project, ["num_chars"])
    assert list(frame.columns) == ["id", "num_chars"]
    assert frame["id"].tolist() == hexed(*np.sort(np.concatenate([world.dolly, world.lost])))
    with pytest.raises(StateError, match="a check of clean/dolly names letters; its columns are id, duplicate_key, source"):
        rows_frame("clean/dolly", "index")(world.project, ["letters"])


def test_a_table_without_ids_shows_the_values(world: World) -> None:
    world.store.commit([world.put("quality/lengths", {"rows": ([["a", "b"], [3, 9]], pa.schema([("pool", pa.string()), ("shortest", pa.int64())]))})])
    kwargs: dict[str, object] = {"column": "shortest", "min_value": 5}
    expectations = [
        Expectation(name="not_short", type="expect_column_values_to_be_between", kwargs=kwargs),
        Expectation(name="two_pools", type="expect_table_row_count_to_equal", kwargs={"value": 2}),
    ]
    found = evaluate(world, suite_checks(dg.AssetKey(["quality", "lengths"]), expectations, rows_frame("quality/lengths", "rows")))
    assert failed(found) == ["not_short"]
    assert offenders(found["not_short"]) == [{"value": 3}]


# what is refused


def test_a_check_that_cannot_be_evaluated_fails_with_the_reason(world: World) -> None:
    expectation = Expectation(name="odd", type="expect_column_values_to_be_between", kwargs={"column": "source", "min_value": 3})
    found = evaluate(world.good(), clean_suite("dolly", [expectation]))
    assert failed(found) == ["odd"]
    assert found["odd"].description.startswith("Could not be evaluated: ")
    assert "must either be None or of the same type" in found["odd"].metadata["error"].value


@pytest.mark.parametrize(
    ("kind", "kwargs", "words"),
    [
        (
            "expect_column_values_to_be_beetween",
            {"column": "num_chars"},
            "check odd of clean/dolly: type is .*did you mean 'expect_column_values_to_be_between'",
        ),
        ("expect_column_values_to_be_between", {"column": "num_chars", "min_vale": 1}, "check odd of clean/dolly: .* does not take kwargs .*min_vale"),
    ],
)
def test_what_gx_does_not_know_is_refused_before_anything_is_loaded(world: World, kind: str, kwargs: dict[str, object], words: str) -> None:
    def load(project: Project, columns: Sequence[str]) -> None:
        raise AssertionError("loaded")

    with pytest.raises(SettingsError, match=words):
        list(run_suite(dg.AssetKey(["clean", "dolly"]), [Expectation(name="odd", type=kind, kwargs=kwargs)], load, world.project))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{name: Big, type: expect_column_values_to_be_unique}", "check name is 'Big'; expected small letters"),
        ("{name: big, type: column_values_to_be_unique}", "check type is 'column_values_to_be_unique'; expected an expectation of Great Expectations"),
        ("{name: big, type: expect_table_column_count_to_equal, kwargs: {value: 2}}", "cannot be used: a check is shown only the columns that it names"),
        ("{name: big, type: expect_column_values_to_be_unique, kwarg: {column: id}}", "Extra inputs are not permitted"),
        ("{name: big, type: expect_column_values_to_be_unique, severity: fatal}", "'critical', 'warning' or 'info'"),
        (
            "{name: big, type: expect_column_values_to_be_unique, kwargs: {column: id, row_condition: row > 1}}",
            "check big: row_condition is 'row > 1'; expected a mapping such as",
        ),
    ],
)
def test_wrong_settings_are_refused_when_definitions_load(said: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Expectation.resolve_from_yaml(said)


def test_unknown_columns_and_repeated_names_are_refused_when_definitions_load() -> None:
    odd = Expectation(name="odd", type="expect_column_values_to_be_unique", kwargs={"column": "num_char"})
    with pytest.raises(SettingsError, match=r"check odd of clean/dolly: column is 'num_char'; expected one of .*did you mean 'num_chars'"):
        clean_checks("dolly", [odd])
    same = Expectation(name="same", type="expect_column_values_to_be_unique", kwargs={"column": "id"})
    with pytest.raises(SettingsError, match="checks of clean/dolly name same more than once; name each once"):
        clean_checks("dolly", [same, same])
    with pytest.raises(SettingsError, match="checks of clean/dolly name same more than once"):
        suite_checks(dg.AssetKey(["clean", "dolly"]), [same, same], rows_frame("clean/dolly", "index"))


def test_defining_checks_imports_neither_great_expectations_nor_pandas() -> None:
    code = """
import sys
from rds_dagster.components.check_suites import clean_suite, scores_suite
clean_suite("dolly"), scores_suite("gsm8k")
sys.exit(", ".join(sorted({"great_expectations", "pandas"} & sys.modules.keys())) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
