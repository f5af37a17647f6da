"""Training files from a mixture's tables: what trainers read, with every place where an example stands."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rds_dagster import schema
from rds_dagster.errors import SettingsError
from rds_dagster.exports.formats import EXPORTED, write_export

ONE, TWO, THREE = b"\x01" * 16, b"\x02" * 15 + b"\0", b"\x03" * 16  # the second ends in a zero byte
CALLS = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Celle"}'}}]
TURNS = {
    ONE: [{"role": "user", "content": "Grüße — 你好?\n"}, {"role": "assistant", "content": 'A "quoted" line\nand another\u2028end'}],
    TWO: [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": "", "tool_calls": json.dumps(CALLS, sort_keys=True)},
        {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": "Yes."},
    ],
    THREE: [{"role": "user", "content": "Name one."}, {"role": "assistant", "content": "One."}],
}


@pytest.fixture
def examples() -> pa.Table:
    """Three picks, not in id order: the first chosen by a query, the last at random."""
    shared = {"source": "web", "method": "rds"}
    return pa.Table.from_pylist(
        [
            {"position": 1, "id": THREE, "pool": "b", "task": "t", "query": "q1", "rank": 4, "score": 0.5, "messages": TURNS[THREE], **shared},
            {"position": 2, "id": ONE, "pool": "b", "task": "t", "query": "q0", "rank": 1, "score": 0.25, "messages": TURNS[ONE], **shared},
            {"position": 3, "id": TWO, "pool": "a", "rank": 3, "messages": TURNS[TWO], "source": "web", "method": "random"},
        ],
        schema.SELECTED,
    )


@pytest.fixture
def places() -> pa.Table:
    """In order of id, pool, file, line; the first example stands in both pools, and its owner is the second."""
    return pa.Table.from_pylist(
        [
            {"id": ONE, "pool": "a", "file": "x.jsonl", "line": 7, "original_id": "x7", "source": "web"},
            {"id": ONE, "pool": "b", "file": "y.jsonl", "line": 2, "original_id": None, "source": "books"},
            {"id": ONE, "pool": "b", "file": "y.jsonl", "line": 9, "original_id": None, "source": "books"},
            {"id": TWO, "pool": "a", "file": "x.jsonl", "line": 1, "original_id": "x1", "source": "web"},
            {"id": THREE, "pool": "b", "file": "z.json", "line": 3, "original_id": "z", "source": "web"},
        ],
        schema.PROVENANCE,
    )


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


# ---- messages ----------------------------------------------------------------------------------------------------------------------------------------


def test_each_line_is_one_example_in_the_order_of_picking(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    path = write_export("messages", examples, places, tmp_path)
    assert path == tmp_path / "messages.jsonl"
    rows = lines_of(path)
    assert [row["id"] for row in rows] == [THREE.hex(), ONE.hex(), TWO.hex()]
    assert all(list(row) == ["id", "source", "messages", "provenance"] for row in rows)
    assert rows[1]["messages"] == TURNS[ONE]  # absent fields are left out, contents verbatim
    assert "Grüße — 你好" in path.read_text(encoding="utf-8")  # not escaped


def test_tool_calls_become_json_values(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    rows = lines_of(write_export("messages", examples, places, tmp_path))
    assert rows[2]["messages"] == [TURNS[TWO][0], {"role": "assistant", "content": "", "tool_calls": CALLS}, *TURNS[TWO][2:]]


def test_every_place_is_listed(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    rows = lines_of(write_export("messages", examples, places, tmp_path))
    assert rows[0]["provenance"] == [{"pool": "b", "file": "z.json", "line": 3, "original_id": "z", "source": "web"}]
    assert [(p["pool"], p["line"]) for p in rows[1]["provenance"]] == [("a", 7), ("b", 2), ("b", 9)]  # type: ignore[attr-defined]
    assert [p["file"] for p in rows[2]["provenance"]] == ["x.jsonl"]  # type: ignore[attr-defined]


# ---- Parquet -----------------------------------------------------------------------------------------------------------------------------------------


def test_the_table_has_hexadecimal_ids_and_the_first_place_in_the_owning_pool(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    path = write_export("parquet", examples, places, tmp_path)
    table = pq.read_table(path)
    assert path == tmp_path / "examples.parquet" and table.schema == EXPORTED
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [THREE.hex(), ONE.hex(), TWO.hex()]
    assert [(row["file"], row["line"], row["original_id"], row["num_places"]) for row in rows] == [
        ("z.json", 3, "z", 1), ("y.jsonl", 2, None, 3), ("x.jsonl", 1, "x1", 1),
    ]  # fmt: skip
    untouched = [name for name in schema.SELECTED.names if name != "id"]
    assert table.select(untouched).equals(examples.select(untouched))


def test_an_example_that_stands_nowhere_any_more_has_no_place(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    gone = places.slice(0, 4)
    (row,) = [row for row in pq.read_table(write_export("parquet", examples, gone, tmp_path)).to_pylist() if row["id"] == THREE.hex()]
    assert (row["file"], row["line"], row["num_places"]) == (None, None, 0)
    assert lines_of(write_export("messages", examples, gone, tmp_path))[0]["provenance"] == []


# ---- both --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export_format", ["messages", "parquet"])
def test_equal_tables_give_equal_bytes(examples: pa.Table, places: pa.Table, tmp_path: Path, export_format: str) -> None:
    rechunked = pa.concat_tables([examples.slice(0, 1), examples.slice(1, 2)])
    one, two = (write_export(export_format, table, places, tmp_path / name) for table, name in ((examples, "one"), (rechunked, "two")))
    assert one.read_bytes() == two.read_bytes()


def test_an_empty_mixture_gives_empty_files(tmp_path: Path) -> None:
    nothing = schema.SELECTED.empty_table(), schema.PROVENANCE.empty_table()
    assert write_export("messages", *nothing, tmp_path).read_bytes() == b""
    assert pq.read_table(write_export("parquet", *nothing, tmp_path)).schema == EXPORTED


def test_an_unknown_format_is_refused_with_the_known_ones(examples: pa.Table, places: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the export format is 'parket'; expected one of messages, parquet; did you mean 'parquet'?"):
        write_export("parket", examples, places, tmp_path)
    assert list(tmp_path.iterdir()) == []
