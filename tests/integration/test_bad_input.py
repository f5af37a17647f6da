"""Bad input of pools and tasks, one test each: a clear error or a quarantine row with file and line, and nothing else is lost."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rds_dagster.cleaning.unique import unify_pools
from rds_dagster.errors import InputError, SettingsError
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.project import project_folder
from rds_dagster.queries.read import read_queries
from rds_dagster.queries.settings import TaskSettings

POOL = PoolSettings("chat", "data")
GOOD = [{"prompt": f"Question {number}?", "response": f"Answer {number}."} for number in range(6)]


def losses(pool_folder, made) -> list[tuple[str, int, str]]:
    return [(row["file"], row["line"], row["reason"]) for row in pool_folder.rows(made.clean, "quarantine")]


def prompts(pool_folder) -> set[str]:
    """The prompts of all conversations that reach the stage after cleaning."""
    from rds_dagster.cleaning.texts import stream_conversations

    store = pool_folder.store
    kept = store.ids(unify_pools(store, [POOL])["chat"], "kept")
    return {messages[0]["content"] for _, messages in stream_conversations(store, store.need("clean/chat"), kept)}


ALL_GOOD = {record["prompt"] for record in GOOD}


def test_a_malformed_line(pool_folder):
    pool_folder.write("data/a.jsonl", *GOOD[:3], b'{"prompt": "half', *GOOD[3:])
    made = pool_folder.clean(POOL)
    (row,) = pool_folder.rows(made.clean, "quarantine")
    assert (row["file"], row["line"], row["reason"]) == ("a.jsonl", 4, "malformed_json")
    assert row["detail"].endswith("at character 17") and row["excerpt"] == '{"prompt": "half'
    assert prompts(pool_folder) == ALL_GOOD


def test_a_truncated_gzip(pool_folder):
    pool_folder.write("data/a.jsonl.gz", *GOOD)
    before = pool_folder.clean(POOL).clean
    path = pool_folder.root / "data" / "a.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a.jsonl.gz, after line \d+: the gzip data of .* break off in the middle \(the file is cut short\)"):
        pool_folder.clean(POOL)
    assert pool_folder.store.need("clean/chat") == before
    assert prompts(pool_folder) == ALL_GOOD


def test_invalid_utf8(pool_folder):
    pool_folder.write("data/a.jsonl", *GOOD, b'{"prompt": "caf\xe9", "response": "x"}')
    made = pool_folder.clean(POOL)
    assert losses(pool_folder, made) == [("a.jsonl", 7, "invalid_utf8")]
    assert pool_folder.rows(made.clean, "quarantine")[0]["detail"].startswith("byte 16 of the line (0xe9)")
    assert prompts(pool_folder) == ALL_GOOD


def test_an_unknown_role(pool_folder):
    pool_folder.write("data/a.jsonl", {"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}, *GOOD)
    made = pool_folder.clean(POOL)
    assert losses(pool_folder, made) == [("a.jsonl", 1, "unknown_role")]
    assert pool_folder.rows(made.clean, "quarantine")[0]["detail"].startswith("the role of messages[0] is 'wizard'; known are ")
    assert prompts(pool_folder) == ALL_GOOD


def test_a_message_of_50_mb(pool_folder):
    pool_folder.write("data/a.jsonl", *GOOD[:3], {"prompt": "Write a lot", "response": "abcde" * 10_000_000}, *GOOD[3:])
    made = pool_folder.clean(POOL)
    (row,) = pool_folder.rows(made.clean, "quarantine")
    assert (row["file"], row["line"], row["reason"]) == ("a.jsonl", 4, "too_long")
    assert row["detail"] == "50,000,011 characters, at most 1,000,000 are kept (cleaning.max_chars)"
    assert len(row["excerpt"]) == 200
    assert prompts(pool_folder) == ALL_GOOD


def test_an_empty_file_beside_a_good_one(pool_folder):
    pool_folder.write("data/a.jsonl")
    pool_folder.write("data/b.jsonl", *GOOD)
    (pool_folder.root / "data" / "c.jsonl.gz").write_bytes(gzip.compress(b""))
    (pool_folder.root / "data" / "d.parquet").touch()
    (pool_folder.root / "data" / "e.json").touch()
    made = pool_folder.clean(POOL)
    assert losses(pool_folder, made) == []
    assert prompts(pool_folder) == ALL_GOOD


def test_an_empty_file_alone(pool_folder):
    pool_folder.write("data/a.jsonl")
    with pytest.raises(InputError, match="pool chat: all files of data are empty; put records into them or remove assets/pools/chat"):
        pool_folder.clean(POOL)


def test_a_missing_file(pool_folder):
    with pytest.raises(InputError, match=r"data/nowhere.jsonl does not exist; put the file there, or correct `source`"):
        pool_folder.clean(PoolSettings("chat", "data/nowhere.jsonl"))
    path = pool_folder.write("data/a.jsonl", *GOOD)
    before = pool_folder.clean(POOL).clean
    path.unlink()
    with pytest.raises(InputError, match="data is a folder without a file to read"):
        pool_folder.clean(POOL)
    assert pool_folder.store.need("clean/chat") == before
    assert prompts(pool_folder) == ALL_GOOD


def test_a_parquet_file_with_the_wrong_columns(pool_folder):
    pool_folder.write("data/a.jsonl", *GOOD)
    before = pool_folder.clean(POOL).clean
    pq.write_table(pa.table({"text": ["x"], "label": [1]}), pool_folder.root / "data" / "b.parquet")
    told = r"b.parquet has the columns text, label, which fit no known shape \(messages; .*\); rename its columns"
    with pytest.raises(InputError, match=told):
        pool_folder.clean(POOL)
    assert pool_folder.store.need("clean/chat") == before
    pq.write_table(pa.Table.from_pylist([{"question": "Q?", "answer": "A."}]), pool_folder.root / "data" / "b.parquet")
    pool_folder.clean(POOL)
    assert prompts(pool_folder) == {*ALL_GOOD, "Q?"}


def test_a_task_without_queries(pool_folder):
    pool_folder.write("tasks/adding.jsonl")
    with pytest.raises(InputError, match=r"task adding has no queries in tasks/adding.jsonl; put at least one conversation \(prompt and answer\) into it"):
        read_queries(TaskSettings("adding", "tasks/adding.jsonl"), root=pool_folder.root)


def test_a_project_folder_without_pyproject(tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    monkeypatch.setenv("RDS_PROJECT", str(tmp_path))
    told = rf"RDS_PROJECT names {tmp_path}, which hold no project: expected a pyproject.toml with \[tool.dg\] .* Make one with `rds init DIR`"
    with pytest.raises(SettingsError, match=told):
        project_folder()


def test_another_projects_assets_first_on_the_path(tmp_path):
    for name in ("mine", "other"):
        (tmp_path / name / "assets").mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").write_text("[tool.dg]\n")
        (tmp_path / name / "assets" / "__init__.py").touch()
    code = "import assets; from pathlib import Path; from rds_dagster.project import import_assets; import_assets(Path('mine').resolve())"
    other = tmp_path / "other"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(other)})
    assert failed.returncode == 1
    told = f"the project is {tmp_path / 'mine'}, but the package `assets` was loaded from {other / 'assets'}: another project comes first on the path."
    assert told in failed.stderr and "unset PYTHONPATH" in failed.stderr


def test_bad_rows_of_all_kinds_together_cost_themselves_alone(pool_folder):
    bad = [
        b"{",
        b"\xff",
        b"[]",
        {"x": 1},
        {"messages": []},
        {"prompt": "a", "response": " "},
        {"prompt": "a\x00", "response": "b"},
        {"prompt": 3, "response": "b"},
    ]
    lines = [line for pair in zip(GOOD, bad, strict=False) for line in pair] + bad[len(GOOD) :]
    pool_folder.write("data/a.jsonl.gz", *lines)
    Path(pool_folder.root / "data" / "b.jsonl").write_bytes(b'{"prompt": "no newline at the end?", "response": "None."}')
    made = pool_folder.clean(POOL)
    reasons = ["malformed_json", "invalid_utf8", "not_an_object", "unknown_shape", "bad_structure", "empty_answer", "control_characters", "bad_structure"]
    places = [2, 4, 6, 8, 10, 12, 13, 14]
    assert losses(pool_folder, made) == [("a.jsonl.gz", line, reason) for line, reason in zip(places, reasons, strict=True)]
    assert made.clean.counts.rows_in == made.clean.counts.kept + len(bad) == len(lines) + 1
    assert prompts(pool_folder) == {*ALL_GOOD, "no newline at the end?"}
