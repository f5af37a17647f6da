"""The rules that say what is of a task's own kind, the measures, and a whole run over made-up data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from benchmarks.own_kind import (
    KINDS,
    QUERIES,
    SOURCES,
    Item,
    effective_rank,
    encode,
    encoders,
    has_lettered_options,
    has_passage,
    is_gsm8k,
    mean_cosine,
    read_pool,
    shared_instructions,
    top_share,
)
from rds_dagster.errors import InputError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "own_kind.py"
PASSAGE = (
    "The lighthouse at the northern cape was built in 1871 by two brothers who had never seen the sea before. It burned coal until 1903, when a lamp of "
    "oil took its place. Ships far out reported its light at twenty miles, and in clear winters at thirty. The last keeper left in 1968, and since then "
    "nobody has lived on the rock."
)
CHINESE = "这座灯塔建于一八七一年由两兄弟修建他们以前从未见过大海。" * 4
DEFINITION = "In this task you write one question about the given text. " * 7


def item(prompt: str, answer: str = "Yes.", source: str = "dolly", instructions: frozenset[bytes] = frozenset()) -> Item:
    return Item(source, prompt, answer, instructions)


@pytest.mark.parametrize("number", ["72", "1,200", "0.5", "$40", "-3", "25%"])
def test_an_open_numeric_answer_of_flan_cot_is_gsm8k(number):
    assert is_gsm8k(item("How many are left?", f"He gave 3 away.\nThe answer is {number}.", "flan_cot"))


@pytest.mark.parametrize(
    ("prompt", "answer", "source"),
    [
        ("How many?\nOptions:\n(A) 3\n(B) 72", "6 x 12 = 72\nThe answer is 72.", "flan_cot"),
        ("How many?", "6 x 12 = 72\nThe answer is (B).", "flan_cot"),
        ("What might a right hand be called?", "The answer is number 1.", "flan_cot"),
        ("How many?", "The answer is 72.", "dolly"),
    ],
    ids=["options", "a letter", "words before the number", "another source"],
)
def test_other_answers_are_not_gsm8k(prompt, answer, source):
    assert not is_gsm8k(item(prompt, answer, source))


@pytest.mark.parametrize(
    "prompt",
    [
        f"{PASSAGE}\n\nWhen was it built?",
        f"Title: The cape\nText: {PASSAGE}\n",
        f"总结下面的文章。\n\n{CHINESE}",
        f"Sum this in brief: {PASSAGE} {PASSAGE}",
        "\n".join(PASSAGE.split(". ") * 2).replace("\n", ".\n") + ".",
    ],
    ids=["a line of its own", "a review", "Chinese", "600 bytes on the instruction's line", "a line for each sentence"],
)
def test_a_text_to_work_on_is_a_passage(prompt):
    assert has_passage(item(prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        "When was the lighthouse built?",
        PASSAGE,
        "Is this true?\n\n" + PASSAGE.replace(".", ","),
        f"Which one?\nOptions:\n(A) {PASSAGE}\n(B) {PASSAGE}",
        f"{PASSAGE}\nOptions:\n- 1871\n- 1903",
    ],
    ids=["no text", "a story problem alone", "one sentence", "only in the options", "options alone beside it"],
)
def test_other_prompts_hold_no_passage(prompt):
    assert not has_passage(item(prompt))


def test_an_instruction_that_500_prompts_share_is_no_passage_but_a_text_of_its_own_beside_it_is():
    prompts = [f"{DEFINITION}\n\nFact: rain {number} is wet." for number in range(500)]
    shared = shared_instructions(prompts)
    assert has_passage(item(prompts[0])) and not has_passage(item(prompts[0], instructions=shared))
    assert has_passage(item(f"{DEFINITION}\n\n{PASSAGE}", instructions=shared))
    assert not shared_instructions(prompts[:499])


def test_lettered_options_are_three_or_more_in_a_list_or_a_row():
    assert has_lettered_options(item("Which?\nA. one\nB. two\nC. three\nD. four\nAnswer:"))
    assert has_lettered_options(item("Which? (A) one (B) two (C) three"))
    assert has_lettered_options(item("Which?\nOptions:\n- (A) one\n- (B) two\n- (C) three"))
    assert not has_lettered_options(item("Which?\n (A) one\n (B) two"))
    assert not has_lettered_options(item("Suggestions: A. What may follow? B. What came before? C. What else?"))


def test_the_share_is_that_of_what_round_robin_takes():
    """Query 0 lies along x, query 1 along y. Turns: row 0, row 3, row 1, row 4; rows 0 and 1 are of the kind."""
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1], [0.1, 0.9], [-1, -1]], np.float16)
    queries, is_kind = np.eye(2, dtype=np.float32), np.array([True, True, False, False, False, True])
    assert [top_share(vectors, queries, is_kind, top) for top in (1, 2, 4)] == [1.0, 0.5, 0.5]
    assert top_share(vectors, queries, is_kind, 100) == 0.5  # all six


def test_mean_cosine_is_that_of_all_pairs():
    rows = np.random.default_rng(0).standard_normal((30, 5)) * np.arange(1, 31)[:, None]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(30) for j in range(30) if i != j]
    assert mean_cosine(rows) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert mean_cosine(np.tile([3.0, 4.0], (7, 1))) == pytest.approx(1)


def test_effective_rank_counts_directions():
    assert effective_rank(np.tile([3.0, 4.0, 0.0], (9, 1))) == pytest.approx(1)
    assert effective_rank(np.eye(6)) == pytest.approx(6)
    lopsided = np.array([[1, 0]] * 4 + [[0, 1]])  # singular values 2 and 1
    assert effective_rank(lopsided) == pytest.approx(np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))))


@pytest.fixture(scope="module")
def made_up_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten examples a source and three queries a task; alpaca_zh begins with a copy of alpaca's first and with an empty answer."""
    folder = tmp_path_factory.mktemp("data")
    for source in SOURCES:
        records = [_asked(f"What does {source} say of {number}?", f"It says {number + 1}.") for number in range(10)]
        if source == "alpaca_zh":
            records[:2] = [_asked("What does  alpaca say of 0?", "It says 1."), _asked("And now?", " ")]
        if source == "flan_cot":
            records[:4] = [_asked(f"Anna has {number} nuts and eats 2. How many are left?", f"The answer is {number - 2}.") for number in range(4, 8)]
        _write(folder / "pool" / f"{source}.jsonl.zst", records)
    for task, file in QUERIES.items():
        records = [{"id": f"{task}/{number}", **_asked(f"{task}, question {number}?", f"{number}.")} for number in range(3)]
        _write(folder / "tasks" / f"{file}.jsonl.zst", records)
    return folder


def test_the_pool_has_equal_parts_without_duplicates_and_empty_turns(made_up_data):
    pool = read_pool(made_up_data, 8)
    assert len(pool.ids) == len(set(pool.ids)) == 96 and (np.sort(pool.ids) == pool.ids).all()
    assert {source: count[""] for source, count in pool.counts.items()} == {source: 8 if source == "alpaca_zh" else 10 for source in SOURCES}
    assert pool.counts["flan_cot"]["GSM8K"] == 4 and pool.kinds["code"].sum() == 16
    is_sum = np.array(["nuts" in messages[0]["content"] for messages in pool.conversations])
    assert (pool.kinds["GSM8K"] == is_sum).all()
    smaller = read_pool(made_up_data, 5)
    assert set(smaller.ids) < set(pool.ids)


def test_a_source_that_holds_too_few_is_named(made_up_data):
    with pytest.raises(InputError, match="alpaca_zh has 8 unique examples; --per-source is 9. Set it to 8 or fewer"):
        read_pool(made_up_data, 9)


def test_a_whole_run_prints_and_writes_all_rows_and_keeps_the_vectors(made_up_data, tiny_llama_folder, tmp_path):
    cache, written = tmp_path / "cache", tmp_path / "kinds.md"
    command = [sys.executable, str(SCRIPT), "--data", str(made_up_data), "--cache", str(cache), "--encoders", str(tiny_llama_folder)]
    done = subprocess.run([*command, "--per-source", "6", "--top", "12", "--markdown", str(written)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert written.read_text() == done.stdout
    kinds, shares = ([line.split(" | ") for line in table.splitlines()[2:]] for table in done.stdout.split("\n\n"))
    assert [row[0].strip("| ") for row in kinds] == [*SOURCES, "**the pool**, 6 of each"] and {len(row) for row in kinds} == {2 + len(KINDS)}
    assert len(shares) == 2 + 3 * 4 and {len(row) for row in shares} == {3 + len(QUERIES) + 2}
    assert shares[0][4] == "16.7%, 1.0 x" and shares[1][4] == "100.0%, 6.0 x"  # 2 of 12 sources are code: 12 of 72, and 12 are taken
    assert [row[2] for row in shares[2:6]] == ["raw", "whitened to 16", "whitened to 32", "whitened to 64"]
    assert "alpaca_zh: dropped {'duplicate': 1, 'empty turn': 1}" in done.stderr

    _, identity = next(encoders([str(tiny_llama_folder)]))
    pool = read_pool(made_up_data, 6)
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(files) == 3 * (1 + len(QUERIES))
    kept = encode(identity, pool.conversations, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    np.testing.assert_array_equal(kept, encode(identity, pool.conversations, None))


@pytest.mark.slow
@pytest.mark.real_data
def test_the_gsm8k_rule_finds_exactly_the_copy_in_flan_cot(real_data):
    assert read_pool(real_data, 1_900).counts["flan_cot"]["GSM8K"] == 7_473


def _asked(question: str, answer: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _write(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zstandard.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
