"""One example's whole chain, read from the version's folder, and the words where it cannot be told."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rds_dagster.embeddings.settings import WhitenSettings
from rds_dagster.embeddings.whitening_file import fit_on_stored, freeze_whitening, register_whitening, whitening_path
from rds_dagster.errors import SettingsError, StateError
from rds_dagster.lineage.explain import Explanation, Place, explain, explanation_text
from rds_dagster.scores.score_tasks import score_tasks
from rds_dagster.scores.settings import ScoreSettings


def rows_of(flow, name: str) -> list[dict[str, object]]:
    return flow.store.read(flow.store.need(f"mixtures/{name}"), "examples").to_pylist()


@pytest.fixture
def everything(own_flow) -> Callable[[str], Explanation]:
    """Explains the example of a mixture of all 34 whose text begins in some way."""
    own_flow.make("everything", 34)
    rows = rows_of(own_flow, "everything")

    def explained(beginning: str) -> Explanation:
        (row,) = [row for row in rows if any(m["content"].startswith(beginning) for m in row["messages"])]  # type: ignore[attr-defined]
        return explain(own_flow.store, "everything", row["id"].hex())  # type: ignore[attr-defined]

    return explained


# ---- the chain ---------------------------------------------------------------------------------------------------------------------------------------


def test_the_chain_of_every_example_is_what_the_tables_say(flow) -> None:
    queries = {(q["task"], q["query"]): q["text"] for q in flow.store.read(flow.mixtures["best"].manifest, "queries").to_pylist()}
    for row in rows_of(flow, "best"):
        said = explain(flow.store, "best", row["id"].hex())
        for name in ("position", "pool", "source", "task", "query", "rank", "score", "method"):
            assert getattr(said, name) == row[name]
        assert said.id == row["id"].hex() and said.query_text == queries[row["task"], row["query"]]
        assert [message["content"] for message in said.messages] == [message["content"] for message in row["messages"]]
        assert all(None not in message.values() for message in said.messages)
        assert (said.mixture, said.version) == ("best", flow.mixtures["best"].manifest.fingerprint)
        assert said.settings["budget"] == 9 and said.cleaning["max_chars"] == 1_000_000
        assert said.upstream["raw/sums"] == flow.store.need("raw/sums").fingerprint and "scores/rds/places" in said.upstream


def test_every_place_is_named_with_file_and_line(everything: Callable[[str], Explanation]) -> None:
    assert everything("What is 0 plus 3?").places == (Place("chat", "new/c.jsonl", 8, "s0", "chat"), Place("sums", "a.jsonl", 1, "s0", "sums"))
    assert everything("What is 12 plus 87?").places == (Place("sums", "b.jsonl", 3, "s12", "sums"),)
    assert everything("Which town lies 3 ").places == (Place("towns", "all.jsonl", 4, None, "map"),)


def test_what_lost_to_it_is_named(everything: Callable[[str], Explanation]) -> None:
    same = everything("What is 0 plus 3?")
    assert same.duplicates == ((same.id, "chat", "exact_duplicate"),)
    ((loser, pool, reason),) = everything("What is 1 plus 10?").duplicates
    assert loser != everything("What is 1 plus 10?").id and (pool, reason) == ("chat", "exact_duplicate")
    assert everything("Which town lies 3 ").duplicates == ()


def test_a_random_pick_has_no_task_no_query_and_no_score(flow) -> None:
    row = rows_of(flow, "by_chance")[4]
    said = explain(flow.store, "by_chance", row["id"].hex())
    assert (said.task, said.query, said.query_text, said.score, said.rank, said.method) == (None, None, None, None, 5, "random")
    assert "chosen by\n  method random, draw 5" in explanation_text(said)


def test_an_explanation_can_be_written_as_json(flow) -> None:
    for name in ("best", "by_chance"):
        said = explain(flow.store, name, rows_of(flow, name)[0]["id"].hex())
        again = json.loads(json.dumps(asdict(said), allow_nan=False))
        assert again["id"] == said.id and again["places"][0]["line"] == said.places[0].line and again["upstream"] == said.upstream


def test_the_text_says_it_all(everything: Callable[[str], Explanation]) -> None:
    said = everything("What is 1 plus 10?")
    text = explanation_text(said)
    for words in (
        f"example {said.id}  (sums, source sums)", "in mixture everything, version ", f"  task   {said.task}", f"  query  {said.query}",
        f"  rank   {said.rank:,} in that list", f"  score  {said.score:.4f}", "    | <|user|>", "  sums  a.jsonl, line 2  (id s1)",
        "lost to it", "  user: What is 1 plus 10?", "  assistant: 1 plus 10 is 11.", "  raw/sums  ", "  encoders/tiny  ",
    ):  # fmt: skip
        assert words in text, words


def test_it_names_the_whitening_of_the_vectors_that_were_scored(own_flow) -> None:
    settings = replace(own_flow.encoder, whiten=WhitenSettings(4))
    freeze_whitening(fit_on_stored(own_flow.vectors(), own_flow.live, dims=4, most=500, seed=0), whitening_path(own_flow.root, "tiny"))
    digest = register_whitening(own_flow.store, settings, root=own_flow.root).fingerprint
    score_tasks(own_flow.store, own_flow.tasks, own_flow.pools, own_flow.live, ScoreSettings(), whitened="tiny")
    own_flow.make("best", 9)
    said = explain(own_flow.store, "best", rows_of(own_flow, "best")[0]["id"].hex())  # type: ignore[attr-defined]
    assert said.whitening == ("whitening/tiny", 4) and said.upstream["whitening/tiny"] == digest
    text = explanation_text(said)
    assert f"of vectors whitened to 4 dims by whitening/tiny, {digest[:12]}\n" in text and f"  whitening/tiny  {digest[:12]}" in text
    own_flow.make("chance", 9, method="random")
    assert explain(own_flow.store, "chance", rows_of(own_flow, "chance")[0]["id"].hex()).whitening is None  # type: ignore[attr-defined]


def test_it_answers_when_all_but_the_mixture_is_gone(own_flow) -> None:
    row = rows_of(own_flow, "best")[0]
    before = explain(own_flow.store, "best", row["id"].hex())
    layout = own_flow.store.layout
    for path in layout.home.iterdir():
        if path not in (layout.mixtures, layout.manifests):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in layout.manifests.iterdir():
        if path.name != "mixtures":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(own_flow.root / "pools")
    assert asdict(explain(own_flow.store, "best", row["id"].hex())) == {**asdict(before), "duplicates": ()}


def test_an_older_version_is_explained_from_its_own_folder(own_flow) -> None:
    row = rows_of(own_flow, "best")[0]
    before = explain(own_flow.store, "best", row["id"].hex())  # type: ignore[attr-defined]
    own_flow.make("best", 1, method="random", seed=next(seed for seed in range(99) if picks_by_chance(own_flow, seed) != row["id"]))
    with pytest.raises(SettingsError, match="mixture 'best' does not hold example"):
        explain(own_flow.store, "best", row["id"].hex())  # type: ignore[attr-defined]
    for version in ("previous", before.version[:8]):
        assert explain(own_flow.store, "best", row["id"].hex(), version=version) == before  # type: ignore[attr-defined]


def picks_by_chance(flow, seed: int) -> object:
    flow.make("chance", 1, method="random", seed=seed)
    return rows_of(flow, "chance")[0]["id"]


def test_tables_that_are_gone_leave_out_the_losers_alone(everything: Callable[[str], Explanation], own_flow) -> None:
    before = everything("What is 0 plus 3?")
    shutil.rmtree(own_flow.store.layout.tables)
    assert asdict(everything("What is 0 plus 3?")) == {**asdict(before), "duplicates": ()}


# ---- which example -----------------------------------------------------------------------------------------------------------------------------------


def test_the_beginning_of_an_id_will_do(flow) -> None:
    example = rows_of(flow, "best")[2]["id"].hex()
    assert explain(flow.store, "best", example[:6]) == explain(flow.store, "best", f" {example.upper()}\n")


def test_an_ambiguous_beginning_is_refused_with_a_longer_one(own_flow) -> None:
    mixture = own_flow.store.need("mixtures/best")
    (path,) = own_flow.store.paths(mixture, "examples")
    table = pq.read_table(path)
    ids = table.column("id").to_pylist()
    ids[1] = ids[0][:4] + bytes(12)
    pq.write_table(table.set_column(1, table.schema.field("id"), pa.array(ids, pa.binary(16))), path)
    words = rf"example id '{ids[0].hex()[:6]}' fits 2 examples of mixture 'best'; give more digits, as {ids[0].hex()}"
    with pytest.raises(SettingsError, match=words):
        explain(own_flow.store, "best", ids[0].hex()[:6])
    assert explain(own_flow.store, "best", ids[1].hex()).position == 2


@pytest.mark.parametrize("example", ["", "abc", "12 34", "xyzw", "s0-1"])
def test_what_is_no_id_is_refused(flow, example: str) -> None:
    with pytest.raises(SettingsError, match=rf"example id '{example}' is not hexadecimal of 4 digits or more; the ids stand in the exported files"):
        explain(flow.store, "best", example)


def test_an_example_that_the_mixture_does_not_hold_is_refused(flow) -> None:
    other = next(i for i in flow.live_bytes if i not in {row["id"] for row in rows_of(flow, "best")})
    with pytest.raises(SettingsError, match=rf"mixture 'best' does not hold example '{other.hex()}' \(it holds 9\)"):
        explain(flow.store, "best", other.hex())


def test_an_unknown_mixture_is_refused_with_those_that_are_there(flow) -> None:
    with pytest.raises(StateError, match=r"mixture 'bets' is not there; made so far: best, by_chance\. Run `rds run '\+mixtures/bets'` or mend the name"):
        explain(flow.store, "bets", "0" * 32)
